"""Builds quantised networks: layers fed by values, and the values that they put out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from calif_plugins.parameters import TieRule
from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.graphs.naming import Names
from converters.operations import Concatenate, Flatten, Operation, Scale, Synapse
from converters.operations.moving import Move, folded
from converters.ports.outputs import Output, placed
from converters.ports.tails import Tail
from converters.ports.tokens import TokenTable
from converters.quantised import InputSpec, Layer, QuantGraph
from converters.values import Part, Value, concatenated, moved, places

__all__ = ["GraphBuilder", "Operands", "Part", "Returned", "Value", "common_unit"]

Operands: TypeAlias = "tuple[Value | tuple[Value, ...], Operation | Sequence[Operation]]"
"""What feeds a layer: a value, or several for an operation that takes several; and an operation or a chain of them."""


@dataclass(frozen=True, eq=False)
class Returned:
    """What a network returns of a value, while a graph is built: the value, and functions behind it that run in float.

    In front-ends the value may be one that no quantiser has seen yet.
    """

    value: Any
    tail: tuple[Tail, ...] = ()


@dataclass
class GraphBuilder:
    """Builds a QuantGraph, layer by layer.

    Layers are added by :meth:`layer`, or by the verbs of :class:`~converters.frontends.verbs.Verbs`, which front-ends
    call.

    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.5, q_min=-3, q_max=3)
    >>> w = torch.tensor([[1, 2]])
    >>> y = b.layer("fc", [(x, Linear(w))], threshold=[2.0], bias=[0.0], y_min=0, y_max=3, scale=0.25)
    >>> b.build(y).execute(torch.tensor([[1.0, 0.5]]))["fc"]
    tensor([[2]])
    """

    source: str = ""
    specs: list[InputSpec] = field(default_factory=list)
    reserved: tuple[str, ...] = ()
    """Names of the model's inputs, in its order, for front-ends that may declare them in another one."""
    layers: list[Layer] = field(default_factory=list)

    def input(
        self,
        shape: Sequence[int],
        *,
        scale: float,
        q_min: int,
        q_max: int,
        name: str = "input",
        table: TokenTable | None = None,
    ) -> Value:
        """Declare an input, or the next one; ranges without zero point. With a ``table`` it is one of tokens."""
        own = name in self.reserved and all(spec.name != name for spec in self.specs)
        name = name if own else self.unique(name)
        spec = InputSpec(tuple(shape), float(scale), int(q_min), int(q_max), name, table)
        self.specs.append(spec)
        return Value((Part(spec.name, spec.shape),), spec.scale)

    @exact
    def layer(
        self,
        name: str,
        inputs: Sequence[Operands],
        *,
        threshold: Tensor | Sequence[float] | float,
        bias: Tensor | Sequence[float] | float = 0.0,
        y_min: int,
        y_max: int,
        scale: float,
        tie: TieRule = "even",
        spiking: bool = True,
    ) -> Value:
        """Add a layer fed by pairs of values and operations, whose charges add up (see :data:`Operands`)."""
        given = [(self.operands_of(name, value), _chain(ops)) for value, ops in inputs]
        name = self.unique(name)
        synapses = tuple(s for values, ops in given for s in _connect(name, values, ops))
        sources = {n: s for values, _ in given for v in values for n, s in v.sources.items()}
        try:
            shape = synapses[0].output_shape(*(sources[n] for n in synapses[0].sources))
        except ConversionError as error:
            raise ConversionError(name, error.found, error.todo) from None
        new = Layer(
            name,
            synapses,
            torch.as_tensor(threshold, dtype=torch.float64),
            torch.as_tensor(bias, dtype=torch.float64),
            int(y_min),
            int(y_max),
            float(scale),
            shape,
            tie,
            spiking,
        )
        self.layers.append(new)
        return Value((Part(name, shape),), float(scale))

    def requantise(
        self,
        name: str,
        inputs: Sequence[tuple[Value, float]],
        *,
        y_min: int,
        y_max: int,
        scale: float,
        tie: TieRule = "even",
    ) -> Value:
        """A layer of identity synapses: ``y = round(sum_k r_k S_k n_k / S_y)``, ``r_k`` a real factor (1, or -1).

        A residual addition, a subtraction, a change of scale. Synapses get the integers nearest to the ratio
        of the branch scales, 1 where they are shared.
        """
        unit, weights = common_unit([value.scale * factor for value, factor in inputs])
        pairs: list[tuple[Value, Operation]] = [(v, Scale(k)) for (v, _), k in zip(inputs, weights, strict=True)]
        return self.layer(name, pairs, threshold=scale / unit, y_min=y_min, y_max=y_max, scale=scale, tie=tie)

    def operands_of(self, name: str, value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
        """One value as it is; several as layers of their own, each as it is seen."""
        if isinstance(value, Value):
            return (value,)
        return tuple(v if v.plain else self.relay(f"{name}.operand{k}", v) for k, v in enumerate(value))

    def relay(self, name: str, value: Value) -> Value:
        """A layer that passes on what is seen of ``value``, spike for spike."""
        if value.plain:
            return value
        low, high = self.range_of(value)
        return self.layer(name, [(value, ())], threshold=1.0, y_min=low, y_max=high, scale=value.scale)

    def range_of(self, value: Value) -> tuple[int, int]:
        """The smallest and the largest count that ``value`` can hold."""
        ranges = {layer.name: (layer.y_min, layer.y_max) for layer in self.layers}
        ranges |= {spec.name: (spec.q_min, spec.q_max) for spec in self.specs}
        found = [ranges[part.name] for part in value.parts]
        return min(low for low, _ in found), max(high for _, high in found)

    def concat(self, name: str, values: Sequence[Value], axis: int = 0) -> Value:
        """Concatenation along an axis of one image. Branches of unequal scale must be requantised to one first."""
        scales = {v.scale for v in values}
        if len(scales) > 1:
            raise ConversionError(
                name, f"a concatenation of tensors with scales {sorted(scales)}", "share one quantiser among them"
            )
        if len({v.shape[:axis] + v.shape[axis + 1 :] for v in values}) > 1:
            what = "only channels may differ" if axis == 0 else f"only axis {axis} may differ"
            raise ConversionError(name, f"shapes {[v.shape for v in values]}", what)
        return concatenated(values, axis)

    def flatten(self, value: Value) -> Value:
        """All axes of an image into one."""
        return moved(value, torch.arange(math.prod(value.shape)))

    def moved(self, name: str, value: Value, function: Callable[[Tensor], Tensor], batch: int = 1) -> Value:
        """``value`` seen through a function that only moves values (see :func:`~converters.values.places`)."""
        index, constants = places(name, value.shape, function, batch)
        if bool((constants != 0).any()):
            raise ConversionError(name, "a padding with another value than 0", "pad with zeros")
        return moved(value, index)

    def build(self, output: Any) -> QuantGraph:
        """The finished graph, of an output, or of tuples, lists and dictionaries of outputs.

        An output is a :class:`Value`, or a :class:`Returned` one; its functions run in float. Layers that no output
        needs are an error of the front-end.
        """
        if not self.specs:
            raise ConversionError("graph", "no input", "declare one")
        outputs = placed(self._read, output)
        found = {spec.name: spec for spec in self.specs}
        for name in self.reserved:
            if name not in found:
                todo = "leave it out of forward and of the example"
                raise ConversionError("forward", f"that no output depends on the values of its input {name}", todo)
        first, *more = [found[name] for name in self.reserved] or self.specs
        return QuantGraph(first, tuple(self.layers), self.source, outputs=outputs, more_inputs=tuple(more))

    def _read(self, place: tuple[str | int, ...], output: Value | Returned) -> Output:
        """The layer that is read for an output. Values that are moved or joined become a layer of their own."""
        value, tail = (output.value, output.tail) if isinstance(output, Returned) else (output, ())
        first, own = value.parts[0], {layer.name: layer for layer in self.layers}
        where = ".".join(["output", *map(str, place)])
        if len(value.parts) == 1 and first.name in own and not own[first.name].spiking:
            return Output(first.name, (*_in_float(where, first), *tail))  # nothing may stand behind a membrane
        alone = not place and not tail  # and so the last layer
        if value.plain and first.name in own and not (alone and first.name != self.layers[-1].name):
            return Output(first.name, tail)
        low, high = self.range_of(value)
        reach = max(-low, high)
        moved_there = self.requantise(where, [(value, 1.0)], y_min=-reach, y_max=reach, scale=value.scale)
        return Output(moved_there.parts[0].name, tail)

    def unique(self, name: str) -> str:
        """A valid, unused node name, as near to ``name`` as can be: no two layers ever share one."""
        taken = {layer.name for layer in self.layers} | {spec.name for spec in self.specs} | set(self.reserved)
        return Names(taken).take(name)


def common_unit(steps: Sequence[float], bits: int = 30) -> tuple[float, list[int]]:
    """A unit and whole numbers of it, of ``bits``, nearest to ``steps``: 1 and -1 where all have one size."""
    largest = max(abs(s) for s in steps)
    if all(abs(s) == largest for s in steps):
        unit = largest
    else:
        _, exponent = math.frexp(largest)
        unit = math.ldexp(1.0, exponent - bits)  # 30 bits each: sums stay far below 2^53
    return unit, [round(s / unit) for s in steps]


def _chain(ops: Operation | Sequence[Operation]) -> tuple[Operation, ...]:
    return (ops,) if isinstance(ops, Operation) else tuple(ops)


def _in_float(where: str, part: Part) -> tuple[Tail, ...]:
    """The move that a layer is seen through, as functions that run in float.

    Raises
    ------
    ConversionError
        If it does more than to permute axes and to change the shape.
    """
    if part.move is None:
        return ()
    index, as_it_is = part.places, torch.arange(math.prod(part.shape)).reshape(part.shape)
    for dims in itertools.permutations(range(len(part.shape))):
        turned = as_it_is.permute(dims)
        if index.numel() == turned.numel() and torch.equal(turned.reshape(index.shape), index):
            permuted = () if dims == tuple(sorted(dims)) else (Tail("permute", {"dims": dims}),)
            same = tuple(turned.shape) == tuple(index.shape)
            return permuted if same else (*permuted, Tail("reshape", {"shape": tuple(index.shape)}))
    raise ConversionError(where, "values moved behind an output without a quantiser", "quantise the output")


def _connect(where: str, values: tuple[Value, ...], ops: tuple[Operation, ...]) -> list[Synapse]:
    """Synapses from every part of a value.

    A chain of linear operations on several parts is split into a sum over them; one that counts takes them all.
    """
    if len(values) > 1:
        return [Synapse(tuple(v.parts[0].name for v in values), folded(ops))]
    (value,) = values
    if len(value.parts) == 1:
        return [Synapse((part.name,), folded((*_moves(part), *ops))) for part in value.parts]
    if not all(op.linear for op in ops):
        return [Synapse(tuple(value.sources), folded((_joined(value), *ops)))]
    try:
        shape = value.shape
        for op in ops:
            shape = op.output_shape(shape)
    except ConversionError as error:
        raise ConversionError(where, f"{error.found}, a concatenation", error.todo) from None
    if value.axis != 0:
        index, found, start = value.index, list[Synapse](), 0
        for name, shape in value.sources.items():
            size = math.prod(shape)
            here = torch.where((index >= start) & (index < start + size), index - start, -1)
            found.append(Synapse((name,), folded((Move(here, size), *ops))))
            start += size
        return found
    synapses, start, total = [], 0, value.shape[0]
    for part in value.parts:
        first = ops[0] if ops else Scale(1)
        chain = (*_moves(part), *first.on_part(part.seen, start, total), *ops[1:])
        synapses.append(Synapse((part.name,), folded(chain)))
        start += part.seen[0]
    return synapses


def _moves(part: Part) -> tuple[Operation, ...]:
    return () if part.move is None else (part.move,)


def _joined(value: Value) -> Operation:
    """All parts of a value as one, for an operation that counts."""
    moves, once = [p.move for p in value.parts], len(value.sources) == len(value.parts)
    if once and value.axis is not None and not any(moves):
        return Concatenate(axis=value.axis)
    if once and value.axis == 0 and all(m is None or type(m) is Flatten for m in moves) and len(value.shape) == 1:
        return Concatenate(flat=True)
    return Move(value.index, sum(math.prod(s) for s in value.sources.values()))
