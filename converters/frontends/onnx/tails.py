"""What stands behind a network's last quantiser, and so runs in float."""

from __future__ import annotations

from typing import Any

from converters.frontends.onnx.graph import DOMAIN, Graph, Node

__all__ = ["tails"]

_PLAIN = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Softplus": "softplus", "Abs": "abs"}
_ALONG = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
_EXTREMES = {"ArgMax": "argmax", "ArgMin": "argmin"}


def tails(graph: Graph) -> dict[str, tuple[str, dict[str, Any]]]:
    """Functions of :data:`converters.ports.tails.TAILS` and their parameters, by the tensors that they give.

    These are such of which nothing but outputs is made.
    """
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for node in reversed(graph.nodes):
        (name, *more) = node.outputs
        behind = users.get(name, [])
        if any(more) or not all(n.outputs[0] in found for n in behind) or (not behind and name not in graph.outputs):
            continue
        known = _tail_of(node) if node.domain == DOMAIN else None
        if known is not None:
            found[name] = known
    return found


def _tail_of(node: Node) -> tuple[str, dict[str, Any]] | None:
    a = node.attributes
    if node.op in _PLAIN:
        return _PLAIN[node.op], {}
    if node.op in _ALONG:
        axis = int(a.get("axis", -1))
        return None if axis == 0 else (_ALONG[node.op], {"dim": axis})
    if node.op in _EXTREMES:
        axis = int(a.get("axis", 0))
        if axis == 0 or a.get("select_last_index", 0):
            return None
        return _EXTREMES[node.op], {"dim": axis, "keepdim": bool(a.get("keepdims", 1))}
    return None
