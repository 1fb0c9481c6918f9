"""Small ONNX models by hand: operations between pairs of quantisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Net"]

_OPSETS = {"com.microsoft": 1, "qonnx.custom_op.general": 1}


@dataclass
class Net:
    """A model under construction: methods add nodes and give names of tensors."""

    opset: int = 21
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def input(self, *shape: int | str, name: str = "x", kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, values: Any, kind: Any = np.float32, name: str = "") -> str:
        """An initialiser, of one of NumPy's types or of ONNX's."""
        name = name or f"c{len(self.constants)}"
        if isinstance(kind, int):
            array = np.asarray(values)
            self.constants[name] = helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
        else:
            self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype=kind), name)
        return name

    def op(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", name: str = "", **attributes: Any) -> Any:
        """A node; the names of its outputs, one alone as it is."""
        names = [f"{name or op.lower()}.{len(self.nodes)}.{k}" for k in range(outputs)]
        made = helper.make_node(op, inputs, names, name=name or f"{op}_{len(self.nodes)}", domain=domain, **attributes)
        self.nodes.append(made)
        return names[0] if outputs == 1 else names

    def quantise(self, x: str, scale: float = 0.05, zero: int = 0, kind: Any = np.int8, **attributes: Any) -> str:
        """The integers of a quantiser."""
        return self.op("QuantizeLinear", x, self.constant(scale), self.constant(zero, kind), **attributes)

    def real(self, q: str, scale: float = 0.05, zero: int = 0, kind: Any = np.int8, **attributes: Any) -> str:
        return self.op("DequantizeLinear", q, self.constant(scale), self.constant(zero, kind), **attributes)

    def fake(self, x: str, scale: float = 0.05, zero: int = 0, kind: Any = np.int8) -> str:
        """A quantiser and what takes it back."""
        return self.real(self.quantise(x, scale, zero, kind), scale, zero, kind)

    def weight(
        self, integers: Any, scale: Any = 0.01, zero: Any = None, kind: Any = np.int8, axis: int = 0, **more: Any
    ) -> str:
        """Weights of integers, behind a DequantizeLinear."""
        given = [self.constant(integers, kind), self.constant(scale)]
        given += [] if zero is None else [self.constant(zero, kind)]
        return self.op("DequantizeLinear", *given, axis=axis, **more)

    def model(self, *outputs: str, opsets: Mapping[str, int] | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", self.inputs, [helper.make_empty_tensor_value_info(n) for n in outputs],
            list(self.constants.values()),
        )  # fmt: skip
        domains = {n.domain for n in self.nodes} - {""}
        imports = {"": self.opset, **{d: _OPSETS.get(d, 1) for d in domains}, **(opsets or {})}
        version = {13: 8, 14: 8, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}.get(
            self.opset, 13
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()], ir_version=version
        )


def whole(shape: Sequence[int], seed: int = 0, low: int = -20, high: int = 21) -> np.ndarray:
    """Random integers."""
    return np.random.default_rng(seed).integers(low, high, shape)
