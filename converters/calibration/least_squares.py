"""The weights that give a layer's float result from its quantised input, and integers in their place.

For one layer, with quantised inputs ``x`` (a row of patches) and the float network's results ``y``, both without their
means: the least of ``E |y - W x|^2 + penalty |W - W_float|^2`` is ``W_float + (E y x' - W_float E x x') (E x x' +
penalty)^-1``. The target is that of `Nagel et al. 2020 <https://arxiv.org/abs/2004.10568>`_ (equation 25: the float
result of the quantised input); penalty and solution are ridge regression's, and the penalty is the one of a few that
leaves the least error on the other half of the images. Integers are then chosen column by column, and what rounding one
of them costs is made up for by those that are not rounded yet (`Frantar et al. 2023
<https://arxiv.org/abs/2210.17323>`_).

All tensors here have the groups of a convolution in front: ``W (g, c, K)``, ``E x x' (g, K, K)``, ``E y x' (g, c, K)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "fitted", "rounded"]

_PENALTIES = (0.01, 0.1, 1.0, 10.0)
_DAMPING = 0.01


@dataclass(frozen=True)
class Moments:
    """Covariances of a layer's inputs, ``xx (g, K, K)``, and of its float results with them, ``yx (g, c, K)``."""

    xx: Tensor
    yx: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.xx + other.xx, self.yx + other.yx)

    def error(self, w: Tensor) -> Tensor:
        """``E |y - W x|^2``, but for a number that is the same for all ``W``."""
        return ((w @ self.xx) * w).sum() - 2 * (w * self.yx).sum()


def fitted(w: Tensor, halves: tuple[Moments, Moments]) -> Tensor:
    """Weights ``(g, c, K)`` that fit both halves, starting from the float ones; these where none is better.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, true = torch.randn(2, 500, 3, generator=g), torch.tensor([[[1.0, 2.0, 3.0]]])
    >>> halves = tuple(Moments((h.T @ h)[None], (true[0] @ h.T @ h)[None]) for h in x)
    >>> torch.round(fitted(torch.zeros(1, 1, 3), halves), decimals=1).tolist()
    [[[1.0, 2.0, 3.0]]]
    """
    both = halves[0] + halves[1]
    errors = [sum(float(half.error(w)) for half in halves)]
    for penalty in _PENALTIES:
        errors.append(sum(float(b.error(_ridge(w, a, penalty))) for a, b in (halves, halves[::-1])))
    best = errors.index(min(errors))
    return w if best == 0 else _ridge(w, both, _PENALTIES[best - 1])


def _ridge(w: Tensor, m: Moments, penalty: float) -> Tensor:
    factor = torch.linalg.cholesky(_damped(m.xx, penalty))
    return w + torch.cholesky_solve((m.yx - w @ m.xx).mT, factor).mT


def _damped(xx: Tensor, penalty: float) -> Tensor:
    """With a share of the mean of the diagonal added to it; a diagonal of zeros becomes ones."""
    size = xx.diagonal(dim1=-2, dim2=-1).mean(-1)
    size = torch.where(size > 0, penalty * size, 1.0)
    return xx + size[:, None, None] * torch.eye(xx.shape[-1], dtype=xx.dtype, device=xx.device)


def rounded(w: Tensor, step: Tensor, largest: int, xx: Tensor) -> Tensor:
    """Integers for ``w (g, c, K)`` in units of ``step (g, c)``, from ``-largest`` to ``largest``: float64.

    No row has a larger error than the nearest integers.

    >>> w, step = torch.full((1, 1, 2), 0.4, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    >>> rounded(w, step, 7, torch.ones(1, 2, 2, dtype=torch.float64)).tolist()  # both see the same: 0.4 + 0.4 is near 1
    [[[0.0, 1.0]]]
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(xx, _DAMPING)))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, found = w.clone(), torch.empty_like(w)
    for k in range(w.shape[-1]):
        column = left[..., k]
        found[..., k] = torch.round(column / step).clamp(-largest, largest)
        error = (column - found[..., k] * step) / factor[:, k, k, None]
        left[..., k:] -= error[..., None] * factor[:, None, k, k:]
    nearest = torch.round(w / step[..., None]).clamp(-largest, largest)
    errors = [((d @ xx) * d).sum(-1, keepdim=True) for d in (q * step[..., None] - w for q in (found, nearest))]
    return torch.where(errors[0] < errors[1], found, nearest)
