"""All layers of an image in one compiled call: whatever the step loop's result says, with counts or outputs kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import converters
from calif_plugins.parameters import Phase, TieRule
from converters.backends import fast_plan, fast_program
from converters.backends.fast_program import Program
from converters.network import Network
from converters.operations import Conv2d, Linear, SumPool2d
from converters.quantised import GraphBuilder
from converters.results import RunResult
from converters.zoo.named import load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images
from tests.networks import pixels


def assert_same(slow: RunResult, fast: RunResult) -> None:
    """Every field; the step loop sums synaptic operations in float64."""
    for field in ("counts", "membranes", "positive", "negative"):
        one, two = getattr(slow, field), getattr(fast, field)
        assert one.keys() == two.keys(), field
        assert all(torch.equal(one[k], two[k]) for k in one), field
    for field in ("extra_steps", "sops", "macs", "logits"):
        assert torch.equal(getattr(slow, field), getattr(fast, field)), field


def program_of(network: Network) -> Program | None:
    return Program.of(fast_plan.Plan(network))


def both(network: Network, x: Any = None, **options: Any) -> RunResult:
    assert program_of(network) is not None
    slow = converters.run(network, x, backend="snntorch", **options)
    fast = converters.run(network, x, backend="fast", **options)
    assert network.keep(("fast", "program"), lambda: None) is not None
    assert_same(slow, fast)
    return fast


TAKEN = ("lenet", "residual", "signed_input")


@pytest.mark.parametrize("coding", ["isi", "direct"])
@pytest.mark.parametrize("window", [1, 7, 8, 16])
@pytest.mark.parametrize("name", TAKEN)
def test_counts(name: str, window: int, coding: str) -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=window, coding=coding))
    r = both(network, images(GRAPHS[name](), 5))
    if window >= 7 and name != "signed_input":
        assert sum(int(v.sum()) for v in r.negative.values()) > 0


@pytest.mark.parametrize("record", ["counts", "output"])
@pytest.mark.parametrize(("phase", "settle_from"), [("paper", None), ("none", None), ("settle", 0), ("settle", 11)])
@pytest.mark.parametrize("name", TAKEN)
def test_phases(name: str, phase: Phase, settle_from: int | None, record: str) -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=16))
    both(network, images(GRAPHS[name](), 5), phase=phase, settle_from=settle_from, record=record)


@pytest.mark.parametrize("window", [1, 4, 8, 128])
@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_lenet_at_full_size(window: int, coding: str) -> None:
    q, _ = load_checkpoint("lenet5-mnist-127")
    r = both(Network.from_graph(converters.to_nir(q, T=window, coding=coding)), pixels(3, (1, 32, 32)) ** 3)
    if window > 1:
        assert sum(int(v.sum()) for v in r.negative.values()) > 20


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_network_of_its_kinds(data: st.DataObject) -> None:
    """Strides, paddings, shortcuts with factors, pools, several places to a row, ties, sums of 16 and of 32 bits."""
    draw = data.draw
    seed, window = draw(st.integers(0, 2**20)), draw(st.integers(1, 12))
    gen = torch.Generator().manual_seed(seed)
    tie: TieRule = draw(st.sampled_from(["even", "up"]))
    unit = draw(st.sampled_from([1.0, 0.5, 1 / 3]))
    kind = draw(st.sampled_from([torch.int8, torch.int16, torch.int32]))
    channels, largest = (
        draw(st.integers(1, 70)),
        draw(st.sampled_from([3, 127] if kind is torch.int8 else [3, 127, 999])),
    )

    def conv(out: int, inp: int, k: int, **kw: Any) -> Conv2d:
        weight = torch.randint(-largest, largest + 1, (out, inp, k, k), generator=gen, dtype=kind)
        return Conv2d(weight, **kw)

    def numbers(n: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (n,), generator=gen) * unit * largest

    b = GraphBuilder()
    x = b.input((2, 9, 6), scale=1.0, q_min=-window, q_max=window)
    clip: dict[str, Any] = {"y_max": window, "scale": 1.0, "tie": tie}
    stride = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 2)]))
    a = b.layer(
        "a", [(x, conv(channels, 2, 3, padding=(1, 1)))], threshold=numbers(channels, 2, 9),
        bias=numbers(channels, -9, 9), y_min=draw(st.sampled_from([0, -window])), **clip,
    )  # fmt: skip
    c = b.layer(
        "c", [(a, conv(4, channels, 3, padding=(1, 1), stride=stride))], threshold=numbers(4, 2, 9) * channels**0.5,
        y_min=-window, **clip,
    )  # fmt: skip
    d = b.layer(
        "d", [(a, conv(4, channels, 1, stride=stride))], threshold=numbers(4, 2, 9) * channels**0.5, y_min=-window,
        **clip,
    )  # fmt: skip
    e = b.requantise("e", [(c, 1.0), (d, draw(st.sampled_from([1.0, 0.5])))], y_min=0, y_max=window, scale=1.0, tie=tie)
    f = b.layer("f", [(e, SumPool2d((2, 2), (2, 2), draw(st.sampled_from([(0, 0), (1, 1)]))))], threshold=4.0,
                y_min=0, **clip)  # fmt: skip
    f = b.flatten(f)
    w = torch.randint(-largest, largest + 1, (5, math.prod(f.shape)), generator=gen, dtype=kind)
    g = b.layer("g", [(f, Linear(w))], threshold=numbers(5, 2, 9), y_min=-window, **clip)
    coding = draw(st.sampled_from(["isi", "direct"]))
    network = Network.from_graph(converters.to_nir(b.build(g), T=window, coding=coding))
    integers = torch.randint(-window, window + 1, (4, 2, 9, 6), generator=gen)
    integers[1] = 0
    integers[2] *= torch.rand(2, 9, 6, generator=gen) < 0.04  # rows that nothing reaches, or late
    assume(program_of(network) is not None)  # factors between scales may leave thresholds that int32 doubts
    both(network, integers=integers, settle_from=draw(st.integers(0, window)))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_pool_of_windows_side_by_side(data: st.DataObject) -> None:
    """Of few spikes and of many, with places that no window takes, margins, and channels for several vectors."""
    seed, window = data.draw(st.integers(0, 2**20)), data.draw(st.integers(1, 9))
    gen = torch.Generator().manual_seed(seed)
    kernel, side = data.draw(st.tuples(*[st.integers(1, 3)] * 2)), data.draw(st.tuples(*[st.integers(3, 11)] * 2))
    apart = data.draw(st.sampled_from([0, 0, 1]))
    padding = tuple(data.draw(st.sampled_from([0, k // 2])) for k in kernel)
    pool = SumPool2d(kernel, (kernel[0] + apart, kernel[1]), (padding[0], padding[1]))
    channels = data.draw(st.integers(1, 70))
    b = GraphBuilder()
    x = b.input((2, *side), scale=1.0, q_min=-window, q_max=window)
    clip: dict[str, Any] = {"y_min": -window, "y_max": window, "scale": 1.0}
    w = torch.randint(-7, 8, (channels, 2, 1, 1), generator=gen, dtype=torch.int8)
    many = data.draw(st.sampled_from([2.0, 40.0]))
    y = b.layer("conv", [(x, Conv2d(w))], threshold=many, **clip)
    z = b.layer("pool", [(y, pool)], threshold=float(math.prod(kernel)), **clip)
    network = Network.from_graph(converters.to_nir(b.build(z), T=window))
    both(network, integers=torch.randint(-window, window + 1, (3, 2, *side), generator=gen))


def test_windows_are_added_up_whole() -> None:
    """Where they lie side by side, and fill the layer from its first place on."""

    def taken_whole(pool: SumPool2d) -> bool:
        b = GraphBuilder()
        x = b.input((3, 7, 8), scale=1.0, q_min=0, q_max=4)
        clip: dict[str, Any] = {"threshold": 4.0, "y_min": 0, "y_max": 4, "scale": 1.0}
        y = b.layer("pool", [(x, pool)], **clip)
        program = program_of(Network.from_graph(converters.to_nir(b.build(y), T=4)))
        assert program is not None
        return bool(program.table[-1, program._kernels.COLUMNS.index("kh")])

    assert taken_whole(SumPool2d((2, 2), (2, 2)))
    assert taken_whole(SumPool2d((7, 4), (7, 4)))
    assert not taken_whole(SumPool2d((2, 2), (2, 2), (1, 0)))
    assert not taken_whole(SumPool2d((2, 2), (3, 2)))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_waits_for_its_first_spike(data: st.DataObject) -> None:
    """Leaks that a row owes until something arrives, and spikes that they alone bring about."""
    seed, window = data.draw(st.integers(0, 2**20)), data.draw(st.integers(1, 16))
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((1, 8, 3), scale=1.0, q_min=0, q_max=window)
    low = data.draw(st.sampled_from([0, -window]))
    clip: dict[str, Any] = {
        "y_min": low,
        "y_max": window,
        "scale": 1.0,
        "tie": data.draw(st.sampled_from(["even", "up"])),
    }
    bias = data.draw(st.sampled_from([3.0, 8.0, 300.0]))
    y = x
    for k in range(3):
        w = torch.randint(-3, 4, (4, y.shape[0], 1, 1), generator=gen, dtype=torch.int8)
        own = (torch.rand(4, generator=gen, dtype=torch.float64) - 0.5) * 2 * bias
        y = b.layer(f"conv{k}", [(y, Conv2d(w))], threshold=5.0 + torch.rand(4, generator=gen), bias=own, **clip)
    network = Network.from_graph(converters.to_nir(b.build(y), T=window))
    integers = torch.randint(0, window + 1, (4, 1, 8, 3), generator=gen)
    integers *= torch.rand(4, 1, 8, 1, generator=gen) < 0.3
    phase: Phase = data.draw(st.sampled_from(["settle", "settle", "paper", "none"]))
    both(
        network,
        integers=integers,
        phase=phase,
        settle_from=data.draw(st.integers(0, window)) if phase == "settle" else None,
    )


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_inputs_of_dense_layers(data: st.DataObject) -> None:
    """Pixels stay in the order of the weights, whatever else hears them, and however wide and high they are."""
    seed, window = data.draw(st.integers(0, 2**20)), 7
    shape = data.draw(
        st.sampled_from([(12,), (3, 4), (1, 5, 4), (2, 5, 4), (3, 1, 4), (3, 4, 1), (4, 1, 1), (2, 3, 3)])
    )
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input(shape, scale=1.0, q_min=-window, q_max=window)
    clip: dict[str, Any] = {"threshold": 9.5, "y_min": -window, "y_max": window, "scale": 1.0}
    w = torch.randint(-7, 8, (6, math.prod(shape)), generator=gen, dtype=torch.int8)
    y = b.layer("fc", [(b.flatten(x) if len(shape) > 1 else x, Linear(w))], **clip)
    if len(shape) == 3 and data.draw(st.booleans()):
        w = torch.randint(-7, 8, (5, shape[0], 3, 3), generator=gen, dtype=torch.int8)
        c = b.layer("conv", [(x, Conv2d(w, padding=(1, 1)))], **clip)
        w = torch.randint(-7, 8, (6, 5 * math.prod(shape[1:])), generator=gen, dtype=torch.int8)
        d = b.layer("of_conv", [(b.flatten(c), Linear(w))], **clip)
        y = b.requantise("sum", [(y, 1.0), (d, 1.0)], y_min=-window, y_max=window, scale=2.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=window))
    both(network, integers=torch.randint(-window, window + 1, (3, *shape), generator=gen))


@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_several_inputs_of_any_layout(coding: str) -> None:
    """The kernel reads integers where they are: side by side, strided, of another type, none."""
    gen = torch.Generator().manual_seed(2)
    b = GraphBuilder()
    x, z = (b.input((c, 5, 4), scale=1.0, q_min=-7, q_max=7, name=name) for c, name in ((2, "one"), (3, "two")))
    clip: dict[str, Any] = {"threshold": 9.5, "y_min": -7, "y_max": 7, "scale": 1.0}
    layers = []
    for name, source in (("a", x), ("b", z)):
        w = torch.randint(-7, 8, (4, source.shape[0], 3, 3), generator=gen, dtype=torch.int8)
        layers.append(b.layer(name, [(source, Conv2d(w, padding=(1, 1)))], **clip))
    y = b.requantise("sum", [(layers[0], 1.0), (layers[1], 1.0)], y_min=-7, y_max=7, scale=2.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=7, coding=coding))
    one = torch.randint(-7, 8, (6, 5, 4, 2), generator=gen).permute(0, 3, 1, 2)
    two = torch.randint(-7, 8, (6, 3, 4, 5), generator=gen).transpose(2, 3)
    alone = GraphBuilder()
    w = torch.randint(-7, 8, (4, 2, 3, 3), generator=gen, dtype=torch.int8)
    y = alone.layer("a", [(alone.input((2, 5, 4), scale=1.0, q_min=-7, q_max=7), Conv2d(w))], **clip)
    of_one = Network.from_graph(converters.to_nir(alone.build(y), T=7, coding=coding))
    for integers in (one, one[::2], one[:1].expand(3, -1, -1, -1), one.to(torch.int16)):
        both(of_one, integers=integers)
    for pair in ((one, two), (one[::2], two[::2]), (one.to(torch.int8), two.to(torch.int32)), (one[:0], two[:0])):
        both(network, integers=pair)


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - set(TAKEN)))
def test_networks_that_it_leaves_to_the_layers(name: str) -> None:
    """One after the other: what the table has no word for is no error."""
    network = Network.from_graph(converters.to_nir(GRAPHS[name](), T=7))
    x = images(GRAPHS[name](), 3)
    assert_same(converters.run(network, x, backend="snntorch"), converters.run(network, x, backend="fast"))


def test_networks_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=7))
    assert program_of(network) is not None
    monkeypatch.setattr(fast_program, "_SMALL", 100)
    assert program_of(network) is None


def test_no_images_and_many() -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=4))
    x = images(GRAPHS["lenet"](), 70)
    assert len(both(network, x[:0]).predictions) == 0
    r = both(network, x)
    again = converters.run(network, x, backend="fast", batch=32)
    assert all(torch.equal(r.counts[k], again.counts[k]) for k in r.counts)


def test_an_image_that_takes_longer_than_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the layers run one by one, in float64 from there on."""
    from calif_plugins import multistep_network

    network = Network.from_graph(converters.to_nir(GRAPHS["lenet"](), T=8))
    x = images(GRAPHS["lenet"](), 3)
    monkeypatch.setattr(multistep_network, "LONGEST", 9)
    program = program_of(network)
    assert program is not None
    integers = network.accept(x, None)
    options = converters.backends.Settings("settle", 8, "counts", integers.device)
    assert program.run(integers, options) is None
    both(network, x)
