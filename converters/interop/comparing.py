"""One Ca-LIF network in every installed simulator, by every route, spike for spike against the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nir
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.files.nir_file import read, write
from converters.interop.feeding import Expected, expected
from converters.interop.names import EXACT, INSTALL, ROUTES, chosen_names, installed
from converters.interop.native import run_native
from converters.interop.stock import CannotRun, StockRun, run_stock
from converters.lowering import lattice_network, lower
from converters.lowering.metadata import layer_nodes, precision_bits
from converters.lowering.plain_if import LOST_IN
from converters.network import Network, float64

__all__ = ["INSTALL", "ROUTES", "Row", "compare_with_simulators", "differences", "installed"]

_BYTES = 100_000_000  # of spike trains at a time


@dataclass(frozen=True)
class Row:
    """One simulator, one route.

    Attributes
    ----------
    simulator, version, route : str
    layers : int
        Spiking layers compared.
    images : int
    spikes_compared, differing : int or None
        Places in the spike trains of all layers (step, image, neuron), rounding phase included, and those where the
        simulator has another spike than the reference. None where it did not run. ``plain_if`` has no rounding phase.
    counts_differing : int or None
        Final signed counts that differ from the Ca-LIF network's, which include its rounding phase.
    seconds : float or None
        Time of the simulation alone.
    accuracy : float or None
        Share of labelled images that the simulator's output spikes classify right.
    note : str
        Where the first difference is (of the first batch that has one); for ``plain_if`` what the simulator makes of an
        IF; or why there is no run, in the simulator's words.
    """

    simulator: str
    version: str
    route: str
    layers: int
    images: int
    spikes_compared: int | None
    differing: int | None
    counts_differing: int | None
    seconds: float | None
    accuracy: float | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        """An exact route that was not."""
        return self.route in EXACT and bool(self.differing)


def differences(right: Expected, outputs: dict[str, Tensor]) -> tuple[int, int, int, str]:
    """Compare spike trains, layer by layer.

    Parameters
    ----------
    right : Expected
    outputs : dict of tensors ``(steps, N, ...)``
        By layer; where a simulator has a vector as a map of one pixel, that is the same.

    Returns
    -------
    compared, differing, counts differing, first difference in words
        "First" is the earliest step, and in it the first layer.

    >>> one = torch.tensor([[[1]], [[0]]], dtype=torch.int8)
    >>> e = Expected(one.float(), {"fc": one}, {"fc": one[0].int()}, one[0].double(), 1)
    >>> differences(e, {"fc": torch.tensor([[[1]], [[-1]]])})
    (2, 1, 1, 'first at step 2, layer fc, image 1, neuron (0,): -1 instead of 0')
    """
    compared = differing = counts = 0
    first: tuple[int, str] | None = None
    for name, spikes in right.spikes.items():
        found = outputs[name]
        if found.numel() != spikes.numel():
            raise CannotRun(f"layer {name} came out in shape {tuple(found.shape)} instead of {tuple(spikes.shape)}")
        found = found.reshape(spikes.shape)
        wrong = found != spikes
        compared += spikes.numel()
        differing += int(wrong.sum())
        counts += int((found.to(torch.int64).sum(0) != right.counts[name]).sum())
        if bool(wrong.any()):
            t, image, *place = (int(k) for k in wrong.nonzero()[0])
            if first is None or t < first[0]:
                here = (t, image, *place)
                text = f"first at step {t + 1}, layer {name}, image {image + 1}, neuron {tuple(place)}: "
                first = (t, text + f"{found[here].item():g} instead of {spikes[here].item():g}")
    return compared, differing, counts, "" if first is None else first[1]


def compare_with_simulators(
    graph: nir.NIRGraph,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    routes: Sequence[str] = ROUTES,
    simulators: Sequence[str] | None = None,
    stock: str | Path | None = None,
    exact_images: int | None = None,
    network: Network | None = None,
    progress: Callable[[str, str, int], None] | None = None,
) -> list[Row]:
    """Run a Ca-LIF network in other simulators and compare every spike.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    images : float tensor ``(N, *input shape)``
    labels : int tensor ``(N,)``, optional
        For the accuracy column.
    routes : some of "lowered", "native", "plain_if"
        Stock nodes alone (target ``chain``); the CaLIF node in the simulator's own executor; one stock IF per
        neuron, which is what a naive export gives, and lossy.
    simulators : names, optional
        All that are installed, by default.
    stock : path, optional
        A file of ``converters.lower(graph, "chain")`` to run, instead of lowering now.
    exact_images : int, optional
        How many of the images the exact routes run, which are slow; ``plain_if`` runs all.
    network : Network, optional
        That of ``graph``, where it is there already.
    progress : callable ``(simulator, route, images)``, optional
        Called as images are done.

    Returns
    -------
    list of Row

    Raises
    ------
    ConversionError
        For an unknown route or simulator, one that is not installed, or a stock file of another network; for a network
        of several inputs or outputs.
    """
    here = installed()
    chosen = chosen_names(simulators, routes)
    network = network or Network.from_graph(graph)
    if len(network.specs) > 1 or len(network.output_stages) > 1:
        found = f"{len(network.specs)} inputs and {len(network.output_stages)} outputs"
        todo = "importers of other simulators know one of each: compare this package's backends with cross_check"
        raise ConversionError("network", found, todo)
    size = max(1, _BYTES // (max(network.neurons, 1) * (network.window + 16)))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for route in (r for r in ROUTES if r in routes):
            n = len(images) if route not in EXACT or exact_images is None else exact_images
            tallies = [_Tally(name) for name in chosen]
            prepared = _PREPARE[route](graph, network, Path(folder), Path(stock) if stock is not None else None)
            for k in range(0, len(images[:n]), size):
                part = images[:n][k : k + size]
                right = expected(prepared.reference, part)
                if prepared.within_window:
                    right = _cut(right)
                known = None if labels is None else labels[:n][k : k + size]
                for tally in tallies:
                    tally.add(prepared, right, known, network)
                    if progress is not None:
                        progress(tally.simulator, route, len(part))
            rows += [tally.row(here[tally.simulator], route, len(images[:n])) for tally in tallies]
    return rows


class _Prepared(NamedTuple):
    """One route: the network that says what is right, and how to run a batch in a simulator."""

    reference: Network
    run: Callable[[str, Expected], StockRun]
    notes: Mapping[str, str] = {}
    within_window: bool = False


def _cut(right: Expected) -> Expected:
    """The window alone; the counts stay those after the rounding phase."""
    spikes = {name: train[: right.window] for name, train in right.spikes.items()}
    return Expected(right.inputs[: right.window], spikes, right.counts, right.logits, right.window)


@dataclass
class _Tally:
    """What one simulator did so far; after a refusal it is not asked again."""

    simulator: str
    layers: int = 0
    compared: int = 0
    differing: int = 0
    counts: int = 0
    seconds: float = 0.0
    labelled: int = 0
    hits: int = 0
    note: str = ""
    refused: bool = False

    def add(self, prepared: _Prepared, right: Expected, labels: Tensor | None, network: Network) -> None:
        self.layers = len(right.spikes)
        if self.refused:
            return
        try:
            result = prepared.run(self.simulator, right)
            compared, differing, counts, note = differences(right, result.outputs)
        except CannotRun as error:
            self.refused, self.note = True, str(error)
            return
        self.compared += compared
        self.differing += differing
        self.counts += counts
        self.seconds += result.run_seconds
        self.note = self.note or prepared.notes.get(self.simulator) or note
        if labels is not None:
            votes = _votes(network, {network.encoder_name: right.inputs, **result.outputs})
            self.hits += int((votes.argmax(1) == labels).sum())
            self.labelled += len(labels)

    def row(self, its_version: str, route: str, images: int) -> Row:
        accuracy = self.hits / self.labelled if self.labelled and not self.refused else None
        numbers = (self.compared, self.differing, self.counts, self.seconds)
        compared, differing, counts, seconds = (None,) * 4 if self.refused else numbers
        return Row(
            self.simulator, its_version, route, self.layers, images, compared, differing, counts, seconds, accuracy,
            self.note,
        )  # fmt: skip


def _votes(network: Network, trains: Mapping[str, Tensor]) -> Tensor:
    """The output ``(N, classes)`` of a simulator's spikes: counts, or the charge of a layer read from its membrane."""

    def count(name: str) -> Tensor:
        train = trains[name]
        return train.to(torch.float64).sum(0).reshape(train.shape[1], *network.shapes[name])

    stage = network.output
    if not stage.readout:
        return count(stage.name).flatten(1)
    p = stage.parameters.for_shape(stage.shape)
    charge = stage.charge({name: count(name) for s in stage.synapses for name in s.sources})
    bias = float64(p.v_init) - network.window * float64(p.leak)
    return ((charge + bias) / float64(p.threshold)).flatten(1)


def _native(graph: nir.NIRGraph, network: Network, _folder: Path, _stock: Path | None) -> _Prepared:
    return _Prepared(network, lambda simulator, right: run_native(simulator, graph, right.inputs))


def _lowered(_graph: nir.NIRGraph, network: Network, folder: Path, stock: Path | None) -> _Prepared:
    if stock is None:
        stock = folder / "chain.nir"
        write(stock, lower(network, "chain"))
    return _Prepared(lattice_network(network), _from_file(stock, network))


def _plain(_graph: nir.NIRGraph, network: Network, folder: Path, _stock: Path | None) -> _Prepared:
    common, unit = folder / "plain_if.nir", folder / "plain_if_unit.nir"
    write(common, lower(network, "plain_if"))
    write(unit, lower(network, "plain_if", r=1.0))  # snnTorch demands that of an IF
    by_default, for_snntorch = _from_file(common), _from_file(unit)

    def run(simulator: str, right: Expected) -> StockRun:
        return (for_snntorch if simulator == "snntorch" else by_default)(simulator, right)

    return _Prepared(network, run, LOST_IN, within_window=True)


def _from_file(path: Path, exact: Network | None = None) -> Callable[[str, Expected], StockRun]:
    """How to run a stock file from disk; here it is only asked for its metadata. ``exact``: what it must be of."""
    stock = read(path)
    if exact is not None:
        _check_same(path, stock, exact)
    nodes = layer_nodes(stock)
    dtype = torch.float64 if precision_bits(stock) == 64 else torch.float32

    def run(simulator: str, right: Expected) -> StockRun:
        watched = {name: nodes[name] for name in right.spikes}
        result = run_stock(simulator, path, right.inputs, list(watched.values()), dtype=dtype)
        result.outputs = {name: result.outputs[node] for name, node in watched.items()}
        return result

    return run


def _check_same(path: Path, stock: nir.NIRGraph, network: Network) -> None:
    """That a lowered file is of this network, as far as it says so: that another one's spikes differ means nothing."""
    layers = ", ".join(layer_nodes(stock))
    target, window = (stock.metadata.get(f"calif_{name}") for name in ("target", "window"))
    found = None
    if target == "plain_if":  # which is lossy
        found = f"target {target}"
    elif layers != ", ".join(s.name for s in network.stages):
        found = f"the layers {layers}"
    elif window != network.window:
        found = f"T = {window} instead of {network.window}"
    if found is not None:
        raise ConversionError(str(path), found, "give the lowered file of this network")


_PREPARE: dict[str, Callable[[nir.NIRGraph, Network, Path, Path | None], _Prepared]] = {
    "lowered": _lowered,
    "native": _native,
    "plain_if": _plain,
}
