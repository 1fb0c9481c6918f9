"""Sums that are made before anything is rounded: a convolution and a branch beside it, and one quantiser for both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending, chain_of, settled, spread
from converters.graph_builder import Operands, common_unit
from converters.operations import Operation, Scale, Shape, Weigh
from converters.operations.moving import index_of, move_of

__all__ = ["SummingVerbs"]

_BITS, _WHOLE = 30, 50  # of a factor at the most, and of a sum: float64 holds 53
_FEWEST = 16
_ALIKE = 2.0**-22  # relative: scales that are one, each a float32 product


class SummingVerbs(BaseVerbs):
    """Sums of expressions that no quantiser has seen."""

    def __init__(self, source: str, **options: Any) -> None:
        super().__init__(source, **options)
        self._sums: dict[int, tuple[Pending, tuple[tuple[Any, float], ...]]] = {}

    def add_unrounded(self, name: str, *terms: tuple[Any, float]) -> Pending:
        """A sum of operands times real factors, of which some are no quantised values yet; shapes broadcast.

        All become chains of one layer. Their scales are made equal by whole numbers, as those of branches are, in as
        many bits as leave every sum exact.
        """
        terms = tuple(self._spelled(terms))
        parts = [settled(self.lifted(name, x)) for x, _ in terms]
        try:
            shape = tuple(torch.broadcast_shapes(*(x.shape for x in parts)))
        except RuntimeError:
            found = f"an addition of shapes {' and '.join(str(x.shape) for x in parts)}"
            raise ConversionError(name, found, "add shapes that broadcast") from None
        moves = [_move(x, shape) for x in parts]
        units = (torch.as_tensor(x.unit, dtype=torch.float64) for x in parts)
        factors = [f * u / x.area for u, x, (_, f) in zip(units, parts, terms, strict=True)]
        bits = min(_BITS, _WHOLE - math.ceil(math.log2(max(2, sum(self._reach(x) for x in parts)))))
        if bits < _FEWEST:
            raise ConversionError(name, "sums of sums, on scales that differ", self.advice["activation"])
        unit, weights = _weights(factors, shape[0] if not any(moves) else None, bits)
        inputs: list[Operands] = []
        for x, whole, move in zip(parts, weights, moves, strict=True):
            behind = () if move is None else (move,)
            rank = len(x.layer_shape)
            inputs += [(value, (*_weighed(chain_of(ops), whole, rank), *behind)) for value, ops in x.inputs]
        bias: Tensor | float = sum(
            (_moved(f * spread(x.bias, len(x.layer_shape)), x.layer_shape, move)
             for x, (_, f), move in zip(parts, terms, moves, strict=True)),
            torch.zeros(()),
        )  # fmt: skip
        made = Pending(name, inputs=tuple(inputs), unit=unit, bias=bias)
        self._sums[id(made)] = made, terms
        return made

    def _spelled(self, terms: Iterable[tuple[Any, float]]) -> Iterator[tuple[Any, float]]:
        """Sums of sums as one, whose factors are rounded once."""
        for x, f in terms:
            if id(x) in self._sums:
                yield from ((y, f * g) for y, g in self._sums[id(x)][1])
            else:
                yield x, f

    def _reach(self, x: Pending) -> int:
        """The largest sum of a pending expression."""
        found = 0
        for values, ops in x.inputs:
            several = values if isinstance(values, tuple) else (values,)
            reach = tuple(max(-low, high) for low, high in map(self.range_of, several))
            for op in chain_of(ops):
                reach = (op.reach(*reach),)
            found += reach[0]
        return found


def _move(x: Pending, shape: Shape) -> Operation | None:
    """From a layer to what is seen of it, as it broadcasts; None where that is the layer itself."""
    here = x.layer_shape
    index = torch.arange(math.prod(here)).reshape(here) if x.move is None else index_of(x.move, here)
    return move_of(index.reshape(*[1] * (len(shape) - index.ndim), *index.shape).expand(shape).contiguous(), here)


def _weights(factors: Sequence[Tensor], channels: int | None, bits: int) -> tuple[Tensor | float, list[Tensor]]:
    """A unit, and whole factors of each operand: for each channel where all have the same ones, else one for all."""
    if channels is None or all(f.numel() == 1 for f in factors):
        steps = [float(v) for f in factors for v in f.reshape(-1)]
        unit, whole = _common(steps, bits)
        return unit, list(torch.tensor(whole).split([f.numel() for f in factors]))
    rows = [f.reshape(-1).expand(channels).tolist() for f in factors]
    found = [_common(steps, bits) for steps in zip(*rows, strict=True)]
    unit_by_channel = torch.tensor([unit for unit, _ in found], dtype=torch.float64)
    return unit_by_channel, [torch.tensor(column) for column in zip(*(whole for _, whole in found), strict=True)]


def _common(steps: Sequence[float], bits: int) -> tuple[float, list[int]]:
    """A unit, and whole numbers of it; what float32 has rounded apart is one scale."""
    largest = max(map(abs, steps))
    if all(abs(abs(s) - largest) <= _ALIKE * largest for s in steps):
        return largest, [1 if s > 0 else -1 for s in steps]
    return common_unit(steps, bits)


def _weighed(ops: tuple[Operation, ...], whole: Tensor, rank: int) -> tuple[Operation, ...]:
    """A chain times whole numbers, one for all or one for each channel."""
    if bool((whole != whole[0]).any()):
        return (*ops, Weigh(whole.reshape(-1, *[1] * (rank - 1))))
    factor = int(whole[0])
    if ops and type(ops[-1]) is Scale:
        return (*ops[:-1], Scale(ops[-1].weight * factor))
    return ops if factor == 1 else (*ops, Scale(factor))


def _moved(bias: Tensor, shape: Shape, move: Operation | None) -> Tensor:
    """A bias as it is seen: as it is where nothing moves, or with a number for every place."""
    if move is None or bias.numel() == 1:
        return bias.reshape(()) if bias.numel() == 1 else bias
    return move(bias.expand(shape)[None])[0]
