"""ONNX models from strangers: a good small one, and what can be wrong with a model, each as a change of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MODELS", "good", "outside"]


def good() -> onnx.ModelProto:
    """A quantised convolution, a ReLU and a dense layer."""
    rng = np.random.default_rng(0)

    def array(name: str, values: object, kind: object = np.float32) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(values, dtype=kind), name)  # type: ignore[call-overload]

    nodes: list[tuple[str, str, str, dict[str, Any]]] = [
        ("QuantizeLinear", "x s z", "xq", {}), ("DequantizeLinear", "xq s z", "xd", {}),
        ("DequantizeLinear", "w s", "wd", {}), ("Conv", "xd wd b", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "r", {}), ("QuantizeLinear", "r s z", "rq", {}), ("DequantizeLinear", "rq s z", "rd", {}),
        ("Flatten", "rd", "f", {}), ("DequantizeLinear", "v s", "vd", {}), ("MatMul", "f vd", "y", {}),
    ]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node(op, a.split(), [b], name=f"node.{b}", **more) for op, a, b, more in nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            array("s", 0.05), array("z", 0, np.int8), array("w", rng.integers(-9, 9, (3, 2, 3, 3)), np.int8),
            array("b", [0.1, -0.2, 0.0]), array("v", rng.integers(-9, 9, (48, 3)), np.int8),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == f"node.{name}")


def _dims(name: str, *dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        t = _tensor(model, name)
        del t.dims[:]
        t.dims.extend(dims)

    return change


def _typed(name: str, kind: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(_tensor(model, name), "data_type", kind)


def _input(*dims: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims)))

    return change


def _constant_by(op: str, given: list[object], **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """The bias as what an operation makes of small constants."""

    def change(model: onnx.ModelProto) -> None:
        names = []
        for k, value in enumerate(given):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"given{k}"))
            names.append(f"given{k}")
        model.graph.node.insert(0, helper.make_node(op, names, ["made"], name="node.made", **attributes))
        _node(model, "c").input[2] = "made"

    return change


def _attribute(node: str, **given: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        n = _node(model, node)
        del n.attribute[:]
        n.attribute.extend(helper.make_attribute(k, v) for k, v in given.items())

    return change


def _operands(node: str, *names: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        n = _node(model, node)
        del n.input[:]
        n.input.extend(names)

    return change


def _renamed(node: str, op: str, *names: str) -> Callable[[onnx.ModelProto], None]:
    """Another operation in a node's place, with operands of its own."""

    def change(model: onnx.ModelProto) -> None:
        _node(model, node).op_type = op
        _operands(node, *names)(model)

    return change


def _doubling(model: onnx.ModelProto) -> None:
    """A constant that is put behind itself forty times."""
    name = "b"
    for k in range(40):
        model.graph.node.insert(k, helper.make_node("Concat", [name, name], [f"twice{k}"], name=f"node.t{k}", axis=0))
        name = f"twice{k}"
    _node(model, "c").input[2] = name


def _functions(model: onnx.ModelProto) -> None:
    """Functions that call one another twice, thirty deep."""
    for k in range(30):
        inner = "Relu" if k == 0 else f"F{k - 1}"
        domain = "" if k == 0 else "own"
        nodes = [
            helper.make_node(inner, ["a"], ["m"], domain=domain), helper.make_node(inner, ["m"], ["o"], domain=domain)
        ]  # fmt: skip
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"F{k}", ["a"], ["o"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    node = _node(model, "r")
    node.op_type, node.domain = "F29", "own"


def _recursive(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("G", ["a"], ["o"], domain="own")]
    model.functions.append(helper.make_function("own", "G", ["a"], ["o"], nodes, [helper.make_opsetid("own", 1)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    node = _node(model, "r")
    node.op_type, node.domain = "G", "own"


def _cycle(model: onnx.ModelProto) -> None:
    _node(model, "xd").input[0] = "rq"


def _without(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.initializer.remove(_tensor(model, name))


def _foreign(model: onnx.ModelProto) -> None:
    node = _node(model, "r")
    node.op_type, node.domain = "Anything", "com.stranger"
    model.opset_import.append(helper.make_opsetid("com.stranger", 1))


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def _many_nodes(model: onnx.ModelProto) -> None:
    node, name = _node(model, "f"), "rd"
    for k in range(120_000):
        model.graph.node.insert(7, helper.make_node("Identity", [name], [f"i{k}"]))
    node.input[0] = name


def _long_name(model: onnx.ModelProto) -> None:
    node = _node(model, "r")
    node.name, node.op_type = "n" * 10**6 + "\n\x1b[2J", "Unknown\n\x1b[31m" * 1000


MODELS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a billion values declared": _dims("w", 1000, 1000, 1000),
    "2^62 values declared": _dims("b", 2**31, 2**31),
    "a negative size": _dims("b", -3),
    "more axes than anything has": _dims("b", *[1] * 1000),
    "fewer values than declared": _dims("v", 48, 4),
    "another type than its bytes": _typed("w", TensorProto.FLOAT),
    "a type that is none": _typed("w", 99),
    "texts for weights": _typed("w", TensorProto.STRING),
    "a missing scale": _without("s"),
    "missing weights": _without("v"),
    "a cycle": _cycle,
    "an unknown domain": _foreign,
    "an opset of long ago": _opset(3),
    "an opset of the future": _opset(10**6),
    "open sizes": _input("N", 2, "H", "W"),
    "an input without end": _input("N", 2, 10**9, 10**9),
    "a large input": _input("N", 2, 11_000, 11_000),
    "an input of nothing": _input("N", 2, 0, 4),
    "a constant of a billion": _constant_by("ConstantOfShape", [np.array([10**9])]),
    "a constant of 2^60": _constant_by("ConstantOfShape", [np.array([2**30, 2**30])]),
    "a range without end": _constant_by("Range", [np.int64(0), np.int64(10**12), np.int64(1)]),
    "a constant stretched": _constant_by("Expand", [np.ones(1, dtype=np.float32), np.array([10**5, 10**5])]),
    "a constant in tiles": _constant_by("Tile", [np.ones(1, dtype=np.float32), np.array([10**10])]),
    "a constant padded": _constant_by("Pad", [np.ones(1, dtype=np.float32), np.array([0, 10**10])]),
    "a constant doubled forty times": _doubling,
    "padding without end": _attribute("c", pads=[10**9, 10**9, 10**9, 10**9]),
    "a stride of 0": _attribute("c", strides=[0, 0]),
    "2^40 groups": _attribute("c", group=2**40),
    "an operand too many": _operands("y", "f", "vd", "vd"),
    "an operand too few": _operands("y", "f"),
    "a norm spelt with one operand": _renamed("y", "Div", "f"),
    "a norm spelt with three operands": _renamed("y", "Mul", "f", "vd", "f"),
    "a mean of nothing": _renamed("y", "ReduceMean"),
    "an operand left out": _operands("c", "xd", "", "b"),
    "an attribute of another type": _attribute("c", group=1.0),
    "an attribute missing": _renamed("f", "Concat", "rd"),
    "functions that double": _functions,
    "a function that calls itself": _recursive,
    "more nodes than a model should have": _many_nodes,
    "names that write to the terminal": _long_name,
}


def outside(folder: Path, location: str, *, offset: str = "0", length: str | None = None) -> Path:
    """A model whose weights lie in a file of their own, which it names as it likes."""
    model = good()
    t = _tensor(model, "w")
    (folder / "w.bin").write_bytes(t.raw_data)
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            t.external_data.add(key=key, value=value)
    path = folder / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    return path
