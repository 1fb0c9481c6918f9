"""An axis times an integer matrix: dense layers of tokens, means, interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, register
from converters.operations.dense import Linear
from converters.operations.moving import placed
from converters.operations.weights import Weighted

__all__ = ["Mix", "whole_matrix"]

_LARGEST_DENOMINATOR = 2**12
_LARGEST_COMMON = 2**20


@register
@dataclass(frozen=True, eq=False)
class Mix(Weighted):
    """Every vector along ``axis`` (0: the channels) times ``weight``, integers of shape ``(out, in)``."""

    weight: Tensor
    axis: int = 0

    def __post_init__(self) -> None:
        self.check_weight(2)
        if self.axis < 0:
            raise ConversionError("Mix", f"the axis {self.axis}", "count axes of an image from 0")

    @property
    def rows(self) -> int:
        return self.axis

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) <= self.axis or shape[self.axis] != self.weight.shape[1]:
            todo = f"axis {self.axis} must have {self.weight.shape[1]} values"
            raise ConversionError("Mix", f"an input of shape {shape}", todo)
        return (*shape[: self.axis], self.weight.shape[0], *shape[self.axis + 1 :])

    def __call__(self, *counts: Tensor) -> Tensor:
        x = counts[0].movedim(1 + self.axis, -1)
        return F.linear(x, self.weight_as(x)).movedim(-1, 1 + self.axis)

    def with_weight(self, weight: Tensor) -> Mix:
        return replace(self, weight=weight)

    def interval(self, *ranges: Range) -> Range:
        ((low, high),) = ranges
        up, down = (replace(self, weight=w) for w in (self.weight.clamp(min=0), self.weight.clamp(max=0)))
        low, high = low[None], high[None]
        return (up(low) + down(high))[0], (up(high) + down(low))[0]

    def matrix(self, shape: Shape) -> sparse.csr_array:
        before, after = math.prod(shape[: self.axis]), math.prod(shape[self.axis + 1 :])
        weight = sparse.csr_array(self.weight.cpu().numpy().astype(np.int64))
        eyes = [sparse.eye_array(n, dtype=np.int64) for n in (before, after)]
        return sparse.csr_array(sparse.kron(eyes[0], sparse.kron(weight, eyes[1])))

    def structure(self, *shapes: Shape) -> Operation:
        return replace(self, weight=(self.weight != 0).to(torch.int8))

    def absolute(self, *shapes: Shape) -> Operation:
        return replace(self, weight=self.weight.to(torch.int64).abs())  # int8 has no 128

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return (torch.full(shapes[0], self.weight.shape[0], dtype=torch.float64),)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        if self.axis:
            return (self, placed(self.output_shape(shape), start, total))
        return (replace(self, weight=self.weight[:, start : start + shape[0]].contiguous()),)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        if self.axis or len(shape) > 1:
            return super().stock(shape, flattened=flattened, maps=maps)
        return Linear(self.weight).stock(shape, flattened=flattened, maps=maps)


def whole_matrix(weights: Tensor) -> tuple[Tensor, int]:
    """Float64 weights as integers over one denominator: exact where they are fractions of small numbers.

    Otherwise the nearest integers over 2**20.

    Examples
    --------
    >>> whole_matrix(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1 / 3, 2 / 3]], dtype=torch.float64))
    (tensor([[3, 3, 0],
            [0, 2, 4]]), 6)
    """
    common = 1
    for value in weights.unique().tolist():
        near = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
        common = math.lcm(common, near.denominator)
        if abs(float(near) - value) > 1e-12 or common > _LARGEST_COMMON:
            common = _LARGEST_COMMON
            break
    return (weights * common).round().to(torch.int64), common
