"""Walks the traced graph of a quantised model, and builds a QuantGraph from what it meets. Knows no toolkit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import fx

from converters.errors import ConversionError, first_line
from converters.frontends.tracing import Traced, where_is
from converters.frontends.verbs import Grid, Raw, Verbs
from converters.frontends.watching import Place
from converters.graph_builder import Value
from converters.quantised import QuantGraph

__all__ = ["Handler", "Walker"]


Handler = Callable[..., Any]


class Walker:
    """Walks the graph once; a handler per exact module type, function or method name.

    A handler is called as ``handler(walker, node, *args, **kwargs)``, one for a module with the module
    before the arguments, in which nodes are replaced by what they evaluated to.
    """

    advice: ClassVar[dict[str, str]] = {"activation": "put a quantiser behind it", "input": "put a quantiser before it"}
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
        self.builder = Verbs(source, activation=self.advice["activation"], unquantised_input=self.advice["input"])
        self.shown: list[tuple[Place, Value]] = []

    def walk(self, inputs: Sequence[str] = ("input",)) -> QuantGraph:
        """The QuantGraph of the trace of a model whose forward calls its ``inputs`` so."""
        self.builder.reserved = tuple(inputs) if len(inputs) > 1 else ()
        values: dict[fx.Node, Any] = {}
        for node in self.traced.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                return self.builder.build(self.builder.output(args[0]))
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
            shape = self.shape(node)[1:]
            return Raw(shape, name=str(target)) if self.builder.reserved else Raw(shape)
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
            "write it in operations that are: weights, pools, activations, sums, products, norms, moves",
        )

    def show(self, node: fx.Node, value: Value, inner: str = "", number: int = 0) -> None:
        """Note that the module of ``node`` puts out ``value``; or that its submodule ``inner`` does, at that call."""
        self.shown.append((Place(str(node.target), self.traced.calls[node], inner, number), value))

    def refuse(self, node: fx.Node, key: Any, what: str, home: str) -> None:
        """Raise what a toolkit has to say about something unknown, if anything."""

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's result on the example, batch included."""
        return self.traced.shapes[node]

    def value(self, node: fx.Node, x: Any) -> Value:
        """``x`` as a quantised value, which it must be by now: the operand of ``node``."""
        return self.builder.value(where_is(node), x)

    def quantise(self, node: fx.Node, grid: Grid, x: Any, levels: Callable[[float], int], name: str | None) -> Value:
        """``x`` on a grid; ``levels`` gives the toolkit's own level of a real bound, ``name`` overrides the layer's."""
        source = where_is(node.all_input_nodes[0]) if type(x) is Value else where_is(node)
        return self.builder.quantise(source, x, grid, levels, name)
