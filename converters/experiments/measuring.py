"""One row of a table: a quantised network against its spikes, on the whole test set and spike by spike.

The whole test set goes through the quantised network's integers and through the closed form of the converted
network; every spike is simulated for a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from converters.anytime import predictions_by_step
from converters.backends import run
from converters.baselines import BASELINES, run_baseline
from converters.network import Network
from converters.nir_export import to_nir
from converters.quantised import QuantGraph
from converters.results import RunResult, compare_counts
from converters.zoo.datasets import Images

__all__ = ["pieces", "spiking_row", "whole_row"]

Tick = Callable[[int], None]


def pieces(data: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels, ``size`` at a time."""
    for start in range(0, len(data), size):
        part = data[start : start + size]
        yield part.pixels, part.labels


def _piece(network: Network) -> int:
    return max(16, min(256, 2_000_000 // network.neurons))  # small enough for the caches


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
    network, shrunk = Network.from_graph(to_nir(q, T=window, coding=coding)), q.at_window(window, coding)
    right = spiking = differing = compared = wrong = 0
    for pixels, labels in pieces(data, _piece(network)):
        values = shrunk.execute(pixels)
        r = run(network, pixels, backend="closed_form", batch=len(pixels))
        predicted = shrunk.logits(values).flatten(1).argmax(1)
        right += int((predicted == labels).sum())
        spiking += int((r.predictions == labels).sum())
        differing += int((r.predictions != predicted).sum())
        for row in compare_counts(r, values):
            compared, wrong = compared + row.compared, wrong + row.differing
        tick(len(pixels))
    n = max(len(data), 1)
    return {
        "T": window,
        "counts_from": "closed form",
        "images": len(data),
        "quantised_accuracy": right / n,
        "snn_accuracy": spiking / n,
        "counts_compared": compared,
        "count_mismatches": wrong,
        "predictions_differing": differing,
    }


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
        first step on), or a name in :data:`~converters.baselines.BASELINES`.
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
    network, shrunk = Network.from_graph(to_nir(q, T=window, coding=coding)), q.at_window(window, coding)
    options: dict[str, Any] = {"phase": neuron}
    if neuron == "settle_from_0":
        options = {"phase": "settle", "settle_from": 0}
    trains = anytime or observe is not None
    size = _piece(network)
    if trains:  # one byte per neuron and step
        size = max(4, min(size, 250_000_000 // (network.neurons * (window + 16))))
    t = dict.fromkeys(("right", "quantised", "differing", "compared", "wrong", "latency", "sops", "macs"), 0.0)
    up = down = worst = 0
    curves: list[Tensor] = []
    for pixels, labels in pieces(data, size):
        if neuron in BASELINES:
            r = run_baseline(network, pixels, name=neuron)
        elif trains:
            r = run(network, pixels, record="spikes", batch=len(pixels), **options)
        else:
            r = run(network, pixels, **options)
        values = shrunk.execute(pixels)
        predicted = shrunk.logits(values).flatten(1).argmax(1)
        for row in compare_counts(r, values):
            t["compared"] += row.compared
            t["wrong"] += row.differing
        t["right"] += int((r.predictions == labels).sum())
        t["quantised"] += int((predicted == labels).sum())
        t["differing"] += int((r.predictions != predicted).sum())
        if r.latency is not None and r.sops is not None and r.macs is not None:
            worst = max(worst, int(r.latency.max()))
            t["latency"] += float(r.latency.sum())
            t["sops"] += float(r.sops.sum())
            t["macs"] += float(r.macs.sum())
        up += sum(int(v.sum()) for v in r.positive.values())
        down += sum(int(v.sum()) for v in r.negative.values())
        if trains:
            integers = network.spec.quantise(pixels)
            if anytime:
                curves.append((predictions_by_step(network, r, integers) == labels).sum(1))
            if observe is not None:
                observe(network, r, integers)
        tick(len(pixels))
    n = max(len(data), 1)
    result = {
        "T": window,
        "neuron": neuron,
        "coding": coding,
        "counts_from": "simulation",
        "images": len(data),
        "quantised_accuracy": t["quantised"] / n,
        "snn_accuracy": t["right"] / n,
        "counts_compared": int(t["compared"]),
        "count_mismatches": int(t["wrong"]),
        "predictions_differing": int(t["differing"]),
        "latency_steps": worst,
        "latency_steps_mean": t["latency"] / n,
        "spikes_per_image": (up + down) / n,
        "negative_share": down / max(up + down, 1),
        "sops_per_image": t["sops"] / n,
        "macs_per_image": t["macs"] / n,
    }
    if anytime:
        steps = max(len(c) for c in curves)
        # a piece that is quiet earlier keeps its answer
        total = torch.stack([torch.cat([c, c[-1:].expand(steps - len(c))]) for c in curves]).sum(0)
        result["anytime"] = (total.double() / n).tolist()
    return result
