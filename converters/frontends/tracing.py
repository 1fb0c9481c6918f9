"""A model as an FX graph that has run once: its nodes, and what the example gave at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from converters.errors import ConversionError, first_line
from converters.frontends.examples import Example, Given, check_type, example_of
from converters.frontends.functional import Effects, make_functional, partly_changed, version
from converters.frontends.in_place_proxies import InPlaceTracer
from converters.frontends.models import check_model, check_recurrence
from converters.frontends.watching import call_numbers

__all__ = ["Traced", "check_example", "needed", "record", "traced_graph", "where_is"]


@dataclass(frozen=True)
class Traced:
    """The nodes that the output needs, in order, modules and attributes by path, and what the example gave:
    the shapes of tensors (batch included), and the plain values (sizes, numbers) of other nodes.
    ``calls`` says which call of its module a node is."""

    nodes: tuple[fx.Node, ...]
    modules: dict[str, nn.Module]
    attribute: Callable[[str], Any]
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[fx.Node, Any]
    results: dict[fx.Node, Any]
    calls: dict[fx.Node, int]


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.shapes: list[tuple[int, ...] | None] = []
        self.constants: list[tuple[Any] | None] = []
        self.results: list[Any] = []
        self.effects = Effects()

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        self.effects.after(out)
        self.results.append(out)
        shape = getattr(out, "shape", None)  # of a tensor, or of a toolkit's wrapper of one
        self.shapes.append(tuple(shape) if isinstance(shape, torch.Size) else None)
        self.constants.append(None if any(isinstance(x, Tensor) for x in tree_leaves(out)) else (out,))
        return out


def check_example(model: Any, example: Any) -> Example:
    """The example of a model; a ConversionError unless these are a module, of finite weights, and float batches."""
    check_model(model)
    given = example_of(model, example)
    check_type(model, given)
    return given


def traced_graph(tracer: InPlaceTracer, model: nn.Module) -> fx.Graph:
    """The graph of a model, or an error that says why there is none."""
    own = {name: (x, version(x)) for name, x in (*model.named_parameters(), *model.named_buffers())}
    try:
        graph = tracer.trace(model)
    except ConversionError:
        raise
    except Exception as error:
        check_recurrence(model)
        raise ConversionError(
            "model",
            f"a forward that cannot be traced ({first_line(error)})",
            "let it not branch on its data",
        ) from error
    for name, (x, before) in own.items():
        if version(x) != before:
            raise ConversionError(name, "a parameter or buffer that forward changes", "leave it as it is in eval mode")
    return graph


def record(model: nn.Module, graph: fx.Graph, example: Given) -> Traced:
    """Make a graph of ``model`` functional, run it on ``example``, and keep what every node gave.

    In-place operations are written out of place, in the graph and in the modules of ``model``: give a copy. Only then
    are nodes dropped that the output does not need.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = call_numbers(graph, modules)
    recorder = _run(model, graph, example)
    if not recorder.effects.none:
        make_functional(graph, modules, recorder.effects, where_is)
        keep = set(needed(graph))
        for node in reversed(graph.nodes):
            if node not in keep and node.op != "placeholder":
                graph.erase_node(node)
            elif node.target is partly_changed:
                raise ConversionError(
                    where_is(node),
                    "a tensor of which a part was changed in place through a view, and which is used after that",
                    "write the operation out of place",
                )
        recorder = _run(model, graph, example)
    order = list(graph.nodes)  # of which the recorder ran a copy
    shapes = {node: shape for node, shape in zip(order, recorder.shapes, strict=True) if shape is not None}
    constants = {node: c[0] for node, c in zip(order, recorder.constants, strict=True) if c is not None}
    results = dict(zip(order, recorder.results, strict=True))

    def attribute(path: str) -> Any:
        value: Any = model
        for part in path.split("."):
            value = getattr(value, part)
        return value

    return Traced(needed(graph), modules, attribute, shapes, constants, results, calls)


def _run(model: nn.Module, graph: fx.Graph, example: Given) -> _Recorder:
    recorder = _Recorder(fx.GraphModule(model, graph))
    given = _arguments(graph, example)
    try:
        with torch.no_grad():
            recorder.run(*given)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in given if isinstance(x, Tensor))
        raise ConversionError(
            "example",
            f"that the model does not run on shape {shapes} ({first_line(error)})",
            "give a fitting batch",
        ) from error
    return recorder


def _arguments(graph: fx.Graph, example: Given) -> list[Any]:
    """What the graph's inputs are given: copies of the batches, or the defaults of what has none."""
    if isinstance(example, Tensor):
        return [example.detach().clone()]
    found: list[Any] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            name = str(node.target)
            if name.startswith("*"):
                raise ConversionError("forward", f"a parameter {name}", "give each tensor a parameter of its own")
            found.append(example[name].detach().clone() if name in example else node.args[0])
    return found


def where_is(node: fx.Node) -> str:
    """The module path of a node, for people: its own, or that of the module in whose forward it stands."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


def needed(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The nodes that the output depends on, in order, if none changes what another gave."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update([node, *node.all_input_nodes])
    return tuple(node for node in graph.nodes if node in needed)
