"""Walks the traced graph of a quantised model, and builds a QuantGraph from what it meets. Knows no toolkit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.tracing import Traced, first_line, where_is
from converters.frontends.watching import Place
from converters.quantised import GraphBuilder, QuantGraph, Value

__all__ = ["Grid", "Handler", "Pending", "Raw", "Walker", "Weight", "describe"]


@dataclass(frozen=True)
class Grid:
    """Where a fake-quantiser rounds to: ``y_min`` to ``y_max`` times ``scale``, the zero point removed."""

    scale: float
    y_min: int
    y_max: int


@dataclass(frozen=True)
class Raw:
    """The network's input before it is quantised; ``shape`` without the batch."""

    shape: tuple[int, ...]
    flat: bool = False


@dataclass(frozen=True)
class Weight:
    """Integer weights, and ``scale``: float64 of shape ``(1,)`` or ``(C,)``."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Pending:
    """A layer that awaits its quantiser. ``emit(name, grid)`` builds it on a grid; ``readout`` as an output.

    ``low`` and ``high`` clamp the real value. ``base`` is set where a value on a grid is merely clamped:
    its ReLU is on that grid again, and may do without a quantiser. ``normalised(factor, shift)`` is the
    layer behind a batch norm, where there can be one. ``shape`` is that of an image before it was flattened.
    """

    name: str
    emit: Callable[[str, Grid], Value]
    readout: Callable[[], Value] | None = None
    low: float = -math.inf
    high: float = math.inf
    flat: bool = False
    shape: tuple[int, ...] = ()
    base: Value | None = None
    normalised: Callable[[Tensor, Tensor], Pending] | None = None


Handler = Callable[..., Any]


class Walker:
    """Walks the graph once; a handler per exact module type, function or method name.

    A handler is called as ``handler(walker, node, *args, **kwargs)``, one for a module with the module
    before the arguments, in which nodes are replaced by what they evaluated to.
    """

    advice: ClassVar[dict[str, str]] = {}
    """What to do about an unquantised ``activation`` and ``input``: the toolkit's way."""

    def __init__(
        self,
        traced: Traced,
        modules: dict[type, Handler],
        functions: dict[Any, Handler],
        methods: dict[str, Handler],
        source: str,
    ) -> None:
        self.traced, self.modules, self.functions, self.methods = traced, modules, functions, methods
        self.builder = GraphBuilder(source=source)
        self.rectified: dict[int, tuple[Pending, Value]] = {}
        self.shown: list[tuple[Place, Value]] = []

    def walk(self) -> QuantGraph:
        values: dict[fx.Node, Any] = {}
        for node in self.traced.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                return self.builder.build(self._output(node, args[0]))
            values[node] = self._evaluate(node, args, kwargs)
        raise ConversionError("model", "no output", "let its forward return one tensor")

    def _evaluate(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        try:
            return self._read(node, args, kwargs)
        except ConversionError:
            raise
        except Exception as error:
            raise ConversionError(
                where_is(node),
                f"a use of {node.target if isinstance(node.target, str) else node.name} that is not known "
                f"({type(error).__name__}: {first_line(error)[:160]})",
                "write it as a module of torch.nn does",
            ) from error

    def _read(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target = node.target
        if node in self.traced.constants:
            return self.traced.constants[node]
        if node.op == "placeholder":
            return Raw(self.shape(node)[1:])
        if node.op == "get_attr":
            return self.traced.attribute(str(target))
        if node.op == "call_module":
            module = self.traced.modules[str(target)]
            found = self._handler(self.modules, type(module), node)(self, node, module, *args, **kwargs)
            if type(found) is Value:
                self.show(node, found)
            return found
        table: dict[Any, Handler] = self.methods if node.op == "call_method" else self.functions
        return self._handler(table, target, node)(self, node, *args, **kwargs)

    def _handler(self, table: dict[Any, Handler], key: Any, node: fx.Node) -> Handler:
        if key in table:
            return table[key]
        what = key if isinstance(key, str) else getattr(key, "__name__", str(key))
        home = getattr(key, "__module__", "") or ""
        self.refuse(node, key, what, home)
        if type(key) is torch._ops.OpOverload:
            raise ConversionError(where_is(node), f"the exported operation {key}", "use converters.from_pt2e")
        kind = {"call_module": "module", "call_method": "method"}.get(node.op, "function")
        raise ConversionError(
            where_is(node),
            f"the {kind} {what}, which is not converted",
            "use convolutions, linear layers, ReLU, average pools, additions and concatenations",
        )

    def show(self, node: fx.Node, value: Value, inner: str = "", number: int = 0) -> None:
        """Note that the module of ``node`` puts out ``value``; or that its submodule ``inner`` does, at that call."""
        self.shown.append((Place(str(node.target), self.traced.calls[node], inner, number), value))

    def refuse(self, node: fx.Node, key: Any, what: str, home: str) -> None:
        """Raise what a toolkit has to say about something unknown, if anything."""

    def _output(self, node: fx.Node, x: Any) -> Value:
        if type(x) is Pending and x.readout is not None and x.low == -math.inf and x.high == math.inf:
            return x.readout()
        if type(x) in (tuple, list, dict):
            raise ConversionError("output", f"a {type(x).__name__}", "let the model return one tensor")
        return self.value(node, x)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's result on the example, batch included."""
        return self.traced.shapes[node]

    def value(self, node: fx.Node, x: Any) -> Value:
        """``x`` as a quantised value, which it must be by now: the operand of ``node``."""
        if type(x) is Value:
            return x
        if type(x) is Pending and x.base is not None and x.high == math.inf:
            if id(x) not in self.rectified:
                low, high = self.range(x.base)
                y = x.emit(x.name, Grid(x.base.scale, max(low, 0), max(high, 1)))
                self.rectified[id(x)] = x, self.builder.flatten(y) if x.flat else y
            return self.rectified[id(x)][1]
        if type(x) is Pending:
            raise ConversionError(
                x.name,
                f"an unquantised activation, used by {where_is(node)}",
                self.advice["activation"],
            )
        if type(x) is Raw:
            raise ConversionError(where_is(node), "the unquantised input", self.advice["input"])
        if isinstance(x, Tensor | Weight):
            shape = tuple((x.integers if isinstance(x, Weight) else x).shape)
            raise ConversionError(
                where_is(node),
                f"a constant of shape {shape} as an operand",
                "let it be the bias of the layer before it, or of a batch norm",
            )
        raise ConversionError(where_is(node), f"the operand {describe(x)}", "only quantised activations can spike")

    def values(self, node: fx.Node, *operands: Any) -> list[Value]:
        """All operands of ``node``; what can never be one is refused first."""
        order = sorted(operands, key=lambda x: type(x) in (Value, Pending, Raw))
        found = {id(x): self.value(node, x) for x in order}
        return [found[id(x)] for x in operands]

    def range(self, value: Value) -> tuple[int, int]:
        """The smallest and the largest count that ``value`` can hold."""
        spec = self.builder.spec
        ranges = {layer.name: (layer.y_min, layer.y_max) for layer in self.builder.layers}
        if spec is not None:
            ranges[spec.name] = spec.q_min, spec.q_max
        found = [ranges[name] for name, _ in value.parts]
        return min(low for low, _ in found), max(high for _, high in found)

    def quantise(self, node: fx.Node, grid: Grid, x: Any, levels: Callable[[float], int], name: str | None) -> Value:
        """``x`` on a grid; ``levels`` gives the toolkit's own level of a real bound, ``name`` overrides the layer's."""
        if type(x) is Raw:
            y = self.builder.input(x.shape, scale=grid.scale, q_min=grid.y_min, q_max=grid.y_max)
            return self.builder.flatten(y) if x.flat else y
        if type(x) is Pending:
            low = grid.y_min if x.low == -math.inf else max(grid.y_min, levels(x.low))
            high = grid.y_max if x.high == math.inf else min(grid.y_max, levels(x.high))
            y = x.emit(name or x.name, Grid(grid.scale, low, high))
            return self.builder.flatten(y) if x.flat else y
        value = self.value(node, x)
        if self.on_grid(value, grid):
            return value  # a quantiser shared with the input
        return self.requantise(name or where_is(node.all_input_nodes[0]), [(value, 1.0)], grid)

    def on_grid(self, value: Value, grid: Grid) -> bool:
        """Whether rounding ``value`` to ``grid`` would leave it as it is."""
        low, high = self.range(value)
        return value.scale == grid.scale and grid.y_min <= low and high <= grid.y_max

    def requantise(self, name: str, inputs: Sequence[tuple[Value, float]], grid: Grid) -> Value:
        """A layer of identity synapses onto ``grid``."""
        return self.builder.requantise(name, inputs, y_min=grid.y_min, y_max=grid.y_max, scale=grid.scale)

    def clamp(self, node: fx.Node, x: Any, high: float = math.inf) -> Any:
        """ReLU, or ReLU6 with ``high``."""
        if type(x) is Pending:
            return replace(x, low=max(x.low, 0.0), high=min(x.high, high))
        value, name = self.value(node, x), where_is(node)
        if high == math.inf and self.range(value)[0] >= 0:
            return value
        maps = value.unflattened if value.flat else None  # layers of maps can become maps again
        flat, base = maps is not None, maps or value
        return Pending(
            name,
            lambda name, grid: self.requantise(name, [(base, 1.0)], grid),
            low=0.0,
            high=high,
            flat=flat,
            shape=base.shape if flat else (),
            base=base,
        )


def describe(x: Any) -> str:
    return type(x).__name__ if not isinstance(x, int | float) else repr(x)
