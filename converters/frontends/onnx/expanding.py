"""Integer operators as what they are defined to mean: dequantise, compute, quantise.

The standard's own (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger) and onnxruntime's (``com.microsoft``) become
nodes that everything else is written in. The names of the tensors that they give stay, so that the model itself, which
is left as it is, can be asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from converters.errors import ConversionError
from converters.frontends.onnx.graph import DOMAIN, MICROSOFT, Graph, Node

__all__ = ["expanded"]


@dataclass(frozen=True)
class _Meaning:
    """Of an operator: the operation on real values, and where its operands stand.

    ``operands`` are places of (integers, scale, zero point); -1 for a scale of 1. ``result`` is where the scale and the
    zero point of what comes out stand, None for a result that is not rescaled. ``bias`` is the place of one on the grid
    of the accumulator. ``rows`` is the axis of the weights, the second operand, along which scales differ.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int] | None
    bias: int | None = None
    rows: int = 0
    dropped: tuple[str, ...] = ()


_UNARY = ((0, 1, 2),)
_BINARY = ((0, 1, 2), (3, 4, 5))
_MEANINGS: Mapping[tuple[str, str], _Meaning] = {
    (DOMAIN, "QLinearConv"): _Meaning("Conv", _BINARY, (6, 7), bias=8),
    (DOMAIN, "QLinearMatMul"): _Meaning("MatMul", _BINARY, (6, 7), rows=-1),
    (DOMAIN, "ConvInteger"): _Meaning("Conv", ((0, -1, 2), (1, -1, 3)), None),
    (DOMAIN, "MatMulInteger"): _Meaning("MatMul", ((0, -1, 2), (1, -1, 3)), None, rows=-1),
    (MICROSOFT, "QLinearAdd"): _Meaning("Add", _BINARY, (6, 7)),
    (MICROSOFT, "QLinearMul"): _Meaning("Mul", _BINARY, (6, 7)),
    (MICROSOFT, "QLinearAveragePool"): _Meaning("AveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    (MICROSOFT, "QLinearGlobalAveragePool"): _Meaning("GlobalAveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    (MICROSOFT, "QLinearReduceMean"): _Meaning("ReduceMean", _UNARY, (3, 4)),
    (MICROSOFT, "QLinearLeakyRelu"): _Meaning("LeakyRelu", _UNARY, (3, 4)),
    (MICROSOFT, "QLinearSigmoid"): _Meaning("Sigmoid", _UNARY, (3, 4)),
    (MICROSOFT, "QLinearSoftmax"): _Meaning("Softmax", _UNARY, (3, 4), dropped=("opset",)),
    (MICROSOFT, "QGemm"): _Meaning("Gemm", _BINARY, (7, 8), bias=6),
}


def expanded(graph: Graph) -> Graph:
    """The graph in quantisers and operations on real values."""
    constants, nodes = dict(graph.constants), list[Node]()
    for node in graph.nodes:
        if (node.domain, node.op) == (MICROSOFT, "QLinearConcat"):
            nodes += _concatenation(node)
        elif (node.domain, node.op) in _MEANINGS:
            nodes += _Writer(node, constants, graph.version).nodes(_MEANINGS[node.domain, node.op])
        else:
            nodes.append(node)
    return replace(graph, constants=constants, nodes=tuple(nodes))


def _at(node: Node, k: int) -> str:
    return node.inputs[k] if 0 <= k < len(node.inputs) else ""


class _Writer:
    """Writes what one node means."""

    def __init__(self, node: Node, constants: dict[str, np.ndarray], version: int) -> None:
        self.node, self.constants, self.version = node, constants, version

    def nodes(self, meaning: _Meaning) -> list[Node]:
        node, given = self.node, self.node.attributes
        if given.get("channels_last", 0):
            raise ConversionError(node.name, "channels as the last axis", "export it with channels first")
        found, real = list[Node](), list[str]()
        for k, (x, scale, zero) in enumerate(meaning.operands):
            axis = self._axis(x, meaning) if k == 1 else 0
            real.append(f"{node.outputs[0]}/operand{k}")
            scale_name = _at(node, scale) if scale >= 0 else self._constant("one", np.float32(1))
            found.append(self._dequantised((_at(node, x), scale_name, _at(node, zero)), real[-1], axis))
        if meaning.bias is not None and _at(node, meaning.bias):
            real.append(f"{node.outputs[0]}/bias")
            found.append(self._dequantised((_at(node, meaning.bias), self._bias_scale(), ""), real[-1], 0))
        scale_name = _at(node, meaning.result[0]) if meaning.result else ""
        exact = f"{node.outputs[0]}/real" if scale_name else node.outputs[0]
        kept = {k: v for k, v in given.items() if k not in meaning.dropped}
        inner = node.with_op(meaning.op, inputs=tuple(real), outputs=(exact,), attributes=kept, version=self.version)
        found.append(inner)
        if scale_name and meaning.result:
            found.append(_quantised(node, exact, scale_name, _at(node, meaning.result[1]), self.version))
        return found

    def _dequantised(self, inputs: tuple[str, str, str], output: str, axis: int) -> Node:
        return self.node.with_op(
            "DequantizeLinear", inputs=inputs, outputs=(output,), attributes={"axis": axis}, version=self.version
        )

    def _axis(self, place: int, meaning: _Meaning) -> int:
        weights = self.constants.get(_at(self.node, place))
        if meaning.op == "Gemm":
            return 0 if self.node.attributes.get("transB", 0) else 1
        return meaning.rows % weights.ndim if weights is not None and weights.ndim else 0

    def _bias_scale(self) -> str:
        """That of the accumulator: the product of those of what is multiplied."""
        scales = [self.constants.get(_at(self.node, k)) for k in (1, 4)]
        if scales[0] is None or scales[1] is None:
            todo = "quantise it with a static scale and zero point, calibrated beforehand"
            raise ConversionError(self.node.name, "a scale that depends on the images", todo)
        return self._constant("bias_scale", scales[0].reshape(-1)[:1] * scales[1].reshape(-1))

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        whole = f"{self.node.outputs[0]}/{name}"
        self.constants[whole] = np.asarray(value)
        return whole


def _quantised(node: Node, real: str, scale: str, zero: str, version: int) -> Node:
    return node.with_op(
        "QuantizeLinear", inputs=(real, scale, zero), outputs=node.outputs[:1], attributes={}, version=version,
        label=f"{node.label}/quantised" if node.label else "",
    )  # fmt: skip


def _concatenation(node: Node) -> list[Node]:
    """``QLinearConcat``: the result's scale and zero point first, then three for each operand."""
    triples = [node.inputs[k : k + 3] for k in range(2, len(node.inputs), 3)]
    names = tuple(f"{node.outputs[0]}/operand{k}" for k in range(len(triples)))
    parts = [
        node.with_op("DequantizeLinear", inputs=tuple(t), outputs=(name,), attributes={"axis": 0})
        for t, name in zip(triples, names, strict=True)
    ]
    real = f"{node.outputs[0]}/real"
    whole = node.with_op("Concat", inputs=names, outputs=(real,))
    return [*parts, whole, _quantised(node, real, *node.inputs[:2], node.version)]
