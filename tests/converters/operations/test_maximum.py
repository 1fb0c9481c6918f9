"""Max pools, maxima and minima: by PyTorch's own functions, and spike for spike on every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.graph_builder import Part, Value
from converters.network import Network
from converters.operations import (
    AdaptiveMaxPool,
    Conv2d,
    Linear,
    Maximum,
    MaxOver,
    MaxPool,
    Minimum,
    Operation,
    SumPool2d,
)
from converters.quantised import GraphBuilder, Layer, QuantGraph, Synapse
from tests.converters.operations.everywhere import integers, simulated, written_and_read

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@st.composite
def pools(draw: st.DrawFn) -> tuple[MaxPool, tuple[int, ...]]:
    rank = draw(st.integers(1, 3))
    axes: Any = [draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))) for _ in range(rank)]
    kernel, stride, dilation = (tuple(a[k] for a in axes) for k in range(3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    shape = (draw(st.integers(1, 3)), *(draw(st.integers(1, 7)) for _ in range(rank)))
    return MaxPool(kernel, stride, padding, dilation, draw(st.booleans())), shape


def pytorchs(op: MaxPool, x: Tensor) -> Tensor | None:
    """PyTorch's own result in float64; None where it refuses."""
    try:
        return POOLS[len(op.kernel)](x.double(), op.kernel, op.stride, op.padding, op.dilation, ceil_mode=op.ceil_mode)
    except RuntimeError:
        return None


@settings(deadline=None, max_examples=150)
@given(pools(), st.integers(0, 99))
def test_pools_are_pytorchs(case: tuple[MaxPool, tuple[int, ...]], seed: int) -> None:
    op, shape = case
    x = torch.randint(-9, 4, (2, *shape), generator=torch.Generator().manual_seed(seed))  # many windows without a 0
    theirs = pytorchs(op, x)
    if theirs is None or bool(torch.isinf(theirs).any()):
        with pytest.raises(ConversionError, match=r"smaller than the window|in the padding alone"):
            op.output_shape(shape)
        return
    out = op.output_shape(shape)
    assert tuple(theirs.shape[1:]) == out
    for dtype in (torch.int64, torch.float64, torch.float32):
        assert op(x.to(dtype)).dtype == dtype
        assert torch.equal(op(x.to(dtype)).double(), theirs)
    # its connections: places that change the result when they alone are large
    (fan,) = op.fan_out(shape)
    place = tuple(int(torch.randint(n, (1,), generator=torch.Generator().manual_seed(seed))) for n in shape)
    one = torch.zeros(1, *shape, dtype=torch.float64)
    one[(0, *place)] = 1
    reached = pytorchs(op, one)
    assert reached is not None
    assert float(fan[place]) == float(reached.sum())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.data())
def test_adaptive_pools_and_extrema_are_pytorchs(shape: list[int], data: st.DataObject) -> None:
    x = torch.randint(-9, 4, (2, *shape), generator=torch.Generator().manual_seed(3))
    size = tuple(data.draw(st.integers(1, 7)) for _ in shape[1:])
    adaptive = AdaptiveMaxPool(size)
    act = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(size)]
    theirs = act(x.double(), size)
    assert adaptive.output_shape(tuple(shape)) == tuple(theirs.shape[1:])
    assert torch.equal(adaptive(x).double(), theirs)
    assert float(adaptive.fan_out(tuple(shape))[0].sum()) == _connections(adaptive, tuple(shape))
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    for smallest in (False, True):
        over = MaxOver(axes, keepdim=data.draw(st.booleans()), smallest=smallest)
        assume(over.keepdim or len(axes) < len(shape))
        wanted = (torch.amin if smallest else torch.amax)(x, [a + 1 for a in axes], keepdim=over.keepdim)
        assert torch.equal(over(x), wanted)
        assert over.output_shape(tuple(shape)) == tuple(wanted.shape[1:])
        assert float(over.fan_out(tuple(shape))[0].sum()) == _connections(over, tuple(shape))


def _connections(op: Operation, shape: tuple[int, ...]) -> int:
    """Pairs of a count and a result that it can be: by making one count at a time the extreme one."""
    size = int(torch.Size(shape).numel())
    sign = -1 if isinstance(op, MaxOver) and op.smallest else 1
    basis = sign * torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return int((op(basis) != 0).sum())


@pytest.mark.parametrize(
    ("op", "shape", "match"),
    [
        (MaxPool((3, 3), (1, 1), (0, 0), (1, 1)), (2, 2, 2), "smaller than the window"),
        (MaxPool((2,), (1,), (1,), (3,)), (2, 2), "in the padding alone"),
        (MaxPool((2, 2), (1, 1), (0, 0), (1, 1)), (4,), "an input of shape"),
        (AdaptiveMaxPool((2, 2)), (3, 4), "an input of shape"),
        (MaxOver((0, 1)), (3, 4), "keepdim=True"),
        (MaxOver((2,)), (3, 4), "name some of them"),
        (MaxOver(()), (3, 4), "name some of them"),
    ],
)
def test_what_does_not_fit_is_said(op: Operation, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(ConversionError, match=match):
        op.output_shape(shape)


@pytest.mark.parametrize("make", [
    lambda: MaxPool((2, 2), (2,), (0, 0), (1, 1)),
    lambda: MaxPool((2, 2), (2, 2), (2, 0), (1, 1)),
    lambda: MaxPool((0, 2), (2, 2), (0, 0), (1, 1)),
    lambda: AdaptiveMaxPool((1, 1, 1, 1)),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ConversionError, match="found"):
        make()


def test_sources_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"sources of shapes \(3, 2\), \(2, 3\)"):
        Maximum().output_shape((3, 2), (2, 3))
    with pytest.raises(ConversionError, match="let all axes agree, or be 1"):
        Minimum().output_shape((3, 2), (3,))
    assert Minimum().output_shape((3, 1), (1, 4), (3, 4)) == (3, 4)


def network(seed: int = 0, levels: int = 5) -> QuantGraph:
    """Signed maps through overlapping max pools with padding, a minimum of two branches, a maximum over places."""
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 5, 5), scale=0.25, q_min=-levels, q_max=levels)
    common: dict[str, Any] = {"y_min": -levels, "y_max": levels, "scale": 0.5}
    passing: dict[str, Any] = {"threshold": 1.0, **common}
    weight = torch.randint(-3, 4, (3, 2, 2, 2), generator=g)
    conv = b.layer("conv", [(x, Conv2d(weight))], threshold=[2.5, 3.0, 4.0], bias=[0.5, -1.0, 0.0], **common)
    pool = b.layer("pool", [(conv, MaxPool((3, 3), (2, 2), (1, 1), (1, 1)))], **passing)
    other = b.layer("other", [(conv, AdaptiveMaxPool((2, 2)))], **passing)
    both = Synapse((pool.parts[0][0], other.parts[0][0]), (Minimum(),))
    one = torch.ones(3)
    b.layers.append(Layer("lowest", (both,), one, one * 0, -levels, levels, 0.5, (3, 2, 2)))
    low = Value((Part("lowest", (3, 2, 2)),), 0.5)
    over = b.layer("over", [(low, MaxOver((1, 2), keepdim=True))], **passing)
    summed = b.layer("sum", [(over, SumPool2d((1, 1), (1, 1)))], threshold=1.5, bias=0.25, **common)
    flat = b.flatten(summed)
    out = Linear(torch.randint(-3, 4, (2, 3), generator=g))
    return b.build(b.layer("out", [(flat, out)], threshold=1.0, y_min=0, y_max=0, scale=0.1, spiking=False))


@pytest.mark.parametrize(("window", "coding"), [(None, "isi"), (9, "isi"), (3, "isi"), (None, "direct")])
def test_every_backend_passes_the_same_spikes(window: int | None, coding: str) -> None:
    q = network()
    x = integers(q, 20)
    runs = simulated(q, x, window=window, coding=coding)
    trains = runs["snntorch"].spikes
    assert trains is not None
    counts = trains["conv"].to(torch.int64).cumsum(0)
    pooled = F.max_pool2d(counts.flatten(0, 1).double(), 3, 2, 1).unflatten(0, counts.shape[:2]).long()
    assert torch.equal(trains["pool"].to(torch.int64).cumsum(0), pooled)  # exact at every step, not only at the end
    assert int((trains["pool"] < 0).sum()) > 5
    assert int((trains["pool"] > 0).sum()) > 5
    assert bool((pooled[-1] < 0).any())
    ties = F.unfold(counts[-1].double(), 2).unflatten(1, (3, 4)).sort(2, descending=True).values
    assert bool((ties[:, :, 0] == ties[:, :, 1]).any()), "windows whose maximum comes twice"
    assert not pooled[:, 0].any() or window is not None or coding == "direct"


def test_a_silent_window_stays_silent() -> None:
    b = GraphBuilder()
    x = b.input((1, 4), scale=1.0, q_min=-3, q_max=3)
    y = b.layer("max", [(x, MaxPool((2,), (2,), (0,), (1,)))], threshold=1.0, y_min=-3, y_max=3, scale=1.0)
    q = b.build(y)
    runs = simulated(q, torch.tensor([[[0, 0, -2, -3]], [[0, -1, 3, -3]]]))
    assert runs["fast"].counts["max"].tolist() == [[[0, -2]], [[0, 3]]]


def test_it_is_no_neuron_and_takes_no_step_of_its_own() -> None:
    q = network()
    net = Network.from_graph(converters.to_nir(q))
    relays = [s.name for s in net.stages if s.relay]
    assert relays == ["pool", "other", "lowest", "over"]
    assert net.neurons == 3 * 4 * 4 + 3 + 2
    assert net.changes["pool"] == 1


@pytest.mark.parametrize("window", [1, 2, 4])
def test_shorter_windows_keep_it_a_maximum(window: int) -> None:
    q = network().at_window(window)
    pool = next(k for k in q.layers if k.name == "pool")
    assert (pool.threshold.unique().tolist(), float(pool.bias.abs().max())) == ([1.0], 0.0)
    values = q.execute(integers=integers(q, 8))
    assert torch.equal(values["pool"].double(), F.max_pool2d(values["conv"].double(), 3, 2, 1))


def test_files(tmp_path: Path) -> None:
    q = network()
    written_and_read(q, integers(q, 4), tmp_path)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_any_signed_trains(seed: int, window: int) -> None:
    q = network(seed, levels=4)
    simulated(q, integers(q, 3, seed), window=window, brian=0)


def test_a_directly_coded_input_is_pooled_once() -> None:
    """The maximum of the integers is spread over the window, in the place of the spikes' maximum at each step."""
    b = GraphBuilder()
    x = b.input((1, 4, 4), scale=1.0, q_min=-20, q_max=20)
    w = torch.tensor([[1, -2, 1, 3]])
    pool = b.layer("max", [(x, MaxPool((2, 2), (2, 2), (0, 0), (1, 1)))], threshold=1.0, y_min=-20, y_max=20, scale=1.0)
    y = b.layer("fc", [(b.flatten(pool), Linear(w))], threshold=8.0, y_min=-4, y_max=4, scale=1.0)
    q = b.build(y)
    simulated(q, integers(q, 4), window=20, coding="direct")


def test_cross_check_and_sampled_neurons() -> None:
    q = network()
    x: Tensor = integers(q, 2) * q.input.scale
    graph = converters.to_nir(q, T=6)
    for options in ({}, {"sample": 3}):
        report = converters.cross_check(graph, x, backends=("fast", "brian2"), **options)
        assert report.equal
        assert {"pool", "lowest"} <= {row.layer for row in report.layers["brian2"]}
