"""What a naive export costs, measured: target ``plain_if`` in each simulator against the Ca-LIF network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from converters.backends import run
from converters.files.nir_file import write
from converters.interop.feeding import input_spikes, layer_nodes
from converters.interop.stock import SIMULATORS, CannotRun, run_stock
from converters.lowering import lower
from converters.lowering.plain_if import LOST_IN
from converters.network import Network
from converters.ports.answers import predicted
from converters.ports.outputs import leaves

__all__ = ["Loss", "plain_if_losses"]


@dataclass(frozen=True)
class Loss:
    """One simulator's row.

    Attributes
    ----------
    simulator, version : str
    images, counts_compared, count_mismatches : int
        Final counts of all layers that spike, against those of the Ca-LIF network (rounding phase included).
    prediction_agreement : float or None
        Share of images with the Ca-LIF network's label.
    accuracy, exact_accuracy : float or None
        On the labels, where they are given: the export's, and the Ca-LIF network's.
    seconds : float
    lost : str
        What the simulator's importer makes of an IF.
    note : str
        Why it does not run, in its own words; empty where it does.
    """

    simulator: str
    version: str
    images: int
    counts_compared: int
    count_mismatches: int
    prediction_agreement: float | None
    accuracy: float | None
    exact_accuracy: float | None
    seconds: float
    lost: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plain_if_losses(
    graph: nir.NIRGraph | Network,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    simulators: Sequence[str] = ("spikingjelly", "snntorch", "norse", "sinabs"),
    batch: int = 100,
) -> list[Loss]:
    """Run ``lower(graph, "plain_if")`` for T steps in every simulator, and count what comes out otherwise.

    Parameters
    ----------
    graph : nir.NIRGraph
    images : float tensor ``(N, *input shape)``
    labels : int tensor ``(N,)``, optional
    simulators : names
    batch : int
        Images at a time.

    Returns
    -------
    list of Loss, one for each simulator
    """
    network = Network.from_graph(graph)
    exact = run(network, images)
    expected = exact.predictions
    right = None if labels is None else float((expected == labels).double().mean())
    rows = []
    for name in simulators:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plain.nir"
            stock = lower(network, "plain_if", r=1.0) if name == "snntorch" else lower(network, "plain_if")
            write(path, stock)
            nodes = layer_nodes(stock)
            try:
                counts, version = _counts(name, path, network, images, nodes, batch)
            except CannotRun as reason:
                note = str(reason)
                seconds = time.perf_counter() - start
                rows.append(
                    Loss(name, _version(name), len(images), 0, 0, None, None, right, seconds, LOST_IN[name], note)
                )
                continue
        compared = wrong = 0
        for layer, want in exact.counts.items():
            compared += want.numel()
            wrong += int((counts[layer].reshape(want.shape) != want).sum())
        says = predicted(next(leaves(network.outputs)), counts[network.output.name] * network.output.scale)
        rows.append(
            Loss(
                name,
                version,
                len(images),
                compared,
                wrong,
                float((says == expected).double().mean()),
                None if labels is None else float((says == labels).double().mean()),
                right,
                time.perf_counter() - start,
                LOST_IN[name],
                "",
            )
        )
    return rows


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(SIMULATORS[name][0])
    except PackageNotFoundError:
        return ""


def _counts(
    name: str, path: Path, network: Network, images: Tensor, nodes: dict[str, str], batch: int
) -> tuple[dict[str, Tensor], str]:
    parts: dict[str, list[Tensor]] = {layer: [] for layer in nodes}
    version = ""
    for piece in images.split(batch):
        inputs = input_spikes(network, network.spec.quantise(piece), network.window)
        r = run_stock(name, path, inputs, list(nodes.values()))
        version = r.version
        for layer, node in nodes.items():
            parts[layer].append(r.outputs[node].sum(0))
    return {layer: torch.cat(part) for layer, part in parts.items()}, version
