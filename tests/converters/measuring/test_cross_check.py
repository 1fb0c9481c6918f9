"""Brian2 against snnTorch, spike for spike; planted faults found and located; samples of neurons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converters
from calif_plugins.parameters import Phase
from converters.errors import ConversionError
from converters.measuring.cross_checking import cross_check, plot
from converters.network import Network
from converters.results import compare_counts
from converters.testing import by_reference
from tests.converters.sample_graphs import GRAPHS, images, lenet

# lenet has per-channel thresholds and a pool with ties, signed_input pixels of both signs and the tie rule "up"
CASES = [
    (name, window, phase, coding)
    for name in GRAPHS
    for window, phase, coding in (
        (15, "settle", "isi"), (15, "paper", "isi"), (8, "settle", "direct"), (5, "none", "isi")
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "window", "phase", "coding"), CASES)
def test_every_spike_is_the_same(name: str, window: Any, phase: Phase, coding: Any) -> None:
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=window, coding=coding))
    x = images(q, 6)
    report = cross_check(network, x, phase=phase, batch=4)  # two networks in Brian2: of four images, and of two
    assert report.equal
    assert report.spike_mismatches == 0
    assert str(report).endswith(f"{report.spikes_compared:,} spikes compared, 0 differ; 0 predictions differ")
    rows = report.layers["brian2"]
    assert [row.layer for row in rows] == list(network.shapes)
    assert sum(row.positive for row in rows) > 500
    assert max(row.membrane_difference for row in rows) == 0.0
    if phase == "settle":
        r = converters.run(network, x, backend="brian2")
        assert [m for m in compare_counts(r, q.at_window(window).execute(x)) if m.differing] == []


def test_what_the_comparison_contains() -> None:
    """Negative spikes, closed gates, ceilings and exact ties: how many there are in what is compared."""
    seen = dict.fromkeys(("negative", "closed gate", "ceiling", "tie"), 0)
    for name in ("lenet", "residual", "signed_input"):
        q = GRAPHS[name]()
        network = Network.from_graph(converters.to_nir(q, T=15))
        x = images(q, 4)
        assert cross_check(network, x).equal
        expected = by_reference(network, network.spec.quantise(x))
        for stage in network.stages:
            p = stage.parameters.for_shape(stage.shape)
            y, v = expected.counts[stage.name].numpy(), expected.membranes[stage.name].numpy()
            seen["negative"] += int((expected.trains[stage.name] < 0).sum())
            seen["closed gate"] += int(((y == p.y_min) & (v < -p.threshold / 2)).sum())
            seen["ceiling"] += int(((y == p.y_max) & (v > p.threshold / 2)).sum())
            seen["tie"] += int((np.abs(2 * v) == p.threshold).sum())
    assert all(n >= 20 for n in seen.values()), seen


def test_latency_totals_and_operations_agree() -> None:
    q = GRAPHS["residual"]()
    g = converters.to_nir(q, T=15)
    a, b = (converters.run(g, images(q, 5), backend=k) for k in ("snntorch", "brian2"))
    for field in ("extra_steps", "sops", "macs", "logits"):
        assert torch.equal(getattr(a, field), getattr(b, field)), field
    assert a.positive.keys() == b.positive.keys()
    assert all(
        torch.equal(a.positive[k], b.positive[k]) and torch.equal(a.negative[k], b.negative[k]) for k in a.positive
    )


def test_settle_from() -> None:
    q = lenet()
    report = cross_check(converters.to_nir(q, T=15), images(q, 3), settle_from=9)
    assert report.equal


def test_one_network_is_built_and_reused() -> None:
    q = lenet()
    network = Network.from_graph(converters.to_nir(q, T=15))
    x = images(q, 6)
    first = converters.run(network, x[:3], backend="brian2")
    built = next(v for k, v in network.__dict__["_kept"].items() if k[0] == "brian2")
    second = converters.run(network, x[3:], backend="brian2")
    assert next(v for k, v in network.__dict__["_kept"].items() if k[0] == "brian2") is built
    both = converters.run(network, x, backend="snntorch")
    for k, counts in both.counts.items():
        assert torch.equal(torch.cat([first.counts[k], second.counts[k]]), counts)


# --- planted faults -------------------------------------------------------------------------------------


def fault_threshold(graph: Any) -> tuple[str, int]:
    node = graph.nodes["fc1"]
    node.v_threshold = node.v_threshold.copy()
    node.v_threshold[3] *= 1.001
    return "fc1", 3


def fault_weight(graph: Any) -> tuple[str, int]:
    node = next(n for k, n in graph.nodes.items() if k.startswith("fc1.") and hasattr(n, "weight"))
    node.weight = node.weight.copy()
    column = int(np.abs(node.weight[5]).argmax())
    node.weight[5, column] *= -1
    return "fc1", 5


def fault_gate(graph: Any) -> Any:
    graph.nodes["conv"].y_min = -15
    return "conv", None


@pytest.mark.parametrize("sample", [None, 12])
@pytest.mark.parametrize("fault", [fault_threshold, fault_weight, fault_gate])
def test_a_planted_fault_is_found_and_located(fault: Callable[..., Any], sample: int | None, tmp_path: Path) -> None:
    q = lenet()
    graph = converters.to_nir(q, T=15)
    faulty = copy.deepcopy(graph)
    layer, channel = fault(faulty)
    x = images(q, 64)
    if sample is not None:
        sample = {"conv": 144, "fc1": 12}[layer]  # all of it, so that the faulty neuron is among them
    report = cross_check(graph, x, other=faulty, sample=sample)
    assert not report.equal
    first = report.first["brian2"]
    assert first is not None
    assert first.layer == layer
    assert channel is None or first.index[0] == channel
    assert first.spikes[0] != first.spikes[1]
    if fault is fault_threshold:
        assert first.threshold[1] == pytest.approx(1.001 * first.threshold[0])
    if fault is fault_weight:
        assert first.charge[0] != first.charge[1] or first.v[0] != first.v[1]
    if fault is fault_gate:
        assert first.y == (0, 0)
        assert first.spikes == (0, -1)
        assert first.v[1] + first.charge[1] < -first.threshold[1] / 2
    assert layer in str(first)
    if sample is None:  # nothing before the faulty layer differs
        rows = {row.layer: row.differing for row in report.layers["brian2"]}
        before = list(rows)[: list(rows).index(layer)]
        assert not any(rows[k] for k in before)
        plot(report, tmp_path / "first.png")
        assert (tmp_path / "first.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("coding", ["isi", pytest.param("direct", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", GRAPHS)
def test_samples(name: str, coding: str) -> None:
    q = GRAPHS[name]()
    report = cross_check(converters.to_nir(q, T=15, coding=coding), images(q, 3), sample=7, seed=4)
    assert report.equal
    assert report.sampled
    for row in report.layers["brian2"]:
        assert row.neurons == min(7, row.of_neurons)
        assert row.spikes_compared == row.neurons * row.steps * 3


def test_misuse() -> None:
    q = lenet()
    g = converters.to_nir(q, T=15)
    x = images(q, 2)
    for arguments, message in (
        ({"backends": ("snntorch",)}, "name two or more"),
        ({"backends": ("snntorch", "closed_form")}, "'closed_form', which has no spikes"),
        ({"sample": 0}, "at least 1"),
        ({"other": converters.to_nir(q, T=16)}, "another window"),
    ):
        with pytest.raises(ConversionError, match=message):
            cross_check(g, x, **arguments)
    same = cross_check(g, x)
    with pytest.raises(ConversionError, match="no difference to draw"):
        plot(same, "never.png")


def test_too_many_synapses_are_refused_with_a_way_out() -> None:
    q = lenet()
    g = converters.to_nir(q, T=15)
    x = images(q, 4)
    with pytest.raises(ConversionError, match=r"synapses for 4 images, about .* GB \(limit 4,000\); use batch=\d"):
        converters.run(g, x, backend="brian2", max_synapses=4000, batch=4)
    with pytest.raises(ConversionError, match="--sample K"):
        converters.run(g, x, backend="brian2", max_synapses=100)
    with pytest.raises(ConversionError, match="target: found 'fortran'; use one of numpy, cython, cpp_standalone"):
        converters.run(g, x, backend="brian2", target="fortran")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cython", "cpp_standalone"])
def test_code_generation_targets(target: str) -> None:
    q = GRAPHS["signed_input"]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    x = images(q, 2)
    a = converters.run(network, x, record="spikes")
    b = converters.run(network, x, record="spikes", backend="brian2", target=target)
    assert a.spikes is not None
    assert b.spikes is not None
    assert all(torch.equal(a.spikes[k], b.spikes[k]) for k in a.spikes)


# --- explicit synapses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_are_the_convolutions(name: str) -> None:
    """The matrix of every synapse against PyTorch's own convolution, pool and linear layer."""
    q = GRAPHS[name]()
    for layer in q.layers:
        for synapse in layer.synapses:
            shape = q.shapes[synapse.source]
            x = torch.randint(-9, 10, (3, *shape), generator=torch.Generator().manual_seed(1))
            m = synapse.matrix(shape)
            theirs = synapse(x.to(torch.float64)).flatten(1).to(torch.int64)
            assert (m @ x.flatten(1).numpy().T == theirs.numpy().T).all()
            assert 0 < m.nnz <= synapse.connections(shape)
            some = torch.randperm(theirs.shape[1], generator=torch.Generator().manual_seed(2))[:5]
            assert (synapse.rows(shape, some).flatten(1).numpy() == m[some.numpy()].toarray()).all()
