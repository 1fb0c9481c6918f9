"""The naive export: what it does is what was said, and what it loses is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import converters
from converters.errors import ConversionError
from converters.interop.feeding import input_spikes, layer_nodes
from converters.interop.losses import plain_if_losses
from converters.interop.stock import run_stock
from converters.lowering import lower
from converters.network import Network
from tests.converters.sample_graphs import GRAPHS, images


def hard_reset(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """Integrate-and-fire with thresholds in charge units, written here: fire at or above, then reset to zero."""
    state = {s.name: np.zeros((x.shape[1], *s.shape)) for s in network.stages}
    trains: dict[str, list[np.ndarray]] = {s.name: [] for s in network.stages}
    for step in x:
        spikes = {network.encoder_name: torch.from_numpy(step)}
        for stage in network.stages:
            p = stage.parameters.for_shape(stage.shape)
            v = state[stage.name] + stage.charge(spikes).double().numpy() - p.leak + p.v_init / network.window
            s = v >= p.threshold * (1 - 1e-9)
            state[stage.name] = np.where(s, 0, v)
            spikes[stage.name] = torch.from_numpy(s.astype(np.float32))
            trains[stage.name].append(s.astype(np.int8))
    return {name: np.stack(train) for name, train in trains.items()}


def test_a_spikingjelly_if_is_what_we_say_it_is(tmp_path: Path) -> None:
    q = GRAPHS["lenet"](levels=8)
    network = Network.from_graph(converters.to_nir(q))
    stock = lower(network, "plain_if")
    converters.write(tmp_path / "p.nir", stock)
    converters.read(tmp_path / "p.nir")
    x = input_spikes(network, network.spec.quantise(images(q, 4)), network.window)
    nodes = layer_nodes(stock)
    r = run_stock("spikingjelly", tmp_path / "p.nir", x, list(nodes.values()))
    wanted = hard_reset(network, x.numpy())
    differing = sum(int((r.outputs[nodes[k]].reshape(v.shape).numpy() != v).sum()) for k, v in wanted.items())
    assert differing <= 2  # thresholds of 1 and weights of float32 decide a tie otherwise
    assert wanted["fc2"].sum() > 5


def test_losses_are_measured_and_reasons_given() -> None:
    q = GRAPHS["lenet"](levels=8)
    g = converters.to_nir(q)
    labels = converters.run(g, images(q, 12)).predictions
    rows = {row.simulator: row for row in plain_if_losses(g, images(q, 12), labels)}
    for name in ("spikingjelly", "norse"):
        row = rows[name]
        assert 0 < row.count_mismatches < row.counts_compared == 12 * (4 * 36 + 4 * 9 + 12 + 5)
        assert row.exact_accuracy == 1.0
        assert row.accuracy == row.prediction_agreement
        assert "hard reset" in row.lost
        assert row.note == ""
    assert "returns spikes and membrane as a tuple" in rows["snntorch"].note
    assert rows["snntorch"].accuracy is None


def test_it_says_in_the_file_that_it_is_lossy(tmp_path: Path) -> None:
    stock = lower(converters.to_nir(GRAPHS["lenet"](levels=8)), "plain_if")
    converters.write(tmp_path / "p.nir", stock)
    assert "no negative spikes" in converters.read(tmp_path / "p.nir").metadata["calif_lost"]


def test_options_of_other_targets_are_refused() -> None:
    with pytest.raises(ConversionError, match="chain takes"):
        lower(converters.to_nir(GRAPHS["lenet"](levels=8)), "chain", r=1.0)
