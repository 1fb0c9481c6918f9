"""Operands of the verbs: a grid, the raw input, integer weights, and values that no quantiser has seen yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.graph_builder import Operands, Value
from converters.operations import Operation, Shape
from converters.operations.weights import Weighted

__all__ = ["Grid", "Pending", "Raw", "Weight", "describe", "pair", "times"]


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
    unit : float or float64 tensor ``(C,)``
    area : int
        Of a pool; a whole number, apart from the unit, so that it is never rounded.
    bias : float or float64 tensor ``(C,)``
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

    @property
    def clamped(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    @property
    def weighted(self) -> bool:
        """Whether it is one layer with weights, not yet clamped or moved: what a batch norm can stand behind."""
        return len(self.inputs) == 1 and isinstance(self.inputs[0][1], Weighted) and not (self.clamped or self.function)

    @property
    def layer_shape(self) -> Shape:
        """Shape of an image in front of the move: that of the layer that it becomes."""
        if self.inputs:
            values, ops = self.inputs[0]
            shapes = tuple(v.shape for v in (values if isinstance(values, tuple) else (values,)))
            for op in (ops,) if isinstance(ops, Operation) else ops:
                shapes = (op.output_shape(*shapes),)
            return shapes[0]
        if self.terms:
            return self.terms[0][0].shape
        shapes, a = tuple(v.shape for v in self.parts), self.axis
        return (*shapes[0][:a], sum(s[a] for s in shapes), *shapes[0][a + 1 :])

    @property
    def shape(self) -> Shape:
        """Shape of an image as it is seen."""
        return self.layer_shape if self.move is None else self.move.output_shape(self.layer_shape)


def times(x: Pending, factor: Tensor) -> Pending:
    """A weighted sum times a float64 factor per channel, its bias left alone. A negative one turns the row round."""
    ((value, op),) = x.inputs
    if not isinstance(op, Weighted):
        raise ConversionError(x.name, "a batch norm that follows no convolution or linear layer", "move it there")
    sign = torch.sign(factor)  # 0 cuts the row off
    weight = op.weight * sign.to(op.weight.dtype).reshape(-1, *[1] * (op.weight.ndim - 1))
    unit = torch.where(sign == 0, 1.0, factor.abs()) * x.unit
    return replace(x, inputs=((value, op.with_weight(weight)),), unit=unit, divided=None)


def pair(value: Any) -> tuple[Any, Any]:
    """One number for both axes, or one for each."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values[0], values[-1]


def describe(x: Any) -> str:
    """What an operand is, for a message."""
    return type(x).__name__ if not isinstance(x, int | float) else repr(x)
