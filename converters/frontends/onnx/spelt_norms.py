"""Norms that exporters spell out, as they do before opset 17: a mean, differences, a mean of squares, a root.

``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)`` is a layer norm, and without the mean taken off an RMS norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from converters.frontends.onnx.constants import numbers_of
from converters.frontends.onnx.graph import DOMAIN, Graph, Node, needed

__all__ = ["joined_norms"]


def joined_norms(graph: Graph) -> Graph:
    """The graph where such a chain is one node."""
    finder = _Finder(graph)
    nodes = [finder.norm(node) or node for node in graph.nodes]
    return replace(graph, nodes=needed(nodes, graph.outputs))


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.by: Mapping[str, Node] = {name: n for n in graph.nodes if n.domain == DOMAIN for name in n.outputs if name}
        self.constants, self.version = numbers_of(graph), graph.version

    def norm(self, node: Node) -> Node | None:
        """The norm whose last step ``node`` is."""
        if node.domain != DOMAIN or node.op not in ("Div", "Mul"):
            return None
        for x, root in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else (node.inputs,):
            found = self._over_root(x, root if node.op == "Div" else self._of(root, "Reciprocal"))
            if found is not None:
                source, axes, eps = found
                op = "LayerNormalization" if source != x else "RMSNormalization"
                attributes = {"axis": axes[0], "epsilon": eps}
                return node.with_op(op, inputs=(source,), attributes=attributes, version=self.version)
        return None

    def _over_root(self, x: str, root: str) -> tuple[str, list[int], float] | None:
        """What is normalised, over which last axes, and epsilon, where ``x`` is divided by ``root``."""
        inside = self.by.get(self._of(root, "Sqrt"))
        if inside is None or inside.op != "Add":
            return None
        name, eps = self._and_number(inside)
        mean = self.by.get(name)
        axes = self._axes(mean)
        if eps is None or mean is None or axes is None or not self._is_square(mean.inputs[0], x):
            return None
        difference = self.by.get(x)
        if difference is not None and difference.op == "Sub":
            own = self.by.get(difference.inputs[1])
            if own is not None and self._axes(own) == axes and own.inputs[0] == difference.inputs[0]:
                return difference.inputs[0], axes, eps
        return x, axes, eps

    def _of(self, name: str, op: str) -> str:
        node = self.by.get(name)
        return node.inputs[0] if node is not None and node.op == op else ""

    def _and_number(self, node: Node) -> tuple[str, float | None]:
        """The operand that is no constant, and the other one's number."""
        for name, other in (node.inputs, node.inputs[::-1]):
            value = self.constants.get(other)
            if value is not None and value.size == 1:
                return name, float(value.reshape(()))
        return "", None

    def _axes(self, node: Node | None) -> list[int] | None:
        """The axes of a mean that keeps them, if they are the last ones, counted from behind."""
        if node is None or node.op != "ReduceMean" or not node.attributes.get("keepdims", 1):
            return None
        given = node.attributes.get("axes")
        if given is None and len(node.inputs) > 1:
            constant = self.constants.get(node.inputs[1])
            given = None if constant is None else np.atleast_1d(constant).tolist()
        axes = sorted(given or [])
        return axes if axes and axes == list(range(-len(axes), 0)) else None

    def _is_square(self, name: str, x: str) -> bool:
        node = self.by.get(name)
        if node is None:
            return False
        if node.op == "Pow":
            exponent = self.constants.get(node.inputs[1])
            return node.inputs[0] == x and exponent is not None and exponent.size == 1 and float(exponent) == 2
        return node.op == "Mul" and node.inputs == (x, x)
