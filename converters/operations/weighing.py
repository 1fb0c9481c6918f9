"""The same integer weight everywhere: residual branches, requantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, register
from converters.operations.dense import Linear
from converters.operations.moving import placed
from converters.operations.node_fields import whole_weights

__all__ = ["Scale"]

_LARGEST = 2**31  # of float64; what makes branches of unequal scale equal has 30 bits


@register
@dataclass(frozen=True, eq=False)
class Scale(Operation):
    """One synapse per neuron, all with the same integer weight (residual branches, requantisation)."""

    weight: int = 1

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        return counts[0] if self.weight == 1 else counts[0] * self.weight

    @property
    def gain(self) -> int:
        return abs(self.weight)

    @property
    def factor(self) -> int:
        return self.weight

    @property
    def multiplies(self) -> bool:
        return self.weight not in (-1, 1)

    def interval(self, *ranges: Range) -> Range:
        ends = ranges[0][0] * self.weight, ranges[0][1] * self.weight
        return torch.minimum(*ends), torch.maximum(*ends)

    def matrix(self, shape: Shape) -> sparse.csr_array:
        return sparse.csr_array(self.weight * sparse.eye_array(int(np.prod(shape)), dtype=np.int64))

    def structure(self, *shapes: Shape) -> Operation:
        return Scale(1)

    def absolute(self, *shapes: Shape) -> Operation:
        return Scale(abs(self.weight))

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return (torch.ones(shapes[0], dtype=torch.float64),)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        return (self, placed(shape, start, total))

    node_types = (nir.Scale,)

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.Scale(scale=np.full(shapes[0], self.weight, dtype=np.float64))

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        weights = whole_weights(name, node.scale, _LARGEST)
        if not weights.numel() or bool((weights != weights.flatten()[0]).any()):
            raise ConversionError(name, "different scales per neuron", "use a Conv2d or Linear node")
        return cls(int(weights.flatten()[0])), None

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        weight = torch.eye(shape[0], dtype=torch.int64) * self.weight
        return Linear(weight).stock(shape[:1], flattened=flattened, maps=maps or len(shape) > 1)
