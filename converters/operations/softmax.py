"""Softmax over counts, in integers: a stored table of exponentials, and integer division.

``e_k = table[n_max - n_k]`` with ``table[d] = round(2^30 exp(-scale d))``, and ``round(2^bits e_k / sum e)``: no
``exp`` runs in a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Shape, register
from converters.operations.counting import Counting, GroupSum

__all__ = ["Softmax"]

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
    slack: ClassVar[float] = 1.0  # half of a unit of the division, and far less of the table
    limits: ClassVar[dict[str, int]] = {"table": _ONE}

    @classmethod
    def of(cls, *, scale: float, axis: int, bits: int = 24, largest: int | None = None) -> Softmax:
        """With its table, up to the ``largest`` difference of counts that comes, or to the first entry of 0."""
        _check(scale, bits)
        return cls(axis, scale, bits, _table(scale, largest))

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
        n, axis = x.round().to(torch.int64) if x.is_floating_point() else x.to(torch.int64), self.axis + 1
        below = (n.amax(axis, keepdim=True) - n).clamp(max=len(self.table) - 1)
        e = self._on(x.device)[below]
        total = e.sum(axis, keepdim=True)
        return ((2 * (e << self.bits) + total) // (2 * total)).to(x.dtype)

    def _on(self, device: torch.device) -> Tensor:
        kept: dict[Any, Tensor] = self.__dict__.setdefault("_kept", {})
        if device not in kept:
            kept[device] = self.table.to(device)
        return kept[device]

    def unrounded(self, *counts: Tensor) -> Tensor:
        return torch.softmax(counts[0].to(torch.float64) * self.scale, self.axis + 1) * 2.0**self.bits

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        (x,), (size,) = counts, sizes
        largest = torch.maximum(size, x.abs()).double().amax(self.axis + 1, keepdim=True)
        return self.unrounded(x) * (2 + 2 * self.scale * largest)

    def reach(self, *reach: int) -> int:
        return 2**self.bits

    def degree(self, *degrees: int) -> int:
        return 0

    def coarsened(self, factor: Fraction, degree: int = 1) -> Softmax:
        return Softmax.of(
            scale=self.scale / float(factor**degree), axis=self.axis, bits=self.bits, largest=len(self.table) - 1
        )

    @property
    def multiplies(self) -> bool:
        return True

    def structure(self, *shapes: Shape) -> Operation:
        return GroupSum((self.axis,))


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
