"""Makes the nodes of a rewritten graph: what rules about operations in disguise have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from converters.frontends.aten import Kind, constants, kind_of

__all__ = ["Rewriter"]

_a = torch.ops.aten


class Rewriter:
    """Makes nodes in front of the one that they stand for, with its place in the user's model."""

    def __init__(self, model: fx.GraphModule) -> None:
        self.model, self.graph = model, model.graph
        self.fixed = constants(model.graph)

    def call(self, at: fx.Node, target: Any, *args: Any, shape_of: Any = None, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_before(at):
            node = self.graph.call_function(target, args, kwargs)
        node.meta["nn_module_stack"] = at.meta.get("nn_module_stack", {})
        inputs = [n.meta.get("val") for n in node.all_input_nodes]
        if shape_of is not None:
            node.meta["val"] = shape_of.meta.get("val")
        elif all(v is not None for v in inputs):
            node.meta["val"] = _faked(node)
        if all(n in self.fixed for n in node.all_input_nodes):
            self.fixed.add(node)
        return node

    def is_constant(self, x: Any) -> bool:
        return not isinstance(x, fx.Node) or x in self.fixed

    def value(self, node: fx.Node) -> Tensor:
        """What a constant is now."""
        if node.op == "get_attr":
            found: Any = self.model
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.value)
        with torch.no_grad():
            found = node.target(*args, **kwargs)
        assert isinstance(found, Tensor)
        return found

    def constant(self, at: fx.Node, value: Tensor) -> fx.Node:
        """A new constant, which is no part of the state dict."""
        name = next(n for n in (f"constant_{k}" for k in range(2**31)) if not hasattr(self.model, n))
        self.model.register_buffer(name, value, persistent=False)
        with self.graph.inserting_before(at):
            node = self.graph.get_attr(name)
        mode = next(v.fake_mode for n in self.graph.nodes if hasattr(v := n.meta.get("val"), "fake_mode"))
        node.meta["val"] = mode.from_tensor(value)
        self.fixed.add(node)
        return node

    def without_factor(self, at: fx.Node, x: fx.Node) -> tuple[fx.Node, float]:
        """``x`` as something times a number, which moves in between let through."""
        if x.target is _a.mul.Tensor and not isinstance(x.args[1], fx.Node):
            inner, factor = self.without_factor(at, x.args[0])
            return inner, factor * float(x.args[1])
        if kind_of(x) is Kind.MOVE and x not in self.fixed and hasattr(x.target, "_schema"):
            inner, factor = self.without_factor(at, x.args[0])
            if factor != 1:
                return self.call(at, x.target, inner, *x.args[1:], **x.kwargs), factor
        return x, 1.0

    def times(self, at: fx.Node, x: Any, factor: float) -> Any:
        """A constant or an activation times a number."""
        if factor == 1:
            return x
        return self.call(at, _a.mul.Tensor, x, factor) if isinstance(x, fx.Node) else x * factor

    def negative(self, at: fx.Node, x: Any) -> Any:
        """Minus a constant or an activation."""
        if not isinstance(x, fx.Node):
            return -x
        return self.call(at, _a.neg.default, x) if x in self.fixed else self.call(at, _a.mul.Tensor, x, -1.0)


def _faked(node: fx.Node) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return node.target(*args, **kwargs)
