"""Pointwise functions by name: what a table of levels is made from, in float64, once, when a network is converted.

Integers decide in a simulation (:mod:`converters.operations.levels`); these functions never run there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["ACTIVATIONS", "Activation", "activation", "behind", "register_activation"]

Activation: TypeAlias = Callable[..., Tensor]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_AFFINE = re.compile(r"affine\((.*)\)\Z")


def _leaky(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def _elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _celu(x: Tensor, alpha: Tensor) -> Tensor:
    return x.clamp(min=0) + (alpha * torch.expm1(x / alpha)).clamp(max=0)


def _softplus(x: Tensor, beta: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(beta * x > threshold, x, torch.log1p(torch.exp((beta * x).clamp(max=700.0))) / beta)


def _softshrink(x: Tensor, bound: Tensor) -> Tensor:
    return torch.where(x > bound, x - bound, torch.where(x < -bound, x + bound, torch.zeros_like(x)))


ACTIVATIONS: dict[str, Activation] = {
    "abs": torch.abs,
    "celu": _celu,
    "clamp": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    "clamp_max": torch.minimum,
    "clamp_min": torch.maximum,
    "cos": torch.cos,
    "elu": _elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardshrink": lambda x, bound: torch.where(x.abs() > bound, x, torch.zeros_like(x)),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "identity": lambda x: x,
    "leaky_relu": _leaky,
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": _softplus,
    "softshrink": _softshrink,
    "softsign": F.softsign,
    "square": torch.square,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x, bound, value: torch.where(x > bound, x, value),
}
"""Functions of a float64 tensor, and of parameters that broadcast against it."""

_OWN = frozenset(ACTIVATIONS)


def register_activation(name: str, function: Activation) -> None:
    """Let front-ends, tables of levels and files know a pointwise function of your own.

    Parameters
    ----------
    name : str
        By which files know it: letters, digits, ``_`` and ``.``; register it again before such a file is read.
    function : callable
        ``(x, *parameters)``, float64 tensors that broadcast against each other, to a float64 tensor of their shape. It
        must depend on each place alone, and be finite wherever its layer can come to. Giving a name of yours another
        function replaces it.

    Raises
    ------
    ConversionError
        For a name of this package's own, or one that is none.

    Examples
    --------
    >>> import torch
    >>> from converters.operations import Levels
    >>> register_activation("bump", lambda x, width: torch.exp(-((x / width) ** 2)))
    >>> table = Levels.of(
    ...     "bump", parameters=(1.0,), units=(0.5,), offsets=(0.0,), scale=0.25, y_min=0, y_max=4, limit=10
    ... )
    >>> table(torch.arange(-4, 5)[None, None]).tolist()
    [[[0, 0, 1, 3, 4, 3, 1, 0, 0]]]
    """
    if type(name) is not str or not _NAME.match(name):
        raise ConversionError("activation", f"the name {name!r}", "use letters, digits, _ and .")
    if name in _OWN:
        raise ConversionError(name, "the name of a function of this package", "call it otherwise")
    if not callable(function):
        raise ConversionError(name, f"a {type(function).__name__}", "give a function of tensors")
    ACTIVATIONS[name] = function


def activation(name: str) -> Activation:
    """The function of this name; of ``affine(name)`` the function of ``name``, times a gain, plus an offset.

    Gain and offset are its last two parameters.

    Raises
    ------
    ConversionError
        If there is none.

    >>> activation("affine(relu)")(torch.tensor([-1.0, 3.0]), torch.tensor(-2.0), torch.tensor(0.5))
    tensor([ 0.5000, -5.5000])
    """
    inner = _AFFINE.match(name) if type(name) is str else None
    known = inner[1] if inner else name
    if type(known) is not str or known not in ACTIVATIONS:
        raise ConversionError(
            "Levels", f"the unknown function {str(known)[:80]!r}", "register it: converters.register_activation"
        )
    function = ACTIVATIONS[known]
    return _affine(function) if inner else function


def _affine(function: Activation) -> Activation:
    def behind(x: Tensor, *parameters: Tensor) -> Tensor:
        *own, gain, offset = parameters
        return gain * function(x, *own) + offset

    return behind


def behind(
    function: str, parameters: Sequence[Sequence[float]], gain: Tensor, offset: Tensor
) -> tuple[str, tuple[tuple[float, ...], ...]]:
    """A function by name and its parameters, times ``gain``, plus ``offset``: one number each, or one per channel.

    >>> behind("leaky_relu", [(0.1,)], torch.tensor([2.0]), torch.tensor([1.0, 3.0]))
    ('affine(leaky_relu)', ((0.1,), (2.0,), (1.0, 3.0)))
    """
    own = tuple(tuple(p) for p in parameters)
    if _AFFINE.match(function):
        *own_, before, more = own
        own = tuple(own_)
        offset = torch.tensor(more, dtype=torch.float64) * gain + offset
        gain = torch.tensor(before, dtype=torch.float64) * gain
    else:
        function = f"affine({function})"
    return function, (*own, tuple(gain.tolist()), tuple(offset.tolist()))
