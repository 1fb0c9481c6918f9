"""One integer weight per neuron: residual branches, requantisation, signs, windows of unequal size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

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

__all__ = ["Scale", "Weigh"]

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
        if not weights.numel():
            raise ConversionError(name, "no scales at all", "give one for each neuron")
        if bool((weights != weights.flatten()[0]).any()):
            return Weigh(weights), None
        return cls(int(weights.flatten()[0])), None

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        weight = torch.eye(shape[0], dtype=torch.int64) * self.weight
        return Linear(weight).stock(shape[:1], flattened=flattened, maps=maps or len(shape) > 1)


@register
@dataclass(frozen=True, eq=False)
class Weigh(Operation):
    """One synapse per neuron, weighted by integers: of the source's shape, or with 1 where an axis has one for all.

    Examples
    --------
    >>> Weigh(torch.tensor([1, -1]).reshape(2, 1))(torch.tensor([[[3, 4], [5, 6]]]))
    tensor([[[ 3,  4],
             [-5, -6]]])
    """

    weights: Tensor

    limits: ClassVar[Mapping[str, int]] = {"weights": _LARGEST}

    def __post_init__(self) -> None:
        kind = self.weights.dtype
        if not self.weights.ndim or not self.weights.numel() or kind.is_floating_point or kind.is_complex:
            found = f"weights of shape {tuple(self.weights.shape)} and type {kind}"
            raise ConversionError("Weigh", found, "give integers with the axes of an image")

    def output_shape(self, *shapes: Shape) -> Shape:
        own = tuple(self.weights.shape)
        if len(own) != len(shapes[0]) or any(n not in (1, m) for n, m in zip(own, shapes[0], strict=True)):
            raise ConversionError("Weigh", f"an input of shape {shapes[0]}", f"its weights have shape {own}")
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        return counts[0] * self._on(counts[0].dtype, counts[0].device)

    @cached_property
    def _copies(self) -> dict[Any, Tensor]:
        return {}

    def _on(self, *key: Any) -> Tensor:
        if key not in self._copies:
            self._copies[key] = self.weights.to(key[1], key[0])
        return self._copies[key]

    @cached_property
    def gain(self) -> int:
        return int(self.weights.to(torch.int64).abs().max())

    @property
    def stored(self) -> Tensor:
        return self.weights

    @property
    def multiplies(self) -> bool:
        return self.gain > 1

    def interval(self, *ranges: Range) -> Range:
        ends = [self(x[None])[0] for x in ranges[0]]
        return torch.minimum(*ends), torch.maximum(*ends)

    def matrix(self, shape: Shape) -> sparse.csr_array:
        every = self.weights.to(torch.int64).expand(shape).reshape(-1).numpy()
        return sparse.csr_array(sparse.diags_array(every, dtype=np.int64))

    def structure(self, *shapes: Shape) -> Operation:
        return Weigh((self.weights != 0).to(torch.int8))

    def absolute(self, *shapes: Shape) -> Operation:
        return Weigh(self.weights.to(torch.int64).abs())  # int8 has no 128

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return (torch.ones(shapes[0], dtype=torch.float64),)

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        one = len(self.weights) == 1
        own = self.weights if one else self.weights[start : start + shape[0]]
        return (Weigh(own), placed(shape, start, total))

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.Scale(scale=self.weights.expand(shapes[0]).numpy().astype(np.float64))

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        if self.weights[0].numel() > 1:
            todo = "run the network on a backend of this package"
            raise ConversionError("Weigh", "weights of their own at every place, which have no stock form", todo)
        weight = torch.diag(self.weights.to(torch.int64).reshape(-1).expand(shape[0]))
        return Linear(weight).stock(shape[:1], flattened=flattened, maps=maps or len(shape) > 1)
