"""The QDQ form: onnxruntime's levels are the executor's, but where float32 comes out on the other side of a tie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor

import converters
from converters import QuantGraph
from converters.errors import ConversionError
from converters.onnx_export import WHOLE, Whole
from converters.onnx_export.functions import FUNCTIONS
from converters.onnx_export.writer import Writer
from converters.operations import (
    ConvTranspose2d,
    Levels,
    Linear,
    LocalResponse,
    Mix,
    Normalise,
    Operation,
    Scale,
    Shape,
    SumPool2d,
    Weigh,
)
from converters.operations.activations import ACTIVATIONS
from converters.quantised import GraphBuilder
from converters.testing import networks
from tests.converters.onnx_export.running import near_ties, outputs_of, session

KNOWN = [name for name in networks.NETWORKS if name not in ("counting", "membrane")]


@pytest.mark.parametrize("name", KNOWN)
def test_every_level_but_for_near_ties(name: str) -> None:
    q = networks.NETWORKS[name]()
    found = near_ties(q, networks.images(q, 40))
    assert found.layers == set(q.shapes), "each is compared"
    assert found.near_ties < found.integers / 50


def test_the_comparison_finds_a_wrong_level() -> None:
    q = networks.dense()
    layer = q.layers[0]
    shifted = QuantGraph(q.input, (replace(layer, bias=layer.bias + 0.37), *q.layers[1:]))
    model = converters.to_onnx(shifted, integers=True)
    images = networks.images(q, 200)
    wrong = outputs_of(model, q, images)["fc1"] != q.execute(images)["fc1"]
    assert bool(wrong.any()), "or the next line would say nothing"
    with pytest.raises(ConversionError, match="fc1: found that"):
        near_ties(q, images, model)


def _kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_what_toolkits_write() -> None:
    """Weights in 8 bits with a scale for each channel, activations with one, a ReLU in front of a quantiser's 0."""
    model = converters.to_onnx(_lenet())
    assert _kinds(model).count("QuantizeLinear") == len(_lenet().layers) + 1
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    of = {output: node for node in model.graph.node for output in node.output}
    weight = of[conv.input[1]]
    assert weight.op_type == "DequantizeLinear"
    assert values[weight.input[0]].dtype == np.int8
    assert values[weight.input[1]].shape == (6,)
    assert values[conv.input[2]].shape == (6,)
    before = {node.input[0]: node.op_type for node in model.graph.node}
    assert before[conv.output[0]] == "Relu"
    assert _kinds(model).count("Clip") == 2, "of the input, and of the logits, which have -127 to 127"


def _lenet() -> QuantGraph:
    from converters.zoo.named import load_checkpoint

    return load_checkpoint("lenet5-mnist-127")[0]


def test_weights_and_scales_are_those_of_training() -> None:
    """Scales of float32 come out as they went in: threshold and bias are made of them, and give them back."""
    q = _lenet()
    model = converters.to_onnx(q)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    quantisers = {n.output[0]: values[n.input[1]] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    first = q.layers[0]
    assert quantisers[first.name] == np.float32(first.scale)
    scale = values[f"{first.name}/scale"].astype(np.float64)
    recovered = first.scale / (scale * q.input.scale)
    assert np.abs(recovered / first.threshold.numpy() - 1).max() < 1e-12, "float64 apart, not float32"


def test_optimised_it_is_the_same_but_for_ties() -> None:
    """onnxruntime's own kernels in the place of quantisers: levels one apart at most."""
    q = networks.pooled()
    images = networks.images(q, 40)
    model = converters.to_onnx(q)
    one, two = (
        session(model, level).run(None, {"input": images.numpy()})[0] / q.output.scale
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")
    )
    assert np.abs(one - two).max() < 2.5
    assert (np.abs(one - two) > 0.5).mean() < 0.1


# --- functions --------------------------------------------------------------------------------------

_PARAMETERS: dict[str, tuple[float, ...]] = {
    "celu": (0.7,), "clamp": (-0.4, 0.8), "clamp_max": (0.5,), "clamp_min": (-0.3,), "elu": (0.7,),
    "hardshrink": (0.4,), "leaky_relu": (0.2,), "softplus": (2.0, 20.0), "softshrink": (0.4,),
    "threshold": (0.1, -0.5),
}  # fmt: skip


def test_all_functions_of_the_package_can_be_said() -> None:
    assert {name for name in ACTIVATIONS if not ACTIVATIONS[name].__module__.startswith("tests")} >= set(FUNCTIONS) - {
        "neg"
    }
    assert set(_PARAMETERS) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"neg"}))
def test_functions_are_those_of_pytorch(name: str) -> None:
    x = torch.linspace(-4, 4, 161, dtype=torch.float64).reshape(1, -1).clone()
    parameters = _PARAMETERS.get(name, ())
    wanted = ACTIVATIONS[name](x, *(torch.tensor(p, dtype=torch.float64) for p in parameters))
    levels = Levels.of(
        name, parameters=parameters, units=(0.05,), offsets=(0.013,), scale=0.02, y_min=-3000, y_max=3000, limit=80
    )
    b = GraphBuilder()
    given_ = b.input((161,), scale=0.05, q_min=-80, q_max=80)
    out = b.layer("f", [(given_, levels)], threshold=1.0, y_min=-3000, y_max=3000, scale=0.02)
    q = b.build(out)
    assert near_ties(q, x.float()).layers == {"input", "f"}
    found = outputs_of(converters.to_onnx(q), q, x.float())["output"].double()
    shifted = ACTIVATIONS[name](x + 0.013, *(torch.tensor(p, dtype=torch.float64) for p in parameters))
    jump = 0.6 if name in ("sign", "hardshrink", "threshold") else 0.011  # half a level, where nothing jumps
    assert float((found - shifted).abs().max()) < jump
    assert wanted.shape == found.shape


# --- layers that need more than one node -------------------------------------------------------------

_G = torch.Generator().manual_seed(5)


def _integers(*shape: int) -> Tensor:
    return torch.randint(-5, 6, shape, generator=_G)


CHAINS: dict[str, tuple[Shape, tuple[Operation, ...]]] = {
    "transposed in groups": ((4, 3, 3), (ConvTranspose2d(_integers(6, 2, 2, 2), groups=2),)),
    "pool and weights by place": ((4, 4, 4), (SumPool2d((2, 2), (2, 2)), Weigh(_integers(1, 2, 2)))),
    "weights by channel": ((4, 3), (Weigh(torch.tensor([[3], [-2], [0], [1]])),)),
    "negative": ((4, 3), (Scale(-3),)),
    "mix of the last, then a weight": ((4, 3), (Mix(_integers(2, 3), 1), Scale(2))),
    "RMS in groups": ((6, 2), (Normalise((0,), 3, groups=2, centred=False, eps=0.1, bits=16),)),
    "layer norm over channels": ((5, 2), (Normalise((0,), 5, eps=0.1, bits=16),)),
    "layer norm over the last": ((3, 4), (Normalise((1,), 4, eps=0.1, bits=16),)),
    "local response": ((5, 3, 2), (LocalResponse(3, alpha=0.2, k=1.5, bits=16),)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_thresholds_of_their_own_for_each_channel(name: str) -> None:
    shape, ops = CHAINS[name]
    b = GraphBuilder()
    x = b.input(shape, scale=0.37, q_min=-9, q_max=9)
    here, reach = shape, 9
    for op in ops:
        here, reach = op.output_shape(here), op.reach(reach)
    size = reach / 20
    threshold = size * (1 + torch.rand(here[0], generator=_G, dtype=torch.float64))
    bias = size * torch.randn(here[0], generator=_G, dtype=torch.float64)
    q = b.build(b.layer("one", [(x, ops)], threshold=threshold, bias=bias, y_min=-9, y_max=9, scale=0.21))
    images = (torch.rand(30, *shape, generator=_G) * 2 - 1) * 3.4
    found = near_ties(q, images)
    assert found.layers == {"input", "one"}
    assert len(q.execute(images)["one"].unique()) > 4, "of many levels"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.integers(1, 40_000), st.booleans(), st.integers(1, 4))
def test_ranges_of_all_sizes(seed: int, top: int, signed: bool, n: int) -> None:
    """8 bits and 16, with and without a clip."""
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((3,), scale=0.01, q_min=-5 if signed else 0, q_max=min(top, 32_767))
    w = torch.randint(-3, 4, (n, 3), generator=g)
    low = -min(top, 32_768) if signed else 0
    high = min(top, 32_767 if signed else 65_535)
    q = b.build(b.layer("fc", [(x, Linear(w))], threshold=2.3, bias=0.4, y_min=low, y_max=high, scale=0.02))
    images = torch.rand(5, 3, generator=g) * 0.01 * q.input.q_max
    assert near_ties(q, images).layers == {"input", "fc"}


# --- what cannot be said -----------------------------------------------------------------------------


def _one(op: Operation | None = None, **layer: Any) -> QuantGraph:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=4)
    given_: dict[str, Any] = {"threshold": 2.0, "y_min": 0, "y_max": 9, "scale": 1.0} | layer
    return b.build(b.layer("block.fc", [(x, op or Linear(torch.ones(2, 2, dtype=torch.int8)))], **given_))


def _own() -> QuantGraph:
    converters.register_activation("tests.bump", lambda x: torch.exp(-x * x))
    op = Levels.of("tests.bump", units=(0.5,), offsets=(0.0,), scale=0.1, y_min=0, y_max=9, limit=4)
    return _one(op, threshold=1.0)


REFUSED = {
    "ties that go up": (lambda: _one(tie="up"), "block.fc: found ties that go up"),
    "more than 16 bits": (lambda: _one(y_max=70_000), "block.fc: found levels from 0 to 70000"),
    "a function of one's own": (_own, "block.fc: tests.bump: found a function that ONNX has no node for"),
    "an even window": (
        lambda: _one(LocalResponse(2, alpha=0.1, bits=8), threshold=256.0),
        "block.fc: LocalResponse: found a window of 2 channels",
    ),
    "an operation of one's own": (networks.counting, "larger: LargerPlusOne: found an operation without ONNX nodes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_that_names_the_layer(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConversionError) as error:
        converters.to_onnx(make())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ties that go up", "more than 16 bits", "a function of one's own", "an even window"])
def test_whole_numbers_say_what_qdq_cannot(name: str) -> None:
    q = REFUSED[name][0]()
    found = outputs_of(converters.to_onnx(q, exact=True, integers=True), q, x := torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    assert torch.equal(found["block.fc"].long(), q.execute(x)["block.fc"])


def test_an_operation_of_ones_own_is_entered() -> None:
    @WHOLE.says(networks.LargerPlusOne)
    def larger(w: Writer, op: Operation, x: Whole) -> str:
        half = x.shape[0] // 2
        parts = [w.node("Slice", x.name, w.places([k]), w.places([k + half]), w.places([1])) for k in (0, half)]
        return w.node("Add", w.node("Max", *parts), w.constant(np.float64(1)))

    q = networks.counting()
    images = networks.images(q, 10)
    found = outputs_of(converters.to_onnx(q, exact=True, integers=True), q, images)
    assert all(torch.equal(found[layer.name].long(), q.execute(images)[layer.name]) for layer in q.layers)


def test_what_is_no_network() -> None:
    with pytest.raises(ConversionError, match="q: found str; give a quantised network"):
        converters.to_onnx("net.nir")


# --- files -------------------------------------------------------------------------------------------


def test_a_file_is_the_model_and_the_same_bytes(tmp_path: Path) -> None:
    q = networks.gated()
    model = converters.to_onnx(q, tmp_path / "a.onnx")
    converters.to_onnx(q, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert onnx.load(tmp_path / "a.onnx") == model
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="create the folder first"):
        converters.to_onnx(networks.dense(), tmp_path / "none" / "a.onnx")


def test_images_of_any_number() -> None:
    q = networks.gated()
    run = session(converters.to_onnx(q))
    for n in (1, 7):
        (out,) = run.run(None, {"input": networks.images(q, 7)[:n].numpy()})
        assert out.shape == (n, *q.output.shape)


def test_average_pools_are_pytorchs() -> None:
    """An oracle that is no part of this package: an average of real values, within half a level."""
    b = GraphBuilder()
    x = b.input((2, 5, 5), scale=0.5, q_min=-9, q_max=9)
    q = b.build(b.layer("p", [(x, SumPool2d((3, 3), (2, 2), (1, 1)))], threshold=9 * 0.25 / 0.5, y_min=-90, y_max=90,
                        scale=0.25))  # fmt: skip
    images = torch.randint(-9, 10, (4, 2, 5, 5), generator=_G) * 0.5
    found = outputs_of(converters.to_onnx(q), q, images)["output"]
    assert float((found - F.avg_pool2d(images, 3, 2, 1)).abs().max()) <= 0.125 + 1e-6
