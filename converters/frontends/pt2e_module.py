"""A network that is prepared for quantisation-aware training, as a module like any other.

An exported graph has ``training`` written into its dropouts and batch norms as constants. Here they read the module's
own flag, where ``train()`` and ``eval()`` put it; so do copies of the module, in whatever wrapper.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from converters.frontends.aten import drop_images, is_counter

__all__ = ["PreparedModel"]

_FLAGS = ("training", "train")
_KEPT_OF_NODES = ("nn_module_stack", "shape")


class PreparedModel(fx.GraphModule):
    """What :func:`~converters.frontends.pt2e.prepare_qat` returns: a graph of ATen operations and fake quantisers.

    ``train()``, ``eval()``, ``state_dict()``, ``copy.deepcopy``, ``torch.save`` and the wrappers of ``torch.nn`` and
    ``torch.optim`` treat it as any module. Build it with :meth:`of`.
    """

    @classmethod
    def of(cls, model: fx.GraphModule) -> PreparedModel:
        """Takes over a graph with quantisers, and lets its operations follow the module's training flag."""
        graph = model.graph
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            flag = graph.create_node("get_attr", "training", name="training")
        for node in graph.nodes:
            if node.op == "call_function" and is_counter(node):
                node.update_arg(1, flag)  # counts no batch in evaluation
            for k, argument in enumerate(_parameters(node)):
                if argument in _FLAGS and k < len(node.args) and node.args[k] is True:
                    node.update_arg(k, flag)
        if not flag.users:
            graph.erase_node(flag)
        for node in graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                node.meta["shape"] = tuple(n if isinstance(n, int) else None for n in value.shape)
            node.meta = {k: v for k, v in node.meta.items() if k in _KEPT_OF_NODES}
        return cls(model, graph, cls.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_graph", "_code", "_lineno_map", "shape_env")}
        return _restored, (state, _rows(self.graph), self.graph._codegen)


def _parameters(node: fx.Node) -> list[str]:
    """The names of a function's parameters, in order, but of those that are the same in training and evaluation."""
    if node.op != "call_function":
        return []
    if not hasattr(node.target, "_schema"):
        return list(inspect.signature(node.target).parameters) if node.target is drop_images else []
    names = [argument.name for argument in node.target._schema.arguments]
    statistics = node.target is torch.ops.aten.instance_norm.default and node.args[3] is not None
    return ["training" if statistics and name == "use_input_stats" else name for name in names]


class _Name(str):
    """The name of a node, where the node itself is an argument."""


def _rows(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph in plain data, which can be pickled."""

    def plain(value: Any) -> Any:
        return map_aggregate(value, lambda v: _Name(v.name) if isinstance(v, fx.Node) else v)

    return [(n.op, n.name, _target(n.target), plain(n.args), plain(n.kwargs), n.meta) for n in graph.nodes]


def _target(target: Any) -> Any:
    return ("aten", *str(target).split(".")[1:]) if hasattr(target, "_schema") else target


def _restored(state: dict[str, Any], rows: list[tuple[Any, ...]], codegen: Any) -> PreparedModel:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def linked(value: Any) -> Any:
        return map_aggregate(value, lambda v: nodes[v] if type(v) is _Name else v)

    for op, name, target, args, kwargs, meta in rows:
        if isinstance(target, tuple):
            target = operator.attrgetter(".".join(target))(torch.ops)
        nodes[name] = graph.create_node(op, target, linked(args), linked(kwargs), name)
        nodes[name].meta = meta
    graph.set_codegen(codegen)
    root = nn.Module()
    root.__dict__.update(state)
    model = PreparedModel(root, graph, PreparedModel.__name__)
    model.meta = state["meta"]
    return model
