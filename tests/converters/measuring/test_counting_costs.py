"""What operations with a memory cost: connections by hand, and what commands and reports say of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import converters
from converters.experiments.energy_metrics import SpikingMetrics
from converters.measuring.costs import connections
from converters.network import Network
from converters.quantised import QuantGraph
from converters.reporting.details import layer_rows
from converters.testing.networks import NETWORKS, images, network
from tests.command_line import Calif


def of(name: str) -> tuple[QuantGraph, Network]:
    q = NETWORKS[name]()
    return q, network(q, 6, "isi")


def test_maxima_compare() -> None:
    _, net = of("maxima")
    found = {s.name: connections(s.synapses, net.shapes) for s in net.stages}
    # windows of 3 rows, from -1, 1 and 3 on, and of 2 columns, from -1 to 2 on, over 4 x 3 places of 3 channels
    rows, columns = 2 + 3 + 1, 1 + 2 + 2 + 1
    assert found["pool"].compared == found["pool"].total == 3 * rows * columns
    assert found["lowest"].compared == 2 * 3 * 3 * 4
    assert found["over"].compared == 3 * 3 * 4
    assert (found["pool"].multiplied, found["pool"].added, found["pool"].looked_up) == (0, 0, 0)
    assert net.neurons == 36 + 27 + 3
    assert [s.name for s in net.stages if s.relay] == ["pool", "wide", "lowest", "over"]


def test_tables_are_looked_up_and_products_multiply() -> None:
    _, net = of("levels")
    found = {s.name: connections(s.synapses, net.shapes) for s in net.stages}
    assert (found["conv"].multiplied, found["conv"].looked_up) == (3 * 4 * 18, 12)
    assert (found["square"].added, found["square"].looked_up) == (12, 12)
    _, net = of("gated")
    found = {s.name: connections(s.synapses, net.shapes) for s in net.stages}
    assert found["gated"].multiplied == 2 * 12
    assert found["scores"].multiplied == 2 * 3 * 4 * 2
    _, net = of("normed")
    found = {s.name: connections(s.synapses, net.shapes) for s in net.stages}
    assert found["norm"].multiplied == 16 * 8
    assert (found["softmax"].multiplied, found["softmax"].looked_up) == (4 * 16, 16)


def test_spikes_of_a_maximum_are_paid_for_and_are_no_neurons() -> None:
    q, net = of("maxima")
    x = images(q, 5)
    r = converters.run(net, x, record="spikes")
    assert r.sops is not None
    assert r.spikes is not None
    by_hand = sum(
        (r.spikes[name].abs().sum(0, dtype=torch.float64) * net.fan_out[name]).flatten(1).sum(1) for name in net.shapes
    )
    assert torch.equal(r.sops, torch.as_tensor(by_hand))
    metrics = SpikingMetrics()
    metrics(net, r, q.input.quantise(x))
    assert 0 < metrics.result()["activation_sparsity"] < 1


def test_inspect_and_report_say_so(tmp_path: Path, calif: Calif) -> None:
    q, net = of("maxima")
    converters.write(tmp_path / "net.nir", converters.to_nir(q, T=6))
    code, out, err = calif("inspect", tmp_path / "net.nir", "--json")
    assert (code, err) == (0, "")
    about = json.loads(out)
    rows = {row["name"]: row for row in about["layers"]}
    assert (rows["pool"]["passes_on"], rows["pool"]["neurons"], rows["pool"]["macs"]) == (True, 0, 0)
    assert rows["pool"]["operations"] == ["MaxPool"]
    assert about["comparisons"] == sum(row["comparisons"] for row in rows.values()) > 100
    assert about["neurons"] == net.neurons
    code, out, err = calif("inspect", tmp_path / "net.nir")
    assert (code, err) == (0, "")
    assert "comparisons" in out
    found = layer_rows(net, q, images(q, 6))
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert (layers["pool"]["kind"], layers["pool"]["neurons"]) == ("maximum", 0)
    assert layers["pool"]["sops"] > 0
    assert layers["pool"]["comparisons"] == layers["pool"]["adds"] > 0
