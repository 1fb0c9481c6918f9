"""Sums over windows: average pooling with the division left to the threshold (equation 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import nir
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, Window, adjoint_of_ones, check_steps, register
from converters.operations.convolution import Conv1d, Conv2d, Conv3d, Pair, Triple, convolution_of
from converters.operations.moving import placed
from converters.operations.node_fields import whole_pair

if TYPE_CHECKING:
    from calif_plugins.parameters import TieRule
    from converters.graph_builder import GraphBuilder, Value

__all__ = [
    "STOCK_POOLS",
    "StockPool",
    "SumPool1d",
    "SumPool2d",
    "SumPool3d",
    "average_pool",
    "divisors",
    "pool_of",
    "stock_pool",
]

STOCK_POOLS = (nir.AvgPool2d, nir.SumPool2d)
"""NIR's own pools, which other tools' files hold."""


class StockPool(NamedTuple):
    """One of :data:`STOCK_POOLS`: its window, and by what it divides the window's sum."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    divisor: int

    def sums(self, x: Tensor) -> Tensor:
        """The sums, not divided; ``(N, C, H, W)``."""
        return _sums(x, self.kernel, self.stride, self.padding)

    def averages(self, x: Tensor) -> Tensor:
        """What the node gives; ``(N, C, H, W)``."""
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=self.divisor)

    def module(self) -> nn.AvgPool2d:
        """The average as a module."""
        return nn.AvgPool2d(self.kernel, self.stride, self.padding)


def stock_pool(node: Any) -> StockPool:
    """What a NIR pool says.

    >>> import nir, numpy as np
    >>> stock_pool(nir.AvgPool2d(kernel_size=np.array([2, 3]), stride=np.array([2]), padding=np.array([0, 0])))
    StockPool(kernel=(2, 3), stride=(2, 2), padding=(0, 0), divisor=6)
    """
    kernel, stride, padding = (
        (int(a[0]), int(a[1]))
        for a in (
            np.broadcast_to(np.asarray(v).reshape(-1), (2,)) for v in (node.kernel_size, node.stride, node.padding)
        )
    )
    return StockPool(kernel, stride, padding, kernel[0] * kernel[1] if type(node) is nir.AvgPool2d else 1)


def _sums(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    # divisor_override=1 makes the average a plain sum, in integers
    if len(kernel) == 3:
        return F.avg_pool3d(x, kernel, stride, padding, divisor_override=1)
    if len(kernel) == 2:
        return F.avg_pool2d(x, kernel, stride, padding, divisor_override=1)
    return F.avg_pool2d(x.unsqueeze(2), (1, *kernel), (1, *stride), (0, *padding), divisor_override=1).squeeze(2)


class _SumPool(Operation):
    """Of any rank."""

    rank: ClassVar[int]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __post_init__(self) -> None:
        kind = type(self).__name__
        check_steps(kind, kernel=(self.kernel, 1), stride=(self.stride, 1), padding=(self.padding, 0))
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ConversionError(kind, f"padding {self.padding}", "at most half of the window")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,), kind = shapes, type(self).__name__
        if len(shape) != self.rank + 1:
            axes = {1: "channels and length", 2: "channels, height and width", 3: "channels, depth, height and width"}
            raise ConversionError(kind, f"an input of shape {shape}", f"it needs {axes[self.rank]}")
        size = tuple(
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip(shape[1:], self.padding, self.kernel, self.stride, strict=True)
        )
        if min(size) < 1:
            raise ConversionError(kind, f"an input of shape {shape}", "it is smaller than the window")
        return (shape[0], *size)

    def __call__(self, *counts: Tensor) -> Tensor:
        return _sums(counts[0], self.kernel, self.stride, self.padding)

    @property
    def gain(self) -> int:
        return math.prod(self.kernel)

    @property
    def held(self) -> int:
        return math.prod(self.kernel)

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

    def _convolution(self, channels: int) -> Conv1d | Conv2d | Conv3d:
        ones = torch.ones(channels, 1, *self.kernel, dtype=torch.int64)
        return convolution_of(self.rank, ones, self.stride, self.padding, (1,) * self.rank, channels)


@register
@dataclass(frozen=True, eq=False)
class SumPool1d(_SumPool):
    """Sums over windows of ``(C, L)``."""

    kernel: tuple[int]
    stride: tuple[int]
    padding: tuple[int] = (0,)

    rank = 1


@register
@dataclass(frozen=True, eq=False)
class SumPool2d(_SumPool):
    """Sum over a window: average pooling with the division left to the threshold (equation 6)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    rank, node_types = 2, (nir.SumPool2d,)

    @property
    def window(self) -> Window:
        return self.kernel, self.stride, self.padding

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.SumPool2d(
            kernel_size=np.array(self.kernel), stride=np.array(self.stride), padding=np.array(self.padding)
        )

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        kernel, stride = whole_pair(name, node.kernel_size, 1), whole_pair(name, node.stride, 1)
        try:
            return cls(kernel, stride, whole_pair(name, node.padding)), None
        except ConversionError as error:
            raise ConversionError(name, error.found, error.todo) from None

    def module(self) -> nn.Module:
        return nn.AvgPool2d(self.kernel, self.stride, self.padding, divisor_override=1)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Conv2d:
        found = self._convolution(shape[0]).ungrouped()
        assert isinstance(found, Conv2d)
        return found


@register
@dataclass(frozen=True, eq=False)
class SumPool3d(_SumPool):
    """Sums over windows of ``(C, D, H, W)``."""

    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)

    rank = 3


def pool_of(kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> _SumPool:
    """The sum pool of one to three axes."""
    kinds: dict[int, Any] = {1: SumPool1d, 2: SumPool2d, 3: SumPool3d}
    found: _SumPool = kinds[len(kernel)](kernel, stride, padding)
    return found


def divisors(pool: Callable[..., Tensor], shape: Shape) -> Tensor:
    """What an average pool divides each of its sums by: int64 of its result's shape, without batch and channels.

    ``pool`` is the framework's own, called as ``pool(x, divisor_override=...)``.
    """
    ones = torch.ones(1, 1, *shape[1:], dtype=torch.float64)
    return (pool(ones, divisor_override=1) / pool(ones, divisor_override=None)).round().to(torch.int64)[0, 0]


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
