"""What all verbs share: operands as quantised values, quantisers, outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.pending import (
    Embedded,
    Grid,
    Masked,
    Pending,
    Raw,
    Weight,
    chain_of,
    describe,
    settled,
    unmoved,
)
from converters.graph_builder import GraphBuilder, Returned, Value, common_unit
from converters.operations import Add, Levels, Operation, Scale, Synapse
from converters.operations.moving import index_of
from converters.ports.outputs import placed
from converters.ports.tails import TAILS, Tail
from converters.ports.tokens import TokenTable
from converters.values import moved

__all__ = ["BaseVerbs"]


class BaseVerbs(GraphBuilder):
    """A builder that knows its toolkit's way out of a missing quantiser, and sets quantisers."""

    def __init__(self, source: str, *, activation: str, unquantised_input: str, sums: bool = False) -> None:
        """``activation`` and ``unquantised_input``: what the toolkit's user does about an operand without quantiser.

        ``sums``: whether the toolkit takes sums of values on one scale for quantised ones, on that scale.
        """
        super().__init__(source=source)
        self.sums = sums
        self.advice = {"activation": activation, "input": unquantised_input}
        self._rectified: dict[int, tuple[Pending, Value]] = {}
        self._inputs: dict[str, tuple[Grid, Value]] = {}
        self._membranes: dict[int, tuple[Pending, Value]] = {}

    # --- operands -----------------------------------------------------------------------------------

    def value(self, name: str, x: Any) -> Value:
        """``x`` as a quantised value, which it must be by now: an operand of ``name``."""
        if type(x) is Value:
            return x
        if type(x) is Pending and x.base is not None and x.high == math.inf:
            if id(x) not in self._rectified:
                low, high = self.range_of(x.base)
                y = self.emit(x, Grid(x.base.scale, max(low, 0), max(high, 1)))
                self._rectified[id(x)] = x, y
            return self._rectified[id(x)][1]
        if type(x) is Pending and self.sums and self._on_one_scale(x):
            if id(x) not in self._rectified:
                ranges = [[f * n for n in self.range_of(v)] for v, f in x.terms]
                grid = Grid(x.terms[0][0].scale, int(sum(map(min, ranges))), int(sum(map(max, ranges))))
                self._rectified[id(x)] = x, self.emit(x, grid)
            return self._rectified[id(x)][1]
        if type(x) is Pending:
            raise ConversionError(x.name, f"an unquantised activation, used by {name}", self.advice["activation"])
        if type(x) is Returned:
            found = f"an unquantised {x.tail[-1].function}, used by {name}"
            raise ConversionError(
                name, found, "only the network's output may stand behind it, or put a quantiser there"
            )
        if type(x) is Masked:
            raise ConversionError(name, "masked values", "only a softmax may stand behind a mask")
        if type(x) in (Raw, Embedded):
            raise ConversionError(name, "the unquantised input", self.advice["input"])
        if isinstance(x, Tensor | Weight):
            shape = tuple((x.integers if isinstance(x, Weight) else x).shape)
            raise ConversionError(
                name,
                f"a constant of shape {shape} as an operand",
                "let it be the bias of the layer before it, or of a batch norm",
            )
        raise ConversionError(name, f"the operand {describe(x)}", "only quantised activations can spike")

    @staticmethod
    def _on_one_scale(x: Pending) -> bool:
        """Whether it is a sum or difference of values that share their scale, which rounding would leave as it is."""
        shared = len({v.scale for v, _ in x.terms}) == 1 and all(abs(f) == 1 for _, f in x.terms)
        return shared and not x.clamped and not x.function

    def operands(self, name: str, *given: Any) -> list[Value]:
        """All operands of ``name`` as quantised values; what can never be one is refused first."""
        order = sorted(given, key=lambda x: type(x) in (Value, Pending, Raw))
        found = {id(x): self.value(name, x) for x in order}
        return [found[id(x)] for x in given]

    def on_grid(self, value: Value, grid: Grid) -> bool:
        """Whether rounding ``value`` to ``grid`` would leave it as it is."""
        low, high = self.range_of(value)
        return value.scale == grid.scale and grid.y_min <= low and high <= grid.y_max

    def lifted(self, name: str, x: Any) -> Pending:
        """``x`` as a sum of chains of operations, whose unit and bias may still change: an operand of ``name``."""
        if type(x) is not Pending:
            base, move = unmoved(self.value(name, x))
            return Pending(name, inputs=((base, ()),), unit=base.scale, move=move)
        if x.clamped or x.function or x.then or x.joined is not None:
            raise ConversionError(x.name, f"an unquantised activation, used by {name}", self.advice["activation"])
        if x.terms:
            unit, weights = common_unit([v.scale * f for v, f in x.terms])
            inputs = tuple((v, (Scale(k),)) for (v, _), k in zip(x.terms, weights, strict=True))
            return replace(x, inputs=inputs, terms=(), unit=unit)
        if x.parts:
            unit, weights = common_unit([v.scale for v in x.parts])
            whole, start, found = torch.arange(math.prod(x.layer_shape)).reshape(x.layer_shape), 0, []
            for v, k in zip(x.parts, weights, strict=True):
                own = torch.arange(math.prod(v.shape)).reshape(v.shape)
                index = torch.full_like(whole, -1)
                index.narrow(x.axis, start, v.shape[x.axis]).copy_(own)
                found.append((moved(v, index), (Scale(k),)))
                start += v.shape[x.axis]
            return replace(x, inputs=tuple(found), parts=(), unit=unit)
        return x

    # --- quantisers, outputs ------------------------------------------------------------------------

    def quantise(
        self, name: str, x: Any, grid: Grid, levels: Callable[[float], int], layer: str | None = None
    ) -> Value:
        """``x`` on a grid; ``levels`` gives the toolkit's own level of a real bound, ``layer`` a layer's name.

        ``name`` is the place of what is quantised, for a value that is only moved to another grid.
        """
        if type(x) is Raw:
            return self.through(self._given(x, grid), x.move)
        if type(x) is Pending:
            low = grid.y_min if x.low == -math.inf else max(grid.y_min, levels(x.low))
            high = grid.y_max if x.high == math.inf else min(grid.y_max, levels(x.high))
            return self.emit(replace(x, name=layer or x.name), Grid(grid.scale, low, high))
        value = self.value(name, x)
        if self.on_grid(value, grid):
            return value  # a quantiser shared with the input
        return self._moved(layer or name, [(value, 1.0)], grid)

    def look_up(self, x: Embedded, rows: Tensor, grid: Grid) -> Value:
        """An input of tokens, as the integers ``rows`` ``(vocabulary, size)`` of its embedding on a grid."""
        table = TokenTable(rows)
        shape = (*x.shape, table.size)
        return self.input(shape, scale=grid.scale, q_min=grid.y_min, q_max=grid.y_max, name=x.name, table=table)

    def _given(self, x: Raw, grid: Grid) -> Value:
        """The input on a grid: one encoder for each input, and so one grid."""
        if x.name not in self._inputs:
            y = self.input(x.shape, scale=grid.scale, q_min=grid.y_min, q_max=grid.y_max, name=x.name)
            self._inputs[x.name] = grid, y
        there, y = self._inputs[x.name]
        if there != grid:
            raise ConversionError(x.name, "an input with two quantisers that differ", "share one of them")
        return y

    def emit(self, x: Pending, grid: Grid) -> Value:
        """The layer of a pending expression and the quantiser behind it (equation 5)."""
        if x.parts:
            parts = [
                v if self.on_grid(v, grid) else self._moved(f"{x.name}_{k}", [(v, 1.0)], grid)
                for k, v in enumerate(x.parts)
            ]
            y = self.concat(x.name, parts, x.axis) if x.joined is None else self.passed(x.name, tuple(parts), x.joined)
        elif x.terms:
            y = self._moved(x.name, x.terms, grid)
        elif x.function:
            x = self._turned(x)
            y = self._levelled(x, grid)
        else:
            x = settled(x)
            y = self._summed(x, grid, spiking=True)
        y = self.through(y, x.move)
        for name, op in x.then:
            y = self.through(y, op) if op.linear else self.passed(name, (y,), op)
        return y

    def passed(self, name: str, values: tuple[Value, ...], op: Operation) -> Value:
        """A layer of a maximum, on its sources' scale: neurons of threshold 1, which pass spikes on."""
        ranges = [self.range_of(v) for v in values]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        operands = values[0] if len(values) == 1 else values
        return self.layer(name, [(operands, op)], threshold=1.0, y_min=low, y_max=high, scale=values[0].scale)

    def tail(self, name: str, x: Any, function: str, parameters: Mapping[str, Any] | None = None) -> Returned:
        """A function of :data:`converters.ports.tails.TAILS` that runs in float on what the network returns.

        Only the output may stand behind it: used anywhere else, it is an unquantised activation.
        """
        try:
            known = Tail(function, parameters or {})
        except ConversionError as error:
            raise ConversionError(name, error.found, error.todo) from None
        before = x if type(x) is Returned else Returned(x)
        return Returned(before.value, (*before.tail, known))

    def output(self, x: Any) -> Any:
        """What the network returns, in tuples, lists and dictionaries as it is: quantised, or read from a membrane."""
        return placed(self._output, x)

    def _output(self, place: tuple[str | int, ...], x: Any) -> Value | Returned:
        if type(x) is Returned:
            return Returned(self._output(place, x.value), x.tail)
        tail = _in_float(x) if type(x) is Pending and x.inputs and not x.then else None
        if tail is not None:
            if id(x) not in self._membranes:  # one layer, however often it is returned
                last = settled(replace(x, low=-math.inf, high=math.inf, function="", parameters=()))
                unit = torch.as_tensor(last.unit, dtype=torch.float64)
                y = self._summed(last, Grid(float(unit.max()), 0, 0), spiking=False)
                self._membranes[id(x)] = x, self.through(y, last.move)
            membrane = self._membranes[id(x)][1]
            return Returned(membrane, tail) if tail else membrane
        return self.value(".".join(["output", *map(str, place)]), x)

    def through(self, value: Value, move: Operation | None) -> Value:
        """``value`` seen through an operation that gives every value from one place."""
        return value if move is None else moved(value, index_of(move, value.shape))

    def _moved(self, name: str, terms: Sequence[tuple[Value, float]], grid: Grid) -> Value:
        return self.requantise(name, terms, y_min=grid.y_min, y_max=grid.y_max, scale=grid.scale)

    def _turned(self, x: Pending) -> Pending:
        """With units and biases per channel; parameters of a function are so already, and cannot be moved about."""
        found = settled(x)
        if found.inputs is not x.inputs and found.move is not x.move and any(len(p) > 1 for p in x.parameters):
            todo = self.advice["activation"]
            raise ConversionError(x.name, f"{x.function} with parameters per channel behind others per place", todo)
        return found

    def _levelled(self, x: Pending, grid: Grid) -> Value:
        """The layer of an activation: a table of levels behind its sum, passed on by neurons of threshold 1."""
        unit, bias = (torch.as_tensor(t, dtype=torch.float64).flatten() for t in (x.unit, x.bias))
        values, chain = self._one_chain(x)
        reach = tuple(max(map(abs, self.range_of(v))) for v in (values if isinstance(values, tuple) else (values,)))
        table = Levels.of(
            x.function,
            parameters=x.parameters,
            units=(unit / x.area).tolist(),
            offsets=bias.tolist(),
            scale=grid.scale,
            y_min=grid.y_min,
            y_max=grid.y_max,
            limit=max(1, Synapse(("x",) * len(reach), chain).reach(*reach)),
        )
        return self.layer(
            x.name, [(values, (*chain, table))], threshold=1.0, y_min=grid.y_min, y_max=grid.y_max, scale=grid.scale
        )

    def _one_chain(self, x: Pending) -> tuple[Value | tuple[Value, ...], tuple[Operation, ...]]:
        """A sum as one chain of operations: a function acts on all of it at once."""
        if len(x.inputs) == 1:
            values, ops = x.inputs[0]
            return values, chain_of(ops)
        sources: list[Value] = []
        weights: list[int] = []
        behind = chain_of(x.inputs[0][1])[1:]
        for values, ops in x.inputs:
            first, *rest = chain_of(ops) or (Scale(1),)
            alike = len(rest) == len(behind) and all(a is b for a, b in zip(rest, behind, strict=True))
            if type(first) is not Scale or isinstance(values, tuple) or not alike:
                raise ConversionError(x.name, f"{x.function} of a sum of layers", self.advice["activation"])
            sources.append(values)
            weights.append(first.weight)
        return tuple(sources), (Add(tuple(weights)), *behind)

    def _summed(self, x: Pending, grid: Grid, *, spiking: bool) -> Value:
        unit, bias = (torch.as_tensor(t, dtype=torch.float64) for t in (x.unit, x.bias))
        if unit.numel() == 1:  # rounded once, so a pool's threshold is its area where the scales are shared
            ratio = Fraction(grid.scale) / Fraction(float(unit))
            threshold = torch.tensor([float(x.area * ratio)], dtype=torch.float64)
        else:
            threshold = x.area * grid.scale / unit
        return self.layer(
            x.name,
            list(x.inputs),
            threshold=threshold,
            bias=bias / unit * x.area,
            y_min=grid.y_min,
            y_max=grid.y_max,
            scale=grid.scale,
            spiking=spiking,
        )


def _in_float(x: Pending) -> tuple[Tail, ...] | None:
    """What stands behind the sum of a last layer without a quantiser, as functions that run in float on its membrane;
    None where the table of these has no such function."""
    found: list[Tail] = []
    if x.function:
        if x.function not in TAILS or x.parameters:
            return None
        found.append(Tail(x.function))
    if x.clamped:
        bounds = {"min": None if x.low == -math.inf else x.low, "max": None if x.high == math.inf else x.high}
        found.append(Tail("relu") if (x.low, x.high) == (0, math.inf) else Tail("clamp", bounds))
    return tuple(found)
