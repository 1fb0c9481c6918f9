"""What surrounds operations: inputs, outputs, functions behind them, constants, versions of the standard, functions."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import defs, helper

import converters
from converters.errors import ConversionError
from converters.frontends.onnx import pooling
from tests.converters.frontends.onnx.building import Net, whole
from tests.converters.frontends.onnx.comparing import converted, noise


def dense(n: Net, x: str, inputs: int = 6, outputs: int = 4, seed: int = 0) -> str:
    return n.op("Gemm", x, n.weight(whole((inputs, outputs), seed)), n.constant(np.linspace(-0.3, 0.3, outputs)))


def small(opset: int = 21) -> Net:
    n = Net(opset=opset)
    n.fake(dense(n, n.fake(n.input("N", 6))), 0.0437)
    return n


def last(n: Net) -> str:
    return n.nodes[-1].output[0]


@pytest.mark.parametrize("opset", range(13, min(defs.onnx_opset_version(), 26) + 1))
def test_every_version_of_the_standard_from_13(opset: int) -> None:
    """Axes and splits moved from attributes to operands, and quantisers got attributes, on the way."""
    n = Net(opset=opset)
    x = n.fake(n.input("N", 2, 3, 4))
    x = n.op("Squeeze", n.op("Unsqueeze", x, n.constant([2], np.int64)), n.constant([2], np.int64))
    axes: dict[str, Any] = {"axes": [3]} if opset < 18 else {}
    x = n.op("ReduceMean", x, *([] if axes else [n.constant([3], np.int64)]), keepdims=0, **axes)
    a, b = n.op("Split", n.fake(x, 0.031), n.constant([1, 1], np.int64), outputs=2, axis=1)
    y = n.fake(dense(n, n.op("Flatten", n.op("Concat", b, a, axis=1))), 0.0437)
    converted(n.model(y), noise(4, 2, 3, 4))


@pytest.mark.parametrize(("opset", "message"), [(12, "export it with opset 13"), (99, "install a newer one")])
def test_other_versions_are_refused(opset: int, message: str) -> None:
    n = small()
    model = n.model(last(n), opsets={"": opset})
    with pytest.raises(ConversionError, match=f"model: found opset {opset}; .*{message}"):
        converters.from_onnx(model)


def test_an_output_without_a_quantiser_is_read_from_the_membrane() -> None:
    n = Net()
    q = converted(n.model(dense(n, n.fake(n.input("N", 6)))), noise(4, 6))
    assert not q.layers[-1].spiking


def test_a_sum_without_a_quantiser_is_read_from_the_membrane() -> None:
    n = Net()
    x = n.fake(n.input("N", 6))
    y = n.op("Add", n.fake(dense(n, x, 6, 6), 0.03), x)
    q = converted(n.model(y), noise(4, 6))
    assert not q.layers[-1].spiking


FLOAT: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax(dim=-1)": ("Softmax", {}),
    "softmax(dim=1)": ("Softmax", {"axis": 1}),
    "log_softmax(dim=1)": ("LogSoftmax", {"axis": 1}),
    "sigmoid()": ("Sigmoid", {}),
    "relu()": ("Relu", {}),
    "argmax(dim=1, keepdim=False)": ("ArgMax", {"axis": 1, "keepdims": 0}),
}


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("tail", FLOAT)
def test_a_function_behind_the_last_quantiser_runs_in_float(tail: str, quantised: bool) -> None:
    op, attributes = FLOAT[tail]
    n = Net()
    y = dense(n, n.fake(n.input("N", 6)))
    model = n.model(n.op(op, n.fake(y, 0.0437) if quantised else y, **attributes))
    q = converted(model, noise(4, 6))
    assert str(q.outputs) == f"{q.layers[-1].name} -> {tail}"


def test_several_inputs_and_outputs_have_their_names() -> None:
    n = Net()
    a, b = (n.fake(n.input("N", 6, name=name)) for name in ("left", "right"))
    y, z = n.fake(n.op("Add", a, b), 0.0973), n.fake(dense(n, b), 0.0437)
    images = {"left": noise(4, 6), "right": noise(4, 6, seed=1)}
    q = converted(n.model(z, y), images)
    assert [spec.name for spec in q.inputs] == ["left", "right"]
    assert list(q.outputs) == [z, y]


def test_initialisers_that_are_listed_as_inputs_are_no_inputs() -> None:
    n = small()
    model = n.model(last(n))
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(info)
    assert len(converted(model, noise(4, 6)).inputs) == 1


def test_constants_that_are_nodes_and_are_computed() -> None:
    n = Net()
    x = n.fake(n.input("N", 6))
    two = n.op("Constant", value=onnx.numpy_helper.from_array(np.array(2, np.float32), "two"))
    bias = n.op("Mul", two, n.op("Range", n.constant(0.0), n.constant(1.0), n.constant(0.25)))
    y = n.op("Gemm", x, n.weight(whole((6, 4))), bias)
    q = converted(n.model(n.fake(y, 0.0437)), noise(4, 6))
    unit = q.input.scale * 0.01
    assert q.layers[0].bias.numpy() == pytest.approx(np.array([0, 0.5, 1.0, 1.5]) / unit, rel=1e-6)


def test_what_no_output_needs_is_not_read() -> None:
    n = small()
    wanted = last(n)
    n.op("NonMaxSuppression", wanted, wanted)
    converters.from_onnx(n.model(wanted), check=False)


def test_functions_of_the_model_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["c"])]
    function = helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 21)])
    n = Net()
    y = n.op("Twice", dense(n, n.fake(n.input("N", 6))), domain="own")
    model = n.model(n.fake(y, 0.0437))
    model.functions.append(function)
    assert converted(model, noise(4, 6)).layers[0].y_min == 0


def test_a_fixed_batch_is_filled() -> None:
    n = Net()
    y = n.fake(dense(n, n.fake(n.input(3, 6))), 0.0437)
    q = converted(n.model(y), noise(4, 6))
    assert q.checked is not None
    assert q.checked.images == 4


def test_open_sizes_are_those_of_the_example() -> None:
    n = Net()
    x = n.fake(n.input("N", 2, "height", "width"))
    y = n.fake(n.op("Conv", x, n.weight(whole((3, 2, 3, 3)))), 0.0437)
    model = n.model(y)
    assert converters.from_onnx(model, noise(2, 2, 5, 7)).layers[0].shape == (3, 3, 5)
    with pytest.raises(ConversionError, match=r"x: found the open size 'height' of .*; give an example: it fixes them"):
        converters.from_onnx(model)
    with pytest.raises(ConversionError, match=r"an example of shape \(2, 3, 5, 7\)"):
        converters.from_onnx(model, noise(2, 3, 5, 7))


def test_shapes_that_mix_images_are_refused() -> None:
    n = Net()
    x = n.fake(n.input("N", 6))
    y = n.fake(dense(n, n.op("Reshape", x, n.constant([-1, 4], np.int64)), 4))
    with pytest.raises(ConversionError, match="leave the axis of the images alone"):
        converters.from_onnx(n.model(y))


def test_images_need_not_be_first() -> None:
    """Tokens in front of them, and both on one axis; a sum, a norm and a product with weights there."""
    n = Net()
    x = n.fake(n.input("N", 5, 6))
    x = n.op("Transpose", x, perm=[1, 0, 2])
    x = n.fake(
        n.op("Add", n.op("MatMul", x, n.weight(whole((6, 4)))), n.constant(np.linspace(0, 1, 20).reshape(5, 1, 4)))
    )
    x = n.fake(n.op("LayerNormalization", x, n.constant([1.0, 2, 0.5, 1])), 0.0437)
    x = n.fake(n.op("Gemm", n.op("Reshape", x, n.constant([-1, 4], np.int64)), n.weight(whole((4, 3)))), 0.0437)
    x = n.op("Transpose", n.op("Reshape", x, n.constant([5, -1, 3], np.int64)), perm=[1, 0, 2])
    converted(n.model(x), noise(4, 5, 6), backends=("closed_form",))


def test_images_that_stay_elsewhere_are_refused() -> None:
    n = Net()
    x = n.op("Transpose", n.fake(n.input("N", 5, 6)), perm=[1, 0, 2])
    with pytest.raises(ConversionError, match="an output whose images are not along the first axis; transpose it"):
        converters.from_onnx(n.model(x))
    with pytest.raises(
        ConversionError, match="a GlobalAveragePool of values whose images are not along the first axis"
    ):
        converters.from_onnx(n.model(n.op("GlobalAveragePool", x)))
    m = Net()
    x = m.op("Transpose", m.fake(m.input(2, 5, 6)), perm=[1, 0, 2])
    with pytest.raises(
        ConversionError, match="which moves the images; leave their axis alone, or export the model with"
    ):
        converters.from_onnx(m.model(x))


def test_an_oracle_of_onnx_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where onnxruntime is not installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    n = small()
    q = converters.from_onnx(n.model(last(n)), noise(4, 6))
    assert q.checked is not None
    assert q.checked.model == "onnx.reference"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'onnx: .*pip install "calif-plugins\[onnx\]"'):
        converters.from_onnx("model.onnx")


def test_the_model_is_left_as_it_is() -> None:
    n = small()
    model = n.model(last(n))
    before = model.SerializeToString(deterministic=True)
    converters.from_onnx(model, noise(4, 6))
    assert model.SerializeToString(deterministic=True) == before


def test_near_ties_of_layers_that_are_not_shown_are_near_ties() -> None:
    """A max pool that stands in front of the quantiser of a convolution, and a maximum of unequal scales.

    All sums are near ties: the scales are multiples of one another up to the precision of float32.
    """
    n = Net()
    a, b = (n.fake(n.input("N", 2, 6, 6, name=name), scale) for name, scale in (("x", 0.05), ("y", 0.03)))
    y = n.op("Conv", a, n.weight(whole((3, 2, 1, 1)), 0.02))
    pooled = n.fake(n.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 0.04)
    model = n.model(pooled, n.fake(n.op("Max", a, b), 0.04))
    images = {"x": noise(9, 2, 6, 6), "y": noise(9, 2, 6, 6, seed=1)}
    q = converters.from_onnx(model, images, check=images)
    assert q.checked is not None
    assert q.checked.near_ties > 20


def test_a_planted_fault_behind_a_layer_that_is_not_shown_is_found() -> None:
    n = Net()
    x = n.fake(n.input("N", 2, 6, 6))
    y = n.op("MaxPool", n.op("Conv", x, n.weight(whole((3, 2, 1, 1)))), kernel_shape=[2, 2], strides=[2, 2])
    model = n.model(n.fake(y, 0.0437))
    converters.from_onnx(model, noise(4, 2, 6, 6))
    with pytest.MonkeyPatch.context() as patch:
        original = pooling.windows_of
        patch.setattr(pooling, "windows_of", lambda *a, **k: replace(original(*a, **k), kernel=(2, 1)))
        with pytest.raises(ConversionError, match="differ on the model's own inputs"):
            converters.from_onnx(model, noise(4, 2, 6, 6))
