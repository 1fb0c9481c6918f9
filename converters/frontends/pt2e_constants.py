"""Constants that a network's forward makes anew each time: the masks of shifted windows, grids of positions.

They may be written to in place, which a graph of values cannot show; they depend on nothing, so they are computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from converters.frontends.aten import is_random, operation

__all__ = ["fold_constants"]

_MADE = ("zeros", "ones", "full", "arange", "eye", "linspace", "new_zeros", "new_ones", "new_full", "scalar_tensor")


def fold_constants(model: fx.GraphModule) -> None:
    """Replace, in place, tensors that ``forward`` makes of numbers alone by constants, which are in no state dict."""
    found = _made_of_numbers(model)
    values: dict[fx.Node, Any] = {}
    kept: dict[tuple[fx.Node, int], fx.Node] = {}  # as a node stood when it was read
    for node in list(model.graph.nodes):
        if node in found:
            values[node] = _evaluated(model, node, values)
            continue
        for source in node.all_input_nodes:
            if source in found and source.op != "get_attr":
                version = source, int(values[source]._version)
                if version not in kept:
                    kept[version] = _constant(model, source, values[source], node, f"made_{len(kept)}")
                node.replace_input_with(source, kept[version])
    for node in reversed(model.graph.nodes):
        if node in found and node.op != "get_attr":
            model.graph.erase_node(node)
    model.recompile()


def _evaluated(model: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return _attribute(model, str(node.target)).clone()
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values.get(n, n))
    if operation(node).startswith("new_"):
        args = (_like(args[0]), *args[1:])
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _made_of_numbers(model: fx.GraphModule) -> set[fx.Node]:
    """What is made of numbers, and written to with what is; and all that is computed from that alone."""
    refused: set[fx.Node] = set()
    while True:
        found: set[fx.Node] = set()
        for node in model.graph.nodes:
            if node not in refused and _is_made(model, node, found):
                found.add(node)
        written = {
            _root(node)
            for node in model.graph.nodes
            if node not in found and _is_mutable(node) and _root(node) in found
        }
        if not written:
            return found if any(n.op != "get_attr" for n in found) else set()
        refused |= written


def _is_made(model: fx.GraphModule, node: fx.Node, found: set[fx.Node]) -> bool:
    if node.op == "get_attr":  # a number that was written in forward; weights and buffers may still change
        value = _attribute(model, str(node.target))
        return isinstance(value, Tensor) and "lifted_tensor" in str(node.target) and not isinstance(value, nn.Parameter)
    if node.op != "call_function" or is_random(node) or not isinstance(node.meta.get("val"), Tensor):
        return False
    if any(not isinstance(n, int) for n in node.meta["val"].shape):
        return False
    name = operation(node)
    if name in _MADE:
        inputs = node.all_input_nodes[1:] if name.startswith("new_") else node.all_input_nodes
        return not inputs
    return bool(node.all_input_nodes) and all(n in found for n in node.all_input_nodes)


def _is_mutable(node: fx.Node) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _root(node: fx.Node) -> fx.Node:
    """The node whose memory an operation in place, or the view that it is written through, may be of."""
    while node.args and isinstance(node.args[0], fx.Node):
        made = operation(node) in _MADE
        shares = any(r.alias_info is not None for r in node.target._schema.returns) if _has_schema(node) else False
        if made or not shares:
            return node
        node = node.args[0]
    return node


def _has_schema(node: fx.Node) -> bool:
    return hasattr(node.target, "_schema")


def _like(value: Any) -> Tensor:
    """A tensor of the type that a node's will have."""
    example = value.meta["val"] if isinstance(value, fx.Node) else value
    return torch.empty(0, dtype=example.dtype, device=example.device)


def _constant(model: fx.GraphModule, node: fx.Node, value: Tensor, before: fx.Node, name: str) -> fx.Node:
    model.register_buffer(name, value.clone(), persistent=False)
    with model.graph.inserting_before(before):
        new = model.graph.get_attr(name)
    new.meta = {k: v for k, v in node.meta.items() if k in ("val", "nn_module_stack")}
    return new


def _attribute(model: fx.GraphModule, path: str) -> Any:
    found: Any = model
    for part in path.split("."):
        found = getattr(found, part)
    return found
