"""Quantised networks themselves: ranges of short windows, scales, what goes in, and the executor's integers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.exact.rounding import round_fraction
from converters.network import Network
from converters.operations import Linear, Synapse
from converters.quantised import GraphBuilder, InputSpec, Layer, QuantGraph, average_pool


def two_layers(top: int, low: int, high: int) -> QuantGraph:
    b = GraphBuilder()
    x = b.input((2,), scale=0.5, q_min=0, q_max=top)
    h = b.layer("h", [(x, Linear(torch.tensor([[1, 2], [3, -1]])))], threshold=2.5, y_min=0, y_max=top, scale=1.0)
    return b.build(b.layer("o", [(h, Linear(torch.tensor([[1, 1]])))], threshold=2.0, y_min=low, y_max=high, scale=1.0))


@given(top=st.integers(1, 300), low=st.integers(-300, 0), high=st.integers(0, 300), window=st.integers(1, 400))
@settings(deadline=None, database=None)
def test_a_short_window_leaves_every_layer_a_level(top: int, low: int, high: int, window: int) -> None:
    if low == high:
        high = 1
    q = two_layers(top, low, high)
    levels = max(top, -low, high)
    short = q.at_window(window)
    for before, after in zip(q.layers, short.layers, strict=True):
        assert after.spiking
        assert after.y_min < after.y_max
        for edge, cut in ((-before.y_min, -after.y_min), (before.y_max, after.y_max)):
            exact = round_fraction(Fraction(edge * min(window, levels), levels), "up")
            assert cut == exact or (after.y_max - after.y_min <= 2 and cut == min(edge, 1))
            assert cut <= window or window >= levels
    network = Network.from_graph(converters.to_nir(q, T=window))
    assert not any(stage.readout for stage in network.stages)


def test_an_output_of_few_levels_still_spikes() -> None:
    """Three levels beside 127 in a window of 8: three eighths of a sixteenth. It was read from its membrane."""
    q = two_layers(127, 0, 3)
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 60
    g = converters.to_nir(q, T=8)
    r = converters.run(g, x)
    assert r.counts["o"].unique().tolist() == [0, 1]
    assert torch.equal(r.counts["o"].long(), q.at_window(8).execute(x)["o"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_max": 0}, r"a spiking layer with the range \[0, 0\]; give it at least one level, or spiking=False"),
        ({"spiking": False}, r"a layer that does not spike with the range \[0, 3\]; its range is \[0, 0\]"),
        ({"y_min": 1}, r"the range \[1, 3\]; it must contain 0"),
    ],
)
def test_ranges_say_which_layers_spike(change: dict[str, Any], message: str) -> None:
    values = {"y_min": 0, "y_max": 3, "spiking": True} | change
    synapse = Synapse(("input",), (Linear(torch.tensor([[1, 1]])),))
    with pytest.raises(ConversionError, match=message):
        Layer(
            "o", (synapse,), torch.ones(1), torch.zeros(1), values["y_min"], values["y_max"], 1.0, (1,), "even",
            values["spiking"],
        )  # fmt: skip


def test_a_layer_without_spikes_feeds_none() -> None:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=3)
    eye = Linear(torch.eye(2, dtype=torch.int8))
    m = b.layer("m", [(x, eye)], threshold=1.0, y_min=0, y_max=0, scale=1.0, spiking=False)
    o = b.layer("o", [(m, eye)], threshold=1.0, y_min=0, y_max=3, scale=1.0)
    with pytest.raises(ConversionError, match="o: found an edge from 'm', which does not spike; quantise its output"):
        b.build(o)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, 5e-39, 2.0**127, 1e300, float("inf"), float("nan")])
def test_scales_that_float32_does_not_hold_are_refused(scale: float) -> None:
    with pytest.raises(ConversionError, match=r"an input scale of .*; it must be a number from 1.18e-38 to 8.51e[+]37"):
        InputSpec((2,), scale, 0, 3)


@given(exponent=st.integers(-126, 124), seed=st.integers(0, 1000))
@settings(deadline=None, database=None, max_examples=30)
def test_every_scale_gives_every_way_the_same_input(exponent: int, seed: int) -> None:
    b = GraphBuilder()
    scale = 2.0**exponent
    x = b.input((3,), scale=scale, q_min=-3, q_max=3)
    eye = Linear(torch.eye(3, dtype=torch.int8))
    g = converters.to_nir(b.build(b.layer("o", [(x, eye)], threshold=1.0, y_min=-3, y_max=3, scale=1.0)), T=3)
    whole = torch.randint(-5, 6, (4, 3), generator=torch.Generator().manual_seed(seed))
    images = whole.to(torch.float64) * scale
    for dtype in (torch.float32, torch.float64):
        for options in ({"backend": "fast"}, {"backend": "snntorch"}, {"backend": "closed_form"}):
            r = converters.run(g, images.to(dtype), **options)
            assert torch.equal(r.counts["o"].long(), whole.clamp(-3, 3))


def test_images_in_half_precision_are_the_numbers_that_they_are() -> None:
    spec = InputSpec((1,), 1 / 1000, 0, 4000)
    x = torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        assert torch.equal(spec.quantise(half), spec.quantise(half.to(torch.float32)))


@pytest.mark.parametrize("shared", [0.1, 0.017, 1 / 127, 3.3])
@pytest.mark.parametrize("kernel", [(2, 2), (7, 7), (3, 5), (14, 14)])
def test_a_pool_of_one_scale_has_a_whole_threshold(kernel: tuple[int, int], shared: float) -> None:
    """``49 * s / s`` in floats is not 49 for one scale in fourteen; then no tie is one."""
    b = GraphBuilder()
    x = b.input((1, 14, 14), scale=shared, q_min=0, q_max=9)
    average_pool(b, "p", x, kernel, kernel, (0, 0), scale=shared, y_min=0, y_max=9)
    assert b.layers[0].threshold.tolist() == [float(kernel[0] * kernel[1])]


@given(area=st.integers(1, 400), scale=st.floats(1e-6, 1e3), other=st.floats(1e-6, 1e3))
@settings(deadline=None, database=None)
def test_a_pools_threshold_is_rounded_once(area: int, scale: float, other: float) -> None:
    b = GraphBuilder()
    x = b.input((1, area, 1), scale=other, q_min=0, q_max=9)
    average_pool(b, "p", x, (area, 1), (area, 1), (0, 0), scale=scale, y_min=0, y_max=9)
    assert b.layers[0].threshold.tolist() == [float(area * Fraction(scale) / Fraction(other))]


def sparse() -> Tensor:
    return torch.eye(2).to_sparse()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2), r"a batch of shape \(2,\)"),
        (torch.zeros(()), r"a batch of shape \(\)"),
        (torch.zeros(1, 2, dtype=torch.complex64), "torch.complex64; give a float tensor"),
        (torch.zeros(1, 2, dtype=torch.float8_e4m3fn), "torch.float8_e4m3fn; give a float tensor"),
        (torch.zeros(1, 2, device="meta"), "torch.float32, torch.strided, on meta"),
        (sparse(), "torch.float32, torch.sparse_coo, on cpu"),
        ([[0.0, 1.0]], "list; give a float tensor"),
        (torch.tensor([[0.0, float("-inf")]]), "NaN or infinite pixels"),
        (torch.tensor([[0.0, float("nan")]], dtype=torch.float16), "NaN or infinite pixels"),
        (None, "both images and integers, or neither"),
    ],
)
def test_bad_images(bad: Any, message: str) -> None:
    q = two_layers(3, 0, 3)
    g = converters.to_nir(q, T=3)
    for way in (q.execute, lambda x: converters.run(g, x), lambda x: converters.cross_check(g, x)):
        with pytest.raises(ConversionError, match=message):
            way(bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 2, dtype=torch.complex64), r"torch.complex64 of shape \(1, 2\)"),
        (torch.zeros(2, dtype=torch.int64), r"torch.int64 of shape \(2,\)"),
        (torch.zeros(1, 2, dtype=torch.uint64), r"torch.uint64 of shape \(1, 2\)"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), "on meta of shape"),
        (torch.tensor([[0, 4]], dtype=torch.uint8), "values out of range; the input takes 0 to 3"),
    ],
)
def test_bad_integers(bad: Any, message: str) -> None:
    q = two_layers(3, 0, 3)
    g = converters.to_nir(q, T=3)
    for way in (q.execute, lambda integers: converters.run(g, integers=integers)):
        with pytest.raises(ConversionError, match=message):
            way(integers=bad)
    with pytest.raises(ConversionError, match=message):
        converters.cross_check(g, integers=bad)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integers_of_every_type(dtype: torch.dtype) -> None:
    q = two_layers(3, 0, 3)
    x = torch.tensor([[0, 1], [1, 1]])
    assert torch.equal(q.execute(integers=x.to(dtype))["o"], q.execute(integers=x)["o"])
