"""Verbs of averages, sums and interpolation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.moving_verbs import MovingVerbs
from converters.frontends.pending import Pending, numbers
from converters.graph_builder import Value
from converters.operations import Mix, Operation, Shape, Weigh
from converters.operations.mixing import whole_matrix
from converters.operations.moving import move_of
from converters.operations.pooling import divisors, pool_of

__all__ = ["POOLS", "PoolingVerbs"]

POOLS = tuple(f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3))
"""PyTorch's names of averages over windows."""


class PoolingVerbs(MovingVerbs):
    """Averages: whole weights, the division left to the threshold."""

    def average_pool(
        self,
        name: str,
        x: Any,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Pending:
        """An average pool of one to three axes (equation 6): weights 1, the division left to the threshold.

        Where windows have divisors of their own, sums are weighed so that all have a common one.
        """
        value = self.value(name, x)
        rank, whole = _rank(name, value), value.shape[1:]
        sides, pad = numbers(name, kernel, rank), numbers(name, padding, rank)
        steps = sides if stride is None or stride == [] else numbers(name, stride, rank)

        def pool(x: Tensor, divisor_override: int | None) -> Tensor:
            return _average(x, sides, steps, pad, ceil_mode, count_include_pad, divisor_override)

        try:
            there = pool(torch.ones(1, 1, *whole), 1).shape[2:]
        except RuntimeError as error:
            raise ConversionError(name, f"a pool that PyTorch refuses ({str(error)[:80]})", "change it") from None
        geometry = zip(there, steps, sides, whole, pad, strict=True)
        beyond = [max(0, (m - 1) * s + k - n - 2 * p) for m, s, k, n, p in geometry]
        inside = pad
        if any(beyond):  # the last windows reach past the padding
            amounts = [n for p, more in zip(reversed(pad), reversed(beyond), strict=True) for n in (p, p + more)]
            value, inside = self.move(name, value, lambda t: F.pad(t, amounts)), (0,) * rank
        op = pool_of(sides, steps, inside)
        if divisor or (not any(beyond) and (count_include_pad or not any(pad))):
            return Pending(name, ((value, op),), value.scale, area=divisor or math.prod(sides))
        found = divisors(pool, (1, *whole))
        area = math.lcm(*found.unique().tolist())
        ops = op if bool((found == area).all()) else (op, Weigh((area // found)[None]))
        return Pending(name, ((value, ops),), value.scale, area=area)

    def adaptive_pool(self, name: str, x: Any, size: Any) -> Pending:
        """An average pool to ``size``, whose windows may overlap."""
        value = self.value(name, x)
        rank = _rank(name, value)
        here = value.shape[1:]
        given = list(size) if isinstance(size, tuple | list) else [size] * rank
        if len(given) != rank:
            raise ConversionError(name, f"{len(given)} sizes for {rank} axes", "give one, or one for each")
        target = tuple(s if w is None else int(w) for s, w in zip(here, given, strict=True))
        if not any(s % t for s, t in zip(here, target, strict=True)):
            return self.average_pool(name, value, tuple(s // t for s, t in zip(here, target, strict=True)))
        matrices = [
            F.adaptive_avg_pool1d(torch.eye(s, dtype=torch.float64), t).T for s, t in zip(here, target, strict=True)
        ]
        return self.mixed(name, value, matrices)

    def mean(self, name: str, x: Any, axes: Any, *, keepdim: bool) -> Pending:
        """A mean over ``axes`` of a batch, that of the images not among them."""
        value = self.value(name, x)
        return replace(
            self._sum(name, "mean", value, axes, keepdim),
            area=math.prod(value.shape[a] for a in _inner(name, "mean", value.shape, axes)),
        )

    def sum(self, name: str, x: Any, axes: Any, *, keepdim: bool = False) -> Pending:
        """A sum over ``axes`` of a batch, that of the images not among them."""
        return self._sum(name, "sum", self.value(name, x), axes, keepdim)

    def _sum(self, name: str, what: str, value: Value, axes: Any, keepdim: bool) -> Pending:
        shape, inner = value.shape, _inner(name, what, value.shape, axes)
        ops: tuple[Operation, ...]
        if inner == list(range(1, len(shape))) and len(inner) <= 3:
            ops = (pool_of(shape[1:], shape[1:], (0,) * len(inner)),)
        else:
            ops = tuple(Mix(torch.ones(1, shape[a], dtype=torch.int8), a) for a in inner)
        found = Pending(name, ((value, ops[0] if len(ops) == 1 else ops),), value.scale)
        left = tuple(n for a, n in enumerate(shape) if a not in inner)
        if keepdim:
            return found
        if not left:
            raise ConversionError(name, f"a {what} over all axes of an image", "keep them: keepdim=True")
        return replace(found, move=move_of(torch.arange(math.prod(left)).reshape(left), found.layer_shape))

    # --- interpolation ------------------------------------------------------------------------------

    def interpolate(
        self,
        name: str,
        x: Any,
        size: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        *,
        scale_factor: Any = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
    ) -> Any:
        """``F.interpolate``: a move where it takes the nearest value, else whole weights of a common denominator.

        Weights that are no fractions of small numbers are rounded to 20 bits.
        """
        if mode in ("nearest", "nearest-exact"):
            return self.move(
                name, x, lambda t: F.interpolate(t, size, scale_factor, mode, None, recompute_scale_factor)
            )
        value = self.value(name, x)
        rank = _rank(name, value)
        here = value.shape[1:]

        def of_axis(given: Any, a: int) -> Any:
            return given[a] if isinstance(given, tuple | list) else given

        if mode == "area":
            ones = torch.ones(1, 1, *here)
            target = F.interpolate(ones, size, scale_factor, "area", None, recompute_scale_factor).shape[2:]
            return self.adaptive_pool(name, value, tuple(target))
        kind = "bicubic" if mode == "bicubic" else "bilinear"
        matrices = []
        for a, n in enumerate(here):
            # an axis at a time, since weights are products of those of the axes
            line = torch.eye(n, dtype=torch.float64).reshape(n, 1, n, 1).expand(n, 1, n, 2)
            there = None if size is None else (of_axis(size, a), 2)
            by = None if scale_factor is None else (float(of_axis(scale_factor, a)), 1.0)
            y = F.interpolate(line, there, by, kind, align_corners, recompute_scale_factor, antialias)
            matrices.append(y[:, 0, :, 0].T)
        return self.mixed(name, value, matrices[:rank])

    def mixed(self, name: str, x: Any, matrices: list[Tensor]) -> Pending:
        """Every axis but the first times a matrix of float64 weights, from one row of it to each place."""
        value = self.value(name, x)
        ops: list[Operation] = []
        area = 1
        for a, matrix in enumerate(matrices):
            if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix)).to(matrix)):
                continue
            weight, common = whole_matrix(matrix)
            kinds = (torch.int8, torch.int32)
            ops.append(Mix(weight.to(kinds[int(weight.abs().max()) > 127]), 1 + a))
            area *= common
        return Pending(name, ((value, tuple(ops)),), value.scale, area=area)


def _rank(name: str, value: Value) -> int:
    """How many axes a map has beside its channels."""
    rank = len(value.shape) - 1
    if rank not in (1, 2, 3):
        raise ConversionError(name, f"a pool of shape {value.shape}", "it needs channels and one to three more axes")
    return rank


def _inner(name: str, what: str, shape: Shape, axes: Any) -> list[int]:
    """Axes of an image, in order, of axes of a batch."""
    rank = len(shape) + 1
    given = [axes] if isinstance(axes, int) else list(axes or ())  # none at all are all of them
    found = sorted({int(d) % rank for d in given})
    if not found or found[0] == 0 or any(not -rank <= int(d) < rank for d in given):
        which = f"the axes {given}" if given else "all axes, that of the batch too"
        raise ConversionError(name, f"a {what} over {which}", "leave the axis of the images alone")
    return [d - 1 for d in found]


def _average(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """PyTorch's own, of any rank."""
    if len(kernel) == 3:
        return F.avg_pool3d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    if len(kernel) == 2:
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    sides, steps, pad = (1, *kernel), (1, *stride), (0, *padding)
    return F.avg_pool2d(x.unsqueeze(2), sides, steps, pad, ceil_mode, count_include_pad, divisor).squeeze(2)
