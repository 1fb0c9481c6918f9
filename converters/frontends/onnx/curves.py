"""Activations that exporters spell out: ``x * 0.5 * (1 + erf(x / sqrt(2)))`` is one function.

No pattern is looked for. Every chain of pointwise operations is a function of the tensor that it begins with, whatever
the order of its factors; where two of one tensor meet, its values on a line of numbers say whether it is a known one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.frontends.onnx.constants import numbers_of
from converters.frontends.onnx.graph import DOMAIN, Graph, Node, needed

__all__ = ["named"]

_LINE = torch.linspace(-12, 12, 2401, dtype=torch.float64)
_CLOSE = 1e-6  # constants of float32
_KNOWN: tuple[tuple[Callable[[Tensor], Tensor], str, Mapping[str, Any]], ...] = (
    (F.gelu, "Gelu", {}),
    (lambda x: F.gelu(x, approximate="tanh"), "Gelu", {"approximate": "tanh"}),
    (F.silu, "Swish", {}),
    (F.hardswish, "HardSwish", {}),
    (F.mish, "Mish", {}),
)
_UNARY: Mapping[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = {
    "Erf": lambda x, a: torch.erf(x),
    "Exp": lambda x, a: torch.exp(x),
    "HardSigmoid": lambda x, a: (x * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "Identity": lambda x, a: x,
    "Log": lambda x, a: torch.log(x),
    "Neg": lambda x, a: -x,
    "Reciprocal": lambda x, a: 1 / x,
    "Relu": lambda x, a: torch.relu(x),
    "Sigmoid": lambda x, a: torch.sigmoid(x),
    "Softplus": lambda x, a: F.softplus(x),
    "Tanh": lambda x, a: torch.tanh(x),
}
_BINARY: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
}


@dataclass(frozen=True, eq=False)
class _Curve:
    """Values of a function on the line, and whether its argument came in more than once."""

    values: Tensor
    joined: bool = False


def named(graph: Graph) -> Graph:
    """The graph where a chain of operations that is a known function is one node."""
    constants = numbers_of(graph)
    curves: dict[str, dict[str, _Curve]] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _curves_of(node, curves, constants) if node.domain == DOMAIN else {}
        for base, curve in found.items():
            known = _known(curve) if curve.joined else None
            if known is not None:
                node = node.with_op(known[0], inputs=(base,), attributes=known[1], version=graph.version)
                break
        nodes.append(node)
        curves[node.outputs[0]] = found
    return replace(graph, nodes=needed(nodes, graph.outputs))


def _curves_of(
    node: Node, curves: Mapping[str, dict[str, _Curve]], constants: Mapping[str, np.ndarray]
) -> dict[str, _Curve]:
    """What a node is as a function of each tensor from which only pointwise operations lead to it."""
    numbers = [_number(constants.get(name)) for name in node.inputs]
    moving = [name for name, number in zip(node.inputs, numbers, strict=True) if name not in constants]
    if not moving or any(n is None and name in constants for name, n in zip(node.inputs, numbers, strict=True)):
        return {}
    function = _function(node, numbers)
    if function is None:
        return {}
    given = [{**curves.get(name, {}), name: _Curve(_LINE)} for name in moving]
    bases = set.intersection(*(set(g) for g in given))
    return {
        base: _Curve(function(*(g[base].values for g in given)), len(moving) > 1 or any(g[base].joined for g in given))
        for base in sorted(bases)
    }


def _function(node: Node, numbers: list[float | None]) -> Callable[..., Tensor] | None:
    """Of the operands that are no constants."""
    if node.op in _UNARY and len(node.inputs) == 1:
        return lambda x: _UNARY[node.op](x, node.attributes)
    if node.op == "Clip" and node.inputs and numbers[0] is None:
        low, high = (numbers[k] if k < len(numbers) else None for k in (1, 2))
        return lambda x: x if low is None and high is None else torch.clamp(x, low, high)
    if node.op in _BINARY and len(node.inputs) == 2:
        a, b = numbers
        of_two = _BINARY[node.op]
        if a is None and b is None:
            return of_two
        if b is None:
            return lambda x: of_two(torch.as_tensor(a, dtype=torch.float64), x)
        return lambda x: of_two(x, b)
    return None


def _number(x: np.ndarray | None) -> float | None:
    return float(x.reshape(())) if x is not None and x.size == 1 and x.dtype.kind in "fiu" else None


def _known(curve: _Curve) -> tuple[str, Mapping[str, Any]] | None:
    for function, name, attributes in _KNOWN:
        values = function(_LINE)
        if bool(((curve.values - values).abs() <= _CLOSE * (1 + values.abs())).all()):
            return name, attributes
    return None
