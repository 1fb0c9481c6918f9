"""Linear synapses between layers: integer weights, and how they act on a batch.

Each operation is a frozen value with the same four methods: ``output_shape``, calling it on a batch
``(N, *input_shape)``, ``gain`` (the largest charge that inputs in {-1, 0, 1} can bring in one step) and
``fan_out`` (how many synapses leave each input neuron). Whoever needs more (edges for Brian2, a NIR
node) dispatches on the exact type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["Conv2d", "Flatten", "Linear", "Op", "Scale", "SumPool2d", "Synapse"]

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]


class _Weighted:
    """Integer weights, and their float copies, made once per dtype and device."""

    weight: Tensor

    def _check(self, ndim: int) -> None:
        if self.weight.ndim != ndim or self.weight.is_floating_point():
            raise ConversionError(
                type(self).__name__,
                f"weights of shape {tuple(self.weight.shape)} and type {self.weight.dtype}",
                f"give integers with {ndim} axes",
            )

    @cached_property
    def _copies(self) -> dict[Any, Tensor]:
        return {}

    def weight_as(self, x: Tensor) -> Tensor:
        """The weights in the dtype and on the device of ``x``."""
        key = x.dtype, x.device
        if key not in self._copies:
            self._copies[key] = self.weight.to(x.device, x.dtype)
        return self._copies[key]

    @cached_property
    def gain(self) -> int:
        """Largest sum of absolute weights of one output neuron."""
        return int(self.weight.to(torch.int64).abs().flatten(1).sum(1).max()) if self.weight.numel() else 0


@dataclass(frozen=True, eq=False)
class Conv2d(_Weighted):
    """2-d convolution; ``weight`` of shape ``(C_out, C_in / groups, kH, kW)``."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        self._check(4)

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def output_shape(self, shape: Shape) -> Shape:
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

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight_as(x), **self._geometry)

    def fan_out(self, shape: Shape) -> Tensor:
        ones = replace(self, weight=torch.ones_like(self.weight))
        return _adjoint_of_ones(ones, shape)


@dataclass(frozen=True, eq=False)
class Linear(_Weighted):
    """Dense synapses; ``weight`` of shape ``(out, in)``."""

    weight: Tensor

    def __post_init__(self) -> None:
        self._check(2)

    def output_shape(self, shape: Shape) -> Shape:
        if shape != (self.weight.shape[1],):
            raise ConversionError(
                "Linear", f"an input of shape {shape} for {self.weight.shape[1]} features", "flatten it first"
            )
        return (self.weight.shape[0],)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_as(x))

    def fan_out(self, shape: Shape) -> Tensor:
        return torch.full(shape, self.weight.shape[0], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class SumPool2d:
    """Sum over a window: average pooling with the division left to the threshold (equation 6)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ConversionError("SumPool2d", f"an input of shape {shape}", "it needs channels, height and width")
        size = tuple((shape[1 + a] + 2 * self.padding[a] - self.kernel[a]) // self.stride[a] + 1 for a in (0, 1))
        if min(size) < 1:
            raise ConversionError("SumPool2d", f"an input of shape {shape}", "it is smaller than the window")
        return (shape[0], *size)

    def __call__(self, x: Tensor) -> Tensor:
        # divisor_override=1 makes the average a plain sum, in integers
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)

    @property
    def gain(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def fan_out(self, shape: Shape) -> Tensor:
        return _adjoint_of_ones(self, shape)


@dataclass(frozen=True, eq=False)
class Flatten:
    """``(C, H, W)`` to ``(C*H*W,)``, in that order."""

    gain = 1

    def output_shape(self, shape: Shape) -> Shape:
        return (torch.Size(shape).numel(),)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def fan_out(self, shape: Shape) -> Tensor:
        return torch.ones(shape, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Scale:
    """One synapse per neuron, all with the same integer weight (residual branches, requantisation)."""

    weight: int = 1
    gain: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", abs(self.weight))

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.weight == 1 else x * self.weight

    def fan_out(self, shape: Shape) -> Tensor:
        return torch.ones(shape, dtype=torch.float64)


Op: TypeAlias = Conv2d | Linear | SumPool2d | Flatten | Scale
OPS: dict[str, type] = {t.__name__: t for t in (Conv2d, Linear, SumPool2d, Flatten, Scale)}


@dataclass(frozen=True, eq=False)
class Synapse:
    """A chain of linear operations from one layer (or the input) to another."""

    source: str
    ops: tuple[Op, ...] = ()

    def output_shape(self, shape: Shape) -> Shape:
        for op in self.ops:
            shape = op.output_shape(shape)
        return shape

    def __call__(self, x: Tensor) -> Tensor:
        for op in self.ops:
            x = op(x)
        return x

    @cached_property
    def gain(self) -> int:
        """Largest charge that inputs in {-1, 0, 1} can bring to one neuron in one step."""
        product = 1
        for op in self.ops:
            product *= op.gain
        return product

    def fan_out(self, shape: Shape) -> Tensor:
        """Number of synapses that leave each neuron of the source: float64 of the source's ``shape``.

        A chain counts as the one connection that it is: ones are pulled back through every operation.
        """
        shapes = [shape]
        for op in self.ops:
            shapes.append(op.output_shape(shapes[-1]))
        weighted = [op for op in self.ops if type(op) is not Flatten]
        if len(weighted) <= 1:
            for op, s in zip(self.ops, shapes, strict=False):
                if type(op) is not Flatten:
                    return op.fan_out(s).reshape(shape)
            return torch.ones(shape, dtype=torch.float64)
        return _adjoint_of_ones(self.structure(), shape)

    def structure(self) -> Synapse:
        """The same connections with weight 1 where there is one, and 0 where it is a placed 0.

        On spikes without sign it counts those that reach each neuron.
        """
        return Synapse(self.source, tuple(_structure(op) for op in self.ops))

    def absolute(self) -> Synapse:
        """The same connections with the absolute values of their weights."""
        return Synapse(self.source, tuple(_absolute(op) for op in self.ops))


def _structure(op: Op) -> Op:
    """The same connections with weight 1 where there is one, and 0 where it is a placed 0."""
    if isinstance(op, Conv2d | Linear):
        return replace(op, weight=(op.weight != 0).to(torch.int8))
    return Scale(1) if isinstance(op, Scale) else op


def _absolute(op: Op) -> Op:
    if isinstance(op, Conv2d | Linear):
        return replace(op, weight=op.weight.to(torch.int32).abs())  # int8 has no 128
    return Scale(abs(op.weight)) if isinstance(op, Scale) else op


def _adjoint_of_ones(act: Callable[[Tensor], Tensor], shape: Shape) -> Tensor:
    with torch.enable_grad():  # runs also inside of someone's no_grad
        x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(act(x).sum(), x)
    return grad[0]
