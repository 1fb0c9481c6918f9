"""Spikes in another order, as the fast simulator has them: bytes, channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from calif_plugins import multistep
from converters.backends.integer_kernels import dense
from converters.operations import Conv1d, Flatten, Linear, Mix, Move, Operation, Reshape, Shape

__all__ = ["Moves", "dense_in_places", "only_moves", "permuted"]

_MOVES = (Flatten, Move, Reshape)


def only_moves(ops: Sequence[Operation]) -> bool:
    """Whether each result of the chain is one of the values that it takes from its only source, or 0."""
    return all(type(op) in _MOVES for op in ops)


class Moves:
    """Bytes ``s + 1`` of ``(B, N, ...)`` into another order, ``shape``, with no spike where the index is -1.

    Where the order is the same, nothing is copied.
    """

    def __init__(self, index: Tensor, size: int) -> None:
        flat = index.reshape(-1)
        same = flat.numel() == size and torch.equal(flat, torch.arange(size))
        self.index = None if same else flat.to(torch.int32).contiguous().numpy()
        self.shape = tuple(index.shape)

    @classmethod
    def of(cls, ops: Sequence[Operation], shape: Shape, channel: int = 0) -> Moves:
        """Of spikes of a source of ``shape`` through operations that only move; axis ``channel`` of what comes out is
        the last in memory."""
        return cls(_through(ops, _memory(shape, 0)).movedim(channel, -1), math.prod(shape))

    @classmethod
    def in_order(cls, ops: Sequence[Operation], shape: Shape) -> Moves:
        """The same with the axes of what comes out in their own order, channels first."""
        return cls(_through(ops, _memory(shape, 0)), math.prod(shape))

    def __call__(self, x: Tensor) -> Tensor:
        lead = x.shape[:2]
        if self.index is None:
            return x.reshape(*lead, *self.shape)
        out = torch.empty(*lead, *self.shape, dtype=torch.uint8)
        rows = math.prod(lead)
        multistep.moves().moved(x.reshape(rows, -1).numpy(), self.index, out.reshape(rows, -1).numpy())
        return out


def _memory(shape: Shape, channel: int) -> Tensor:
    """Where in memory each value of ``shape`` is, if axis ``channel`` is the last there: int64 of ``shape``."""
    order = (*shape[:channel], *shape[channel + 1 :], shape[channel])
    return torch.arange(math.prod(shape)).reshape(order).movedim(-1, channel)


def _through(ops: Sequence[Operation], index: Tensor) -> Tensor:
    """What operations that only move make of it; -1 where they put 0."""
    x = index[None] + 1
    for op in ops:
        x = op(x)
    return x[0] - 1


def dense_in_places(ops: Sequence[Operation], shape: Shape) -> Callable[[Tensor], Tensor] | None:
    """A chain of which one operation multiplies, vectors by one matrix, and the others only move, on integer kernels.

    Tokens' dense layers: a :class:`~converters.operations.Conv1d` of one place or a ``Mix``. Spikes are moved as bytes,
    a product of bytes follows, and its charges are moved. None for other chains.
    """
    at = [k for k, op in enumerate(ops) if type(op) not in _MOVES]
    if len(at) != 1:
        return None
    before, op, after = ops[: at[0]], ops[at[0]], ops[at[0] + 1 :]
    found = _matrix(op)
    if found is None or found[0].dtype != torch.int8:
        return None
    weight, axis = found
    here = shape
    for one in before:
        here = one.output_shape(here)
    lead, kernel = Moves.of(before, shape, axis), dense(weight, 1)
    given = op.output_shape(here)
    order = Moves(_through(after, _memory(given, axis)).movedim(0, -1), math.prod(given))
    channels = order.shape[-1]
    index = None if order.index is None else torch.from_numpy(order.index.astype(np.int64))
    gaps = None if index is None or int(index.min()) >= 0 else index < 0

    def charge(x: Tensor) -> Tensor:
        y = kernel(lead(x).reshape(-1, weight.shape[1])).reshape(len(x) * x.shape[1], -1)
        if index is not None:
            y = y.index_select(1, index.clamp(min=0))
        if gaps is not None:
            y = y.masked_fill(gaps, 0)
        return y.reshape(len(x), -1, channels)

    return charge


def _matrix(op: Operation) -> tuple[Tensor, int] | None:
    """``(out, in)``, and the axis of a shape without batch along which it multiplies."""
    if type(op) is Mix:
        return op.weight, op.axis
    if type(op) is Linear:
        return op.weight, 0
    if type(op) is Conv1d and op.groups == 1 and op.weight.shape[2] == 1 and op.stride == (1,) and op.padding == (0,):
        return op.weight[:, :, 0].contiguous(), 0
    return None


def permuted(op: Operation, shape: Shape) -> Callable[[Tensor], Tensor]:
    """``op``, or, where it only exchanges axes of ``shape``, a view of what it takes."""
    if type(op) is not Move or len(shape) > 4:
        return op
    places = torch.arange(math.prod(shape)).reshape(shape)
    for axes in permutations(range(len(shape))):
        if torch.equal(places.permute(axes), op.index.to(torch.int64)):
            order = (0, *(1 + a for a in axes))
            return lambda x: x.permute(order)
    return op
