"""What a spiking network and its dense quantised twin cost, by the names of NeuroBench, and in energy at 45 nm.

NeuroBench (Yik et al. 2025, doi:10.1038/s41467-025-56739-4): effective operations leave out zero activations and
zero weights, dense ones count all; an operation on a value in {-1, 0, 1} is an accumulate (AC), on any other a
multiply-accumulate (MAC). Convolutions and dense layers count; pools and identities do not. Our own SOPs count
every synapse, pools included. Energy is that of the arithmetic alone: no memory, no neuron updates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calif_plugins.plots_network import ENERGY
from converters.network import Network
from converters.quantised import QuantGraph
from converters.results import RunResult
from converters.synapses import Conv2d, Linear, Synapse

__all__ = ["ENERGY", "DenseMetrics", "SpikingMetrics", "connection_sparsity", "dense_macs", "energies", "footprint"]


def _weighted(synapse: Synapse) -> bool:
    return any(isinstance(op, Conv2d | Linear) for op in synapse.ops)


def dense_macs(q: QuantGraph) -> int:
    """Multiply-accumulates of one pass: every connection of convolutions and dense layers, without padding.

    >>> from converters.zoo.named import load_checkpoint
    >>> dense_macs(load_checkpoint("lenet5-mnist-127")[0])
    416520
    """
    shapes = q.shapes
    links = [s for layer in q.layers for s in layer.synapses if _weighted(s)]
    return int(sum(float(s.fan_out(shapes[s.source]).sum()) for s in links))


def connection_sparsity(q: QuantGraph) -> float:
    """Share of weights that are 0."""
    zeros = total = 0
    for layer in q.layers:
        for op in (op for s in layer.synapses for op in s.ops):
            if isinstance(op, Conv2d | Linear):
                zeros, total = zeros + int((op.weight == 0).sum()), total + op.weight.numel()
    return zeros / max(total, 1)


def footprint(q: QuantGraph) -> dict[str, int]:
    """Bytes: weights and per-channel parameters as the checkpoint holds them, and the neurons' state while it runs.

    The state is a membrane of 8 bytes and a count of 4 for each neuron, as it is simulated.
    """
    weights = sum(
        op.weight.numel() * op.weight.element_size()
        for layer in q.layers
        for s in layer.synapses
        for op in s.ops
        if isinstance(op, Conv2d | Linear)
    )
    parameters = sum(2 * 8 * layer.shape[0] for layer in q.layers)
    neurons = sum(torch.Size(layer.shape).numel() for layer in q.layers)
    return {"weights": weights, "parameters": parameters, "state": 12 * neurons}


def _effective(synapse: Synapse, active: Tensor) -> float:
    """Operations that non-zero inputs cause at non-zero weights; ``active`` counts them."""
    dtype = torch.float64
    return float(synapse.structure()(active.to(dtype)).sum())


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
        direct = network.encoder.coding == "direct"
        names = [s.name for s in network.stages]
        fired = {k: v.abs().sum(0, dtype=torch.int32) for k, v in r.spikes.items() if k in names}
        for stage in network.stages:
            for synapse in stage.synapses:
                if not _weighted(synapse):
                    continue
                connections = float(synapse.fan_out(network.shapes[synapse.source]).sum())
                if synapse.source != network.encoder_name:
                    self.acs += _effective(synapse, fired[synapse.source])
                    self.dense += connections * float(steps.sum())
                elif direct:
                    self.macs += _effective(synapse, integers != 0)
                    self.dense += connections * n
                else:
                    self.acs += _effective(synapse, integers.abs())
                    self.dense += connections * float(steps.sum())
        self.spikes += sum(int(v.sum()) for v in fired.values())
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
        values = self.q.execute(pixels)
        for layer in self.q.layers:
            for synapse in layer.synapses:
                if _weighted(synapse):
                    self.macs += _effective(synapse, values[synapse.source] != 0)
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
