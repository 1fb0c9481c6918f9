"""Changes of place and shape, without a weight: flattening, concatenation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, register

__all__ = ["Concatenate", "Flatten", "placed"]


class _Move(Operation):
    """Each result is one of the counts."""

    @property
    def gain(self) -> int:
        return 1

    def interval(self, *ranges: Range) -> Range:
        return self(*(low[None] for low, _ in ranges))[0], self(*(high[None] for _, high in ranges))[0]

    def structure(self, *shapes: Shape) -> Operation:
        return self

    def absolute(self, *shapes: Shape) -> Operation:
        return self

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        return tuple(torch.ones(shape, dtype=torch.float64) for shape in shapes)


@register
@dataclass(frozen=True, eq=False)
class Flatten(_Move):
    """``(C, H, W)`` to ``(C*H*W,)``, in that order."""

    rewires = True

    def output_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def __call__(self, *counts: Tensor) -> Tensor:
        return counts[0].flatten(1)

    @property
    def factor(self) -> int:
        return 1

    def matrix(self, shape: Shape) -> sparse.csr_array:
        return sparse.csr_array(sparse.eye_array(math.prod(shape), dtype=np.int64))

    node_types = (nir.Flatten,)

    def to_node(self, *shapes: Shape) -> nir.NIRNode:
        return nir.Flatten(input_type={"input": np.array(shapes[0])}, start_dim=0, end_dim=-1)

    @classmethod
    def from_node(cls, name: str, node: Any) -> tuple[Operation, np.ndarray | None]:
        if int(node.start_dim) != 0 or int(node.end_dim) not in (-1, 2):
            raise ConversionError(name, f"flatten from {node.start_dim} to {node.end_dim}", "flatten all axes")
        return cls(), None

    def module(self) -> nn.Module:
        return nn.Flatten()


@register
@dataclass(frozen=True, eq=False)
class Concatenate(_Move):
    """Several sources as one, along channels; with ``flat`` each is flattened first.

    Linear operations on a concatenation are split into a sum over its parts instead (:meth:`Operation.on_part`); this
    is for those that count.
    """

    flat: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.flat:
            return (sum(math.prod(s) for s in shapes),)
        if len({s[1:] for s in shapes}) > 1:
            raise ConversionError("Concatenate", f"shapes {list(shapes)}", "only channels may differ")
        return (sum(s[0] for s in shapes), *shapes[0][1:])

    def __call__(self, *counts: Tensor) -> Tensor:
        return torch.cat([x.flatten(1) for x in counts] if self.flat else list(counts), dim=1)


def placed(shape: Shape, start: int, total: int) -> Operation:
    """Channels of a part put in their place among ``total``, the others 0: a layer of that part's ``shape``."""
    from converters.operations.convolution import Conv2d
    from converters.operations.dense import Linear

    size = shape[0]
    place = torch.zeros(total, size, dtype=torch.int8)
    place[start : start + size] = torch.eye(size, dtype=torch.int8)
    return Linear(place) if len(shape) == 1 else Conv2d(place[:, :, None, None])
