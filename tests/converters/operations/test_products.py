"""Products, matrix products and sums in front of what counts: integers by hand, every backend, files and windows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.graph_builder import GraphBuilder
from converters.network import Network
from converters.operations import Add, Conv2d, Levels, Linear, MatMul, MaxOver, Operation, Product, Scale
from converters.quantised import QuantGraph
from tests.converters.operations.everywhere import integers, simulated, written_and_read


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_products_are_integers_by_hand(shape: list[int], data: st.DataObject) -> None:
    other = tuple(data.draw(st.sampled_from([1, n])) for n in shape)
    a, b = (torch.randint(-9, 10, (2, *s), generator=torch.Generator().manual_seed(4)) for s in (shape, other))
    op = Product()
    for dtype in (torch.int64, torch.float64):
        assert torch.equal(op(a.to(dtype), b.to(dtype)), (a * b).to(dtype))
    assert op.output_shape(tuple(shape), other) == torch.broadcast_shapes(tuple(shape), other)
    assert op.reach(9, 5) == 45
    ranges = [(x.amin(0).double(), x.amax(0).double()) for x in (a, b)]
    low, high = op.interval(*ranges)
    assert bool((low <= a * b).all())
    assert bool((high >= a * b).all())
    fans = op.fan_out(tuple(shape), other)
    assert float(fans[0].sum()) == float(fans[1].sum()) == torch.Size(shape).numel()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("front", [(), (3,), (2, 1)])
def test_matrix_products(front: tuple[int, ...], transposed: bool) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randint(-5, 6, (2, *front, 4, 3), generator=g)
    b = torch.randint(-5, 6, (2, *front, *((2, 3) if transposed else (3, 2))), generator=g)
    op = MatMul(3, transposed)
    wanted = torch.einsum("...ik,...jk->...ij" if transposed else "...ik,...kj->...ij", a, b)
    assert torch.equal(op(a, b), wanted)
    assert torch.equal(op(a.double(), b.double()), wanted.double())
    assert op.output_shape(tuple(a.shape[1:]), tuple(b.shape[1:])) == tuple(wanted.shape[1:])
    assert int(wanted.abs().max()) <= op.reach(5, 5) == 75
    one, two = op.fan_out(tuple(a.shape[1:]), tuple(b.shape[1:]))
    assert set(one.unique().tolist()) == {2.0}
    assert set(two.unique().tolist()) == {4.0}


def test_sums_of_several_sources() -> None:
    a, b = torch.tensor([[[1, -2], [3, 4]]]), torch.tensor([[[5], [-6]]])
    op = Add((2, -3))
    assert op(a, b).tolist() == [[[2 - 15, -4 - 15], [6 + 18, 8 + 18]]]
    assert (op.gain, op.reach(4, 6)) == (5, 30)
    low, high = op.interval((a[0].double(), a[0] + 1.0), (b[0].double(), b[0] + 2.0))
    assert bool((low < op(a, b)[0]).all())
    assert bool((high >= op(a, b)[0]).all())


@pytest.mark.parametrize(
    ("op", "shapes", "match"),
    [
        (Product(), ((2, 3), (3, 3)), "let all axes agree"),
        (MatMul(3), ((2, 3), (2, 3)), "it sums 3 products"),
        (MatMul(3), ((3,), (3,)), "it sums 3 products"),
        (MatMul(2), ((2, 4, 2), (3, 2, 2)), "let all axes agree"),
        (Add((1, 1)), ((2,),), "it has 2 weights"),
    ],
)
def test_what_does_not_fit_is_said(op: Operation, shapes: Any, match: str) -> None:
    with pytest.raises(ConversionError, match=match):
        op.output_shape(*shapes)


def network(seed: int = 0) -> QuantGraph:
    """A gate per channel on signed maps, a layer times itself, a sum of unequal scales under a table, attention."""
    g = torch.Generator().manual_seed(seed)

    def dense(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=g)

    b = GraphBuilder()
    x = b.input((2, 3, 3), scale=0.25, q_min=-4, q_max=4)
    common: dict[str, Any] = {"y_min": -5, "y_max": 5, "scale": 0.5}
    maps = b.layer("maps", [(x, Conv2d(dense(3, 2, 2, 2)))], threshold=4.0, bias=[0.5, 0.0, -1.0], **common)
    peak = b.layer("peak", [(maps, MaxOver((1, 2), keepdim=True))], threshold=1.0, **common)
    gate = b.layer("gate", [(peak, Conv2d(dense(3, 3, 1, 1)))], threshold=3.0, y_min=0, y_max=5, scale=0.2)
    gated = b.layer("gated", [((maps, gate), Product())], threshold=2.5, bias=0.25, **common)
    square = b.layer("square", [((gated, gated), Product())], threshold=2.5, y_min=0, y_max=5, scale=0.5)
    table = Levels.of("silu", units=(0.25,), offsets=(0.1,), scale=0.5, y_min=-1, y_max=5, limit=15)
    summed = b.layer("sum", [((square, gated), (Add((1, 2)), table))], threshold=1.0, y_min=-1, y_max=5, scale=0.5)
    rows = b.moved("rows", summed, lambda t: t.flatten(2))
    scores = b.layer("scores", [((rows, rows), MatMul(4, transposed=True))], threshold=7.0, **common)
    flat = b.flatten(scores)
    y = b.layer("fc", [(flat, Linear(dense(2, 9)))], threshold=1.0, y_min=0, y_max=0, scale=0.1, spiking=False)
    return b.build(y)


def by_hand(q: QuantGraph, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers behind products, from the counts before them, in rationals."""

    def rounded(acc: Tensor, threshold: float, bias: float, low: int, high: int) -> Tensor:
        levels = [round((int(a) + Fraction(bias)) / Fraction(threshold)) for a in acc.reshape(-1)]
        return torch.tensor([max(low, min(high, k)) for k in levels]).reshape(acc.shape)

    v = values
    real = (v["square"] + 2 * v["gated"]).double() * 0.25 + 0.1
    rows = v["sum"].flatten(2)
    return {
        "gated": rounded(v["maps"] * v["gate"], 2.5, 0.25, -5, 5),
        "square": rounded(v["gated"] ** 2, 2.5, 0.0, 0, 5),
        "sum": (torch.nn.functional.silu(real) / 0.5).round().clamp(-1, 5).long(),
        "scores": rounded(torch.einsum("nik,njk->nij", rows, rows), 7.0, 0.0, -5, 5),
    }


def test_executor() -> None:
    q = network()
    values = q.execute(integers=integers(q, 30))
    for name, wanted in by_hand(q, values).items():
        assert torch.equal(values[name], wanted), name
        assert len(wanted.unique()) > 3, name


@pytest.mark.parametrize("window", [None, 11, 3])
def test_every_backend(window: int | None) -> None:
    q = network()
    runs = simulated(q, integers(q, 20), window=window)
    trains = runs["snntorch"].spikes
    assert trains is not None
    assert int((trains["gated"] < 0).sum()) > 5
    assert int((trains["scores"] > 0).sum()) > 5


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_any_window(seed: int, window: int) -> None:
    q = network(seed)
    simulated(q, integers(q, 3, seed), window=window, brian=0)


def test_a_directly_coded_input_times_itself() -> None:
    b = GraphBuilder()
    x = b.input((3,), scale=0.1, q_min=-9, q_max=9)
    y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2, -1]])))], threshold=2.0, y_min=-4, y_max=4, scale=0.3)
    z = b.layer("square", [((y, y), Product())], threshold=3.0, y_min=0, y_max=4, scale=0.3)
    q = b.build(z)
    simulated(q, integers(q, 5), coding="direct")
    b = GraphBuilder()
    x = b.input((3,), scale=0.1, q_min=-9, q_max=9)
    q = b.build(b.layer("square", [((x, x), Product())], threshold=9.0, y_min=0, y_max=4, scale=0.3))
    simulated(q, integers(q, 5), coding="direct")
    b = GraphBuilder()
    x = b.input((3,), scale=0.1, q_min=-9, q_max=9)
    y = b.layer("half", [(x, Scale(1))], threshold=2.0, y_min=-4, y_max=4, scale=0.2)
    q = b.build(b.layer("mixed", [((x, y), Product())], threshold=9.0, y_min=0, y_max=4, scale=0.3))
    graph = converters.to_nir(q, coding="direct")
    with pytest.raises(ConversionError, match="use coding isi"):
        converters.run(graph, integers=integers(q, 2))


@pytest.mark.parametrize("window", [1, 2, 4])
def test_shorter_windows_shrink_the_threshold_of_a_product(window: int) -> None:
    """In real units it is the same product: (S_a n_a)(S_b n_b), rounded to multiples of the larger scale."""
    q = network()
    short = q.at_window(window)
    f = Fraction(window, q.levels)
    for name in ("gated", "square", "scores"):
        before, after = (next(k for k in n.layers if k.name == name) for n in (q, short))
        assert torch.allclose(after.threshold, before.threshold * float(f), rtol=1e-15)
        assert torch.allclose(after.bias, before.bias * float(f * f), rtol=1e-15)
        assert after.scale == pytest.approx(before.scale / float(f))
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=8)
    one = b.layer("one", [(x, Linear(torch.tensor([[1, 1]])))], threshold=1.0, y_min=0, y_max=8, scale=1.0)
    both = b.layer("both", [((one, one), Product()), (one, Linear(torch.tensor([[1]])))], threshold=1.0, y_min=0,
                   y_max=8, scale=1.0)  # fmt: skip
    with pytest.raises(ConversionError, match="both: found charges that do not grow alike"):
        b.build(both).at_window(4)


def test_files(tmp_path: Path) -> None:
    q = network()
    written_and_read(q, integers(q, 5), tmp_path)


def test_what_a_step_can_bring() -> None:
    """Bounds of a step's charge hold, and are reached: by counts at the edge of their ranges that both move."""
    assert Product().change(3, 4) == 4 * 5 - 3 * 4
    assert MatMul(2).change(3, 4) == 2 * (4 * 5 - 3 * 4)
    net = Network.from_graph(converters.to_nir(network()))
    assert net.changes["gated"] == 11
    assert net.changes["scores"] == 4 * 11


@pytest.mark.slow  # a maximum's sample is taken in every run
def test_a_sampled_cross_check() -> None:
    q = network()
    images = integers(q, 2) * q.input.scale
    assert converters.cross_check(converters.to_nir(q), images, backends=("fast", "brian2"), sample=2).equal
