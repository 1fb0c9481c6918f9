"""The fast simulator against the step loop and the reference: every spike, every field of the result."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from calif_plugins import reference
from calif_plugins.multistep import CaLIFMultiStep, kernels
from calif_plugins.parameters import CaLIFParameters, Phase, TieRule
from converters.backends import fast as fast_backend
from converters.backends import fast_chunks, fast_events, fast_plan, fast_state, integer_kernels
from converters.errors import MissingExtraError
from converters.network import Network
from converters.operations import Conv2d, Linear, SumPool2d
from converters.quantised import GraphBuilder
from converters.zoo.named import load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images
from tests.networks import pixels

WINDOWS = (1, 7, 8, 100, 128, 255)


def assert_same(a: Any, b: Any) -> None:
    """Everything that two runs have in common."""
    assert a.spikes is not None
    assert b.spikes is not None
    assert a.spikes.keys() == b.spikes.keys()
    for k in a.spikes:
        assert torch.equal(a.spikes[k], b.spikes[k]), k
    for field in ("counts", "membranes", "positive", "negative"):
        one, two = getattr(a, field), getattr(b, field)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one), field
    for field in ("extra_steps", "sops", "macs", "logits"):
        assert torch.equal(getattr(a, field), getattr(b, field)), field


def both(network: Any, x: Any, **options: Any) -> Any:
    slow = converters.run(network, x, record="spikes", backend="snntorch", **options)
    fast = converters.run(network, x, record="spikes", backend="fast", **options)
    assert (slow.backend, fast.backend) == ("snntorch", "fast")
    assert_same(slow, fast)
    kept = converters.run(network, x, record="counts", backend="fast", **options)  # small networks go another way
    for field in ("counts", "positive", "negative"):
        one, two = getattr(slow, field), getattr(kept, field)
        assert all(torch.equal(one[k], two[k]) for k in one), field
    assert torch.equal(slow.extra_steps, kept.extra_steps)
    assert torch.equal(slow.sops, kept.sops)
    return fast


@pytest.mark.parametrize("coding", ["isi", "direct"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_spike(name: str, window: int, coding: str) -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=window, coding=coding))
    r = both(network, images(GRAPHS[name](), 5))
    if window >= 7 and name not in ("concat", "signed_input"):
        assert sum(int(v.sum()) for v in r.negative.values()) > 0


@pytest.mark.parametrize("doubted", [0, 1, 1000])
def test_neurons_in_int32(monkeypatch: pytest.MonkeyPatch, doubted: int) -> None:
    """However many neurons are decided from the exact membrane, the spikes are those of float64."""
    q, _ = load_checkpoint("lenet5-mnist-127")
    network = Network.from_graph(converters.to_nir(q, T=40))
    plan = fast_backend.Plan(network)
    for layer in plan.stages:
        narrow = layer.parameters.narrow
        assert narrow is not None
        close = narrow[6] if doubted == 0 else narrow[6] * doubted
        layer.parameters = replace(layer.parameters, narrow=(*narrow[:6], close, *narrow[7:]))
    monkeypatch.setitem(network.__dict__, "_kept", {("fast",): plan})
    both(network, pixels(2, (1, 32, 32)) ** 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"threshold": 0.1}, "float64 rounds sums of 0.1"), ({"y_max": 40_000.0}, "counts of 16 bits"),
     ({"gain": 2**30}, "membranes of 32 bits"), ({"threshold": 3.0 + 2.0**-36}, None)],
)  # fmt: skip
def test_when_int32_is_taken(change: dict[str, Any], why: str | None) -> None:
    """Only where it provably cannot differ: no overflow, parameters that float64 adds exactly."""
    values = {"threshold": 50.0, "leak": 0.0, "y_min": 0.0, "y_max": 127.0, "v_init": 0.0} | change
    gain = values.pop("gain", 100)
    arrays = [np.full(4, values[k]) for k in ("threshold", "leak", "y_min", "y_max", "v_init")]
    arguments: Any = (*arrays, gain, 128)
    narrow = fast_state._narrow(*arguments)
    assert (narrow is None) == (why is not None)


@pytest.mark.parametrize(("phase", "settle_from"), [("paper", None), ("none", None), ("settle", 0), ("settle", 11)])
@pytest.mark.parametrize("name", GRAPHS)
def test_phases(name: str, phase: Phase, settle_from: int | None) -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=16))
    both(network, images(GRAPHS[name](), 5), phase=phase, settle_from=settle_from)


@pytest.mark.parametrize("window", WINDOWS)
def test_lenet_at_full_size(window: int) -> None:
    q, _ = load_checkpoint("lenet5-mnist-127")
    x = pixels(1, (1, 32, 32)) ** 3
    r = both(Network.from_graph(converters.to_nir(q, T=window)), x)
    if window > 1:
        assert sum(int(v.sum()) for v in r.negative.values()) > 20


def vgg9(width: float = 1.0) -> Any:
    """VGG-9 with random integers in front of average ranges, all channels times ``width``."""
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    value = b.input((3, 32, 32), scale=1 / 127, q_min=0, q_max=127)
    clip: dict[str, Any] = {"y_min": 0, "y_max": 127, "scale": 1.0}
    channels = 3
    for k, full in enumerate([64, 64, 0, 128, 128, 0, 256, 256, 256, 0]):
        if full:
            out = int(full * width)
            w = torch.randint(-127, 128, (out, channels, 3, 3), generator=gen, dtype=torch.int8)
            value = b.layer(
                f"conv{k}", [(value, Conv2d(w, padding=(1, 1)))], threshold=40.0 * channels**0.5 * 9, bias=500.0, **clip
            )
            channels = out
        else:
            value = b.layer(f"pool{k}", [(value, SumPool2d((2, 2), (2, 2)))], threshold=4.0, **clip)
    for name, out in (("fc1", int(1024 * width)), ("fc2", 10)):
        features = channels * 16 if name == "fc1" else int(1024 * width)
        w = torch.randint(-127, 128, (out, features), generator=gen, dtype=torch.int8)
        limits: dict[str, Any] = clip if name == "fc1" else {**clip, "y_min": -127}
        value = b.flatten(value) if name == "fc1" else value
        value = b.layer(name, [(value, Linear(w))], threshold=140.0 * features**0.5, **limits)
    return b.build(value)


@pytest.mark.parametrize("window", WINDOWS)
def test_vgg9_with_an_eighth_of_its_channels(window: int) -> None:
    r = both(Network.from_graph(converters.to_nir(vgg9(1 / 8), T=window)), pixels(2, (3, 32, 32)))
    if window > 1:
        assert sum(int(v.sum()) for v in r.negative.values()) > 100


@pytest.mark.parametrize("window", [pytest.param(t, marks=pytest.mark.slow) if t != 7 else t for t in WINDOWS])
def test_vgg9_at_full_size(window: Any) -> None:
    r = both(Network.from_graph(converters.to_nir(vgg9(), T=window)), pixels(1, (3, 32, 32)))
    if window > 1:
        assert sum(int(v.sum()) for v in r.negative.values()) > 100


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("share", [0.0, 1.1])
def test_every_route_of_a_layer(monkeypatch: pytest.MonkeyPatch, share: float, int8: bool) -> None:
    """Integer kernels, float kernels and spike by spike, forced one after the other: the same spikes."""
    if int8 and not integer_kernels.int8_kernels():
        pytest.skip("this processor has no integer kernels")
    monkeypatch.setattr(fast_events, "GATHER_SHARE", share)
    monkeypatch.setattr(fast_events, "POOL_SHARE", share)
    monkeypatch.setattr(fast_plan, "int8_kernels", lambda: int8)
    for name in GRAPHS:
        both(Network.from_graph(converters.to_nir(GRAPHS[name](), T=15)), images(GRAPHS[name](), 3))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), (1, 1), (0, 0), (1, 1)), ((3, 2), (1, 1), (2, 1), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
     ((2, 3), (3, 2), (0, 2), (2, 1)), ((1, 1), (2, 3), (0, 0), (1, 1)), ((5, 5), (1, 2), (2, 4), (1, 2))],
)  # fmt: skip
def test_events_reach_what_convolutions_reach(
    monkeypatch: pytest.MonkeyPatch,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    monkeypatch.setattr(fast_events, "GATHER_SHARE", 1.1)
    gen = torch.Generator().manual_seed(1)
    b = GraphBuilder()
    x = b.input((2, 9, 11), scale=1 / 15, q_min=-15, q_max=15)
    w = torch.randint(-7, 8, (3, 2, *kernel), generator=gen, dtype=torch.int8)
    op = Conv2d(w, stride, padding, dilation)
    c = b.layer("c", [(x, op)], threshold=6.5, bias=1.0, y_min=-15, y_max=15, scale=1.0)
    p = b.layer("p", [(c, SumPool2d((2, 2), (1, 1), (1, 1)))], threshold=2.0, y_min=-15, y_max=15, scale=1.0)
    both(Network.from_graph(converters.to_nir(b.build(p), T=15)), 2 * pixels(3, (2, 9, 11)) - 1)


@pytest.mark.parametrize("every", [1, 4])
def test_sums_of_16_bits(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Spike by spike with int16, of as many weights at a time as it holds; the sums of all have 32 bits."""
    monkeypatch.setattr(fast_events, "GATHER_SHARE", 1.1)
    b = GraphBuilder()
    x = b.input((64, 6, 6), scale=1.0, q_min=-15, q_max=15)
    w = torch.full((2, 64, 3, 3), 127, dtype=torch.int8)
    w[1] = -127
    y = b.layer("c", [(x, Conv2d(w, padding=(1, 1)))], threshold=60_000.5, y_min=-15, y_max=15, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=15))
    assert network.changes[network.stages[0].name] == 64 * 9 * 127 > 2**16
    (layer,) = fast_plan.Plan(network).stages
    assert layer.events is not None
    assert layer.gathered is not None
    *_, lines, sums, most = layer.events.arguments[:6]
    assert (lines.dtype, sums.dtype, most) == (np.int8, np.int16, (2**15 - 1) // 127)
    *_, lines, most = layer.gathered.arguments
    assert (lines.dtype, most) == (np.int8, (2**15 - 1) // 127)
    integers = torch.zeros(3, 64, 6, 6, dtype=torch.int64)
    integers[:, ::every] = 15  # in every step: 576 or 144 weights meet
    integers[2] = -integers[2]
    for record in ("spikes", "counts"):
        options: Any = {"integers": integers, "record": record}
        slow = converters.run(network, backend="snntorch", **options)
        fast = converters.run(network, backend="fast", **options)
        assert_same(slow, fast) if record == "spikes" else None
        assert torch.equal(slow.counts["c"], fast.counts["c"])
        assert int(slow.counts["c"].max()) == (15 if every == 1 else 5)
    assert sum(int(v.sum()) for v in slow.negative.values()) > 0


def test_large_weights_and_sums_stay_exact() -> None:
    b = GraphBuilder()
    x = b.input((40,), scale=1.0, q_min=0, q_max=15)
    w = torch.full((3, 40), 2**20 + 1, dtype=torch.int32)
    y = b.layer("fc", [(x, Linear(w))], threshold=2.0**22 + 0.3, y_min=0, y_max=300, scale=1.0)
    both(Network.from_graph(converters.to_nir(b.build(y), T=300)), torch.arange(80.0).reshape(2, 40) % 16)


@pytest.mark.parametrize("tie", ["even", "up"])
def test_the_layer_against_the_reference(tie: TieRule) -> None:
    p = CaLIFParameters(threshold=[2.0, 3.5, 4.0], leak=[0.5, -0.25, 0.0], y_min=-3, y_max=6, tie=tie, v_init=0.5)
    rng = np.random.default_rng(0)
    charges = rng.integers(-6, 7, (12, 4, 3, 2, 2)).astype(np.float64)  # T, N, C, H, W
    tail = np.zeros((20, 4, 3, 2, 2))
    layer = CaLIFMultiStep(p, window=12)
    pieces = np.split(np.concatenate([charges, tail]), [5, 20])
    spikes = torch.cat([layer(torch.from_numpy(c)) for c in pieces]).numpy()
    for n in range(4):
        trace = reference.run(charges[:, n], p)
        assert (spikes[: len(trace.spikes), n] == trace.spikes).all()
        assert not spikes[len(trace.spikes) :, n].any()
    assert (spikes < 0).sum() > 10
    layer.reset()
    again = torch.cat([layer(torch.from_numpy(c)) for c in pieces]).numpy()
    assert (again == spikes).all()
    with pytest.raises(ValueError, match=r"charge: expected \(T, N, C, ...\)"):
        layer(torch.zeros(3, 2))


def test_encoder_kernel() -> None:
    from calif_plugins.encoding import isi_encode

    counts = np.arange(-20, 21, dtype=np.int32)
    out = np.empty((25, 41), dtype=np.uint8)
    total = kernels().isi(counts, 0, 20, out)
    expected = isi_encode(counts=counts, window=20)
    assert (out[:20].astype(int) - 1 == expected).all()
    assert (out[20:] == 1).all()
    assert total == np.abs(counts).sum()


@pytest.mark.parametrize("name", GRAPHS)
def test_one_image_after_the_other(name: str) -> None:
    """State of one image must not leak into the network's parameters, and so into the next image."""
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=15))
    x = images(GRAPHS[name](), 4)
    together = converters.run(network, x, backend="snntorch")
    for _ in range(2):
        apart = converters.run(network, x, batch=1, backend="fast")
        assert all(torch.equal(apart.counts[k], together.counts[k]) for k in apart.counts)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rounding_phases_in_int32(data: st.DataObject) -> None:
    """Half thresholds, ties and all, from any step on: strides, shortcuts, direct input, a silent image."""
    draw = data.draw
    seed, window = draw(st.integers(0, 2**20)), draw(st.integers(1, 12))
    gen = torch.Generator().manual_seed(seed)
    tie: TieRule = draw(st.sampled_from(["even", "up"]))
    unit = draw(st.sampled_from([1.0, 0.5, 1 / 3]))  # with the first two half of a threshold is met all the time

    def conv(out: int, inp: int, k: int, **kw: Any) -> Conv2d:
        return Conv2d(torch.randint(-3, 4, (out, inp, k, k), generator=gen, dtype=torch.int8), **kw)

    def numbers(n: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (n,), generator=gen) * unit

    b = GraphBuilder()
    x = b.input((2, 7, 6), scale=1.0, q_min=-window, q_max=window)
    clip: dict[str, Any] = {"y_max": window, "scale": 1.0, "tie": tie}
    stride = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 2)]))
    a = b.layer("a", [(x, conv(4, 2, 3, padding=(1, 1)))], threshold=numbers(4, 2, 9), bias=numbers(4, -9, 9),
                y_min=draw(st.sampled_from([0, -window])), **clip)  # fmt: skip
    c = b.layer(
        "c", [(a, conv(4, 4, 3, padding=(1, 1), stride=stride))], threshold=numbers(4, 2, 9), y_min=-window, **clip
    )
    d = b.layer("d", [(a, conv(4, 4, 1, stride=stride))], threshold=numbers(4, 2, 9), y_min=-window, **clip)
    e = b.requantise("e", [(c, 1.0), (d, draw(st.sampled_from([1.0, 0.5])))], y_min=0, y_max=window, scale=1.0, tie=tie)
    f = b.layer("f", [(e, SumPool2d((2, 2), (1, 1), (1, 1)))], threshold=4.0, y_min=0, **clip)
    coding = draw(st.sampled_from(["isi", "direct"]))
    network = Network.from_graph(converters.to_nir(b.build(f), T=window, coding=coding))
    integers = torch.randint(-window, window + 1, (3, 2, 7, 6), generator=gen)
    integers[1] = 0
    options: Any = {"integers": integers, "record": "spikes", "settle_from": draw(st.integers(0, window))}
    assert_same(
        converters.run(network, backend="snntorch", **options), converters.run(network, backend="fast", **options)
    )
    assert any(layer.parameters.narrow is not None for layer in fast_plan.Plan(network).stages)


def test_short_runs_of_a_network_are_looked_at_together() -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=4))
    x = images(GRAPHS["lenet"](), 400)
    assert [converters.run(network, x, batch=400).checked for _ in range(6)] == [1, 0, 0, 1, 0, 0]
    assert converters.run(network, x[:20], check=True).checked == 1
    again = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=4))
    assert converters.run(again, x[:65], batch=40).checked == 2


def test_memory_does_not_grow_with_batch_or_window() -> None:
    """Chunks are of one size, whatever is asked for: the largest buffer stays within its bound."""
    q, _ = load_checkpoint("lenet5-mnist-8")
    network = Network.from_graph(converters.to_nir(q, T=128))
    largest = max(s.size for s in network.stages)
    chunk = fast_chunks.images_at_a_time(network)
    assert chunk * fast_chunks.BLOCK * largest * 4 <= 4 * fast_chunks._CHUNK_BYTES
    r = converters.run(network, pixels(chunk + 3, (1, 32, 32)), batch=chunk + 3)
    assert len(r.predictions) == chunk + 3
    assert torch.equal(r.predictions[-3:], converters.run(network, pixels(chunk + 3, (1, 32, 32))[-3:]).predictions)


@pytest.mark.parametrize("name", ["lenet", "residual", "concat"])
@pytest.mark.parametrize("steps", [1, 3])
def test_fewer_steps_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str, steps: int) -> None:
    q = GRAPHS[name]()
    network, x = Network.from_graph(converters.to_nir(q, T=7)), images(q, 3)
    expected = converters.run(network, x, record="spikes", backend="snntorch")
    monkeypatch.setattr(fast_chunks, "_CHUNK_BYTES", 4 * steps * max(s.size for s in network.stages))
    assert fast_chunks.steps_at_a_time(network) == steps
    assert_same(converters.run(network, x, record="spikes", backend="fast"), expected)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    q = GRAPHS["lenet"]()
    g = converters.to_nir(q, T=8)
    assert converters.run(g, images(q, 2)).backend == "fast"
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not there
    assert converters.run(g, images(q, 2)).backend == "snntorch"
    with pytest.raises(MissingExtraError, match=r'pip install "calif-plugins\[fast\]"'):
        converters.run(g, images(q, 2), backend="fast")
