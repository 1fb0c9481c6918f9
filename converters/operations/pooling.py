"""Sums over windows: average pooling with the division left to the threshold (equation 6)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, adjoint_of_ones, check_steps, register
from converters.operations.convolution import Conv2d, Pair
from converters.operations.moving import placed
from converters.operations.node_fields import whole_pair

if TYPE_CHECKING:
    from calif_plugins.parameters import TieRule
    from converters.graph_builder import GraphBuilder, Value

__all__ = ["SumPool2d", "average_pool"]


@register
@dataclass(frozen=True, eq=False)
class SumPool2d(Operation):
    """Sum over a window: average pooling with the division left to the threshold (equation 6)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        check_steps("SumPool2d", kernel=(self.kernel, 1), stride=(self.stride, 1), padding=(self.padding, 0))

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 3:
            raise ConversionError("SumPool2d", f"an input of shape {shape}", "it needs channels, height and width")
        size = tuple((shape[1 + a] + 2 * self.padding[a] - self.kernel[a]) // self.stride[a] + 1 for a in (0, 1))
        if min(size) < 1:
            raise ConversionError("SumPool2d", f"an input of shape {shape}", "it is smaller than the window")
        return (shape[0], *size)

    def __call__(self, *counts: Tensor) -> Tensor:
        # divisor_override=1 makes the average a plain sum, in integers
        return F.avg_pool2d(counts[0], self.kernel, self.stride, self.padding, divisor_override=1)

    @property
    def gain(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def interval(self, *ranges: Range) -> Range:
        ((low, high),) = ranges
        return self(low[None])[0], self(high[None])[0]

    def matrix(self, shape: Shape) -> sparse.csr_array:
        return self._convolution(shape[0]).matrix(shape)

    def structure(self, *shapes: Shape) -> Operation:
        return self

    def absolute(self, *shapes: Shape) -> Operation:
        return self

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return adjoint_of_ones(self, *shapes)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        return (self, placed(self.output_shape(shape), start, total))

    node_types = (nir.SumPool2d,)

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.SumPool2d(
            kernel_size=np.array(self.kernel), stride=np.array(self.stride), padding=np.array(self.padding)
        )

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        kernel, stride = whole_pair(name, node.kernel_size, 1), whole_pair(name, node.stride, 1)
        padding = whole_pair(name, node.padding)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise ConversionError(name, f"padding {padding}", "at most half of the window")
        return cls(kernel, stride, padding), None

    def module(self) -> nn.Module:
        return nn.AvgPool2d(self.kernel, self.stride, self.padding, divisor_override=1)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Conv2d:
        return self._convolution(shape[0]).ungrouped()

    def _convolution(self, channels: int) -> Conv2d:
        ones = torch.ones(channels, 1, *self.kernel, dtype=torch.int64)
        return Conv2d(ones, self.stride, self.padding, (1, 1), channels)


def average_pool(
    builder: GraphBuilder,
    name: str,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    scale: float,
    y_min: int,
    y_max: int,
    tie: TieRule = "even",
) -> Value:
    """An average pool as a Ca-LIF layer of ``builder``: weights 1, ``Vth = p^2 S_y / S_x``, no leak (equation 6).

    The threshold is rounded once, so it is the whole number ``p^2`` where the scales are shared.
    """
    return builder.layer(
        name,
        [(value, SumPool2d(kernel, stride, padding))],
        threshold=float(kernel[0] * kernel[1] * Fraction(scale) / Fraction(value.scale)),
        y_min=y_min,
        y_max=y_max,
        scale=scale,
        tie=tie,
    )
