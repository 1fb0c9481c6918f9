"""Builds quantised networks: layers fed by values, and the values that they put out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import Tensor

from calif_plugins.parameters import TieRule
from converters.errors import ConversionError
from converters.exact_sums import exact
from converters.naming import Names
from converters.operations import Concatenate, Flatten, Operation, Scale, Shape, SumPool2d, Synapse
from converters.quantised import InputSpec, Layer, QuantGraph

__all__ = ["GraphBuilder", "Value", "average_pool"]


@dataclass(frozen=True)
class Value:
    """A quantised tensor while a graph is built: channels of one or several layers, perhaps flattened.

    ``parts`` are ``(layer name, shape)``, concatenated along the first axis; ``scale`` is the real value of
    one count; ``flat`` says that the parts' ``(C, H, W)`` have been flattened to one axis. Flattened maps may stand
    beside vectors.
    """

    parts: tuple[tuple[str, Shape], ...]
    scale: float
    flat: bool = False

    @property
    def shape(self) -> Shape:
        if self.flat:
            return (sum(math.prod(s) for _, s in self.parts),)
        return (sum(s[0] for _, s in self.parts), *self.parts[0][1][1:])

    @property
    def unflattened(self) -> Value | None:
        """As it was before it was flattened; None where its parts cannot stand side by side as maps."""
        return replace(self, flat=False) if len({s[1:] for _, s in self.parts}) == 1 else None


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
    spec: InputSpec | None = None
    layers: list[Layer] = field(default_factory=list)

    def input(self, shape: Sequence[int], *, scale: float, q_min: int, q_max: int, name: str = "input") -> Value:
        """Declare the input; ranges without zero point."""
        if self.spec is not None:
            raise ConversionError(name, "a second input", "networks with one input can be converted")
        self.spec = InputSpec(tuple(shape), float(scale), int(q_min), int(q_max), self.unique(name))
        return Value(((self.spec.name, self.spec.shape),), self.spec.scale)

    @exact
    def layer(
        self,
        name: str,
        inputs: Sequence[tuple[Value, Operation]],
        *,
        threshold: Tensor | Sequence[float] | float,
        bias: Tensor | Sequence[float] | float = 0.0,
        y_min: int,
        y_max: int,
        scale: float,
        tie: TieRule = "even",
        spiking: bool = True,
    ) -> Value:
        """Add a layer fed by ``(value, operation)`` pairs, whose charges add up."""
        name = self.unique(name)
        synapses = tuple(s for value, op in inputs for s in _connect(name, value, op))
        sources = {n: s for value, _ in inputs for n, s in value.parts}
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
        return Value(((name, shape),), float(scale))

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
        steps = [value.scale * factor for value, factor in inputs]
        largest = max(abs(s) for s in steps)
        if all(abs(s) == largest for s in steps):
            unit = largest
        else:
            _, exponent = math.frexp(largest)
            unit = math.ldexp(1.0, exponent - 30)  # 30 bits each: sums stay far below 2^53
        pairs: list[tuple[Value, Operation]] = [
            (value, Scale(round(s / unit))) for (value, _), s in zip(inputs, steps, strict=True)
        ]
        return self.layer(name, pairs, threshold=scale / unit, y_min=y_min, y_max=y_max, scale=scale, tie=tie)

    def concat(self, name: str, values: Sequence[Value]) -> Value:
        """Concatenation along channels. Branches of unequal scale must be requantised to one first."""
        scales = {v.scale for v in values}
        if len(scales) > 1:
            raise ConversionError(
                name, f"a concatenation of tensors with scales {sorted(scales)}", "share one quantiser among them"
            )
        if len({v.shape[1:] for v in values}) > 1:
            raise ConversionError(name, f"shapes {[v.shape for v in values]}", "only channels may differ")
        return Value(tuple(p for v in values for p in v.parts), values[0].scale, any(v.flat for v in values))

    def flatten(self, value: Value) -> Value:
        """All axes of an image into one."""
        return replace(value, flat=True)

    def build(self, output: Value) -> QuantGraph:
        """The finished graph. Layers that the output does not need are an error of the front-end."""
        if self.spec is None:
            raise ConversionError("graph", "no input", "declare one")
        if output.flat and len(output.parts) == 1 and len(output.parts[0][1]) == 1:
            output = replace(output, flat=False)
        if len(output.parts) > 1 or output.flat or not self.layers or output.parts[0][0] != self.layers[-1].name:
            reach = max(
                (max(-layer.y_min, layer.y_max) for layer in self.layers),
                default=max(-self.spec.q_min, self.spec.q_max),
            )
            output = self.requantise("output", [(output, 1.0)], y_min=-reach, y_max=reach, scale=output.scale)
        return QuantGraph(self.spec, tuple(self.layers), self.source)

    def unique(self, name: str) -> str:
        """A valid, unused node name, as near to ``name`` as can be: no two layers ever share one."""
        taken = {layer.name for layer in self.layers} | ({self.spec.name} if self.spec else set())
        return Names(taken).take(name)


def _connect(where: str, value: Value, op: Operation) -> list[Synapse]:
    """Synapses from every part of a value.

    A linear operation on a concatenation is split into a sum over its parts; one that counts takes them all.
    """

    def lead(shape: Shape) -> tuple[Operation, ...]:
        return (Flatten(),) if value.flat and len(shape) > 1 else ()

    if len(value.parts) == 1:
        return [Synapse((name,), _trim((*lead(shape), op))) for name, shape in value.parts]
    if not op.linear:
        return [Synapse(tuple(name for name, _ in value.parts), (Concatenate(value.flat), op))]
    try:
        op.output_shape(value.shape)
    except ConversionError as error:
        raise ConversionError(where, f"{error.found}, a concatenation", error.todo) from None
    synapses, start, total = [], 0, value.shape[0]
    for name, shape in value.parts:
        here = (math.prod(shape),) if value.flat else shape
        synapses.append(Synapse((name,), _trim((*lead(shape), *op.on_part(here, start, total)))))
        start += here[0]
    return synapses


def _trim(ops: tuple[Operation, ...]) -> tuple[Operation, ...]:
    return tuple(op for op in ops if op.rewires or op.factor != 1)


# pools are built from SumPool2d by the front-ends through this one place (equation 6)
def average_pool(
    builder: GraphBuilder,
    name: str,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    scale: float,
    y_min: int,
    y_max: int,
    tie: TieRule = "even",
) -> Value:
    """An average pool as a Ca-LIF layer: weights 1, ``Vth = p^2 S_y / S_x``, no leak (equation 6).

    The threshold is rounded once, so it is the whole number ``p^2`` where the scales are shared.
    """
    return builder.layer(
        name,
        [(value, SumPool2d(kernel, stride, padding))],
        threshold=float(kernel[0] * kernel[1] * Fraction(scale) / Fraction(value.scale)),
        y_min=y_min,
        y_max=y_max,
        scale=scale,
        tie=tie,
    )
