"""The form in whole numbers: onnxruntime's integers are the executor's, every one, and so are its real outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters import QuantGraph
from converters.onnx_export import QUANTISED, WHOLE
from converters.onnx_export.whole_convolutions import digits
from converters.operations import (
    OPERATIONS,
    AdaptiveMaxPool,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Levels,
    LocalResponse,
    MaxPool,
    Mix,
    Normalise,
    Operation,
    Softmax,
    SumPool3d,
    Synapse,
)
from converters.ports.outputs import leaves
from converters.quantised import GraphBuilder, InputSpec, Layer
from converters.testing import networks
from tests.converters import random_networks
from tests.converters.onnx_export.running import differing, outputs_of

KNOWN = [name for name in networks.NETWORKS if name != "counting"]  # whose operation only its tests know


@pytest.mark.parametrize("name", KNOWN)
def test_every_integer_is_the_executors(name: str) -> None:
    q = networks.NETWORKS[name]()
    assert differing(q, networks.images(q, 20)) == {}


@pytest.mark.parametrize("name", KNOWN)
def test_outputs_are_what_the_network_returns(name: str) -> None:
    q = networks.NETWORKS[name]()
    images = networks.images(q, 6)
    found = outputs_of(converters.to_onnx(q, exact=True), q, images)
    wanted = list(leaves(q.returned(q.execute(images))))
    assert len(found) == len(wanted)
    for ours, theirs, output in zip(found.values(), wanted, leaves(q.outputs), strict=True):
        close = 1e-6 if output.tail else 0.0  # functions behind the network are floats of either library
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_that_is_returned_twice(exact: bool) -> None:
    q = networks.dense()
    twice = QuantGraph(q.input, q.layers, outputs=("fc3", ["fc3", "fc1"]))
    found = outputs_of(converters.to_onnx(twice, exact=exact), twice, networks.images(q, 3))
    assert list(found) == ["output.0", "output.1.0", "output.1.1"]
    assert torch.equal(found["output.0"], found["output.1.0"])


def test_names_of_outputs_are_the_keys_that_lead_to_them() -> None:
    model = converters.to_onnx(networks.heads(), exact=True)
    assert [o.name for o in model.graph.output] == [
        "output.classes", "output.maps.0", "output.maps.1", "output.rest.0", "output.rest.1"
    ]  # fmt: skip
    assert [o.name for o in converters.to_onnx(networks.dense()).graph.output] == ["output"]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(random_networks.graphs(), st.integers(0, 2**16))
def test_random_networks(q: QuantGraph, seed: int) -> None:
    """Of any sources, weights up to 90,000 and counts up to 40,000, thresholds that tie often."""
    spec = q.input
    n = torch.randint(spec.q_min, spec.q_max + 1, (3, *spec.shape), generator=torch.Generator().manual_seed(seed))
    assert differing(q, n.float() * spec.scale) == {}


def _one(shape: tuple[int, ...], op: Operation, largest: int = 7, **layer: Any) -> QuantGraph:
    """A network that shows the result of an operation as it is."""
    b = GraphBuilder()
    x = b.input(shape, scale=1.0, q_min=-largest, q_max=largest)
    reach = max(1, op.reach(largest))
    ends = {"y_min": -reach, "y_max": reach, "scale": 1.0, "threshold": 1.0}
    return b.build(b.layer("one", [(x, op)], **{**ends, **layer}))


def _random(q: QuantGraph, seed: int = 0, n: int = 4) -> torch.Tensor:
    spec, generator = q.input, torch.Generator().manual_seed(seed)
    return torch.randint(spec.q_min, spec.q_max + 1, (n, *spec.shape), generator=generator).float()


def _weights(*shape: int) -> torch.Tensor:
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(1), dtype=torch.int8)


OF_A_KIND: dict[str, tuple[tuple[int, ...], Operation]] = {
    "conv 1d": ((4, 9), Conv1d(_weights(6, 2, 3), (2,), (1,), (2,), 2)),
    "conv 3d": ((2, 5, 4, 6), Conv3d(_weights(3, 2, 3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 2))),
    "conv transposed 1d": ((4, 5), ConvTranspose1d(_weights(6, 2, 3), (2,), (1,), (2,), 2, (1,))),
    "conv transposed 2d": ((4, 3, 5), ConvTranspose2d(_weights(6, 2, 3, 2), (3, 1), (1, 0), (1, 2), 2, (2, 0))),
    "conv transposed 3d": ((2, 3, 2, 2), ConvTranspose3d(_weights(3, 2, 2, 2, 3), (2, 1, 2), (1, 0, 1))),
    "sum pool 3d": ((3, 4, 5, 4), SumPool3d((2, 3, 2), (1, 2, 2), (1, 1, 0))),
    "mix of the middle": ((3, 5, 2), Mix(_weights(4, 5), 1)),
    "mix of the last": ((3, 5), Mix(_weights(4, 5), 1)),
    "max pool 1d": ((3, 9), MaxPool((3,), (2,), (1,), (2,), True)),
    "max pool 3d": ((2, 5, 6, 4), MaxPool((2, 3, 2), (2, 2, 1), (1, 0, 1), (1, 1, 2))),
    "max pool in ceil mode": ((2, 6, 7), MaxPool((3, 3), (2, 3), (1, 0), (1, 1), True)),
    "adaptive max pool": ((2, 7, 5), AdaptiveMaxPool((3, 5))),
    "adaptive max pool to more": ((2, 3, 4), AdaptiveMaxPool((5, 2))),
    "local response, even": ((5, 3, 2), LocalResponse(4, alpha=0.3, beta=1.25, k=2.0, bits=12)),
    "softmax of the middle": ((3, 4, 2), Softmax.of(scale=0.31, axis=1, bits=10)),
    "softmax of what a mask leaves": (
        (3, 4, 2),
        Softmax.of(scale=0.31, axis=1, bits=10).masked(torch.tensor([1, 0, 1, 1], dtype=torch.int8)[None, :, None]),
    ),
    "norm without a mean": ((6, 3), Normalise((0,), 3, groups=2, centred=False, eps=0.2, bits=10)),
    "norm of what may be 0": ((2, 3), Normalise((1,), 3, eps=0.0, bits=10)),
    "one level": (
        (2, 3),
        Levels.of("identity", units=(1e-9,), offsets=(0.0,), scale=1.0, y_min=0, y_max=3, limit=7),
    ),
}


@pytest.mark.parametrize("name", OF_A_KIND)
def test_operations_by_themselves(name: str) -> None:
    shape, op = OF_A_KIND[name]
    q = _one(shape, op)
    x = _random(q)
    x[0] = 0
    assert differing(q, x) == {}


def test_every_operation_of_the_package_has_nodes_in_both_forms() -> None:
    assert {name for name, kind in OPERATIONS.items() if kind not in WHOLE or kind not in QUANTISED} == set()


@pytest.mark.parametrize("kind", sorted(networks.NETWORKS))
def test_the_checker_of_onnx_finds_nothing(kind: str) -> None:
    if kind in KNOWN:
        onnx.checker.check_model(converters.to_onnx(networks.NETWORKS[kind](), exact=True), full_check=True)


# --- sums beyond what float32 holds -----------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=6), st.integers(1, 2**21))
def test_digits_are_the_weights_and_short(weights: list[int], largest: int) -> None:
    w = torch.tensor([weights])
    parts = list(digits(w, largest))
    assert torch.equal(sum((d * f for d, f in parts), torch.zeros_like(w)), w)
    for d, _ in parts:
        assert int(d.abs().sum()) * largest < 2**24, "float32 adds these up without rounding, in any order"


@pytest.mark.parametrize(
    ("largest", "weight"), [(3, 5), (3, 2**23), (1000, 90_000), (2**20, 5), (2**20, 90_000), (2**23, 2**23), (2**26, 9)]
)
def test_sums_beyond_float32_are_exact(largest: int, weight: int) -> None:
    g = torch.Generator().manual_seed(0)
    op = Conv2d(torch.randint(-weight, weight + 1, (3, 2, 3, 3), generator=g), padding=(1, 1))
    q = _one((2, 5, 5), op, largest=largest, y_min=0, y_max=0, spiking=False)  # the accumulator itself
    x = torch.randint(-largest, largest + 1, (3, 2, 5, 5), generator=g).float()
    x[0] = largest
    assert differing(q, x) == {}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0.6, 9.0), st.floats(-20, 20), st.sampled_from(["even", "up"]), st.sampled_from([1, 2, 4, 10**6]))
def test_quotients_round_as_they_do_exactly(threshold: float, bias: float, tie: Any, grid: int) -> None:
    """Every accumulator of a range, so that whatever is near a tie, or on one, is there."""
    threshold, bias = round(threshold * grid) / grid, round(bias * grid) / grid
    spec = InputSpec((1,), 1.0, -200, 200)
    layer = Layer("one", (Synapse(("input",)),), torch.tensor(threshold), torch.tensor(bias), -500, 500, 1.0, (1,), tie)
    q = QuantGraph(spec, (layer,))
    assert differing(q, torch.arange(-200.0, 201.0)[:, None]) == {}


def test_the_tempting_quotient_is_wrong_beside_a_tie() -> None:
    """A bias that float64 loses as it is added: the sum is a tie then, and none in truth."""
    layer = Layer("one", (Synapse(("input",)),), torch.tensor(2.0), torch.tensor(1e-18), 0, 9, 1.0, (1,))
    assert np.rint((1 + 1e-18) / 2.0) == 0
    q = QuantGraph(InputSpec((1,), 1.0, 0, 9), (layer,))
    x = torch.arange(10.0)[:, None]
    assert int(q.execute(x)["one"][1]) == 1
    assert differing(q, x) == {}
