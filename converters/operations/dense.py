"""Dense synapses: every neuron of a vector to every neuron of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, register
from converters.operations.convolution import Conv2d
from converters.operations.node_fields import channel_bias, whole_weights
from converters.operations.weights import Weighted, float_parameter, for_node

__all__ = ["Linear"]


@register
@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """Dense synapses; ``weight`` of shape ``(out, in)``."""

    weight: Tensor

    def __post_init__(self) -> None:
        self.check_weight(2)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if shape != (self.weight.shape[1],):
            raise ConversionError(
                "Linear", f"an input of shape {shape} for {self.weight.shape[1]} features", "flatten it first"
            )
        return (self.weight.shape[0],)

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        return F.linear(x, self.weight_as(x))

    def with_weight(self, weight: Tensor) -> Linear:
        return replace(self, weight=weight)

    def interval(self, *ranges: Range) -> Range:
        ((low, high),) = ranges
        up, down = self.weight.clamp(min=0).to(low), self.weight.clamp(max=0).to(low)
        return up @ low + down @ high, up @ high + down @ low

    def matrix(self, shape: Shape) -> sparse.csr_array:
        return sparse.csr_array(self.weight.cpu().numpy().astype(np.int64))

    def structure(self, *shapes: Shape) -> Operation:
        return Linear((self.weight != 0).to(torch.int8))

    def absolute(self, *shapes: Shape) -> Operation:
        return replace(self, weight=self.weight.to(torch.int64).abs())  # int8 has no 128

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return (torch.full(shapes[0], self.weight.shape[0], dtype=torch.float64),)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        return (Linear(self.weight[:, start : start + shape[0]].contiguous()),)

    node_types = (nir.Linear, nir.Affine)

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.Linear(weight=for_node(self))

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        bias = channel_bias(node.bias) if type(node) is nir.Affine else None
        return cls(whole_weights(name, node.weight)), bias

    def module(self) -> nn.Module:
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=False)
        layer.weight = float_parameter(self.weight)
        return layer

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        if flattened is not None:
            return Conv2d(self.weight.reshape(-1, *flattened))
        return Conv2d(self.weight[:, :, None, None]) if maps else self
