"""One row of a table: a quantised network against its spikes, on the whole test set and spike by spike.

The whole test set goes through the quantised network's integers and through the closed form of the converted
network; every spike is simulated for a part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converters.backends.baselines import BASELINES, run_baseline
from converters.measuring.anytime import predictions_by_step
from converters.measuring.measure import Measurement, Tick, measure
from converters.network import Network
from converters.nir_export import to_nir
from converters.quantised import QuantGraph
from converters.results import RunResult
from converters.zoo.datasets import Images

__all__ = ["spiking_row", "whole_row"]


def _piece(network: Network) -> int:
    return max(16, min(256, 2_000_000 // max(network.neurons, 1)))  # small enough for the caches


def _row(m: Measurement) -> dict[str, Any]:
    """What both kinds of rows say."""
    return {
        "counts_from": m.counts_from,
        "images": m.images,
        "quantised_accuracy": m.quantised_accuracy,
        "snn_accuracy": m.snn_accuracy,
        "counts_compared": m.counts_compared,
        "count_mismatches": m.count_mismatches,
        "predictions_differing": m.predictions_differing,
    }


def whole_row(
    q: QuantGraph, data: Images, window: int, tick: Tick = lambda n: None, coding: str = "isi"
) -> dict[str, Any]:
    """The whole test set, without simulating spikes: quantised network against closed form.

    Returns
    -------
    dict
        ``T``, ``images``, ``quantised_accuracy``, ``snn_accuracy``, ``counts_compared``, ``count_mismatches``,
        ``predictions_differing``; ``counts_from`` says ``closed form``.
    """
    network = Network.from_graph(to_nir(q, T=window, coding=coding))
    size = _piece(network)
    m = measure(network, q, data, backend="closed_form", batch=size, size=size, tick=tick, check=False)
    return {"T": window, **_row(m)}


def spiking_row(
    q: QuantGraph,
    data: Images,
    window: int,
    *,
    neuron: str = "settle",
    coding: str = "isi",
    anytime: bool = False,
    observe: Callable[[Network, RunResult, Tensor], None] | None = None,
    tick: Tick = lambda n: None,
) -> dict[str, Any]:
    """Every spike simulated.

    Parameters
    ----------
    q : QuantGraph
    data : Images
        All of them are simulated.
    window : int
    neuron : str
        A rounding phase of Ca-LIF (``settle``, ``paper``, ``none``), ``settle_from_0`` (half thresholds from the
        first step on), or a name in :data:`~converters.backends.baselines.BASELINES`.
    coding : {"isi", "direct"}
    anytime : bool
        Whether to compute the accuracy of stopping after each step (Ca-LIF only).
    observe : callable ``(network, result with spike trains, input integers)``, optional
        Called for every piece (Ca-LIF only).
    tick : callable, optional
        Told how many images are done.

    Returns
    -------
    dict
        As :func:`whole_row`, and ``latency_steps`` (largest), ``latency_steps_mean``, ``spikes_per_image``,
        ``negative_share``, ``sops_per_image``, ``macs_per_image``; with ``anytime`` the list ``anytime``: the
        accuracy after step 1, 2, ..., those after the window included.
    """
    network = Network.from_graph(to_nir(q, T=window, coding=coding))
    trains = anytime or observe is not None
    size = _piece(network)
    options: dict[str, Any] = {"phase": neuron}
    if neuron == "settle_from_0":
        options = {"phase": "settle", "settle_from": 0}
    if neuron in BASELINES:
        options = {"simulate": lambda network, pixels: run_baseline(network, pixels, name=neuron)}
    elif trains:  # one byte per neuron and step
        size = max(4, min(size, 250_000_000 // (max(network.neurons, 1) * (window + 16))))
        options |= {"record": "spikes", "batch": size}
    curves: list[Tensor] = []

    def look(r: RunResult, part: Images) -> None:
        integers = network.spec.quantise(part.pixels)
        if anytime:
            curves.append((predictions_by_step(network, r, integers) == part.labels).sum(1))
        if observe is not None:
            observe(network, r, integers)

    m = measure(network, q, data, size=size, observe=look if trains else None, tick=tick, **options)
    about = m.as_dict()
    result = {
        "T": window,
        "neuron": neuron,
        "coding": coding,
        **_row(m),
        "latency_steps": about["latency_steps"],
        "latency_steps_mean": about["latency_steps_mean"],
        "spikes_per_image": about["spikes_per_image"],
        "negative_share": m.negative / max(m.positive + m.negative, 1),
        "sops_per_image": about["sops_per_image"],
        "macs_per_image": about["macs_per_image"],
    }
    if anytime:
        steps = max(len(c) for c in curves)
        # a piece that is quiet earlier keeps its answer
        total = torch.stack([torch.cat([c, c[-1:].expand(steps - len(c))]) for c in curves]).sum(0)
        result["anytime"] = (total.double() / max(m.images, 1)).tolist()
    return result
