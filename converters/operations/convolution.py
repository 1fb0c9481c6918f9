"""Convolutions of feature maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeAlias

import nir
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, adjoint_of_ones, check_steps, register
from converters.operations.node_fields import channel_bias, whole_pair, whole_weights
from converters.operations.weights import Weighted, float_parameter, for_node

__all__ = ["Conv2d", "Pair", "in_order"]

Pair: TypeAlias = tuple[int, int]


def in_order(x: Tensor) -> Tensor:
    """The same values, a single channel with the strides that PyTorch itself would give it.

    Strides of a single channel are ambiguous; where they say channels last, oneDNN's float32 convolutions are wrong for
    some geometries (tests/test_workarounds.py).
    """
    if x.ndim != 4 or x.shape[1] != 1 or x.stride(1) == x.shape[2] * x.shape[3]:
        return x
    return x.new_empty(x.shape).copy_(x)


@register
@dataclass(frozen=True, eq=False)
class Conv2d(Weighted):
    """2-d convolution; ``weight`` of shape ``(C_out, C_in / groups, kH, kW)``."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        self.check_weight(4)
        least = {"stride": (self.stride, 1), "padding": (self.padding, 0), "dilation": (self.dilation, 1)}
        check_steps("Conv2d", **least, groups=((self.groups,), 1))
        if self.weight.shape[0] % self.groups:
            raise ConversionError("Conv2d", f"{self.weight.shape[0]} channels in {self.groups} groups", "divide evenly")

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 3 or shape[0] != self.weight.shape[1] * self.groups:
            raise ConversionError(
                "Conv2d",
                f"an input of shape {shape} for weights of shape {tuple(self.weight.shape)} in {self.groups} groups",
                "channels must agree",
            )
        size = tuple(
            (shape[1 + a] + 2 * self.padding[a] - self.dilation[a] * (self.weight.shape[2 + a] - 1) - 1)
            // self.stride[a]
            + 1
            for a in (0, 1)
        )
        if min(size) < 1:
            raise ConversionError("Conv2d", f"an input of shape {shape}", "it is smaller than the kernel")
        return (self.weight.shape[0], *size)

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        return F.conv2d(in_order(x), in_order(self.weight_as(x)), **self._geometry)

    def with_weight(self, weight: Tensor) -> Conv2d:
        return replace(self, weight=weight)

    def interval(self, *ranges: Range) -> Range:
        ((low, high),) = ranges
        up, down = (replace(self, weight=w) for w in (self.weight.clamp(min=0), self.weight.clamp(max=0)))
        low, high = low[None], high[None]
        return (up(low) + down(high))[0], (up(high) + down(low))[0]

    def matrix(self, shape: Shape) -> sparse.csr_array:
        weight = self.weight.cpu().numpy().astype(np.int64)
        out_channels, per_group, kh, kw = weight.shape
        _, h, w = shape
        _, oh, ow = self.output_shape(shape)
        y, x = (a.ravel() for a in np.mgrid[:oh, :ow])
        out_pixel = y * ow + x
        o = np.arange(out_channels)
        first = (o // (out_channels // self.groups)) * per_group  # first input channel of each output channel's group
        channel = first[:, None] + np.arange(per_group)[None]
        data, row, column = [], [], []
        for a, b in product(range(kh), range(kw)):
            iy = y * self.stride[0] - self.padding[0] + a * self.dilation[0]
            ix = x * self.stride[1] - self.padding[1] + b * self.dilation[1]
            inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
            pixel, source = out_pixel[inside], (iy * w + ix)[inside]
            full = (out_channels, per_group, len(pixel))
            data.append(np.broadcast_to(weight[:, :, a, b, None], full).ravel())
            row.append(np.broadcast_to(o[:, None, None] * (oh * ow) + pixel, full).ravel())
            column.append(np.broadcast_to(channel[:, :, None] * (h * w) + source, full).ravel())
        size = (out_channels * oh * ow, int(np.prod(shape)))
        entries = (np.concatenate(data), (np.concatenate(row), np.concatenate(column)))
        return sparse.csr_array(sparse.coo_array(entries, shape=size))

    def structure(self, *shapes: Shape) -> Operation:
        return replace(self, weight=(self.weight != 0).to(torch.int8))

    def absolute(self, *shapes: Shape) -> Operation:
        return replace(self, weight=self.weight.to(torch.int64).abs())  # int8 has no 128

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return adjoint_of_ones(replace(self, weight=torch.ones_like(self.weight)), *shapes)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        dense = self.ungrouped()
        return (replace(dense, weight=dense.weight[:, start : start + shape[0]].contiguous()),)

    def ungrouped(self) -> Conv2d:
        """The same convolution in one group, with zeros where channels do not meet."""
        if self.groups == 1:
            return self
        out, per_group = self.weight.shape[:2]
        dense = self.weight.new_zeros(out, per_group * self.groups, *self.weight.shape[2:])
        for k in range(self.groups):
            rows = slice(k * out // self.groups, (k + 1) * out // self.groups)
            dense[rows, k * per_group : (k + 1) * per_group] = self.weight[rows]
        return replace(self, weight=dense, groups=1)

    node_types = (nir.Conv2d,)

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.Conv2d(
            input_shape=np.array(shapes[0][1:]),
            weight=for_node(self),
            stride=np.array(self.stride),
            padding=np.array(self.padding),
            dilation=np.array(self.dilation),
            groups=self.groups,
            bias=np.zeros(self.weight.shape[0], dtype=np.float32),
        )

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        if isinstance(node.padding, str):
            raise ConversionError(name, f"padding {node.padding!r}", "give it in numbers")
        weight = whole_weights(name, node.weight)
        given = np.asarray(node.groups)
        if given.size != 1 or given.dtype.kind not in "iu":
            raise ConversionError(name, f"groups of {given.reshape(-1)[:4].tolist()}", "give one whole number")
        groups = int(given.item())
        if groups < 1 or weight.ndim != 4 or weight.shape[0] % groups:
            raise ConversionError(name, f"weights {tuple(weight.shape)} in {groups} groups", "they must divide evenly")
        stride, dilation = whole_pair(name, node.stride, 1), whole_pair(name, node.dilation, 1)
        return cls(weight, stride, whole_pair(name, node.padding), dilation, groups), channel_bias(node.bias)

    def module(self) -> nn.Module:
        out, per_group, *kernel = self.weight.shape
        layer = nn.Conv2d(per_group * self.groups, out, (kernel[0], kernel[1]), bias=False, **self._geometry)
        layer.weight = float_parameter(in_order(self.weight))
        return layer

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Conv2d:
        # most importers take the weight's second axis for the number of input channels, whatever the groups
        return self.ungrouped()
