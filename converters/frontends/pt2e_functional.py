"""In-place operations of an exported graph, as operations that give new values.

``torch.export`` leaves ``relu_``, ``add_`` and their kind as they stand in ``forward``, their results used, thrown
away, or read through another name of the same memory. Whoever reads a graph as values, as a quantiser must, needs
each reader to name the value that stands there at its turn. :func:`make_functional` gives it that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from converters.errors import ConversionError
from converters.frontends.aten import BATCH_NORM, COUNT, DROPOUT, IDENTITY, Kind, is_random, kind_of, operation, where

__all__ = ["make_functional"]

_a = torch.ops.aten
_ELEMENTWISE = {
    _a.relu_.default, _a.hardtanh_.default, _a.relu6_.default, _a.dropout_.default, _a.leaky_relu_.default,
    _a.elu_.default, _a.selu_.default, _a.celu_.default, _a.silu_.default, _a.hardswish_.default, _a.mish_.default,
    _a.sigmoid_.default, _a.hardsigmoid_.default, _a.tanh_.default, _a.clamp_.default, _a.clamp_min_.default,
    _a.abs_.default, _a.square_.default, _a.exp_.default, _a.neg_.default, _a.rrelu_.default,
}  # fmt: skip


@dataclass(eq=False)
class _Memory:
    """What several nodes are names of: how often it was written to, and the value that stands there."""

    latest: fx.Node
    written: int = 0


@dataclass(eq=False)
class _Name:
    """One name of a memory: the memory itself (no ``view``), or a view of another name of it."""

    memory: _Memory
    view: tuple[fx.Node, _Name] | None
    at: int
    """How often the memory was written to when ``node`` was made."""
    node: fx.Node

    @property
    def reshaped(self) -> bool:
        if self.view is None:
            return False
        node, source = self.view
        return source.reshaped or node.target not in IDENTITY


def make_functional(model: fx.GraphModule) -> None:
    """Rewrite a graph of ATen operations, in place, so that none of them writes to its inputs.

    What remains that writes are the counters of batch norms (:func:`~converters.frontends.aten.is_counter`). Nodes
    that nothing needs are dropped after that, not before.

    Raises
    ------
    ConversionError
        For a weight or buffer that ``forward`` changes, and for an operation that writes through a reshaped view
        and has a second operand.
    """
    graph = model.graph
    names: dict[fx.Node, _Name] = {}
    replaced: list[fx.Node] = []
    for node in list(graph.nodes):
        if node.op == "output" or node.op == "call_function":
            _read_latest(graph, node, names)
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            names[node] = _own(node)
        elif node.target._schema.is_mutable:
            if _write(graph, node, names):
                replaced.append(node)
        else:
            source = _viewed(node)
            names[node] = _own(node)
            if source is not None and names[source].view is None and names[source].memory.latest.op == "get_attr":
                names[node].memory = names[source].memory  # of a weight or buffer: writing to it is writing to that
            elif source is not None:
                of = names[source]
                names[node] = _Name(of.memory, (node, of), of.memory.written, node)
    for node in reversed(replaced):
        graph.erase_node(node)
    drop_unused(graph)
    model.recompile()


def drop_unused(graph: fx.Graph) -> None:
    """Drop nodes that nothing needs; counters and dropouts, which draw random numbers, stay.

    Weights that ``forward`` does not use stay, too, unless there is a batch norm: so state dicts have always been.
    """
    unused_weights_stay = not any(n.target in BATCH_NORM for n in graph.nodes)
    graph.eliminate_dead_code(lambda n: n.is_impure() or (unused_weights_stay and n.op == "get_attr"))


def _own(node: fx.Node) -> _Name:
    return _Name(_Memory(node), None, 0, node)


def _viewed(node: fx.Node) -> fx.Node | None:
    """The argument whose memory a node's result is, or may be."""
    returns = node.target._schema.returns
    shares = len(returns) == 1 and returns[0].alias_info is not None
    without_effect = node.target in DROPOUT and (float(node.args[1]) == 0.0 or not node.args[2])
    first = node.args[0] if node.args else None
    return first if (shares or without_effect) and isinstance(first, fx.Node) else None


def _read_latest(graph: fx.Graph, node: fx.Node, names: dict[fx.Node, _Name]) -> None:
    for source in node.all_input_nodes:
        latest = _latest(graph, node, names[source])
        if latest is not source:
            names.setdefault(latest, names[source])
            node.replace_input_with(source, latest)


def _latest(graph: fx.Graph, before: fx.Node, name: _Name) -> fx.Node:
    """A node with what stands now under a name; views are taken anew where their memory was written to."""
    if name.at == name.memory.written:
        return name.node
    if name.view is None:
        found = name.memory.latest
    else:
        view, source = name.view
        base = _latest(graph, before, source)
        with graph.inserting_before(before):
            found = graph.call_function(view.target, (base, *view.args[1:]), view.kwargs)
        found.meta = dict(view.meta)
    name.at, name.node = name.memory.written, found
    return found


def _write(graph: fx.Graph, node: fx.Node, names: dict[fx.Node, _Name]) -> bool:
    """Add what gives the value that an operation writes to its first argument; then that stands there.

    Whether the operation is to go, when all its readers have been given that value.
    """
    target = node.args[0]
    name = names[target]
    if name.memory.latest.op == "get_attr":
        node.update_arg(0, name.memory.latest)  # batches are counted, whatever the counter is called here
        if node.target is not COUNT or not isinstance(node.args[1], int):
            path = str(name.memory.latest.target)
            raise ConversionError(path, "a weight or buffer that forward changes", "leave it constant there")
        names[node] = name
        return False
    functional = _functional(node)
    if not name.reshaped:
        with graph.inserting_before(node):
            new = graph.call_function(functional, node.args, node.kwargs)
        new.meta = dict(node.meta)
    elif node.target in _ELEMENTWISE:
        base = name.memory.latest
        with graph.inserting_before(node):
            new = graph.call_function(functional, (base, *node.args[1:]), node.kwargs)
        new.meta = {**node.meta, "val": base.meta.get("val")}
    elif _scatters(name) and _is_constant(name.memory.latest, *node.all_input_nodes[1:]):
        with graph.inserting_before(node):
            written = graph.call_function(functional, node.args, node.kwargs)
        written.meta = dict(node.meta)
        new = _scattered(graph, node, name, written)
    else:
        raise ConversionError(
            where(node), f"{operation(node)} on a view of another shape", "write it out of place, or before the view"
        )
    name.memory.written += 1
    name.memory.latest = new
    names[new] = _Name(name.memory, None, name.memory.written, new)
    if not name.reshaped:
        name.at, name.node = name.memory.written, new
    names[node] = name
    return True


_SCATTERS: dict[Any, Any] = {_a.slice.Tensor: _a.slice_scatter.default, _a.select.int: _a.select_scatter.default}
"""What gives a tensor whose view has other values."""


def _scatters(name: _Name) -> bool:
    """Whether it is a part of its memory, of a part..., or all of it."""
    if name.view is None:
        return True
    node, source = name.view
    return (node.target in _SCATTERS or node.target in IDENTITY) and _scatters(source)


def _is_constant(*nodes: fx.Node) -> bool:
    """Whether nodes depend on nothing but parameters, buffers and numbers, by what stands there now."""
    seen, left = set(nodes), list(nodes)
    while left:
        node = left.pop()
        if node.op != "get_attr" and (node.op != "call_function" or is_random(node) or kind_of(node) is Kind.SIZE):
            return False
        left += [n for n in node.all_input_nodes if n not in seen]
        seen.update(node.all_input_nodes)
    return True


def _scattered(graph: fx.Graph, before: fx.Node, name: _Name, value: fx.Node) -> fx.Node:
    """The whole memory, with ``value`` where ``name`` stands in it."""
    if name.view is None:
        return value
    node, source = name.view
    if node.target in IDENTITY:
        return _scattered(graph, before, source, value)
    base = _latest(graph, before, source)
    with graph.inserting_before(before):
        new = graph.call_function(_SCATTERS[node.target], (base, value, *node.args[1:]), node.kwargs)
    new.meta = dict(base.meta)
    return _scattered(graph, before, source, new)


def _functional(node: fx.Node) -> Any:
    """The operation that gives what ``node``'s, ``name_``, writes."""
    if node.target is _a.bernoulli_.float:
        return _a.bernoulli.p
    packet = getattr(_a, node.target._opname.removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None) if node.target._opname.endswith("_") else None
    if overload is None:
        raise ConversionError(where(node), f"the operation {operation(node)}, in place", "write it out of place")
    return overload
