"""Integer operators as what they are defined to mean: dequantise, compute, quantise.

The standard's own (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger) and onnxruntime's (``com.microsoft``) become
nodes that everything else is written in. The names of the tensors that they give stay, so that the model itself, which
is left as it is, can be asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from converters.errors import ConversionError
from converters.frontends.onnx import pooling
from converters.frontends.onnx.graph import DOMAIN, MICROSOFT, Graph, Node
from converters.frontends.onnx.meanings import BINARY, UNARY, Meaning

__all__ = ["expanded"]


_MEANINGS: Mapping[tuple[str, str], Meaning] = {
    (DOMAIN, "QLinearConv"): Meaning("Conv", BINARY, (6, 7), bias=8),
    (DOMAIN, "QLinearMatMul"): Meaning("MatMul", BINARY, (6, 7), rows=-1),
    (DOMAIN, "ConvInteger"): Meaning("Conv", ((0, -1, 2), (1, -1, 3)), None),
    (DOMAIN, "MatMulInteger"): Meaning("MatMul", ((0, -1, 2), (1, -1, 3)), None, rows=-1),
    (MICROSOFT, "QLinearAdd"): Meaning("Add", BINARY, (6, 7)),
    (MICROSOFT, "QLinearMul"): Meaning("Mul", BINARY, (6, 7)),
    (MICROSOFT, "QLinearLeakyRelu"): Meaning("LeakyRelu", UNARY, (3, 4)),
    (MICROSOFT, "QLinearSigmoid"): Meaning("Sigmoid", UNARY, (3, 4)),
    (MICROSOFT, "QLinearSoftmax"): Meaning("Softmax", UNARY, (3, 4), dropped=("opset",)),
    (MICROSOFT, "QGemm"): Meaning("Gemm", BINARY, (7, 8), bias=6),
    **{(MICROSOFT, op): meaning for op, meaning in pooling.MEANINGS.items()},
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

    def nodes(self, meaning: Meaning) -> list[Node]:
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

    def _axis(self, place: int, meaning: Meaning) -> int:
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
