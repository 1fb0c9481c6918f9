"""Operators on integers: those of the standard, and those of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from tests.converters.frontends.onnx.building import Net, whole
from tests.converters.frontends.onnx.comparing import converted, noise
from tests.converters.frontends.onnx.models import exported, quantised

MICROSOFT = "com.microsoft"


def point(n: Net, scale: float, zero: int) -> tuple[str, str]:
    return n.constant(scale), n.constant(zero, np.uint8)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_qlinear_conv(kind: type) -> None:
    n = Net()
    scale, zero = point(n, 0.05, 100)
    x = n.op("QuantizeLinear", n.input("N", 2, 6, 6), scale, zero)
    zeros = [0, 0, 0] if kind is np.int8 else [128, 120, 130]
    w = [n.constant(whole((3, 2, 3, 3), low=0), kind), n.constant([0.01, 0.02, 0.03]), n.constant(zeros, kind)]
    bias = n.constant([100, -200, 300], np.int32)
    y = n.op("QLinearConv", x, scale, zero, *w, *point(n, 0.08, 30), bias, pads=[1, 1, 0, 0], strides=[2, 1])
    q = converted(n.model(n.op("DequantizeLinear", y, *point(n, 0.08, 30))), noise(4, 2, 6, 6))
    expected = np.array([100.0, -200.0, 300.0])
    assert q.layers[0].bias.numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("constant", [True, False])
def test_qlinear_matmul(constant: bool) -> None:
    n = Net()
    a = n.op("QuantizeLinear", n.input("N", 4, 6), *point(n, 0.05, 100))
    if constant:
        b = [n.constant(whole((6, 3)), np.int8), n.constant([0.01, 0.02, 0.03]), n.constant([0, 0, 0], np.int8)]
    else:
        b = [n.op("Transpose", a, perm=[0, 2, 1]), *point(n, 0.05, 100)]
    y = n.op("QLinearMatMul", a, *point(n, 0.05, 100), *b, *point(n, 0.2, 128))
    converted(n.model(n.op("DequantizeLinear", y, *point(n, 0.2, 128))), noise(4, 4, 6))


@pytest.mark.parametrize("op", ["ConvInteger", "MatMulInteger"])
def test_integer_results_that_are_scaled_behind(op: str) -> None:
    n = Net()
    scale, zero = point(n, 0.05, 100)
    shape, weights = ((2, 5, 5), (3, 2, 3, 3)) if op == "ConvInteger" else ((5,), (5, 3))
    x = n.op("QuantizeLinear", n.input("N", *shape), scale, zero)
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1]} if op == "ConvInteger" else {}
    w = [n.constant(whole(weights), np.int8), zero, n.constant(2, np.int8)]
    y = n.op("Cast", n.op(op, x, *w, **pads), to=1)
    bias = np.array([0.1, -0.2, 0.3]).reshape(-1, *[1] * (len(weights) - 2))
    y = n.op("Add", n.op("Mul", y, n.constant(0.05 * 0.01)), n.constant(bias))
    converted(n.model(n.fake(y, 0.0313)), noise(4, *shape))


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_sums_and_products_of_onnxruntime(op: str) -> None:
    n = Net()
    given = [(name, point(n, 0.05 + 0.02 * k, 100 + 9 * k)) for k, name in enumerate("xy")]
    operands = [t for name, p in given for t in (n.op("QuantizeLinear", n.input("N", 5, name=name), *p), *p)]
    y = n.op(op, *operands, *point(n, 0.11, 77), domain=MICROSOFT)
    images = {"x": noise(6, 5), "y": noise(6, 5, seed=1)}
    converted(n.model(n.op("DequantizeLinear", y, *point(n, 0.11, 77))), images)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("QLinearAveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("QLinearGlobalAveragePool", {}),
        ("QLinearLeakyRelu", {"alpha": 0.1}),
        ("QLinearSigmoid", {}),
        ("QLinearSoftmax", {"axis": 1, "opset": 13}),
    ],
)
def test_pools_and_functions_of_onnxruntime(op: str, attributes: dict) -> None:
    n = Net()
    scale = 1 / 256 if op in ("QLinearSigmoid", "QLinearSoftmax") else 0.031
    zero = 0 if op in ("QLinearSigmoid", "QLinearSoftmax") else 70
    x = n.op("QuantizeLinear", n.input("N", 3, 5, 5), *point(n, 0.05, 100))
    y = n.op(op, x, *point(n, 0.05, 100), *point(n, scale, zero), domain=MICROSOFT, **attributes)
    converted(n.model(n.op("DequantizeLinear", y, *point(n, scale, zero))), noise(4, 3, 5, 5))


def test_concatenations_of_onnxruntime() -> None:
    n = Net()
    given = [(name, point(n, 0.05 + 0.02 * k, 100 + 9 * k)) for k, name in enumerate("xy")]
    operands = [t for name, p in given for t in (n.op("QuantizeLinear", n.input("N", 5, name=name), *p), *p)]
    y = n.op("QLinearConcat", *point(n, 0.061, 77), *operands, axis=1, domain=MICROSOFT)
    images = {"x": noise(6, 5), "y": noise(6, 5, seed=1)}
    converted(n.model(n.op("DequantizeLinear", y, *point(n, 0.061, 77))), images)


@pytest.mark.parametrize("quantised", [True, False])
def test_gemm_of_onnxruntime(quantised: bool) -> None:
    n = Net()
    scale, zero = point(n, 0.05, 100)
    x = n.op("QuantizeLinear", n.input("N", 5), scale, zero)
    w = [n.constant(whole((3, 5)), np.int8), n.constant([0.01, 0.02, 0.03]), n.constant([0, 0, 0], np.int8)]
    more = point(n, 0.1, 128) if quantised else ()
    y = n.op("QGemm", x, scale, zero, *w, n.constant([10, -20, 30], np.int32), *more, transB=1, domain=MICROSOFT)
    if quantised:
        y = n.op("DequantizeLinear", y, *more)
    q = converted(n.model(y), noise(6, 5))
    assert q.layers[0].spiking is quantised


def test_quantisers_of_onnxruntime_with_16_bits() -> None:
    n = Net(opset=17)
    given = n.constant(0.001), n.constant(30000, np.uint16)
    x = n.op("QuantizeLinear", n.input("N", 5), *given, domain=MICROSOFT)
    y = n.op("Gemm", n.op("DequantizeLinear", x, *given, domain=MICROSOFT), n.weight(whole((5, 3))))
    q = converted(n.model(n.fake(y, 0.05)), noise(6, 5), backends=("closed_form",))
    assert (q.input.q_min, q.input.q_max) == (-30000, 35535)


def test_channels_last_are_refused() -> None:
    n = Net()
    x = n.op("QuantizeLinear", n.input("N", 3, 5, 5), *point(n, 0.05, 100))
    y = n.op(
        "QLinearGlobalAveragePool", x, *point(n, 0.05, 100), *point(n, 0.05, 100), domain=MICROSOFT, channels_last=1
    )
    with pytest.raises(ConversionError, match="channels as the last axis; export it with channels first"):
        converters.from_onnx(n.model(y))


class Excited(nn.Module):
    """Squeeze-and-excite: channels times a gate of their means."""

    def __init__(self, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, 2, 1), act()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), gate())
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        out: Tensor = self.last(y * self.gate(y)).mean((2, 3))
        return out


def excited(act: type[nn.Module], gate: type[nn.Module], per_channel: bool) -> tuple[onnx.ModelProto, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(8, 3, 8, 8)
    return quantised(exported(Excited(act, gate), x), x, operators=True, per_channel=per_channel), x


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("act", "gate"), [(nn.ReLU, nn.Sigmoid), (nn.SiLU, nn.Hardsigmoid)])
def test_squeeze_and_excite_in_integer_operators(
    act: type[nn.Module], gate: type[nn.Module], per_channel: bool
) -> None:
    model, x = excited(act, gate, per_channel)
    assert {"QLinearConv", "QLinearMul"} <= {node.op_type for node in model.graph.node}
    converted(model, x)


def test_what_onnxruntime_leaves_in_float_between_integer_operators() -> None:
    """It has no integer operator for a hardswish, and puts no quantiser behind one that a pool follows."""
    model, x = excited(nn.Hardswish, nn.Hardsigmoid, False)
    with pytest.raises(ConversionError, match=r"^act.HardSwish: found an unquantised activation, used by gate"):
        converters.from_onnx(model, x)
