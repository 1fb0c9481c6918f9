"""Quantisers of every kind, between hand-made layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import converters
from converters.errors import ConversionError
from tests.converters.frontends.onnx.building import Net, whole
from tests.converters.frontends.onnx.comparing import converted, noise

KINDS = {
    "int8": (TensorProto.INT8, -128, 127),
    "uint8": (TensorProto.UINT8, 0, 255),
    "int16": (TensorProto.INT16, -(2**15), 2**15 - 1),
    "uint16": (TensorProto.UINT16, 0, 2**16 - 1),
    "int4": (TensorProto.INT4, -8, 7),
    "uint4": (TensorProto.UINT4, 0, 15),
}


@pytest.mark.parametrize("zero", ["middle", "low", "near the top"])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_every_type_with_any_zero_point(kind: str, zero: str) -> None:
    data_type, low, high = KINDS[kind]
    point = {"middle": (low + high) // 2, "low": low, "near the top": high - 1}[zero]
    scale = 8.0 / (high - low)
    n = Net()
    x = n.fake(n.input("N", 6), scale, point, data_type)
    y = n.op("Gemm", x, n.weight(whole((6, 4)), [0.01, 0.02, 0.03, 0.04], axis=1))
    q = converted(n.model(n.fake(y, scale, point, data_type)), noise(5, 6), backends=("closed_form",))
    assert (q.input.q_min, q.input.q_max) == (low - point, high - point)
    assert (q.layers[0].y_min, q.layers[0].y_max) == (low - point, high - point)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int4", "uint4"])
@pytest.mark.parametrize("axis", [None, 0, -2])
def test_weights_of_every_type_with_zero_points_per_channel(kind: str, axis: int | None) -> None:
    data_type, low, high = KINDS[kind]
    integers = np.random.default_rng(0).integers(low, high + 1, (3, 6))
    scales, points = np.array([0.5, 1.0, 0.25]) / (high - low), np.array([low, high, (low + high) // 2])
    n = Net()
    x = n.fake(n.input("N", 6))
    one = axis is None
    w = n.weight(
        integers,
        scales[0] if one else scales,
        points[2] if one else points,
        data_type,
        axis=0 if one else int(axis or 0),
    )
    q = converted(n.model(n.fake(n.op("Gemm", x, w, transB=1), 0.06)), noise(5, 6))
    (synapse,) = q.layers[0].synapses
    expected = integers - (points[2] if one else points[:, None])
    assert synapse.ops[0].stored.tolist() == expected.tolist()


def test_scales_along_the_axis_that_is_summed_over_are_refused() -> None:
    n = Net()
    w = n.weight(whole((3, 6)), np.linspace(0.01, 0.02, 6), axis=1)
    model = n.model(n.op("Gemm", n.fake(n.input("N", 6)), w, transB=1))
    with pytest.raises(ConversionError, match="differ along an axis that is summed over; quantise them per tensor"):
        converters.from_onnx(model)


def test_weights_quantised_on_the_way_are_those_of_the_standard() -> None:
    """A float initialiser behind a QuantizeLinear, as exporters of trained quantisers write it."""
    w = np.array([[0.26, -0.25, 0.349], [9.0, -9.0, 0.05]], np.float32)
    n = Net()
    x = n.fake(n.input("N", 3))
    n.constants["w"] = onnx.numpy_helper.from_array(w, "w")
    y = n.op("Gemm", x, n.fake("w", 0.1, 3), transB=1)
    q = converted(n.model(n.fake(y, 0.1)), noise(5, 3))
    (synapse,) = q.layers[0].synapses
    theirs = np.clip(np.rint(w / np.float32(0.1)) + 3, -128, 127) - 3
    assert synapse.ops[0].stored.tolist() == theirs.tolist()


@pytest.mark.parametrize("kind", [TensorProto.INT32, None])
def test_biases_are_int32_or_float(kind: int | None) -> None:
    n = Net()
    x = n.fake(n.input("N", 3), 0.05, 7)
    b = n.weight([100, -300], 0.05 * 0.01, kind=kind) if kind else n.constant([0.05, -0.15])
    q = converted(n.model(n.fake(n.op("Gemm", x, n.weight(whole((3, 2))), b), 0.02)), noise(5, 3))
    assert torch.allclose(q.layers[0].bias, torch.tensor([100.0, -300.0], dtype=torch.float64), rtol=1e-6)


def test_a_clip_between_quantiser_and_dequantiser_leaves_fewer_levels() -> None:
    n = Net()
    q = n.quantise(n.input("N", 3), 0.5)
    x = n.real(n.op("Clip", q, n.constant(-7, np.int8), n.constant(7, np.int8)), 0.5)
    w = n.real(
        n.op("Clip", n.quantise(n.constant([[0.7, -0.9, 0.1]]), 0.1), n.constant(-7, np.int8), n.constant(7, np.int8)),
        0.1,
    )
    y = n.op("Relu", n.op("Gemm", x, w, transB=1))
    q = n.op("Clip", n.quantise(y, 0.3, 0, np.uint8), n.constant(0, np.uint8), n.constant(15, np.uint8))
    graph = converted(n.model(n.real(q, 0.3, 0, np.uint8)), noise(5, 3))
    assert (graph.input.q_min, graph.input.q_max) == (-7, 7)
    assert (graph.layers[0].y_min, graph.layers[0].y_max) == (0, 15)
    assert graph.layers[0].synapses[0].ops[0].stored.tolist() == [[7, -7, 1]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_quantisers_of_qonnx(bits: int, signed: int, narrow: int) -> None:
    """Their range is that of the definition: ``-2^(b-1)`` to ``2^(b-1) - 1``, or 0 to ``2^b - 1``; narrow: one less."""
    n = Net()

    def quant(x: str, scale: Any, signed: int = 1) -> str:
        given = (n.constant(scale), n.constant(0.0), n.constant(float(bits)))
        options: dict[str, Any] = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
        return n.op("Quant", x, *given, domain="qonnx.custom_op.general", **options)

    x = n.fake(n.input("N", 6))
    w = quant(n.constant(np.random.default_rng(0).normal(size=(3, 6))), [[0.3], [0.1], [0.2]])
    graph = converted(n.model(quant(n.op("Gemm", x, w, transB=1), 0.7, signed)), noise(5, 6))
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    assert (graph.layers[0].y_min, graph.layers[0].y_max) == (low, high)


def test_a_relu_that_is_the_range_of_its_quantiser() -> None:
    """onnxruntime drops it where the zero point is the least integer."""
    n = Net()
    y = n.op("Gemm", n.fake(n.input("N", 6)), n.weight(whole((6, 4))))
    q = converted(n.model(n.fake(y, 0.01, 0, np.uint8)), noise(5, 6))
    assert (q.layers[0].y_min, q.layers[0].y_max) == (0, 255)


def test_quantisers_on_both_sides_of_a_max_pool_and_a_transpose_add_no_layer() -> None:
    n = Net()
    x = n.fake(n.input("N", 2, 6, 6), 0.05, 5)
    y = n.fake(n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.05, 5)
    y = n.fake(n.op("Transpose", y, perm=[0, 1, 3, 2]), 0.05, 5)
    z = n.fake(n.op("Conv", y, n.weight(whole((3, 2, 1, 1)))), 0.05)
    assert len(converted(n.model(z), noise(4, 2, 6, 6)).layers) == 2


def test_maxima_and_moves_of_integers() -> None:
    n = Net()
    x = n.quantise(n.input("N", 2, 6, 6), 0.05, 200, np.uint8)
    y = n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = n.op("Reshape", n.op("Transpose", y, perm=[0, 2, 3, 1]), n.constant([0, -1], np.int64))
    z = n.op("Gemm", n.real(y, 0.05, 200, np.uint8), n.weight(whole((18, 3))))
    converted(n.model(n.fake(z, 0.1)), noise(4, 2, 6, 6))


def test_integers_are_padded_with_their_zero_point() -> None:
    n = Net()
    x = n.quantise(n.input("N", 2, 3), 0.05, 7)
    pads = n.constant([0, 0, 1, 0, 0, 1], np.int64)
    n.nodes, kept = list(n.nodes), list(n.nodes)
    y = n.op("Pad", x, pads, n.constant(7, np.int8))
    converted(n.model(n.real(y, 0.05, 7)), noise(4, 2, 3))
    n.nodes = kept
    y = n.op("Pad", x, pads, n.constant(0, np.int8))
    with pytest.raises(ConversionError, match="padding with 0; pad with 7, and add a constant behind it"):
        converters.from_onnx(n.model(n.real(y, 0.05, 7)))


def test_a_value_that_several_use_is_one_layer() -> None:
    n = Net()
    x = n.fake(n.input("N", 6))
    y = n.fake(n.op("Gemm", x, n.weight(whole((6, 6)))), 0.0713)
    z = n.fake(
        n.op("Add", n.op("Relu", y), n.op("Sigmoid", y)) if False else n.op("Add", y, n.fake(n.op("Sigmoid", y))), 0.1
    )
    assert len(converted(n.model(z), noise(5, 6)).layers) == 3


def test_two_quantisers_of_one_value_that_are_alike_are_one_layer() -> None:
    n = Net()
    y = n.op("Gemm", n.fake(n.input("N", 6)), n.weight(whole((6, 6))))
    z = n.fake(n.op("Add", n.fake(y, 0.07), n.fake(y, 0.07)), 0.1)
    assert len(converted(n.model(z), noise(5, 6)).layers) == 2


def test_integers_that_come_in_and_go_out() -> None:
    """They are given, and read, in real units."""
    n = Net()
    x = n.real(n.input("N", 6, kind=TensorProto.UINT8), 0.05, 128, np.uint8)
    y = n.quantise(n.op("Gemm", x, n.weight(whole((6, 3)))), 0.1, 10, np.uint8)
    q = converted(n.model(y), noise(5, 6))
    assert (q.input.q_min, q.input.q_max, q.layers[0].y_min, q.layers[0].y_max) == (-128, 127, -10, 245)


def test_a_dequantiser_with_another_scale_gives_the_same_counts() -> None:
    n = Net()
    x = n.real(n.quantise(n.input("N", 6), 0.05, 3), 0.1, 3)
    q = converted(n.model(n.fake(n.op("Gemm", x, n.weight(whole((6, 3)))), 0.2)), noise(5, 6))
    assert q.layers[0].threshold.tolist() == pytest.approx([0.2 / (0.1 * 0.01)] * 3)
    assert len(converted(n.model(x), noise(5, 6)).layers) == 1


REFUSED = {
    "a scale that depends on the image": (
        lambda n, x: n.op("DynamicQuantizeLinear", x, outputs=3)[0],
        "a DynamicQuantizeLinear, whose scale depends on the images; quantise it with a static scale",
    ),
    "per channel": (
        lambda n, x: n.op("QuantizeLinear", x, n.constant([0.1, 0.2, 0.3]), n.constant([0, 0, 0], np.int8), axis=1),
        "an activation quantised per channel; use one scale and zero point for it",
    ),
    "a scale of 0": (lambda n, x: n.quantise(x, 0.0), "a scale that is not positive and finite; calibrate it"),
    "a scale of nan": (lambda n, x: n.quantise(x, float("nan")), "a scale that is not positive and finite"),
    "another zero point": (
        lambda n, x: n.real(n.quantise(x, 0.1, 3), 0.1, 4),
        "the zero point 4 behind a quantiser with 3",
    ),
    "float8": (
        lambda n, x: n.op("QuantizeLinear", x, n.constant(0.1), n.constant(0, TensorProto.FLOAT8E4M3FN)),
        "a quantiser to float8_e4m3fn; quantise to integers of at most 16 bits",
    ),
    "two levels": (
        lambda n, x: n.op("BipolarQuant", x, n.constant(1.0), domain="qonnx.custom_op.general"),
        "a BipolarQuant, whose levels -1 and 1 leave out 0; use a Quant of 2 bits",
    ),
    "rounding down": (
        lambda n, x: n.op(
            "Quant", x, n.constant(1.0), n.constant(0.0), n.constant(4.0), domain="qonnx.custom_op.general",
            rounding_mode="FLOOR",
        ),
        "a quantiser that rounds by FLOOR; round to the nearest: ROUND",
    ),
    "without a 0": (
        lambda n, x: n.real(n.op("Clip", n.quantise(x, 0.1), n.constant(3, np.int8), n.constant(7, np.int8)), 0.1),
        "a quantiser whose range 3 to 7 has no 0; calibrate it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    n = Net()
    model = n.model(build(n, n.input("N", 3)))
    with pytest.raises(ConversionError) as caught:
        converters.from_onnx(model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
