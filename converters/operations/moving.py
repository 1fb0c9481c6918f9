"""Changes of place and shape, without a weight: flattening, moving, concatenation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import nir
import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, register

__all__ = ["Concatenate", "Flatten", "Move", "Reshape", "folded", "index_of", "move_of", "placed", "through"]


class _Move(Operation):
    """Each result is one of the counts."""

    passes = True

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


class _Renaming(_Move):
    """The same counts in the same order, in another shape."""

    rewires = True

    @property
    def factor(self) -> int:
        return 1

    def matrix(self, shape: Shape) -> sparse.csr_array:
        return sparse.csr_array(sparse.eye_array(math.prod(shape), dtype=np.int64))


@register
@dataclass(frozen=True, eq=False)
class Flatten(_Renaming):
    """``(C, H, W)`` to ``(C*H*W,)``, in that order."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[0]),)

    def __call__(self, *counts: Tensor) -> Tensor:
        return counts[0].flatten(1)

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
class Reshape(_Renaming):
    """The same counts in the same order, in ``shape``."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ConversionError("Reshape", f"the shape {self.shape}", "give sizes of at least 1")

    def output_shape(self, *shapes: Shape) -> Shape:
        if math.prod(shapes[0]) != math.prod(self.shape):
            raise ConversionError(
                "Reshape", f"an input of shape {shapes[0]}", f"it becomes {self.shape}: as many values"
            )
        return self.shape

    def __call__(self, *counts: Tensor) -> Tensor:
        return counts[0].reshape(len(counts[0]), *self.shape)


@register
@dataclass(frozen=True, eq=False)
class Move(_Move):
    """Whatever takes every result from one place: permutations, slices, paddings, repetitions, shuffles.

    Attributes
    ----------
    index : int tensor of the result's shape
        Where each value comes from, in its sources flattened one after another; -1 for a value that is 0.
    size : int
        How many counts the sources have together.

    Examples
    --------
    >>> flip = Move(torch.tensor([2, 1, 0, -1]), 3)
    >>> flip(torch.tensor([[5, 6, 7]]))
    tensor([[7, 6, 5, 0]])
    """

    index: Tensor
    size: int

    limits: ClassVar[Mapping[str, int]] = {"index": 2**31 - 1}

    def __post_init__(self) -> None:
        kind = self.index.dtype
        if self.index.ndim < 1 or not self.index.numel() or kind.is_floating_point or kind.is_complex:
            found = f"an index of shape {tuple(self.index.shape)} and type {kind}"
            raise ConversionError("Move", found, "give integers of the result's shape")
        low, high = (int(x) for x in self.index.aminmax())
        if low < -1 or high >= self.size:
            raise ConversionError("Move", f"indices from {low} to {high}", f"its sources have {self.size} values")

    def output_shape(self, *shapes: Shape) -> Shape:
        found = sum(math.prod(s) for s in shapes)
        if found != self.size:
            what = shapes[0] if len(shapes) == 1 else list(shapes)
            raise ConversionError("Move", f"an input of shape {what}", f"it moves {self.size} values, not {found}")
        return tuple(self.index.shape)

    def __call__(self, *counts: Tensor) -> Tensor:
        x, out = counts[0], tuple(self.index.shape)
        if len(counts) == 1 and not self._gaps and self._channels is not None and tuple(x.shape[2:]) == out[1:]:
            first, last = int(self._channels[0]), int(self._channels[-1])
            if last - first + 1 == len(self._channels) and bool((self._channels.diff() == 1).all()):
                return x[:, first : last + 1]
            return x.index_select(1, self._at(x.device)[2])
        flat = x.flatten(1) if len(counts) == 1 else torch.cat([c.flatten(1) for c in counts], dim=1)
        index, nothing, _ = self._at(x.device)
        y = flat.index_select(1, index)
        if self._gaps:
            y = y.masked_fill(nothing, 0)
        return y.reshape(len(x), *out)

    @cached_property
    def _gaps(self) -> bool:
        return bool((self.index < 0).any())

    @cached_property
    def _channels(self) -> Tensor | None:
        """The channel that each channel of the result is, or -1, if whole channels are all that moves."""
        plane = math.prod(self.index.shape[1:])
        rows = self.index.to(torch.int64).reshape(len(self.index), -1)
        channels = torch.where(rows[:, 0] < 0, -1, rows[:, 0] // plane)
        whole = torch.where(channels[:, None] < 0, -1, channels[:, None] * plane + torch.arange(plane))
        return channels if torch.equal(rows, whole) else None

    @cached_property
    def _copies(self) -> dict[Any, tuple[Tensor, Tensor, Tensor]]:
        return {}

    def _at(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if device not in self._copies:
            flat = self.index.reshape(-1).to(device, torch.int64)
            channels = flat[:0] if self._channels is None else self._channels.to(device)
            self._copies[device] = flat.clamp(min=0), flat < 0, channels
        return self._copies[device]

    def matrix(self, shape: Shape) -> sparse.csr_array:
        flat = self.index.reshape(-1).cpu().numpy()
        (row,) = np.nonzero(flat >= 0)
        entries = (np.ones(len(row), dtype=np.int64), (row, flat[row]))
        return sparse.csr_array(sparse.coo_array(entries, shape=(len(flat), self.size)))

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        flat = self.index.reshape(-1).to(torch.int64)
        leaving = torch.bincount(flat[flat >= 0], minlength=self.size).to(torch.float64)
        parts = leaving.split([math.prod(s) for s in shapes])
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def on_part(self, shape: Shape, start: int, total: int) -> tuple[Operation, ...]:
        plane = math.prod(shape[1:])
        index = self.index.to(torch.int64) - start * plane
        size = shape[0] * plane
        return (Move(torch.where((index < 0) | (index >= size), -1, index), size),)

    def stock(self, shape: Shape, *, flattened: Shape | None, maps: bool) -> Any:
        from converters.operations.dense import Linear

        if len(shape) == 1 or self._channels is None or shape[1:] != tuple(self.index.shape[1:]):
            return super().stock(shape, flattened=flattened, maps=maps)
        weight = torch.zeros(len(self._channels), shape[0], dtype=torch.int8)
        (kept,) = (self._channels >= 0).nonzero(as_tuple=True)
        weight[kept, self._channels[kept]] = 1
        return Linear(weight).stock(shape[:1], flattened=flattened, maps=True)


@register
@dataclass(frozen=True, eq=False)
class Concatenate(_Move):
    """Several sources as one, along ``axis`` (0: channels); with ``flat`` each is flattened first.

    Linear operations on a concatenation are split into a sum over its parts instead (:meth:`Operation.on_part`); this
    is for those that count.
    """

    flat: bool = False
    axis: int = 0

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.flat:
            return (sum(math.prod(s) for s in shapes),)
        a = self.axis
        if not all(0 <= a < len(s) for s in shapes) or len({s[:a] + s[a + 1 :] for s in shapes}) > 1:
            what = "only channels may differ" if a == 0 else f"only axis {a} may differ"
            raise ConversionError("Concatenate", f"shapes {list(shapes)}", what)
        return (*shapes[0][:a], sum(s[a] for s in shapes), *shapes[0][a + 1 :])

    def __call__(self, *counts: Tensor) -> Tensor:
        return torch.cat([x.flatten(1) for x in counts] if self.flat else list(counts), dim=1 + self.axis)


def move_of(index: Tensor, shape: Shape) -> Operation | None:
    """The shortest operation that takes from places ``index`` of a source of ``shape``; None where that is nothing."""
    size, out = math.prod(shape), tuple(index.shape)
    if index.numel() != size or not torch.equal(index.reshape(-1), torch.arange(size)):
        return Move(index.to(torch.int32 if size < 2**31 else torch.int64), size)
    if out == tuple(shape):
        return None
    return Flatten() if len(out) == 1 else Reshape(out)


def index_of(op: Operation, shape: Shape) -> Tensor:
    """Place in a source of ``shape`` of every value that ``op``, which only moves, gives; -1 for none: int64."""
    return op(torch.arange(1, math.prod(shape) + 1).reshape(1, *shape))[0] - 1  # -1 becomes 0, and so -1 again


def folded(ops: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """The same chain, with operations that only move, one behind the other, as one; what does nothing is left out."""
    result: list[Operation] = []
    for op in ops:
        last = result[-1] if result else None
        if isinstance(op, _Renaming) and isinstance(last, _Renaming):
            result[-1] = op
        elif isinstance(op, _Renaming) and type(last) is Move:
            shape = (last.index.numel(),) if type(op) is Flatten else op.output_shape(tuple(last.index.shape))
            result[-1] = Move(last.index.reshape(shape), last.size)
        elif type(op) is Move and isinstance(last, _Renaming):
            result[-1] = op
        elif type(op) is Move and type(last) is Move:
            result[-1] = Move(through(last.index, op.index), last.size)
        elif op.rewires or op.factor != 1:
            result.append(op)
    return tuple(result)


def through(first: Tensor, then: Tensor) -> Tensor:
    """Indices of one move behind another."""
    then = then.to(torch.int64)
    return torch.where(then < 0, -1, first.reshape(-1)[then.clamp(min=0)])


def placed(shape: Shape, start: int, total: int) -> Operation:
    """Channels of a part put in their place among ``total``, the others 0: a layer of that part's ``shape``."""
    size, plane = shape[0], math.prod(shape[1:])
    index = torch.full((total * plane,), -1, dtype=torch.int32)
    index[start * plane : (start + size) * plane] = torch.arange(size * plane, dtype=torch.int32)
    return Move(index.reshape(total, *shape[1:]), size * plane)
