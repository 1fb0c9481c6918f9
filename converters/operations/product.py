"""Products of counts: gates, squeeze-and-excite, attention.

On a spike of one factor the synapse delivers the other's count, and the other way round: the change of ``a b`` is
``da b + a db + da db``. Counts have the size of both factors' levels, so a layer's threshold is ``S_y / (S_a S_b)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, check_steps, register
from converters.operations.counting import Counting, Spread, broadcast, real

__all__ = ["Add", "MatMul", "Product"]


class _Multiplied(Counting):
    @property
    def multiplies(self) -> bool:
        return True

    def degree(self, *degrees: int) -> int:
        return sum(degrees)


@register
@dataclass(frozen=True, eq=False)
class Product(_Multiplied):
    """The product of several sources, place by place; axes of size 1 are stretched. A source may come twice."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast("Product", shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        total = counts[0]
        for x in counts[1:]:
            total = total * x
        return total

    def reach(self, *reach: int) -> int:
        return math.prod(reach)

    def change(self, *reach: int) -> int:
        return math.prod(r + 1 for r in reach) - math.prod(reach)

    def multiplications(self, *shapes: Shape) -> int:
        return (len(shapes) - 1) * math.prod(self.output_shape(*shapes))

    def interval(self, *ranges: Range) -> Range:
        low, high = ranges[0]
        for other in ranges[1:]:
            ends = torch.stack([a * b for a in (low, high) for b in other])
            low, high = ends.amin(0), ends.amax(0)
        return low, high

    def structure(self, *shapes: Shape) -> Operation:
        return Spread()


@register
@dataclass(frozen=True, eq=False)
class MatMul(_Multiplied):
    """Matrix products ``A @ B`` over the last two axes of sources ``(..., n, terms)`` and ``(..., terms, m)``.

    With ``transposed`` the second is ``(..., m, terms)``. Axes in front must agree, or be 1.
    """

    terms: int
    transposed: bool = False

    def __post_init__(self) -> None:
        check_steps("MatMul", terms=((self.terms,), 1))

    def output_shape(self, *shapes: Shape) -> Shape:
        a, b = shapes
        if len(a) != len(b) or len(a) < 2 or {a[-1], b[-1 if self.transposed else -2]} != {self.terms}:
            raise ConversionError("MatMul", f"sources of shapes {a} and {b}", f"it sums {self.terms} products")
        front = broadcast("MatMul", (a[:-2], b[:-2])) if len(a) > 2 else ()
        return (*front, a[-2], b[-2] if self.transposed else b[-1])

    def __call__(self, *counts: Tensor) -> Tensor:
        a, b = counts
        return torch.matmul(real(a), real(b).mT if self.transposed else real(b)).to(a.dtype)

    def reach(self, *reach: int) -> int:
        return self.terms * math.prod(reach)

    def change(self, *reach: int) -> int:
        return self.terms * (sum(reach) + 1)

    def multiplications(self, *shapes: Shape) -> int:
        return self.terms * math.prod(self.output_shape(*shapes))

    def structure(self, *shapes: Shape) -> Operation:
        return _Rows(self)


@dataclass(frozen=True, eq=False)
class _Rows(Operation):
    """The connections of a matrix product: each entry to the products that it takes part in."""

    of: MatMul

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.of.output_shape(*shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        a, b = counts
        return self.of(a, torch.ones_like(b)) + self.of(torch.ones_like(a), b)

    @property
    def gain(self) -> int:
        return 2 * self.of.terms


@register
@dataclass(frozen=True, eq=False)
class Add(Operation):
    """A sum of several sources times integer ``weights``, place by place; axes of size 1 are stretched.

    Where a sum is all that a layer takes, it has a synapse for each source; this is for a sum that an operation which
    counts acts on.
    """

    weights: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != len(self.weights):
            raise ConversionError("Add", f"{len(shapes)} sources", f"it has {len(self.weights)} weights")
        return broadcast("Add", shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        terms = [x if w == 1 else x * w for x, w in zip(counts, self.weights, strict=True)]
        total = terms[0]
        for x in terms[1:]:
            total = total + x
        return total

    @property
    def gain(self) -> int:
        return sum(map(abs, self.weights))

    @property
    def multiplies(self) -> bool:
        return any(w not in (-1, 1) for w in self.weights)

    def interval(self, *ranges: Range) -> Range:
        low = self(*(r[0] if w >= 0 else r[1] for r, w in zip(ranges, self.weights, strict=True)))
        high = self(*(r[1] if w >= 0 else r[0] for r, w in zip(ranges, self.weights, strict=True)))
        return low, high

    def structure(self, *shapes: Shape) -> Operation:
        return Add((1,) * len(self.weights))

    def absolute(self, *shapes: Shape) -> Operation:
        return Add(tuple(map(abs, self.weights)))
