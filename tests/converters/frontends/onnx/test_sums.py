"""Sums in front of a quantiser: a convolution and the branch beside it, as TensorRT's toolkits leave them.

``from_onnx`` compares every layer with onnxruntime itself, so to be read is to be right.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError
from tests.converters.frontends.onnx.building import Net


def _conv(net: Net, x: str, out: int, channels: int, rng: np.random.Generator, *, bias: bool, spread: float) -> str:
    weight = net.weight(rng.integers(-9, 10, (out, channels, 3, 3)), 0.01 * (1 + spread * rng.random(out)))
    more = [net.constant(rng.normal(0, 0.1, out))] if bias else []
    return str(net.op("Conv", x, weight, *more, pads=[1, 1, 1, 1]))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.sampled_from([0.0, 3.0]), st.booleans(), st.sampled_from(["Add", "Sub", "Sum"]))
def test_two_convolutions_and_a_branch(seed: int, spread: float, bias: bool, op: str) -> None:
    rng, net = np.random.default_rng(seed), Net()
    x = net.fake(net.input("N", 4, 5, 5), 0.05)
    one = _conv(net, x, 4, 4, rng, bias=bias, spread=spread)
    two = _conv(net, net.fake(net.op("Relu", one), 0.04), 4, 4, rng, bias=bias, spread=spread)
    parts = [two, x, _conv(net, x, 4, 4, rng, bias=bias, spread=spread)] if op == "Sum" else [two, x]
    total = net.op("Relu", net.op(op, *parts))
    q = converters.from_onnx(net.model(net.fake(total, 0.06)))
    assert q.checked is not None
    last = q.output
    assert len(last.synapses) == len(parts)
    assert {name for s in last.synapses for name in s.sources} >= {"input"}
    assert len(q.layers) == 2, "the sum and its convolutions are one layer"


def test_scales_that_are_alike_need_no_factors() -> None:
    """Two products of the same float32 scales: every weight stays the integer that it was."""
    rng, net = np.random.default_rng(0), Net()
    x = net.fake(net.input("N", 2, 4, 4), 0.05)
    one, two = (_conv(net, x, 3, 2, rng, bias=False, spread=0.0) for _ in range(2))
    q = converters.from_onnx(net.model(net.fake(net.op("Add", one, two), 0.02)))
    assert [[type(op).__name__ for op in s.ops] for s in q.output.synapses] == [["Conv2d"], ["Conv2d"]]


def test_a_sum_of_sums_is_one_sum() -> None:
    rng, net = np.random.default_rng(1), Net()
    x = net.fake(net.input("N", 2, 4, 4), 0.05)
    parts = [_conv(net, x, 3, 2, rng, bias=True, spread=2.0) for _ in range(5)]
    total = parts[0]
    for part in parts[1:]:
        total = net.op("Add", total, part)
    q = converters.from_onnx(net.model(net.fake(total, 0.02)))
    assert len(q.layers) == 1
    assert len(q.output.synapses) == 5


def test_channels_that_are_stretched_over_a_map() -> None:
    rng, net = np.random.default_rng(2), Net()
    x = net.fake(net.input("N", 3, 4, 4), 0.05)
    one = _conv(net, x, 3, 3, rng, bias=True, spread=1.0)
    gate = net.fake(net.op("GlobalAveragePool", x), 0.01)
    mixed = net.op("Conv", gate, net.weight(rng.integers(-9, 10, (3, 3, 1, 1)), 0.02 * np.arange(1, 4)),
                   net.constant([0.1, -0.2, 0.3]))  # fmt: skip
    q = converters.from_onnx(net.model(net.fake(net.op("Add", one, mixed), 0.02)))
    images = torch.rand(4, 3, 4, 4)
    counts = converters.run(converters.to_nir(q, T=8), images, backend="fast").counts
    expected = q.at_window(8).execute(images)
    assert all(torch.equal(counts[name].long(), expected[name]) for name in counts)


def test_a_function_of_such_a_sum_is_refused() -> None:
    rng, net = np.random.default_rng(3), Net()
    x = net.fake(net.input("N", 2, 4, 4), 0.05)
    one, two = (_conv(net, x, 3, 2, rng, bias=False, spread=2.0) for _ in range(2))
    model = net.model(net.fake(net.op("Tanh", net.op("Add", one, two)), 0.01))
    with pytest.raises(ConversionError, match="found tanh of a sum of layers"):
        converters.from_onnx(model)
