"""Rounding of an integer accumulator to a level, exactly, whatever the last bit of a float says."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from calif_plugins.parameters import TieRule

__all__ = ["exact_round", "round_fraction"]

# Of a quotient of two float64, where the dividend is itself a rounded sum: far more than its error.
_RISK = 2.0**-44


def round_fraction(x: Fraction, tie: TieRule) -> int:
    """Nearest integer; ties as the rule says.

    >>> [round_fraction(Fraction(n, 2), "even") for n in (-3, -1, 1, 3)]
    [-2, 0, 0, 2]
    >>> [round_fraction(Fraction(n, 2), "up") for n in (-3, -1, 1, 3)]
    [-1, 0, 1, 2]
    """
    if tie == "even":
        return round(x)
    return (2 * x.numerator + x.denominator) // (2 * x.denominator)


def exact_round(acc: Tensor, bias: Tensor, threshold: Tensor, tie: TieRule, y_min: int, y_max: int) -> Tensor:
    """``clip(round((acc + bias) / threshold), y_min, y_max)`` in exact arithmetic (equation 4).

    Floats decide wherever they can; the few quotients too close to a tie are decided by rationals.

    Parameters
    ----------
    acc : int64 tensor of shape ``(N, C, *spatial)``
    bias, threshold : float64 tensors of shape ``(C,)``
    tie : {"even", "up"}
    y_min, y_max : int

    Returns
    -------
    int64 tensor of ``acc``'s shape

    >>> acc = torch.tensor([[1, 3], [5, -7]])
    >>> exact_round(acc, torch.zeros(2).double(), torch.full((2,), 2.0).double(), "even", -3, 127)
    tensor([[ 0,  2],
            [ 2, -3]])
    """
    view = (1, -1) + (1,) * (acc.ndim - 2)
    b, v = bias.view(view), threshold.view(view)
    ratio = (acc + b) / v
    y = torch.round(ratio) if tie == "even" else torch.floor(ratio + 0.5)
    if not bool(((bias == 0) & (threshold == threshold.round())).all()):
        # size of the terms, not of their sum: cancellation magnifies the error
        size = (acc.abs() + b.abs()) / v + 1
        risky = ((ratio - ratio.floor() - 0.5).abs() <= size * _RISK) & (ratio > y_min - 1) & (ratio < y_max + 1)
        if bool(risky.any()):
            y = _decide(y, risky, acc, bias, threshold, tie)
    return y.clamp_(y_min, y_max).to(torch.int64)


def _decide(y: Tensor, risky: Tensor, acc: Tensor, bias: Tensor, threshold: Tensor, tie: TieRule) -> Tensor:
    channel = torch.arange(acc.shape[1], device=acc.device).view((1, -1) + (1,) * (acc.ndim - 2))
    cases = torch.stack([channel.expand_as(acc)[risky], acc[risky]])
    unique, inverse = torch.unique(cases, dim=1, return_inverse=True)
    levels = [
        round_fraction((a + Fraction(float(bias[c]))) / Fraction(float(threshold[c])), tie)
        for c, a in unique.T.tolist()
    ]
    y[risky] = torch.tensor(levels, dtype=y.dtype, device=y.device)[inverse]
    return y
