"""Ca-LIF networks in other simulators natively, and the comparison of all routes; the step loop is the oracle."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

import converters
from converters.errors import ConversionError
from converters.interop.comparing import ROUTES, compare_with_simulators, installed
from converters.interop.dialects import spell
from converters.interop.feeding import expected
from converters.interop.native import NATIVE, native, run_native
from converters.interop.stock import CannotRun
from converters.lowering import lower
from converters.operations import Conv2d, Linear
from converters.quantised import GraphBuilder, average_pool
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images

SIMULATORS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in NATIVE
]


def wrong(result: Any, e: Any) -> Any:
    assert set(e.spikes) <= set(result.outputs)
    return {k: int((result.outputs[k] != s).sum()) for k, s in e.spikes.items()}


def padded_pool() -> Any:
    """A pool of 9 pixels with padding, which importers' own pools neither pad nor add up exactly."""
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    x = b.input((2, 7, 7), scale=1 / 15, q_min=0, q_max=15)
    p = average_pool(b, "pool.class", x, (3, 3), (2, 2), (1, 1), scale=1 / 15, y_min=0, y_max=15)
    w = torch.randint(-7, 8, (3, 2, 2, 2), generator=gen, dtype=torch.int8)
    return b.build(b.layer("if", [(p, Conv2d(w))], threshold=7.3, bias=2.0, y_min=-15, y_max=15, scale=0.1))


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", [*GRAPHS, "padded_pool"])
def test_native_spike_for_spike(name: str, simulator: str, tmp_path: Path) -> None:
    """Pools, groups, dilation, branches of unequal scale, concatenation, a membrane as output; read from a file."""
    q = padded_pool() if name == "padded_pool" else GRAPHS[name]()
    converters.write(tmp_path / "net.nir", converters.to_nir(q))
    graph = converters.read(tmp_path / "net.nir")
    x = images(q, 3)
    e = expected(graph, x)
    assert e.negative > 0 or name == "padded_pool"
    r = run_native(simulator, graph, e.inputs)
    assert wrong(r, e) == dict.fromkeys(e.spikes, 0)
    integers = q.execute(x)
    for layer in e.spikes:
        assert torch.equal(r.outputs[layer].long().sum(0), integers[layer]), "counts are the quantised network's"


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_threshold_off_by_one_is_seen(simulator: str) -> None:
    q = GRAPHS["lenet"]()
    graph, x = converters.to_nir(q), images(q, 2)
    e = expected(graph, x)
    graph.nodes["fc1"].v_threshold = graph.nodes["fc1"].v_threshold + 1
    found = wrong(run_native(simulator, graph, e.inputs), e)
    assert found["conv"] == found["pool"] == 0
    assert found["fc1"] > 0


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_second_run_starts_anew(simulator: str) -> None:
    q = GRAPHS["lenet"]()
    graph = converters.to_nir(q)
    e = expected(graph, images(q, 2))
    for _ in range(2):
        assert not any(wrong(run_native(simulator, graph, e.inputs), e).values())


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_lenet5_on_mnist_at_full_size(simulator: str) -> None:
    try:
        data = load("mnist", "test", download=False).first(2)
    except ConversionError as error:
        pytest.skip(f"no MNIST: {error}")
    q, _ = load_checkpoint("lenet5-mnist-127")
    graph = converters.to_nir(q, T=128)
    e = expected(graph, data.pixels)
    r = run_native(simulator, graph, e.inputs)
    assert wrong(r, e) == dict.fromkeys(e.spikes, 0)
    assert len(e.spikes) == 7
    assert e.negative > 500
    integers = q.execute(data.pixels)
    assert all(torch.equal(r.outputs[k].long().sum(0), integers[k]) for k in e.spikes)


def tiny(spiking: bool = True) -> Any:
    gen = torch.Generator().manual_seed(11)  # all three labels occur
    b = GraphBuilder()
    x = b.input((5,), scale=1 / 7, q_min=0, q_max=7)
    w = [Linear(torch.randint(-7, 8, s, generator=gen, dtype=torch.int8)) for s in ((6, 5), (3, 6))]
    h = b.layer("h", [(x, w[0])], threshold=6.1, bias=1.7, y_min=0, y_max=7, scale=0.1)
    top = 7 if spiking else 0
    return b.build(
        b.layer("o", [(h, w[1])], threshold=5.3, bias=-0.4, y_min=-top, y_max=top, scale=0.1, spiking=spiking)
    )


def test_the_table_of_all_routes(tmp_path: Path) -> None:
    q = tiny()
    graph, x = converters.to_nir(q), images(q, 6)
    labels = q.logits(q.execute(x)).argmax(1)
    seen = []
    rows = compare_with_simulators(graph, x, labels, exact_images=3, progress=lambda *a: seen.append(a))
    assert [(r.route, r.simulator) for r in rows] == [(route, s) for route in ROUTES for s in installed()]
    e = expected(graph, x[:3])
    for r in rows:
        assert r.version == installed()[r.simulator]
        assert not r.failed
        if r.route == "native":
            assert (r.differing, r.counts_differing, r.layers, r.images) == (0, 0, 2, 3), r
            assert r.spikes_compared == sum(s.numel() for s in e.spikes.values())
            assert r.accuracy == 1
        elif r.route == "lowered":
            assert (r.differing, r.accuracy) == (0, 1), r
        elif r.differing is not None:
            assert r.differing > 0, "a stock IF cannot do this"
            assert r.images == 6
            assert 0 <= r.accuracy <= 1
        else:
            assert r.note, "a refusal has a reason"
    assert sum(n for _, route, n in seen if route == "native") == 3 * len(installed())


def test_accuracy_of_an_output_read_from_its_membrane() -> None:
    q = tiny(spiking=False)
    graph, x = converters.to_nir(q), images(q, 12)
    labels = q.logits(q.execute(x)).argmax(1)
    assert len(set(labels.tolist())) > 1
    rows = [
        r for r in compare_with_simulators(graph, x, labels, routes=["lowered", "native"]) if r.differing is not None
    ]
    assert rows
    assert all((r.differing, r.accuracy, r.layers) == (0, 1, 1) for r in rows), rows
    wrong = (labels + 1) % 3
    (row,) = compare_with_simulators(graph, x, wrong, routes=["native"], simulators=[next(iter(installed()))])
    assert row.accuracy == 0


def test_a_broken_stock_file_is_seen(tmp_path: Path) -> None:
    q = tiny()
    graph, x = converters.to_nir(q), images(q, 3)
    stock = lower(graph, "chain")
    bias = stock.nodes["l001_c_cmp"].bias
    stock.nodes["l001_c_cmp"].bias = bias - np.float32(0.02)
    converters.write(tmp_path / "broken.nir", stock)
    rows = compare_with_simulators(graph, x, routes=["lowered"], stock=tmp_path / "broken.nir")
    ran = [r for r in rows if r.differing is not None]
    assert ran
    assert all(r.failed and r.note.startswith("first at step") and "layer o" in r.note for r in ran)


def test_a_stock_file_of_another_network(tmp_path: Path) -> None:
    converters.write(tmp_path / "other.nir", lower(converters.to_nir(tiny()), "chain"))
    q = GRAPHS["signed_input"]()
    with pytest.raises(ConversionError, match="give the lowered file of this network"):
        compare_with_simulators(converters.to_nir(q), images(q, 1), routes=["lowered"], stock=tmp_path / "other.nir")


def test_errors() -> None:
    q = tiny()
    graph, x = converters.to_nir(q), images(q, 1)
    changes: tuple[dict[str, Any], ...] = {"routes": ["road"]}, {"simulators": ["nest"]}
    for change in changes:
        with pytest.raises(ConversionError, match="use one of"):
            compare_with_simulators(graph, x, **change)
    for call in (
        lambda: native("nest", graph),
        lambda: run_native("nest", graph, x[None]),
        lambda: spell(graph, "nest"),
    ):
        with pytest.raises(ConversionError, match=r"^simulator: found 'nest'"):
            call()
    with pytest.raises(ConversionError, match="coding 'direct'"):
        spell(converters.to_nir(q, coding="direct"), "norse")
    with pytest.raises(ConversionError, match="without Ca-LIF nodes"):
        spell(nir.NIRGraph.from_list(nir.Linear(weight=np.eye(2))), "norse")


def test_what_a_simulator_says_is_the_reason() -> None:
    q = tiny()
    with pytest.raises(CannotRun, match="shape"):
        run_native("snntorch", converters.to_nir(q), torch.zeros(2, 1, 4))
