"""Softmax over counts, in integers: a stored table of exponentials, and integer division.

``e_k = table[n_max - n_k]`` with ``table[d] = round(2^30 exp(-scale d))``, and ``round(2^bits e_k / sum e)``: no
``exp`` runs in a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Shape, register
from converters.operations.counting import Counting, GroupSum, looked_up

__all__ = ["MaskedSoftmax", "Softmax"]

_ONE = 2**30
_LONGEST = 2**20  # entries of a table


@register
@dataclass(frozen=True, eq=False)
class Softmax(Counting):
    """``round(2^bits softmax(scale n))`` over ``axis`` of an image (0: channels).

    ``table`` is int64 of shape ``(entries,)``; differences beyond it have an exponential of its last entry, which is 0
    unless no larger difference comes. It follows from ``scale`` (:meth:`of`), and is compared with it.

    Examples
    --------
    >>> Softmax.of(scale=0.5, axis=0, bits=8)(torch.tensor([[0, 2, 2]])).tolist()
    [[40, 108, 108]]
    """

    axis: int
    scale: float
    bits: int
    table: Tensor

    looks_up: ClassVar[bool] = True
    evaluates: ClassVar[bool] = True
    slack: ClassVar[float] = 1.0  # half of a unit of the division, and far less of the table
    limits: ClassVar[dict[str, int]] = {"table": _ONE}

    @classmethod
    def of(cls, *, scale: float, axis: int, bits: int = 24, largest: int | None = None) -> Softmax:
        """With its table, up to the ``largest`` difference of counts that comes, or to the first entry of 0."""
        _check(scale, bits)
        return cls(axis, scale, bits, _table(scale, largest))

    def masked(self, kept: Tensor) -> MaskedSoftmax:
        """The same over those places alone where ``kept`` is 1."""
        return MaskedSoftmax(self.axis, self.scale, self.bits, self.table, kept)

    def __post_init__(self) -> None:
        _check(self.scale, self.bits)
        table = self.table.to(torch.int64)
        object.__setattr__(self, "table", table)
        if table.ndim != 1 or not 0 < len(table) <= _LONGEST:
            raise ConversionError("Softmax", f"a table of shape {tuple(table.shape)}", "write it again")
        wanted = _table(self.scale, len(table) - 1)
        if len(wanted) != len(table) or bool(((wanted - table).abs() > 1).any()):  # exp may differ in its last bit
            raise ConversionError("Softmax", "a table that is not that of its scale", "write it again")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not 0 <= self.axis < len(shape):
            raise ConversionError("Softmax", f"axis {self.axis} of shape {shape}", "name one of them")
        return shape

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        n = x.round().to(torch.int64) if x.is_floating_point() else x.to(torch.int64)
        e, axis = self._exponentials(n), self.axis + 1
        total = e.sum(axis, keepdim=True)
        # of numbers that are not negative, where to truncate is to round down
        return torch.div(2 * (e << self.bits) + total, 2 * total, rounding_mode="trunc").to(x.dtype)

    def _exponentials(self, n: Tensor) -> Tensor:
        below = (n.amax(self.axis + 1, keepdim=True) - n).clamp(max=len(self.table) - 1)
        return looked_up(self._on(n.device)[0], below)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        copies: dict[Any, tuple[Tensor, ...]] = self.__dict__.setdefault("_copies", {})
        if device not in copies:
            copies[device] = tuple(t.to(device) for t in self._tensors)
        return copies[device]

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.table,)

    def unrounded(self, *counts: Tensor) -> Tensor:
        return torch.softmax(counts[0].to(torch.float64) * self.scale, self.axis + 1) * 2.0**self.bits

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        (x,), (size,) = counts, sizes
        largest = torch.maximum(size, x.abs()).double().amax(self.axis + 1, keepdim=True)
        return self.unrounded(x) * (2 + 2 * self.scale * largest)

    def reach(self, *reach: int) -> int:
        return 2**self.bits

    def multiplications(self, *shapes: Shape) -> int:
        return math.prod(shapes[0])  # a quotient

    def degree(self, *degrees: int) -> int:
        return 0

    def coarsened(self, factor: Fraction, degree: int = 1) -> Softmax:
        scale = self.scale / float(factor**degree)
        return replace(self, scale=scale, table=_table(scale, len(self.table) - 1))

    @property
    def multiplies(self) -> bool:
        return True

    def structure(self, *shapes: Shape) -> Operation:
        return GroupSum((self.axis,))


@register
@dataclass(frozen=True, eq=False)
class MaskedSoftmax(Softmax):
    """A :class:`Softmax` over those places alone where ``kept`` is 1; the others get 0, exactly.

    ``kept`` has all axes of an image, with 1 where an axis has one for all; on every row along ``axis`` some place is.

    Examples
    --------
    >>> kept = torch.tensor([1, 0, 1], dtype=torch.int8)
    >>> Softmax.of(scale=0.5, axis=0, bits=8).masked(kept)(torch.tensor([[0, 9, 2]])).tolist()
    [[69, 0, 187]]
    """

    kept: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.axis < self.kept.ndim or bool(((self.kept != 0) & (self.kept != 1)).any()):
            raise ConversionError("MaskedSoftmax", f"a mask of shape {tuple(self.kept.shape)}", "write it again")
        if not bool(self.kept.amax(self.axis).all()):
            raise ConversionError("MaskedSoftmax", "a row of which every place is masked", "leave one of them")

    def output_shape(self, *shapes: Shape) -> Shape:
        own, shape = tuple(self.kept.shape), super().output_shape(*shapes)
        if len(own) != len(shape) or any(n not in (1, m) for n, m in zip(own, shape, strict=True)):
            raise ConversionError("MaskedSoftmax", f"an input of shape {shape}", f"its mask has shape {own}")
        return shape

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.table, self.kept == 0

    def _exponentials(self, n: Tensor) -> Tensor:
        table, dropped = self._on(n.device)
        top = n.masked_fill(dropped, torch.iinfo(n.dtype).min).amax(self.axis + 1, keepdim=True)
        return looked_up(table, (top - n).clamp(0, len(table) - 1)).masked_fill(dropped, 0)

    def unrounded(self, *counts: Tensor) -> Tensor:
        x = counts[0].to(torch.float64) * self.scale
        return torch.softmax(x.masked_fill(self._on(x.device)[1], -math.inf), self.axis + 1) * 2.0**self.bits

    def structure(self, *shapes: Shape) -> Operation:
        return _Kept((self.axis,), kept=self.kept)


@dataclass(frozen=True, eq=False)
class _Kept(GroupSum):
    """The connections between those places that a mask leaves."""

    kept: Tensor = field(default_factory=lambda: torch.ones(1))

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        here = self.kept.to(x)
        return super().__call__(x * here) * here


def _check(scale: float, bits: int) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise ConversionError("Softmax", f"a scale of {scale}", "check the scales")
    if not 1 <= bits <= 30:
        raise ConversionError("Softmax", f"{bits} bits", "from 1 to 30")


def _table(scale: float, largest: int | None) -> Tensor:
    end = math.ceil(22 / scale)  # exp(-22) 2^30 rounds to 0
    size = 1 + (end if largest is None else min(end, largest))
    if size > _LONGEST:
        raise ConversionError("Softmax", f"a table of {size:,} entries", "use a coarser scale")
    return torch.tensor([round(_ONE * math.exp(-scale * d)) for d in range(size)], dtype=torch.int64)
