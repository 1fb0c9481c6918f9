"""Operands of the verbs: a grid, the raw input, integer weights, and values that no quantiser has seen yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.graph_builder import Operands, Part, Value
from converters.operations import Operation, Scale, Shape, Weigh
from converters.operations.moving import index_of, move_of, through
from converters.operations.weights import Weighted

__all__ = [
    "Embedded",
    "Grid",
    "Masked",
    "Pending",
    "Raw",
    "Weight",
    "chain_of",
    "compact",
    "describe",
    "narrowed",
    "numbers",
    "pair",
    "settled",
    "spread",
    "times",
    "unmoved",
]


@dataclass(frozen=True)
class Grid:
    """Where a fake-quantiser rounds to: ``y_min`` to ``y_max`` times ``scale``, the zero point removed."""

    scale: float
    y_min: int
    y_max: int


@dataclass(frozen=True)
class Raw:
    """An input of the network before it is quantised: ``shape`` without the batch, and what it is seen through.

    ``name`` is the input's, and tells it from others.
    """

    shape: Shape
    move: Operation | None = None
    name: str = "input"

    @property
    def seen(self) -> Shape:
        """Its shape behind the move."""
        return self.shape if self.move is None else self.move.output_shape(self.shape)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Rows of a table by the tokens of an input, before they are quantised.

    ``rows`` are float ``(vocabulary, size)``; ``shape`` is that of the tokens, without the batch; ``name`` the input's.
    """

    rows: Tensor
    shape: Shape
    name: str = "input"


@dataclass(frozen=True, eq=False)
class Masked:
    """A value on the way into a softmax, and which of its places are left out there: ``dropped``, bools."""

    value: Value | Pending
    dropped: Tensor

    @property
    def shape(self) -> Shape:
        return self.value.shape


@dataclass(frozen=True)
class Weight:
    """Integer weights, and ``scale``: float64 of shape ``(1,)`` or ``(C,)``."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Pending:
    """A real-valued expression that no quantiser has seen yet, clamped to ``low`` and ``high``.

    Attributes
    ----------
    name : str
        Of the layer that it becomes.
    inputs : tuple of (values, operations)
        A sum of chains of operations on values: ``unit / area * sum_k ops_k(n_k) + bias``. Each is a value, or several
        for an operation that takes several, and an operation, or a tuple of them
        (:data:`~converters.graph_builder.Operands`).
    unit : float or float64 tensor
        One for all, ``(C,)``, or with all axes of :attr:`layer_shape`, to which it broadcasts.
    area : int
        Of a pool; a whole number, apart from the unit, so that it is never rounded.
    bias : float or float64 tensor
        Of such a shape too.
    terms : tuple of (Value, float)
        Instead of inputs, for an addition: quantised values and their factors.
    parts : tuple of Value
        Instead of inputs, for a concatenation of values whose scales differ.
    divided : tensor ``(C,)``, optional
        A factor per channel that the toolkit has divided by, and that a batch norm is going to take back.
    axis : int
        Of a concatenation, of one image.
    move : Operation, optional
        What it is seen through, one operation that gives every value from one place: it commutes with rounding.
    base : Value, optional
        Set where a value on a grid is merely clamped: its ReLU is on that grid again, and may do without a quantiser.
    function, parameters
        A pointwise function behind it, by name, whose quantised values become a table of levels.
    joined : Operation, optional
        Of ``parts``: their maximum or minimum instead of their concatenation.
    then : tuple of (str, Operation)
        Maxima, and moves behind them, with the names of their layers: they commute with rounding, and wait for it.
    """

    name: str
    inputs: tuple[Operands, ...] = ()
    unit: Tensor | float = 1.0
    area: int = 1
    bias: Tensor | float = 0.0
    terms: tuple[tuple[Value, float], ...] = ()
    parts: tuple[Value, ...] = ()
    divided: Tensor | None = None
    low: float = -math.inf
    high: float = math.inf
    axis: int = 0
    move: Operation | None = None
    base: Value | None = None
    function: str = ""
    parameters: tuple[tuple[float, ...], ...] = ()
    joined: Operation | None = None
    then: tuple[tuple[str, Operation], ...] = ()

    @property
    def clamped(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    @property
    def weighted(self) -> bool:
        """Whether it is one layer with weights, not yet clamped or moved: what a batch norm can stand behind."""
        closed = self.clamped or self.function or self.then
        return len(self.inputs) == 1 and isinstance(self.inputs[0][1], Weighted) and not closed

    @property
    def layer_shape(self) -> Shape:
        """Shape of an image in front of the move: that of the layer that it becomes."""
        if self.inputs:
            values, ops = self.inputs[0]
            shapes = tuple(v.shape for v in (values if isinstance(values, tuple) else (values,)))
            try:
                for op in chain_of(ops):
                    shapes = (op.output_shape(*shapes),)
            except ConversionError as error:
                raise ConversionError(self.name, error.found, error.todo) from None
            return shapes[0]
        if self.terms:
            return self.terms[0][0].shape
        shapes, a = tuple(v.shape for v in self.parts), self.axis
        if self.joined is not None:
            return self.joined.output_shape(*shapes)
        return (*shapes[0][:a], sum(s[a] for s in shapes), *shapes[0][a + 1 :])

    @property
    def shape(self) -> Shape:
        """Shape of an image as it is seen."""
        shape = self.layer_shape if self.move is None else self.move.output_shape(self.layer_shape)
        for _, op in self.then:
            shape = op.output_shape(shape)
        return shape


def spread(t: Tensor | float, rank: int) -> Tensor:
    """Numbers of a unit or bias, float64, with ``rank`` axes: one for all, one per channel, or as they are."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return t if t.ndim == rank else t.reshape(-1, *[1] * (rank - 1))


def narrowed(t: Tensor) -> Tensor:
    """The same with one number along an axis where all are equal."""
    for a in range(t.ndim):
        if t.shape[a] > 1 and bool((t == t.narrow(a, 0, 1)).all()):
            t = t.narrow(a, 0, 1)
    return t


def compact(t: Tensor) -> Tensor:
    """The same with one number along an axis where all are equal; per channel, ``(C,)``, where that suffices."""
    t = narrowed(t)
    return t.reshape(-1) if t.numel() == t.shape[0] else t


def times(x: Pending, factor: Tensor | float) -> Pending:
    """A sum of chains times a factor, float64, one or per channel or place; its bias is left alone.

    Negative ones turn weights round, and 0 cuts them off.
    """
    rank = len(x.layer_shape)
    by = spread(factor, rank)
    sign = torch.sign(by)
    unit = compact(torch.where(sign == 0, 1.0, by.abs()) * spread(x.unit, rank))
    inputs = x.inputs if bool((sign > 0).all()) else tuple((v, _signed(chain_of(ops), sign)) for v, ops in x.inputs)
    return replace(x, inputs=inputs, unit=unit, divided=None)


def chain_of(ops: Operation | Sequence[Operation]) -> tuple[Operation, ...]:
    return (ops,) if isinstance(ops, Operation) else tuple(ops)


def _signed(ops: tuple[Operation, ...], sign: Tensor) -> Operation | tuple[Operation, ...]:
    """A chain times -1, 0 or 1, where it can be in the weights of its last operation."""
    last = ops[-1] if ops else None
    if isinstance(last, Weighted) and all(n == 1 for a, n in enumerate(sign.shape) if a != last.rows):
        row = sign.to(last.weight.dtype).reshape(-1, *[1] * (last.weight.ndim - 1))
        turned = last.with_weight(last.weight * row)
        return turned if len(ops) == 1 else (*ops[:-1], turned)
    if sign.numel() == 1:
        return (*ops, Scale(int(sign)))
    return (*ops, Weigh(sign.to(torch.int8)))


def settled(x: Pending) -> Pending:
    """The same with a unit and a bias per channel of the layer, or one for all.

    Where they differ along another axis, or from place to place, the layer has that axis first, or all in one, and is
    seen as before through a move.
    """
    if x.divided is not None:
        x = times(x, 1 / x.divided.double())
    parts = [torch.as_tensor(t, dtype=torch.float64) for t in (x.unit, x.bias)]
    if not x.inputs or all(t.ndim < 2 for t in parts):
        return x
    shape = x.layer_shape
    unit, bias = (spread(compact(spread(t, len(shape))), len(shape)) for t in parts)
    places = torch.arange(math.prod(shape)).reshape(shape)
    varies = [a for a in range(len(shape)) if unit.shape[a] > 1 or bias.shape[a] > 1]
    if not set(varies) - {0}:
        return replace(x, unit=unit.reshape(-1), bias=bias.reshape(-1))
    if len(varies) == 1:
        index = places.movedim(varies[0], 0)
        unit, bias = unit.reshape(-1), bias.reshape(-1)
    else:
        index = places.reshape(-1)
        unit, bias = (t.expand(shape).reshape(-1) for t in (unit, bias))
    turn = move_of(index, shape)
    assert turn is not None
    back = index.reshape(-1).argsort().reshape(shape)
    if x.move is not None:
        back = through(back, index_of(x.move, shape))
    inputs = tuple((v, (*chain_of(ops), turn)) for v, ops in x.inputs)
    return replace(x, inputs=inputs, unit=unit, bias=bias, move=move_of(back, tuple(index.shape)))


def unmoved(value: Value) -> tuple[Value, Operation | None]:
    """The layer itself and the move that it is seen through, if all of it is seen once; else the value as it is."""
    part = value.parts[0]
    if len(value.parts) > 1 or part.move is None:
        return value, None
    places = part.places.reshape(-1)
    if len(places) != math.prod(part.shape) or not torch.equal(places.sort().values, torch.arange(len(places))):
        return value, None
    return Value((Part(part.name, part.shape),), value.scale), part.move


def pair(value: Any) -> tuple[Any, Any]:
    """One number for both axes, or one for each."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values[0], values[-1]


def numbers(name: str, value: Any, count: int) -> tuple[int, ...]:
    """One number for every axis, or one for each of ``count``."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    if len(values) not in (1, count):
        raise ConversionError(name, f"{len(values)} numbers for {count} axes", "give one, or one for each")
    return tuple(int(v) for v in (values if len(values) == count else values * count))


def describe(x: Any) -> str:
    """What an operand is, for a message."""
    return type(x).__name__ if not isinstance(x, int | float) else repr(x)
