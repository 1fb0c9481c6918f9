"""Rows of the tables against the quantised network, the step loop, and sums made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.experiments.energy_metrics import (
    DenseMetrics,
    SpikingMetrics,
    connection_sparsity,
    dense_macs,
    energies,
    footprint,
)
from converters.experiments.measuring import spiking_row, whole_row
from converters.measuring.anytime import anytime_curve
from converters.network import Network
from converters.operations import Linear
from converters.quantised import GraphBuilder
from converters.results import compare_counts
from converters.zoo.images import Images
from converters.zoo.named import load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images


def labelled(q: Any, n: Any) -> Any:
    x = images(q, n)
    labels = q.predict(x)
    labels[::3] = (labels[::3] + 1) % 3
    return Images(x, labels, 5)


@pytest.mark.parametrize("name", ["lenet", "residual", "signed_input"])
@pytest.mark.parametrize("window", [6, 15])
def test_the_whole_set(name: str, window: int) -> None:
    q = GRAPHS[name]()
    data = labelled(q, 23)
    row = whole_row(q, data, window)
    at = q.at_window(window)
    right = (at.predict(data.pixels) == data.labels).double().mean()
    assert row["quantised_accuracy"] == row["snn_accuracy"] == pytest.approx(float(right))
    spiking = sum(layer.shape.numel() if hasattr(layer.shape, "numel") else torch.Size(layer.shape).numel()
                  for layer in q.layers if layer.spiking)  # fmt: skip
    assert row["counts_compared"] == 23 * spiking
    assert (row["count_mismatches"], row["predictions_differing"]) == (0, 0)


@pytest.mark.parametrize("coding", ["isi", "direct"])
@pytest.mark.parametrize("neuron", ["settle", "paper", "none", "settle_from_0"])
def test_spikes_against_the_step_loop(neuron: str, coding: str) -> None:
    q = GRAPHS["residual"]()
    data = labelled(q, 21)
    row = spiking_row(q, data, 15, neuron=neuron, coding=coding, anytime=True)
    g = converters.to_nir(q, T=15, coding=coding)
    options = {"phase": "settle", "settle_from": 0} if neuron == "settle_from_0" else {"phase": neuron}
    r = converters.run(g, data.pixels, backend="snntorch", **options)
    wrong = sum(m.differing for m in compare_counts(r, q.execute(data.pixels)))
    assert row["count_mismatches"] == wrong
    assert (wrong == 0) == neuron.startswith("settle")
    assert row["snn_accuracy"] == pytest.approx(float((r.predictions == data.labels).double().mean()))
    assert row["predictions_differing"] == int((r.predictions != q.predict(data.pixels)).sum())
    assert row["latency_steps"] == int(r.latency.max())
    assert row["latency_steps_mean"] == pytest.approx(float(r.latency.double().mean()))
    assert row["spikes_per_image"] == pytest.approx(r.spikes_per_image)
    assert row["sops_per_image"] == pytest.approx(float(r.sops.mean()))
    assert row["macs_per_image"] == pytest.approx(float(r.macs.mean()))
    curve = anytime_curve(g, data.pixels, data.labels, **options)
    assert row["anytime"] == pytest.approx(list(curve.accuracy))
    assert row["anytime"][-1] == row["snn_accuracy"]


def neurobench_example() -> Any:
    """The matrix and the vector of NeuroBench's page on synaptic operations, with integers: 4 effective, 9 dense."""
    b = GraphBuilder()
    x = b.input((3,), scale=1.0, q_min=-4, q_max=4)
    w = torch.tensor([[1, 0, -3], [0, 1, -5], [-1, 3, 0]], dtype=torch.int8)
    return b.build(b.layer("fc", [(x, Linear(w))], threshold=2.0, y_min=-4, y_max=4, scale=1.0))


def test_neurobenchs_own_example() -> None:
    q = neurobench_example()
    dense = DenseMetrics(q)
    dense(torch.tensor([[0.0, 1.0, -1.0]]))
    assert dense.result()["synaptic_operations"] == {"Effective_ACs": 0.0, "Effective_MACs": 4.0, "Dense": 9.0}
    assert connection_sparsity(q) == pytest.approx(3 / 9)
    spiking = SpikingMetrics()
    g = converters.to_nir(q, T=4)
    row = spiking_row(q, Images(torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([0]), 3), 4, observe=spiking)
    ops = spiking.result()["synaptic_operations"]
    assert ops == {"Effective_ACs": 4.0, "Effective_MACs": 0.0, "Dense": 9.0 * row["latency_steps"]}
    assert Network.from_graph(g).window == 4


def test_spiking_metrics_by_hand() -> None:
    """Every spike of every neuron, one after the other."""
    q = GRAPHS["lenet"]()
    x = images(q, 3)
    network = Network.from_graph(converters.to_nir(q, T=10))
    r = converters.run(network, x, record="spikes", backend="snntorch")
    metrics = SpikingMetrics()
    metrics(network, r, network.spec.quantise(x))
    acs = spikes = 0.0
    for stage in network.stages:
        spikes += float(r.spikes[stage.name].abs().sum())
        synapse = stage.synapses[0]
        if stage.name == "pool":
            continue
        for t in range(len(r.spikes[synapse.source])):
            s = r.spikes[synapse.source][t].double()
            for index in s[0].nonzero() if len(s) else []:  # the first image, spike by spike
                one = torch.zeros(1, *s.shape[1:], dtype=torch.float64)
                one[(0, *index)] = 1
                acs += float((synapse(one) != 0).sum())
    alone = SpikingMetrics()
    one = converters.run(network, x[:1], record="spikes", backend="snntorch")
    alone(network, one, network.spec.quantise(x[:1]))
    assert alone.result()["synaptic_operations"]["Effective_ACs"] == acs
    sites = network.neurons * float(r.latency.sum())
    assert metrics.result()["activation_sparsity"] == pytest.approx(1 - spikes / sites)


def test_direct_input_multiplies_once() -> None:
    q = GRAPHS["lenet"]()
    x = images(q, 4)
    network = Network.from_graph(converters.to_nir(q, T=10, coding="direct"))
    r = converters.run(network, x, record="spikes")
    n = network.spec.quantise(x)
    metrics = SpikingMetrics()
    metrics(network, r, n)
    w = q.layers[0].synapses[0].ops[0].stored
    windows = torch.nn.functional.unfold((n != 0).double(), 3).transpose(1, 2)  # (N, places, 9)
    by_hand = (windows.unsqueeze(2) * (w.flatten(1) != 0)).sum()
    assert metrics.result()["synaptic_operations"]["Effective_MACs"] == float(by_hand) / 4


def test_lenet_as_everyone_counts_it() -> None:
    q, _ = load_checkpoint("lenet5-mnist-127")
    assert dense_macs(q) == 25 * 6 * 28 * 28 + 25 * 6 * 16 * 10 * 10 + 400 * 120 + 120 * 84 + 84 * 10
    weights = 25 * 6 + 25 * 6 * 16 + 400 * 120 + 120 * 84 + 84 * 10
    neurons = 6 * 28 * 28 + 6 * 14 * 14 + 16 * 100 + 16 * 25 + 120 + 84 + 10
    assert footprint(q)["weights"] == weights
    assert footprint(q)["state"] == 12 * neurons
    assert energies(macs=416_520, acs=0)["INT8"] == pytest.approx(0.0958, abs=1e-4)
