"""What a report shows beyond a run's totals: every layer by itself, and a few images step by step."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from converters.backends import run
from converters.measuring.costs import connections
from converters.measuring.measure import LayerTotals, measure
from converters.measuring.replay import outputs_by_step
from converters.measuring.tasks import Question, is_unlabelled, questions, unlabelled
from converters.network import Network, Stage
from converters.quantised import QuantGraph
from converters.reporting.activity import Activity
from converters.reporting.examples import answers, mistakes
from converters.reporting.parts import exact_window
from converters.results import RunResult
from converters.zoo.datasets import Images

__all__ = ["MAP_NEURONS", "describe", "layer_rows", "pack", "traces", "unpack", "wrong_of"]

_VALUES = 20
_MAP_SPIKES = 15_000_000  # three in a byte of the page
MAP_NEURONS = 5000  # of each layer, whole channels: what the page carries of an image's spikes


def describe(
    runs: Sequence[tuple[nir.NIRGraph | Network, str]],
    q: QuantGraph | None,
    data: Images,
    *,
    images: int = 50,
    shown: int = 3,
    trace_window: int = 32,
    wrong: Sequence[Sequence[int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The entry ``details`` of a run's JSON.

    Parameters
    ----------
    runs : sequence of (graph, phase)
        One network at each window.
    q : QuantGraph, optional
        What the counts are compared with; without it the closed form of the graph.
    data : Images
        Test images.
    images : int
        How many the layers' numbers are means of.
    shown : int
        How many to keep step by step, of different labels as far as there are; at the window nearest to
        ``trace_window`` steps.
    wrong : sequence of (place in ``data``, label, prediction)
        Images that the network gets wrong, as :attr:`~converters.measuring.scores.ClassScore.wrong` has them.

    Returns
    -------
    dict
        ``images``, ``windows`` (``T``, ``phase``, ``layers``, ``extra_steps``), ``traces``, ``answers`` and ``wrong``
        (:mod:`converters.reporting.examples`), ``names`` of the classes, and ``versions``.

    Raises
    ------
    ConversionError
        If the images do not fit the network.
    """
    part = data.first(images)
    windows = []
    networks = [(Network.from_graph(graph), phase) for graph, phase in runs]
    for k, (network, phase) in enumerate(networks):
        windows.append(layer_rows(network, q, part.pixels, phase=phase))
        if progress is not None:
            progress(k + 1, len(runs))
    network, phase = min(networks, key=lambda n: (abs(n[0].window - trace_window), n[1] != "settle"))
    asked = questions(network, (part.labels, *part.more_labels))
    low, high = (network.spec.scale * q for q in (min(0, network.spec.q_min), network.spec.q_max))
    found: list[dict[str, Any]] = []
    if any(one.task != "classes" for one in asked):
        r = run(network, part.pixels, phase=phase, record="output")  # type: ignore[arg-type]
        found = answers(asked, r, part, low, high)
    return {
        "images": len(part),
        "windows": windows,
        "traces": traces(network, part, phase=phase, shown=shown),
        "answers": found,
        "wrong": mistakes(data, wrong, low, high),
        "names": list(data.names),
        "versions": _versions(),
    }


def wrong_of(windows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Images that a run gets wrong, of the rows of its JSON: by the main output, at the longest exact window.

    >>> row = {"T": 8, "phase": "settle", "outputs": [{"name": "fc", "wrong": [[3, 4, 9]]}]}
    >>> wrong_of([row, {**row, "phase": "none", "outputs": []}])
    [[3, 4, 9]]
    """
    return next((one.get("wrong", []) for one in exact_window(windows).get("outputs", [])), [])


def layer_rows(network: Network, q: QuantGraph | None, pixels: Tensor, *, phase: str = "settle") -> dict[str, Any]:
    """Every layer of one network: neurons, fan-in, thresholds, and means over ``pixels`` of what it did.

    ``sops`` are the synaptic operations that the layer receives, ``macs`` and ``adds`` what the same layer costs a
    dense network; spikes, SOPs, MACs and additions are per image, the input's row among the layers'.
    """
    fired: dict[str, Tensor] = {}
    extra: list[int] = []
    seen = {}
    for stage in network.stages:
        if not stage.readout:
            p = stage.parameters
            seen[stage.name] = Activity(stage.shape, int(p.y_min.min()), int(p.y_max.max()))

    def look(r: RunResult, part: Images) -> None:
        for name, train in (r.spikes or {}).items():
            now = train.abs().sum((0, 1), dtype=torch.float64)
            fired[name] = fired.get(name, 0) + now
            if name in seen:
                seen[name].add(r.counts[name], now)
        extra.extend([] if r.extra_steps is None else r.extra_steps.tolist())

    steps = (network.window + 32) * sum(int(np.prod(s)) for s in network.shapes.values())
    size = max(1, 200_000_000 // steps)  # a train takes a byte for each neuron and step
    data = Images(pixels, unlabelled(len(pixels)), 1)
    m = measure(network, q, data, phase=phase, record="spikes", size=size, observe=look)
    n = max(m.images, 1)
    rows = [_input_row(network, m.layers[network.encoder_name], n)]
    for stage in network.stages:
        about, found = _layer(stage, network), m.layers[stage.name]
        about["positive"], about["negative"] = found.positive / n, found.negative / n
        about["sops"] = _operations(stage, network, fired) / n
        about["counts_compared"], about["mismatches"] = found.compared, found.differing
        about |= seen[stage.name].as_dict() if stage.name in seen else {}
        rows.append(about)
    return {
        "T": network.window,
        "phase": phase,
        "coding": network.encoder.coding,
        "compared_with": m.compared_with,
        "neurons": network.neurons,
        "direct_macs": m.macs / n,
        "extra_steps": extra,
        "layers": rows,
    }


def _input_row(network: Network, found: LayerTotals, n: int) -> dict[str, Any]:
    e = network.encoder
    return {
        "name": network.encoder_name,
        "kind": "input",
        "shape": list(network.spec.shape),
        "neurons": int(np.prod(network.spec.shape)),
        "range": [int(e.q_min), int(e.q_max)],
        "positive": found.positive / n,
        "negative": found.negative / n,
    }


def _layer(stage: Stage, network: Network) -> dict[str, Any]:
    p = stage.parameters
    synapses = connections(stage.synapses, network.shapes)
    return {
        "name": stage.name,
        "kind": "membrane" if stage.readout else "maximum" if stage.relay else "spikes",
        "shape": list(stage.shape),
        "neurons": 0 if stage.relay else stage.size,
        "fan_in": synapses.total / stage.size,
        "threshold": [float(p.threshold.min()), float(p.threshold.max())],
        "leak": [float(p.leak.min()), float(p.leak.max())],
        "range": [int(p.y_min.min()), int(p.y_max.max())],
        "tie": p.tie,
        "macs": synapses.macs,
        "synapses": synapses.total,
        "adds": synapses.added + synapses.compared,  # a comparison is a subtraction
        "comparisons": synapses.compared,
        "lookups": synapses.looked_up,
    }


def _operations(stage: Stage, network: Network, fired: dict[str, Any]) -> float:
    """Synaptic operations that the spikes ``fired`` by each source bring to a layer."""
    total = 0.0
    for s in stage.synapses:
        leaving = s.fan_out(*(network.shapes[name] for name in s.sources))
        total += sum(float((fired[k] * n).sum()) for k, n in zip(s.sources, leaving, strict=True) if k in fired)
    return total


def traces(network: Network, data: Images, *, phase: str = "settle", shown: int = 3) -> dict[str, Any]:
    """A few images step by step: spikes of the input and of every layer, and the output.

    Trains are packed by :func:`pack`; of layers with more than ``MAP_NEURONS`` neurons the first channels. Of many
    layers fewer neurons are kept, so that a page takes some megabytes.
    ``output`` is the signed count of each class after each step, or the membrane over its threshold; of a map how many
    of its places each class has; of a regression the values. Of several outputs that is the first.
    """
    asked = questions(network, (data.labels, *data.more_labels))[0]
    chosen = _different(data.labels, shown) if asked.task == "classes" else list(range(min(shown, len(data))))
    pixels = data[chosen].pixels
    integers = network.spec.quantise(pixels)
    r = run(network, integers=integers, phase=phase, record="spikes")  # type: ignore[arg-type]
    trains = {k: t.cpu() for k, t in (r.spikes or {}).items()}
    levels = outputs_by_step(network, trains, integers.cpu())
    output = _told(asked, levels, network.output.scale)
    ends = _ends(asked, r, data[chosen])
    shapes, kept = network.shapes, {}
    drawn = min(MAP_NEURONS, _MAP_SPIKES // max(1, len(chosen) * len(output) * len(shapes)))
    for name, shape in shapes.items():
        channel = int(np.prod(shape[1:]))
        kept[name] = max(1, min(shape[0], drawn // max(channel, 1)))
    rows = []
    for k in range(len(chosen)):
        end = network.window + (int(r.extra_steps[k]) if r.extra_steps is not None else 0)
        layers = []
        for name, train in trains.items():
            own = train[:end, k]
            flat = own.reshape(end, -1)
            layers.append(
                {
                    "name": name,
                    "positive": (flat > 0).sum(1).tolist(),
                    "negative": (flat < 0).sum(1).tolist(),
                    "spikes": pack(own[:, : kept[name]].reshape(end, -1).numpy()),
                }
            )
        rows.append(
            {
                **ends[k],
                "steps": end,
                "pixels": integers[k].tolist(),
                "output": output[:end, k].tolist(),
                "layers": layers,
            }
        )
    return {
        "T": network.window,
        "phase": phase,
        "input": network.encoder_name,
        "output": {"name": network.output.name, "counts": not network.output.readout, "task": asked.task},
        "layers": [
            {"name": n, "shape": list(shapes[n]), "channels_shown": kept[n]}
            for n in trains
            if n != network.encoder_name
        ],
        "input_shape": list(network.spec.shape),
        "input_channels_shown": kept[network.encoder_name],
        "input_range": [network.spec.q_min, network.spec.q_max],
        "images": rows,
    }


def _told(asked: Question, levels: Tensor, scale: float) -> Tensor:
    """What the player shows of the main output after each step: ``(steps, N, numbers)``."""
    if asked.task == "classes":
        return levels.flatten(2)
    steps, n = levels.shape[:2]
    said = asked.answer(levels.to(torch.float64).flatten(0, 1) * scale)
    if asked.task == "values":
        return said.reshape(steps, n, -1)[:, :, :_VALUES]
    flat = said.reshape(steps * n, -1)
    places = torch.zeros(steps * n, asked.classes, dtype=torch.int64)
    return places.scatter_add_(1, flat, torch.ones_like(flat)).unflatten(0, (steps, n))


def _ends(asked: Question, r: RunResult, data: Images) -> list[dict[str, Any]]:
    """How each image ends: its label and prediction where these are classes, and a sentence where they are not."""
    said = asked.answer(r.output_values[asked.output.layer]).cpu()
    known = asked.truth(None if is_unlabelled(data.labels) else data.labels, said).cpu()
    rows: list[dict[str, Any]] = []
    for one, truth in zip(said, known, strict=True):
        if asked.task == "classes":
            rows.append({"label": int(truth) if truth >= 0 else None, "prediction": int(one)})
            continue
        if asked.task == "map":
            there = truth >= 0
            right = float((one == truth)[there].double().mean()) if bool(there.any()) else None
            end = "" if right is None else f"at the end {100 * right:.2f} % of the labelled pixels are right"
        else:
            numbers = [", ".join(f"{x:.4g}" for x in values.flatten()[:_VALUES].tolist()) for values in (one, truth)]
            end = f"at the end it says {numbers[0]}"
            end += "" if bool(truth.isnan().all()) else f", and the label is {numbers[1]}"
        rows.append({"label": None, "prediction": None, "end": end})
    return rows


def _different(labels: Tensor, count: int) -> list[int]:
    """Indices of ``count`` images, each new label first."""
    seen: set[int] = set()
    fresh: list[int] = []
    again: list[int] = []
    for k, label in enumerate(labels.tolist()):
        (again if label in seen else fresh).append(k)
        seen.add(label)
    return sorted((fresh + again)[:count])


def pack(spikes: np.ndarray) -> str:
    """Signed spikes ``(steps, neurons)`` in {-1, 0, 1} as base64, two bits each, the lowest first.

    >>> pack(np.array([[1, -1, 0, 0]]))
    'Ug=='
    """
    codes = (np.asarray(spikes, dtype=np.int8).reshape(-1) + 1).astype(np.uint8)
    fours = np.concatenate([codes, np.zeros(-len(codes) % 4, dtype=np.uint8)]).reshape(-1, 4)
    return base64.b64encode((fours << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(1).astype(np.uint8)).decode()


def unpack(text: str, shape: tuple[int, int]) -> np.ndarray:
    """What :func:`pack` packed: int8 ``(steps, neurons)``.

    >>> unpack("Ug==", (1, 4))
    array([[ 1, -1,  0,  0]], dtype=int8)
    """
    raw = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    codes = (raw[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return codes.reshape(-1)[: shape[0] * shape[1]].astype(np.int8).reshape(shape) - np.int8(1)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("calif-plugins", "torch", "snntorch", "Brian2", "nir", "torchao", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
