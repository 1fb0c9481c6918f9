"""One small network for each ONNX operation: against onnxruntime, layer by layer, and run as spikes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import converters
from tests.converters.frontends.onnx.building import Net, whole

Case = Callable[..., str]

MAPS = (4, 6, 6)


def conv(n: Net, x: str, *shape: int, zero: int | None = None, **attributes: Any) -> str:
    return n.op(
        "Conv", x, n.weight(whole(shape), zero=zero), n.constant(np.linspace(-0.5, 0.5, shape[0])), **attributes
    )


def axes(n: Net, *values: int) -> str:
    return n.constant(values, np.int64)


def split(n: Net, a: str) -> str:
    first, second = n.op("Split", a, outputs=2, axis=1, num_outputs=2)
    return n.op("Add", n.fake(first), n.fake(second))


def attention(n: Net, a: str, b: str) -> str:
    q, k = (n.op("Reshape", x, axes(n, 0, 4, 36)) for x in (a, b))
    scores = n.fake(n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1])), 2.0)
    weights = n.fake(n.op("Softmax", n.op("Mul", scores, n.constant(0.1)), axis=-1), 1 / 127)
    return n.op("MatMul", weights, q)


def gelu_by_erf(n: Net, a: str) -> str:
    inner = n.op("Add", n.op("Erf", n.op("Div", a, n.constant(2**0.5))), n.constant(1.0))
    return n.op("Mul", n.op("Mul", a, inner), n.constant(0.5))


def shape_arithmetic(n: Net, a: str) -> str:
    """As exporters write a flattening of all but the batch."""
    first = n.op("Gather", n.op("Shape", a), n.constant(0, np.int64), axis=0)
    size = n.op("Concat", n.op("Unsqueeze", first, axes(n, 0)), axes(n, -1), axis=0)
    return n.op("Reshape", a, size)


def filled(n: Net, a: str) -> str:
    ones = n.op("ConstantOfShape", n.op("Shape", a), value=one_number(2.0))
    return n.op("Add", a, n.op("Cast", ones, to=1))


def one_number(value: float) -> object:
    return helper.make_tensor("value", TensorProto.FLOAT, [1], [value])


def tokens(n: Net, a: str) -> str:
    """A class token, the same for every image."""
    one = n.op("Gather", n.op("Shape", a), n.constant([0], np.int64), axis=0)
    shape = n.op("Concat", one, axes(n, -1, -1, -1), axis=0)
    sizes = n.op("Where", n.op("Equal", shape, axes(n, -1)), axes(n, 1), shape)
    wide = n.op("Expand", n.constant(np.linspace(-1, 1, 36).reshape(1, 1, 6, 6)), sizes)
    return n.op("Concat", wide, a, axis=1)


def layer_norm(n: Net, x: str, centred: bool, squares: str) -> str:
    """As exporters write it before opset 17; and an RMS norm."""
    if centred:
        x = n.op("Sub", x, n.op("ReduceMean", x, axes(n, -1)))
    square = n.op("Pow", x, n.constant(2.0)) if squares == "Pow" else n.op("Mul", x, x)
    root = n.op("Sqrt", n.op("Add", n.op("ReduceMean", square, axes(n, -1)), n.constant(1e-5)))
    y = n.op("Div", x, root) if squares == "Pow" else n.op("Mul", x, n.op("Reciprocal", root))
    return n.op("Add", n.op("Mul", y, n.constant(np.linspace(0.5, 2, 6))), n.constant(0.3))


def batch_norm(n: Net, a: str) -> str:
    numbers = [n.constant(v) for v in ([1.0, -0.5, 2.0, 0.1], [0.1, 0.2, -0.3, 0], [0.5, 0, 0, 1], [1, 2, 0.5, 1])]
    return n.op("BatchNormalization", a, *numbers)


CASES: dict[str, Case] = {
    "Conv": lambda n, a: conv(n, a, 3, 4, 3, 3),
    "Conv of unequal padding": lambda n, a: conv(n, a, 3, 4, 3, 3, pads=[0, 1, 2, 1], strides=[2, 1]),
    "Conv, SAME_UPPER": lambda n, a: conv(n, a, 3, 4, 2, 2, auto_pad="SAME_UPPER"),
    "Conv, SAME_LOWER": lambda n, a: conv(n, a, 3, 4, 2, 2, auto_pad="SAME_LOWER", strides=[2, 2]),
    "Conv, grouped and dilated": lambda n, a: conv(n, a, 4, 1, 2, 2, group=4, dilations=[2, 2]),
    "Conv with zero points": lambda n, a: conv(n, a, 3, 4, 3, 3, zero=7, pads=[1, 1, 1, 1]),
    "Conv per channel": lambda n, a: n.op(
        "Conv", a, n.weight(whole((3, 4, 3, 3)), [0.01, 0.03, 0.02], [1, -2, 0])
    ),
    "Conv with an int32 bias": lambda n, a: n.op(
        "Conv", a, n.weight(whole((3, 4, 1, 1))), n.weight([100, -200, 50], 0.0005, kind=np.int32)
    ),
    "Conv of one axis": lambda n, a: conv(n, n.op("Reshape", a, axes(n, 0, 4, 36)), 3, 4, 5, strides=[2]),
    "Conv of three axes": lambda n, a: conv(n, n.op("Reshape", a, axes(n, 0, 2, 2, 6, 6)), 3, 2, 2, 3, 3),
    "ConvTranspose": lambda n, a: n.op(
        "ConvTranspose", a, n.weight(whole((4, 2, 3, 3)), [0.01, 0.02], axis=1), strides=[2, 2], pads=[1, 1, 1, 1],
        output_padding=[1, 0],
    ),
    "ConvTranspose of unequal padding": lambda n, a: n.op(
        "ConvTranspose", a, n.weight(whole((4, 2, 3, 3))), strides=[2, 2], pads=[0, 1, 2, 0], group=2
    ),
    "ConvTranspose to a size": lambda n, a: n.op(
        "ConvTranspose", a, n.weight(whole((4, 2, 3, 3))), strides=[2, 2], output_shape=[12, 12], auto_pad="SAME_UPPER"
    ),
    "Gemm": lambda n, a: n.op(
        "Gemm", n.op("Flatten", a), n.weight(whole((144, 5)), np.linspace(0.001, 0.01, 5), axis=1),
        n.constant([1.0] * 5), alpha=0.5, beta=2.0,
    ),
    "Gemm, transposed": lambda n, a: n.op(
        "Gemm", n.op("Flatten", a), n.weight(whole((5, 144)), [0.01, 0.02, 0.01, 0.03, 0.02]), transB=1
    ),
    "MatMul with weights": lambda n, a: n.op(
        "Add", n.op("MatMul", a, n.weight(whole((6, 3)), [0.01, 0.02, 0.03], axis=1)), n.constant([0.5, -0.5, 1.0])
    ),
    "MatMul of weights": lambda n, a: n.op("MatMul", n.weight(whole((3, 6)), [0.01, 0.02, 0.03]), a),
    "MatMul": lambda n, a, b: n.op("MatMul", a, b),
    "attention": attention,
    "Add": lambda n, a, b: n.op("Add", a, b),
    "Add of a constant": lambda n, a: n.op("Add", a, n.constant(np.linspace(-1, 1, 4).reshape(4, 1, 1))),
    "Sub": lambda n, a, b: n.op("Sub", a, b),
    "Sub from a constant": lambda n, a: n.op("Sub", n.constant(1.5), a),
    "Sum": lambda n, a, b: n.op("Sum", a, b, n.constant(0.25)),
    "Add of sums and negatives": lambda n, a, b: n.op(
        "Sub", n.op("Add", a, n.op("Mul", b, n.constant(-0.7))), n.op("Add", b, n.op("Neg", a))
    ),
    "Mean": lambda n, a, b: n.op("Mean", a, b),
    "Mul": lambda n, a, b: n.op("Mul", a, b),
    "Mul by a constant": lambda n, a: n.op("Mul", n.constant([-0.5, 2, 0.3, 1, 1, 1]), a),
    "Mul by a quantised constant": lambda n, a: n.op("Mul", a, n.weight([[[3]], [[-2]], [[1]], [[0]]], 0.3)),
    "Div by a constant": lambda n, a: n.op("Div", a, n.constant(1.7)),
    "Max": lambda n, a, b: n.op("Max", a, b),
    "Min": lambda n, a, b: n.op("Min", a, b),
    "Max with a constant": lambda n, a: n.op("Max", a, n.constant(0.3)),
    "Concat": lambda n, a, b: n.op("Concat", a, b, axis=1),
    "Concat with a constant": tokens,
    "Where": lambda n, a: n.op("Where", n.constant(np.eye(6), bool), a, n.constant(0.7)),
    "Softmax of what a mask leaves": lambda n, a: n.op(
        "Softmax", n.op("Add", a, n.constant(np.triu(np.full((6, 6), -np.inf), 1))), axis=-1
    ),
    "Softmax of what Where leaves": lambda n, a: n.op(
        "Softmax", n.op("Where", n.constant(np.tri(6), bool), a, n.constant(-np.inf)), axis=-1
    ),
    "MaxPool": lambda n, a: n.op("MaxPool", a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool, ceil": lambda n, a: n.op("MaxPool", a, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool of unequal padding": lambda n, a: n.op(
        "MaxPool", a, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "MaxPool, dilated": lambda n, a: n.op("MaxPool", a, kernel_shape=[2, 2], dilations=[2, 2]),
    "AveragePool": lambda n, a: n.op("AveragePool", a, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool, padding left out": lambda n, a: n.op(
        "AveragePool", a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "AveragePool, padding counted": lambda n, a: n.op(
        "AveragePool", a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "AveragePool, ceil": lambda n, a: n.op("AveragePool", a, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "AveragePool of unequal padding": lambda n, a: n.op("AveragePool", a, kernel_shape=[3, 3], pads=[0, 1, 1, 1]),
    "AveragePool of unequal padding, counted": lambda n, a: n.op(
        "AveragePool", a, kernel_shape=[3, 3], pads=[0, 1, 1, 1], count_include_pad=1
    ),
    "GlobalAveragePool": lambda n, a: n.op("GlobalAveragePool", a),
    "GlobalMaxPool": lambda n, a: n.op("GlobalMaxPool", a),
    "ReduceMean": lambda n, a: n.op("ReduceMean", a, axes(n, 2, 3), keepdims=0),
    "ReduceMean of channels": lambda n, a: n.op("ReduceMean", a, axes(n, 1)),
    "ReduceSum": lambda n, a: n.op("ReduceSum", a, axes(n, -1)),
    "ReduceMax": lambda n, a: n.op("ReduceMax", a, axes(n, 1, 2), keepdims=0),
    "ReduceMin": lambda n, a: n.op("ReduceMin", a, axes(n, -1)),
    "Flatten": lambda n, a: n.op("Flatten", a),
    "Reshape": lambda n, a: n.op("Reshape", a, axes(n, 0, -1, 9)),
    "Shape, Gather, Concat, Reshape": shape_arithmetic,
    "ConstantOfShape, Cast": filled,
    "Transpose": lambda n, a: n.op("Transpose", a, perm=[0, 2, 3, 1]),
    "Squeeze, Unsqueeze": lambda n, a: n.op("Squeeze", n.op("Unsqueeze", a, axes(n, 2)), axes(n, 2)),
    "Slice": lambda n, a: n.op("Slice", a, axes(n, 1, -4), axes(n, 3, 9999), axes(n, 1, 3)),
    "Slice backwards": lambda n, a: n.op(
        "Slice", a, axes(n, -1), axes(n, -9999), axes(n, 2), n.constant([-2], np.int64)
    ),
    "Split": lambda n, a: split(n, a),
    "Pad": lambda n, a: n.op("Pad", a, axes(n, 0, 0, 1, 2, 0, 1, 0, -1)),
    "Pad, reflected": lambda n, a: n.op("Pad", a, axes(n, 1, 0, 0, 2), n.constant(0.0), axes(n, 2, 3), mode="reflect"),
    "Pad with the edge": lambda n, a: n.op("Pad", a, axes(n, 0, 0, 1, 2, 0, 1, 0, 1), mode="edge"),
    "Gather": lambda n, a: n.op("Gather", a, n.constant([[2, 0], [-1, 0]], np.int64), axis=1),
    "Expand": lambda n, a: n.op("Expand", n.op("ReduceMax", a, axes(n, 3)), axes(n, 1, 1, 1, 3)),
    "Tile": lambda n, a: n.op("Tile", a, axes(n, 1, 2, 1, 1)),
    "DepthToSpace": lambda n, a: n.op("DepthToSpace", a, blocksize=2),
    "DepthToSpace, CRD": lambda n, a: n.op("DepthToSpace", a, blocksize=2, mode="CRD"),
    "SpaceToDepth": lambda n, a: n.op("SpaceToDepth", a, blocksize=3),
    "Identity": lambda n, a: n.op("Identity", n.op("Dropout", a)),
    "Resize, nearest": lambda n, a: n.op(
        "Resize", a, "", n.constant([1, 1, 2, 2]), mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize, nearest of half pixels": lambda n, a: n.op(
        "Resize", a, "", "", axes(n, 9, 4), mode="nearest", axes=[2, 3]
    ),
    "Resize, linear": lambda n, a: n.op(
        "Resize", a, "", n.constant([1, 1, 2, 1.5]), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"
    ),
    "Resize, linear, corners": lambda n, a: n.op(
        "Resize", a, "", "", axes(n, 11, 4), mode="linear", coordinate_transformation_mode="align_corners", axes=[2, 3]
    ),
    "Resize, cubic": lambda n, a: n.op("Resize", a, "", n.constant([1, 1, 2, 2]), mode="cubic"),
    "Relu": lambda n, a: n.op("Relu", a),
    "Clip": lambda n, a: n.op("Clip", a, n.constant(-0.5), n.constant(2.0)),
    "Clip above": lambda n, a: n.op("Clip", a, "", n.constant(1.0)),
    "LeakyRelu": lambda n, a: n.op("LeakyRelu", a, alpha=0.1),
    "PRelu": lambda n, a: n.op("PRelu", a, n.constant(np.array([0.1, -0.2, 0.3, 1.0]).reshape(4, 1, 1))),
    "PRelu of a layer": lambda n, a: n.op(
        "PRelu", conv(n, a, 3, 4, 3, 3), n.constant(np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1))
    ),
    "Elu": lambda n, a: n.op("Elu", a, alpha=0.7),
    "Celu": lambda n, a: n.op("Celu", a, alpha=0.7),
    "Selu": lambda n, a: n.op("Selu", a),
    "HardSwish": lambda n, a: n.op("HardSwish", conv(n, a, 3, 4, 3, 3)),
    "HardSigmoid": lambda n, a: n.op("HardSigmoid", a, alpha=1 / 6),
    "HardSigmoid of its own": lambda n, a: n.op("HardSigmoid", a),
    "Sigmoid": lambda n, a: n.op("Sigmoid", a),
    "Tanh": lambda n, a: n.op("Tanh", a),
    "Gelu": lambda n, a: n.op("Gelu", a),
    "Gelu by tanh": lambda n, a: n.op("Gelu", a, approximate="tanh"),
    "Gelu by Erf": gelu_by_erf,
    "SiLU": lambda n, a: n.op("Mul", a, n.op("Sigmoid", a)),
    "HardSwish by HardSigmoid": lambda n, a: n.op("Mul", a, n.op("HardSigmoid", a, alpha=1 / 6)),
    "Mish by Softplus": lambda n, a: n.op("Mul", a, n.op("Tanh", n.op("Softplus", a))),
    "Erf": lambda n, a: n.op("Erf", a),
    "Softplus": lambda n, a: n.op("Softplus", a),
    "Softsign": lambda n, a: n.op("Softsign", a),
    "Mish": lambda n, a: n.op("Mish", a),
    "Abs": lambda n, a: n.op("Abs", a),
    "Neg": lambda n, a: n.op("Neg", a),
    "Exp": lambda n, a: n.op("Exp", a),
    "Sin": lambda n, a: n.op("Sin", a),
    "Cos": lambda n, a: n.op("Cos", a),
    "Sign": lambda n, a: n.op("Sign", a),
    "Pow": lambda n, a: n.op("Pow", a, n.constant(2.0)),
    "ThresholdedRelu": lambda n, a: n.op("ThresholdedRelu", a, alpha=0.4),
    "Shrink": lambda n, a: n.op("Shrink", a, lambd=0.4, bias=0.4),
    "BatchNormalization": batch_norm,
    "BatchNormalization of a layer": lambda n, a: batch_norm(n, conv(n, a, 4, 4, 3, 3)),
    "LayerNormalization": lambda n, a: n.op(
        "LayerNormalization", a, n.constant(np.linspace(0.5, 2, 6)), n.constant(np.linspace(-1, 1, 6))
    ),
    "LayerNormalization by steps": lambda n, a: layer_norm(n, a, True, "Pow"),
    "LayerNormalization by products": lambda n, a: layer_norm(n, a, True, "Mul"),
    "RMSNormalization by steps": lambda n, a: layer_norm(n, a, False, "Pow"),
    "RMSNormalization by products": lambda n, a: layer_norm(n, a, False, "Mul"),
    "InstanceNormalization": lambda n, a: n.op(
        "InstanceNormalization", a, n.constant([1.0, 2, 0.5, 1]), n.constant([0, 0.5, 0, 1.0])
    ),
    "GroupNormalization": lambda n, a: n.op(
        "GroupNormalization", a, n.constant([1.0, 2, 0.5, 1]), n.constant([0, 0.5, 0, 1.0]), num_groups=2
    ),
    "LRN": lambda n, a: n.op("LRN", a, size=3, alpha=0.1),
    "Softmax": lambda n, a: n.op("Softmax", a, axis=1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_operation_is_that_of_onnxruntime(case: str) -> None:
    net, operation = Net(), CASES[case]
    names = ["x", "y"][: len(signature(operation).parameters) - 1]
    given = [net.fake(net.input("N", *MAPS, name=name), 0.05 - 0.02 * k, 11 * k) for k, name in enumerate(names)]
    model = net.model(net.fake(operation(net, *given), 0.0437, -9))
    torch.manual_seed(0)
    x = {name: torch.randn(3, *MAPS) * 2 for name in names}
    images = x if len(x) > 1 else x["x"]
    q = converters.from_onnx(model, images, check=images)
    assert q.checked is not None
    assert q.checked.near_ties <= 0.02 * q.checked.integers
    integers = q.at_window(16).execute(images)
    for backend in ("fast", "closed_form"):
        r = converters.run(converters.to_nir(q, T=16), images, backend=backend)
        assert all(torch.equal(counts.long(), integers[name]) for name, counts in r.counts.items()), backend
