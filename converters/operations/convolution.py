"""Convolutions of feature maps, of one to three axes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, Self, TypeAlias

import nir
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, adjoint_of_ones, check_steps, register
from converters.operations.moving import placed
from converters.operations.node_fields import channel_bias, whole_numbers, whole_weights
from converters.operations.weights import Weighted, float_parameter, for_node

__all__ = ["Conv1d", "Conv2d", "Conv3d", "Kernels", "Pair", "Triple", "convolution_of", "in_order"]

Pair: TypeAlias = tuple[int, int]
Triple: TypeAlias = tuple[int, int, int]


def in_order(x: Tensor) -> Tensor:
    """The same values, a single channel with the strides that PyTorch itself would give it.

    Strides of a single channel are ambiguous; where they say channels last, oneDNN's float32 convolutions are wrong for
    some geometries (tests/test_workarounds.py).
    """
    if x.ndim != 4 or x.shape[1] != 1 or x.stride(1) == x.shape[2] * x.shape[3]:
        return x
    return x.new_empty(x.shape).copy_(x)


class Kernels(Weighted):
    """What convolutions and their transposes share; ``weight`` is ``(C_out, C_in / groups, *kernel)`` in both."""

    rank: ClassVar[int]
    """How many axes a map has beside its channels."""
    _act: ClassVar[Any]
    _module: ClassVar[type[nn.Module]]
    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        self.check_weight(self.rank + 2)
        least = {"stride": (self.stride, 1), "padding": (self.padding, 0), "dilation": (self.dilation, 1)}
        kind = type(self).__name__
        check_steps(kind, **least, groups=((self.groups,), 1))
        for name, (values, _) in least.items():
            if len(values) != self.rank:
                raise ConversionError(kind, f"{name} {values}", f"give {self.rank} numbers")
        if self.weight.shape[0] % self.groups:
            raise ConversionError(kind, f"{self.weight.shape[0]} channels in {self.groups} groups", "divide evenly")

    @abstractmethod
    def sizes(self, here: Shape) -> Shape:
        """Of a map's axes, from those of what it takes."""

    def with_weight(self, weight: Tensor) -> Self:
        return replace(self, weight=weight)  # type: ignore[type-var]  # every subclass is a dataclass

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != self.rank + 1 or shape[0] != self.weight.shape[1] * self.groups:
            raise ConversionError(
                type(self).__name__,
                f"an input of shape {shape} for weights of shape {tuple(self.weight.shape)} in {self.groups} groups",
                "channels must agree",
            )
        size = self.sizes(shape[1:])
        if min(size) < 1:
            raise ConversionError(type(self).__name__, f"an input of shape {shape}", "it is smaller than the kernel")
        return (self.weight.shape[0], *size)

    def interval(self, *ranges: Range) -> Range:
        ((low, high),) = ranges
        up, down = (self.with_weight(w) for w in (self.weight.clamp(min=0), self.weight.clamp(max=0)))
        low, high = low[None], high[None]
        return (up(low) + down(high))[0], (up(high) + down(low))[0]

    def structure(self, *shapes: Shape) -> Operation:
        return self.with_weight((self.weight != 0).to(torch.int8))

    def absolute(self, *shapes: Shape) -> Operation:
        return self.with_weight(self.weight.to(torch.int64).abs())  # int8 has no 128

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return adjoint_of_ones(self.with_weight(torch.ones_like(self.weight)), *shapes)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        out, per_group = self.weight.shape[0], self.weight.shape[1]
        if self.groups > 1 and not start % per_group and not shape[0] % per_group:  # whole groups
            first, last = (k // per_group * (out // self.groups) for k in (start, start + shape[0]))
            groups = replace(self, weight=self.weight[first:last].contiguous(), groups=shape[0] // per_group)  # type: ignore[type-var]
            return (groups, placed(groups.output_shape(shape), first, out))
        dense = self.ungrouped()
        return (dense.with_weight(dense.weight[:, start : start + shape[0]].contiguous()),)

    def ungrouped(self) -> Self:
        """The same in one group, with zeros where channels do not meet."""
        if self.groups == 1:
            return self
        out, per_group = self.weight.shape[:2]
        dense = self.weight.new_zeros(out, per_group * self.groups, *self.weight.shape[2:])
        for k in range(self.groups):
            rows = slice(k * out // self.groups, (k + 1) * out // self.groups)
            dense[rows, k * per_group : (k + 1) * per_group] = self.weight[rows]
        return replace(self, weight=dense, groups=1)  # type: ignore[type-var]

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def _laid_out(self) -> Tensor:
        """The weight as PyTorch's module has it."""
        return in_order(self.weight)

    def module(self) -> nn.Module:
        out, per_group, *kernel = self.weight.shape
        make: Any = self._module
        layer: nn.Module = make(per_group * self.groups, out, tuple(kernel), bias=False, **self._geometry)
        layer.weight = float_parameter(self._laid_out())
        return layer


class _Convolution(Kernels):
    """Of any rank."""

    _node: ClassVar[type[nir.NIRNode] | None] = None

    def sizes(self, here: Shape) -> Shape:
        kernel = self.weight.shape[2:]
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(here, self.padding, self.dilation, kernel, self.stride, strict=True)
        )

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        return self._act(in_order(x), in_order(self.weight_as(x)), **self._geometry)

    def matrix(self, shape: Shape) -> sparse.csr_array:
        weight = self.weight.cpu().numpy().astype(np.int64)
        out_channels, per_group, *kernel = weight.shape
        here, there = shape[1:], self.output_shape(shape)[1:]
        target = np.indices(there).reshape(self.rank, -1)
        place = np.arange(math.prod(there))
        o = np.arange(out_channels)
        first = (o // (out_channels // self.groups)) * per_group  # first input channel of each output channel's group
        channel = first[:, None] + np.arange(per_group)[None]
        data, row, column = [], [], []
        for tap in product(*(range(k) for k in kernel)):
            steps = zip(target, tap, self.stride, self.padding, self.dilation, strict=True)
            source = np.stack([t * s - p + k * d for t, k, s, p, d in steps])
            inside = ((source >= 0) & (source < np.reshape(here, (-1, 1)))).all(0)
            pixel, origin = place[inside], np.ravel_multi_index(tuple(source[:, inside]), here)
            full = (out_channels, per_group, len(pixel))
            data.append(np.broadcast_to(weight[(..., *tap, None)], full).ravel())
            row.append(np.broadcast_to(o[:, None, None] * len(place) + pixel, full).ravel())
            column.append(np.broadcast_to(channel[:, :, None] * math.prod(here) + origin, full).ravel())
        size = (out_channels * len(place), math.prod(shape))
        entries = (np.concatenate(data), (np.concatenate(row), np.concatenate(column)))
        return sparse.csr_array(sparse.coo_array(entries, shape=size))

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        if self._node is None:
            return super().to_node(*shapes)
        here: Any = np.array(shapes[0][1:]) if self.rank > 1 else int(shapes[0][1])
        plain = {k: np.array(v) if self.rank > 1 else v[0] for k, v in self._geometry.items() if k != "groups"}
        make: Any = self._node
        return make(
            input_shape=here,
            weight=for_node(self),
            **plain,
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
        groups, rank = int(given.item()), cls.rank
        if groups < 1 or weight.ndim != rank + 2 or weight.shape[0] % groups:
            raise ConversionError(name, f"weights {tuple(weight.shape)} in {groups} groups", "they must divide evenly")
        stride, dilation = whole_numbers(name, node.stride, rank, 1), whole_numbers(name, node.dilation, rank, 1)
        make: Any = cls
        op = make(weight, stride, whole_numbers(name, node.padding, rank), dilation, groups)
        return op, channel_bias(node.bias)


@register
@dataclass(frozen=True, eq=False)
class Conv1d(_Convolution):
    """1-d convolution; ``weight`` of shape ``(C_out, C_in / groups, k)``."""

    weight: Tensor
    stride: tuple[int] = (1,)
    padding: tuple[int] = (0,)
    dilation: tuple[int] = (1,)
    groups: int = 1

    rank, _act, _module, _node, node_types = 1, F.conv1d, nn.Conv1d, nir.Conv1d, (nir.Conv1d,)


@register
@dataclass(frozen=True, eq=False)
class Conv2d(_Convolution):
    """2-d convolution; ``weight`` of shape ``(C_out, C_in / groups, kH, kW)``."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    rank, _act, _module, _node, node_types = 2, F.conv2d, nn.Conv2d, nir.Conv2d, (nir.Conv2d,)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Conv2d:
        # most importers take the weight's second axis for the number of input channels, whatever the groups
        return self.ungrouped()


@register
@dataclass(frozen=True, eq=False)
class Conv3d(_Convolution):
    """3-d convolution; ``weight`` of shape ``(C_out, C_in / groups, kD, kH, kW)``."""

    weight: Tensor
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1

    rank, _act, _module = 3, F.conv3d, nn.Conv3d


def convolution_of(rank: int, weight: Tensor, *geometry: Any) -> Conv1d | Conv2d | Conv3d:
    """The convolution of a ``rank`` from 1 to 3, of ``stride``, ``padding``, ``dilation`` and ``groups``."""
    kinds: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
    return kinds[rank](weight, *geometry)
