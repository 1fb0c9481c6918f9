"""What a spiking network and its dense quantised twin cost, by the names of NeuroBench, and in energy at 45 nm.

NeuroBench (Yik et al. 2025, doi:10.1038/s41467-025-56739-4): effective operations leave out zero activations and
zero weights, dense ones count all; an operation on a value in {-1, 0, 1} is an accumulate (AC), on any other a
multiply-accumulate (MAC). Convolutions and dense layers count; pools and identities do not. Our own SOPs count
every synapse, pools included. Energy is that of the arithmetic alone: no memory, no neuron updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from calif_plugins.plots_network import ENERGY
from converters.measuring.costs import connections, stored_weights
from converters.network import Network
from converters.operations import Shape, Synapse
from converters.quantised import QuantGraph
from converters.results import RunResult

__all__ = ["ENERGY", "DenseMetrics", "SpikingMetrics", "connection_sparsity", "dense_macs", "energies", "footprint"]


def dense_macs(q: QuantGraph) -> int:
    """Multiply-accumulates of one pass: every connection of convolutions and dense layers, without padding.

    Of products, norms and softmaxes those of :class:`~converters.measuring.costs.Connections`.

    >>> from converters.zoo.named import load_checkpoint
    >>> dense_macs(load_checkpoint("lenet5-mnist-127")[0])
    416520
    """
    return int(connections((s for layer in q.layers for s in layer.synapses), q.shapes).macs)


def connection_sparsity(q: QuantGraph) -> float:
    """Share of weights that are 0."""
    weights = [w for layer in q.layers for w in stored_weights(layer.synapses)]
    return sum(int((w == 0).sum()) for w in weights) / max(sum(w.numel() for w in weights), 1)


def footprint(q: QuantGraph) -> dict[str, int]:
    """Bytes: weights and per-channel parameters as the checkpoint holds them, and the neurons' state while it runs.

    The state is a membrane of 8 bytes and a count of 4 for each neuron, as it is simulated.
    """
    weights = sum(w.numel() * w.element_size() for layer in q.layers for w in stored_weights(layer.synapses))
    parameters = sum(2 * 8 * layer.shape[0] for layer in q.layers)
    neurons = sum(torch.Size(layer.shape).numel() for layer in q.layers)
    return {"weights": weights, "parameters": parameters, "state": 12 * neurons}


def _effective(synapse: Synapse, shapes: Mapping[str, Shape], active: Mapping[str, Tensor]) -> float:
    """Operations that non-zero inputs cause at non-zero weights; ``active`` counts them, by source."""
    structure = synapse.structure(*(shapes[name] for name in synapse.sources))
    return float(structure(*(active[name].to(torch.float64) for name in synapse.sources)).sum())


class SpikingMetrics:
    """Gathers NeuroBench's metrics of a converted network, piece by piece."""

    def __init__(self) -> None:
        self.images = self.spikes = self.sites = 0
        self.acs = self.macs = self.dense = 0.0

    def __call__(self, network: Network, r: RunResult, integers: Tensor) -> None:
        """Add a piece: a result with spike trains, and the input's integers."""
        if r.spikes is None or r.latency is None:
            return
        n = len(integers)
        steps = r.latency.double()  # each image until it is quiet
        direct = network.coding == "direct"
        names = [s.name for s in network.stages]
        fired = {k: v.abs().sum(0, dtype=torch.int32) for k, v in r.spikes.items() if k in names}
        given = network.by_input(integers)
        active = {**fired, **{name: x != 0 if direct else x.abs() for name, x in given.items()}}
        for stage in network.stages:
            for synapse in (s for s in stage.synapses if s.multiplies):
                every = connections([synapse], network.shapes).multiplied
                operations = _effective(synapse, network.shapes, active)
                if direct and set(network.specs) & set(synapse.sources):
                    self.macs += operations
                    self.dense += every * n
                else:
                    self.acs += operations
                    self.dense += every * float(steps.sum())
        relays = {s.name for s in network.stages if s.relay}  # which are no sites either
        self.spikes += sum(int(v.sum()) for name, v in fired.items() if name not in relays)
        self.sites += int(network.neurons * float(steps.sum()))
        self.images += n

    def result(self) -> dict[str, Any]:
        n = max(self.images, 1)
        return {
            "activation_sparsity": 1 - self.spikes / max(self.sites, 1),
            "synaptic_operations": {
                "Effective_ACs": self.acs / n,
                "Effective_MACs": self.macs / n,
                "Dense": self.dense / n,
            },
        }


class DenseMetrics:
    """The same of the quantised network: one pass, integers for activations."""

    def __init__(self, q: QuantGraph) -> None:
        self.q = q
        self.images = self.zeros = self.sites = 0
        self.macs = 0.0

    def __call__(self, pixels: Tensor) -> None:
        """Add a piece of images."""
        values, shapes = self.q.execute(pixels), self.q.shapes
        for layer in self.q.layers:
            for synapse in (s for s in layer.synapses if s.multiplies):
                self.macs += _effective(synapse, shapes, {name: values[name] != 0 for name in synapse.sources})
            self.zeros += int((values[layer.name] == 0).sum())
            self.sites += values[layer.name].numel()
        self.images += len(pixels)

    def result(self) -> dict[str, Any]:
        n = max(self.images, 1)
        return {
            "activation_sparsity": self.zeros / max(self.sites, 1),
            "synaptic_operations": {
                "Effective_ACs": 0.0,
                "Effective_MACs": self.macs / n,
                "Dense": float(dense_macs(self.q)),
            },
        }


def energies(macs: float, acs: float) -> dict[str, float]:
    """Energy in microjoules under both presets (Horowitz 2014, 45 nm; a MAC is a product and an addition).

    >>> {k: round(v, 4) for k, v in energies(macs=1e6, acs=1e6).items()}
    {'FP32': 5.5, 'INT8': 0.26}
    """
    return {name: 1e-6 * (mac * macs + add * acs) for name, (mac, add) in ENERGY.items()}
