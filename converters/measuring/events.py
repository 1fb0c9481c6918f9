"""What the spikes of a run cost, layer by layer, beside one dense pass of the same layer.

A layer with weights adds one of them for each result that a spike reaches. A product of two operands in spikes needs
no multiplication either: on a spike of one factor the synapse adds the *count* of the other, so that in ``A @ B`` with
``A`` of shape ``(n, k)`` and ``B`` of ``(k, m)`` a spike of ``A`` costs ``m`` additions and one of ``B`` ``n``, where
the dense product is ``n k m`` multiply-accumulates. With ``a`` spikes for each entry of ``A`` and ``b`` for each of
``B`` that is ``n k m (a + b)`` additions: both operands pay, where a layer with weights pays for one.

A norm and a softmax have no such form: whatever a spike reaches is computed anew, once in a step, however many arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calif_plugins.plots_network import ENERGY
from converters.errors import ConversionError
from converters.measuring.costs import connections
from converters.network import Network, Stage
from converters.operations import Synapse
from converters.results import RunResult

__all__ = ["LayerCost", "layer_costs"]


@dataclass(frozen=True)
class LayerCost:
    """Of one layer, for an image.

    Attributes
    ----------
    name : str
    kind : {"weights", "product", "norm", "softmax", "other"}
        What costs most of it.
    additions : float
        Of weights, counts or spikes, one for each spike and each result that it reaches.
    anew : float
        Multiplications of results that are computed anew in the steps in which a spike reaches them; and those of
        weights with a directly coded input, once.
    dense, dense_additions : float
        Multiply-accumulates of one dense pass, and additions of what has no weights.
    """

    name: str
    kind: str
    additions: float
    anew: float
    dense: float
    dense_additions: float

    def energy(self, arithmetic: str = "INT8") -> tuple[float, float]:
        """Of the spikes and of one dense pass, in pJ (Horowitz 2014, 45 nm): arithmetic alone."""
        mac, add = ENERGY[arithmetic]
        return add * self.additions + mac * self.anew, mac * self.dense + add * self.dense_additions


def layer_costs(network: Network, r: RunResult) -> list[LayerCost]:
    """What every layer's spikes cost in a run, the rounding phase included; means over its images.

    Parameters
    ----------
    network : Network
        Whose run it is.
    r : RunResult
        With trains: ``record="spikes"``.

    Examples
    --------
    >>> import converters
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-8")
    >>> g = converters.to_nir(q)
    >>> r = converters.run(g, torch.rand(1, 1, 32, 32), record="spikes")
    >>> costs = layer_costs(Network.from_graph(g), r)
    >>> sum(c.additions for c in costs) == float(r.sops)
    True
    """
    if r.spikes is None:
        raise ConversionError("r", "a result without spikes", 'run it with record="spikes"')
    images = max(1, next(iter(r.spikes.values())).shape[1])
    return [_layer(stage, network, r.spikes, images) for stage in network.stages]


def _layer(stage: Stage, network: Network, spikes: Mapping[str, Tensor], images: int) -> LayerCost:
    additions = anew = 0.0
    for synapse in stage.synapses:
        shapes = [network.shapes[name] for name in synapse.sources]
        macs = synapse.multiplications(*shapes)
        if network.coding == "direct" and set(synapse.sources) & set(network.specs):
            anew += macs
        elif any(op.evaluates for op in synapse.ops):
            anew += macs * _reached(synapse, spikes) / stage.size / images
        else:
            leaving = synapse.fan_out(*shapes)
            for name, each in zip(synapse.sources, leaving, strict=True):
                additions += float((spikes[name].abs().sum((0, 1), dtype=torch.float64) * each).sum()) / images
    dense = connections(stage.synapses, network.shapes)
    return LayerCost(stage.name, _kind(stage), additions, anew, dense.macs, dense.added + dense.compared)


def _reached(synapse: Synapse, spikes: Mapping[str, Tensor]) -> float:
    """Results that a spike reaches, over all steps and images."""
    structure = synapse.structure(*(tuple(spikes[name].shape[2:]) for name in synapse.sources))
    total = 0.0
    for now in zip(*(spikes[name] for name in synapse.sources), strict=True):  # step by step
        if any(bool(x.any()) for x in now):
            total += float((structure(*(x.abs().to(torch.float64) for x in now)) > 0).sum())
    return total


def _kind(stage: Stage) -> str:
    names = {type(op).__name__ for synapse in stage.synapses for op in synapse.ops}
    if names & {"MatMul", "Product"}:
        return "product"
    if names & {"Normalise", "LocalResponse"}:
        return "norm"
    if "Softmax" in names:
        return "softmax"
    return "weights" if any(op.stored is not None for s in stage.synapses for op in s.ops) else "other"
