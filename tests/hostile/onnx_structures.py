"""ONNX models whose structure is wrong though their bytes are not: operations, operands, sizes, types, numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from inspect import signature

import numpy as np
import onnx

from tests.converters.frontends.onnx.building import Net
from tests.converters.frontends.onnx.test_gallery import CASES, MAPS

__all__ = ["changed_models"]

_WHOLE = [0, 1, -1, 2, 3, 7, 100, -5, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63), 10**10]
_REAL = [0.0, -0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"), 0.5]
_TEXTS = [b"", b"NOTSET", b"SAME_UPPER", b"linear", b"\xff\xfe", b"edge"]
_OPERATIONS = [
    "Relu", "Loop", "If", "Scan", "TopK", "NonZero", "Reshape", "Expand", "Range", "QLinearConv", "MatMulInteger",
    "LSTM", "Einsum", "Where", "Resize", "Identity", "Constant", "ReduceMean", "Mul", "Sub", "Split", "Pad", "Gather",
]  # fmt: skip
_OPSETS = [1, 6, 13, 15, 18, 20, 23, 24, 25, 26, 99]


def gallery_model(case: str) -> onnx.ModelProto:
    """The network of one operation between pairs of quantisers."""
    net, operation = Net(), CASES[case]
    names = ["x", "y"][: len(signature(operation).parameters) - 1]
    given = [net.fake(net.input("N", *MAPS, name=name), 0.05 - 0.02 * k, 11 * k) for k, name in enumerate(names)]
    return net.model(net.fake(operation(net, *given), 0.0437, -9))


def changed_models(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Networks of one operation each, with one to three changes: what they are of, and the file."""
    rng = random.Random(seed)
    models = {case: gallery_model(case) for case in CASES}
    for _ in range(count):
        case, model = rng.choice(list(CASES)), onnx.ModelProto()
        model.CopyFrom(models[case])
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            rng.choice(_CHANGES)(model, rng)
        yield case, model.SerializeToString()


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice(list(model.graph.node))


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if not node.attribute:
        return
    a = rng.choice(list(node.attribute))
    if a.type == onnx.AttributeProto.INT:
        a.i = rng.choice(_WHOLE)
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = rng.choice(_REAL)
    elif a.type == onnx.AttributeProto.STRING:
        a.s = rng.choice(_TEXTS)
    elif a.type == onnx.AttributeProto.INTS and a.ints:
        a.ints[rng.randrange(len(a.ints))] = rng.choice(_WHOLE)
        if rng.random() < 0.3:
            a.ints.append(rng.choice(_WHOLE))
    if rng.random() < 0.2:
        a.type = rng.choice(list(onnx.AttributeProto.AttributeType.values()))


def _number(model: onnx.ModelProto, rng: random.Random) -> None:
    """One value of an initialiser."""
    tensor = rng.choice(list(model.graph.initializer))
    if not tensor.raw_data or not tensor.dims:
        return
    data = bytearray(tensor.raw_data)
    real = tensor.data_type == onnx.TensorProto.FLOAT
    one = np.array([rng.choice(_REAL)], np.float32) if real else np.array([rng.choice(_WHOLE)], np.int64)
    width = 4 if real else 8 if tensor.data_type == onnx.TensorProto.INT64 else 1
    at = rng.randrange(max(1, len(data) // width)) * width
    data[at : at + width] = one.tobytes()[:width]
    tensor.raw_data = bytes(data)


def _size(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(list(model.graph.initializer))
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_WHOLE)
    else:
        tensor.dims.append(1)


def _type(model: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(list(model.graph.initializer)).data_type = rng.randrange(26)


def _operand(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = [name for n in model.graph.node for name in (*n.input, *n.output)]
    if node.input and rng.random() < 0.6:
        node.input[rng.randrange(len(node.input))] = rng.choice([*names, ""])
    elif node.input and rng.random() < 0.5:
        node.input.pop()
    else:
        node.input.append(rng.choice([*names, ""]))


def _result(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.5:
        node.output.append("more")
    elif node.output:
        model.graph.output.add(name=rng.choice(list(node.output)))


def _operation(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice([n.op_type for n in model.graph.node] + _OPERATIONS)


def _input(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.choice(list(model.graph.input)).type.tensor_type
    if kind.shape.dim and rng.random() < 0.7:
        rng.choice(list(kind.shape.dim)).dim_value = rng.choice(_WHOLE)
    else:
        kind.elem_type = rng.randrange(26)


def _left_out(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    if rng.random() < 0.5 and graph.initializer:
        del graph.initializer[rng.randrange(len(graph.initializer))]
    elif len(graph.node) > 1:
        del graph.node[rng.randrange(len(graph.node))]


def _version(model: onnx.ModelProto, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice(_OPSETS)


def _reshaped(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(list(model.graph.initializer))
    if tensor.raw_data and tensor.dims:
        count = int(np.prod(tensor.dims, dtype=object))
        del tensor.dims[:]
        tensor.dims.extend(rng.choice([(count,), (1, count), (count, 1)]))


_CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    _attribute, _number, _number, _size, _type, _operand, _operand, _result, _operation, _input, _left_out, _version,
    _reshaped,
]  # fmt: skip
