"""What operations that count have in common: numbers to compute with, connections, shapes that broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Shape

__all__ = ["Counting", "GroupSum", "Spread", "broadcast", "looked_up", "over_groups", "real"]


class Counting(Operation):
    """An operation that counts what its sources have sent."""

    linear = False

    @property
    def multiplies(self) -> bool:
        return False

    def absolute(self, *shapes: Shape) -> Operation:
        return self


def real(x: Tensor) -> Tensor:
    """Integers as float64, for kernels that know floats only; floats as they are."""
    return x if x.is_floating_point() else x.to(torch.float64)


def looked_up(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` of a table ``(entries,)``, in the shape of ``index``: several times as fast on a CPU.

    >>> looked_up(torch.tensor([5, 7]), torch.tensor([[1, 0, 1]]))
    tensor([[7, 5, 7]])
    """
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


def broadcast(kind: str, shapes: Sequence[Shape]) -> Shape:
    """The shape of an elementwise operation on sources of these shapes, which must have as many axes.

    >>> broadcast("Product", [(4, 3, 3), (4, 1, 1)])
    (4, 3, 3)
    """
    if len({len(s) for s in shapes}) == 1:
        sizes = [{n for n in axis if n != 1} or {1} for axis in zip(*shapes, strict=True)]
        if all(len(s) == 1 for s in sizes):
            return tuple(s.pop() for s in sizes)
    raise ConversionError(kind, f"sources of shapes {', '.join(map(str, shapes))}", "let all axes agree, or be 1")


@dataclass(frozen=True, eq=False)
class Spread(Operation):
    """The connections of an elementwise operation: every source's value to each result that it broadcasts to."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast("Spread", shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        total = counts[0]
        for x in counts[1:]:
            total = total + x
        return total

    @property
    def gain(self) -> int:
        raise NotImplementedError("a structure: it does not know how many sources it has")


@dataclass(frozen=True, eq=False)
class GroupSum(Operation):
    """The connections of an operation over ``axes``, of which the first is split into ``groups``: all to all.

    With ``keep`` each result is for one of the counts; else there is one for all of them, its axes of size 1 or, with
    ``squeeze``, gone.
    """

    axes: tuple[int, ...]
    groups: int = 1
    keep: bool = True
    squeeze: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.keep:
            return shapes[0]
        if self.squeeze:
            return tuple(n for k, n in enumerate(shapes[0]) if k not in self.axes)
        return tuple(1 if k in self.axes else n for k, n in enumerate(shapes[0]))

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        if not self.keep:
            return x.sum([a + 1 for a in self.axes], keepdim=not self.squeeze)
        return over_groups(x, self.axes, self.groups, lambda y, axes: y.sum(axes, keepdim=True).expand_as(y))

    @property
    def gain(self) -> int:
        raise NotImplementedError("a structure: it does not know how large its groups are")


def over_groups(x: Tensor, axes: Sequence[int], groups: int, act: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """``act`` over ``axes`` of a batch ``(N, *shape)``, axis 0 of the shape split into ``groups``; joined again."""
    if groups == 1:
        return act(x, [a + 1 for a in axes])
    split = x.unflatten(1, (groups, x.shape[1] // groups))
    return act(split, [a + 2 for a in axes]).flatten(1, 2)
