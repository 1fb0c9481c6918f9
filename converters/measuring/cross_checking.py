"""The same images on several backends, compared spike by spike; and where they first part."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import nir
import torch
from torch import Tensor

from calif_plugins.parameters import Phase
from converters.backends import run
from converters.console.printing import printable
from converters.errors import ConversionError, MissingExtraError
from converters.exact.sums import exact
from converters.files.atomic import atomic_path
from converters.measuring.replay import charges
from converters.network import Network, Stage, float64
from converters.ports.inputs import Batches
from converters.ports.outputs import leaves
from converters.results import RunResult

__all__ = ["CrossCheck", "Difference", "LayerCheck", "cross_check"]

TOLERANCE = 1e-9


@dataclass(frozen=True)
class LayerCheck:
    """One layer on two backends: ``steps`` of ``neurons`` of all images.

    ``positive`` and ``negative`` are the first backend's spikes; ``of_neurons`` says how many there are where
    ``neurons`` is a sample.
    """

    layer: str
    neurons: int
    of_neurons: int
    steps: int
    spikes_compared: int
    positive: int
    negative: int
    differing: int
    counts_differing: int
    membrane_difference: float


@dataclass(frozen=True, eq=False)
class Difference:
    """Where two backends first part: earliest step, then first layer.

    ``step`` counts from 0; ``index`` is the neuron's place in its layer (channel, row, column). ``v``, ``y`` and
    ``charge`` are membrane and count before the step and what arrives in it, on both sides; ``trace`` holds
    each side's membrane over the steps around.
    """

    layer: str
    image: int
    index: tuple[int, ...]
    step: int
    spikes: tuple[int, int]
    v: tuple[float, float]
    y: tuple[int, int]
    charge: tuple[float, float]
    threshold: tuple[float, float]
    trace: dict[str, list[Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        sides = zip(self.v, self.y, self.charge, self.threshold, self.spikes, strict=True)
        a, b = (f"V {v:.9g}, y {y}, input {c:.9g}, threshold {t:.9g}, spike {s:+d}" for v, y, c, t, s in sides)
        place = ", ".join(map(str, self.index))
        return f"image {self.image}, layer {self.layer}, neuron ({place}), step {self.step}: {a} | {b}"


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """What :func:`cross_check` found, for each pair of the first backend and another.

    Attributes
    ----------
    backends : tuple of str
    window, images : int
    phase : str
    layers : dict of lists of LayerCheck, by the other backend's name
    first : dict of Difference or None, by the other backend's name
    predictions_differing : dict of int, by the other backend's name
        Images to which an output says another class, in any place of it.
    sampled : bool
        Only some neurons of each layer were compared.
    """

    backends: tuple[str, ...]
    window: int
    phase: str
    images: int
    layers: dict[str, list[LayerCheck]]
    first: dict[str, Difference | None]
    predictions_differing: dict[str, int]
    sampled: bool = False

    @property
    def spikes_compared(self) -> int:
        """Neurons times steps times images, silent steps included."""
        return sum(row.spikes_compared for rows in self.layers.values() for row in rows)

    @property
    def spike_mismatches(self) -> int:
        return sum(row.differing for rows in self.layers.values() for row in rows)

    @property
    def equal(self) -> bool:
        """No spike, count or prediction differs, and no membrane by more than 1e-9."""
        rows = [row for rows in self.layers.values() for row in rows]
        return not (
            any(r.differing or r.counts_differing or r.membrane_difference > TOLERANCE for r in rows)
            or any(self.predictions_differing.values())
        )

    def __str__(self) -> str:
        predictions = sum(self.predictions_differing.values())
        return (
            f"{self.backends[0]} against {', '.join(self.backends[1:])}: {self.images} images, T = {self.window}, "
            f"{self.spikes_compared:,} spikes compared, {self.spike_mismatches:,} differ; "
            f"{predictions} predictions differ"
        )

    def summary(self) -> dict[str, int]:
        """The three numbers that every command's JSON carries."""
        return {
            "images": self.images,
            "spikes_compared": self.spikes_compared,
            "spike_mismatches": self.spike_mismatches,
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "backends": list(self.backends),
            "T": self.window,
            "phase": self.phase,
            "images": self.images,
            "sampled": self.sampled,
            "equal": self.equal,
            "spikes_compared": self.spikes_compared,
            "spike_mismatches": self.spike_mismatches,
            "layers": {k: [asdict(row) for row in rows] for k, rows in self.layers.items()},
            "first_difference": {k: None if d is None else asdict(d) for k, d in self.first.items()},
            "predictions_differing": self.predictions_differing,
        }


@exact
def cross_check(
    graph: nir.NIRGraph | Network,
    images: Batches | None = None,
    *,
    backends: Sequence[str] = ("snntorch", "brian2"),
    integers: Batches | None = None,
    phase: Phase = "settle",
    settle_from: int | None = None,
    other: nir.NIRGraph | Network | None = None,
    sample: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrossCheck:
    """Run the same images on several backends and compare all spikes, rounding phase included.

    Parameters
    ----------
    graph : nir.NIRGraph
    images : float tensor ``(N, *input shape)``; or ``integers``
        Of several inputs a tensor for each, in their order or in a dictionary by name.
    backends : names of two or more backends
        The first is what the others are held against.
    phase, settle_from
        See :func:`converters.run`.
    other : nir.NIRGraph, optional
        What all backends but the first run instead: a network that should be the same, such as a file that
        came back from elsewhere. Same layers, same window.
    sample : int, optional
        Check this many random neurons of each layer, each in Brian2 with its real presynaptic spike trains as
        the first backend emitted them. For networks with more synapses than can be spelled out.
    seed : int
        Of the sample.
    batch : int, optional
        Images at a time.
    progress : callable ``(done, total)``, optional

    Returns
    -------
    CrossCheck

    Raises
    ------
    ConversionError
        For fewer than two backends, one that has no spikes, or networks of different layers.

    Examples
    --------
    >>> import converters, torch
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> report = cross_check(converters.to_nir(b.build(y), T=4), torch.tensor([[1.0, 0.5]]))
    >>> report.equal, report.spike_mismatches
    (True, 0)
    """
    network = Network.from_graph(graph)
    second = network if other is None else Network.from_graph(other)
    if network.shapes != second.shapes or network.window != second.window:
        raise ConversionError("other", "a network of other layers or another window", "compare like with like")
    names = tuple(backends)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConversionError("backends", f"{list(names)}", "name two or more different ones")
    if "closed_form" in names:
        raise ConversionError("backends", "'closed_form', which has no spikes", "compare its counts with run instead")
    if sample is not None and (sample < 1 or names[1:] != ("brian2",)):
        raise ConversionError("sample", f"{sample} with {list(names)}", "at least 1, with backends ('<any>', 'brian2')")
    given = network.accept(images, integers)
    if batch is None:  # trains take a byte for each neuron and step, and there are two sets
        steps = (network.window + 32) * sum(int(torch.Size(s).numel()) for s in network.shapes.values())
        batch = max(1, min(len(given) or 1, 500_000_000 // steps))
    total = _Totals(network, names[1:])
    for start in range(0, len(given), batch):
        part = given[start : start + batch]
        parts = network.by_input(part)
        options: dict[str, Any] = {"phase": phase, "settle_from": settle_from, "record": "spikes"}
        mine = run(network, integers=parts, backend=names[0], **options)
        for name in names[1:]:
            if sample is not None:
                from converters.backends.brian2_sample import sample_neurons

                rows = sample_neurons(second, mine, part, sample=sample, seed=seed, settle_from=settle_from)
                total.add_sample(name, mine, rows, (network, second), part, start)
            else:
                theirs = run(second, integers=parts, backend=name, **options)
                total.add(name, mine, theirs, (network, second), part, start)
        if progress is not None:
            progress(min(start + batch, len(given)), len(given))
    return CrossCheck(
        names,
        network.window,
        phase,
        len(given),
        total.layers(),
        total.first,
        total.predictions,
        sample is not None,
    )


class _Totals:
    """Sums over batches of images."""

    def __init__(self, network: Network, others: Sequence[str]) -> None:
        self.network = network
        self.sums: dict[str, dict[str, dict[str, float]]] = {name: {} for name in others}
        self.first: dict[str, Difference | None] = dict.fromkeys(others)
        self.predictions = dict.fromkeys(others, 0)

    def _row(self, other: str, layer: str) -> dict[str, float]:
        return self.sums[other].setdefault(layer, dict.fromkeys((*_SUMMED, "gap"), 0))

    def add(
        self,
        name: str,
        a: RunResult,
        b: RunResult,
        networks: tuple[Network, Network],
        integers: Tensor,
        offset: int,
    ) -> None:
        mine, theirs = _aligned(a, b)
        parted: list[tuple[int, int, str, Tensor]] = []
        for order, layer in enumerate(self.network.shapes):
            x, y = mine[layer], theirs[layer]
            wrong = x != y
            row = self._row(name, layer)
            size = int(torch.Size(self.network.shapes[layer]).numel())
            row["neurons"] = row["of_neurons"] = size
            row["steps"] = max(row["steps"], len(x))
            row["compared"] += x.numel()
            row["positive"] += int((x > 0).sum())
            row["negative"] += int((x < 0).sum())
            row["differing"] += int(wrong.sum())
            if layer in a.counts:
                row["counts"] += int((a.counts[layer] != b.counts[layer]).sum())
            if layer in a.membranes:
                gap = (a.membranes[layer] - b.membranes[layer]).abs().max() if a.membranes[layer].numel() else 0.0
                row["gap"] = max(row["gap"], float(gap))
            if bool(wrong.any()):
                place = wrong.nonzero()[0]  # ordered by step
                parted.append((int(place[0]), order, layer, place))
        self.predictions[name] += _otherwise(a, b)
        if parted and self.first[name] is None:
            _, _, layer, place = min(parted, key=lambda p: p[:2])
            self.first[name] = _explain(networks, (mine, theirs), layer, place, integers, offset)

    def add_sample(
        self,
        name: str,
        run: RunResult,
        rows: Sequence[dict[str, Any]],
        networks: tuple[Network, Network],
        integers: Tensor,
        offset: int,
    ) -> None:
        for found in rows:
            row = self._row(name, found["layer"])
            for key in ("neurons", "of_neurons", "steps"):
                row[key] = max(row[key], found[key])
            for key in ("compared", "positive", "negative", "differing", "counts"):
                row[key] += found[key]
            row["gap"] = max(row["gap"], found["gap"])
        parted = [(found["place"][0], k) for k, found in enumerate(rows) if found["place"] is not None]
        if parted and self.first[name] is None:
            found = rows[min(parted)[1]]
            place = torch.tensor(found["place"])
            same = _aligned(run, run)
            known = _explain(networks, same, found["layer"], place, integers, offset)
            self.first[name] = replace(known, spikes=(known.spikes[0], found["spike"]))

    def layers(self) -> dict[str, list[LayerCheck]]:
        return {name: [_check(layer, row) for layer, row in rows.items()] for name, rows in self.sums.items()}


def _otherwise(a: RunResult, b: RunResult) -> int:
    """Images to which some output says something else, in any place of it."""
    differ = torch.zeros(len(a.logits), dtype=torch.bool)
    for x, y in zip(leaves(a.all_predictions), leaves(b.all_predictions), strict=True):
        differ |= (x.cpu() != y.cpu()).reshape(len(differ), -1).any(1)
    return int(differ.sum())


def _check(layer: str, row: dict[str, float]) -> LayerCheck:
    neurons, of_neurons, steps, compared, positive, negative, differing, counts = (int(row[k]) for k in _SUMMED)
    return LayerCheck(
        layer, neurons, of_neurons, steps, compared, positive, negative, differing, counts, float(row["gap"])
    )


_SUMMED = ("neurons", "of_neurons", "steps", "compared", "positive", "negative", "differing", "counts")


def _aligned(a: RunResult, b: RunResult) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both runs' trains, padded with silence to one length."""
    if a.spikes is None or b.spikes is None:
        raise ConversionError("spikes", "a backend that recorded none", "compare backends that simulate")
    steps = max(len(t) for r in (a.spikes, b.spikes) for t in r.values())

    def padded(trains: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: torch.cat([t.cpu(), t.new_zeros(steps - len(t), *t.shape[1:]).cpu()]) for k, t in trains.items()}

    return padded(a.spikes), padded(b.spikes)


def _explain(
    networks: tuple[Network, Network],
    trains: tuple[dict[str, Tensor], dict[str, Tensor]],
    layer: str,
    place: Tensor,
    integers: Tensor,
    offset: int,
) -> Difference:
    """Membranes and charges of one neuron on both sides, from each side's own spikes and parameters."""
    step, image, *index = (int(k) for k in place)
    spikes = tuple(int(t[layer][tuple(place)]) for t in trains)
    if layer in networks[0].specs:
        zero = (0.0, 0.0)
        return Difference(layer, offset + image, tuple(index), step, spikes, zero, (0, 0), zero, zero)  # type: ignore[arg-type]
    sides = []
    until = min(step + 9, len(trains[0][layer]))
    for network, train in zip(networks, trains, strict=True):
        stage = next(s for s in network.stages if s.name == layer)
        sides.append(_replay(network, stage, train, integers[image], image, tuple(index), until))
    (v0, y0, c0, t0), (v1, y1, c1, t1) = sides
    first = max(0, step - 8)
    trace: dict[str, list[Any]] = {
        "step": list(range(first, until)),
        "first": v0[first:until],
        "other": v1[first:until],
    }
    return Difference(
        layer,
        offset + image,
        tuple(index),
        step,
        spikes,  # type: ignore[arg-type]
        (v0[step], v1[step]),
        (y0[step], y1[step]),
        (c0[step], c1[step]),
        (t0, t1),
        trace,
    )


def _replay(
    network: Network, stage: Stage, trains: dict[str, Tensor], integers: Tensor, image: int, index: tuple, until: int
) -> tuple[list[float], list[int], list[float], float]:
    """``V`` and ``y`` before each step, and its input charge."""
    p = stage.parameters.for_shape(stage.shape)
    threshold, leak, start = (float(float64(v).expand(stage.shape)[index]) for v in (p.threshold, p.leak, p.v_init))
    alone = {name: train[:, image : image + 1] for name, train in trains.items()}
    v, y = [start], [0]
    arrived = []
    for t, whole in enumerate(charges(network, stage, alone, integers[None], until)):
        charge = float(whole[0][index])
        s = int(trains[stage.name][t, image][index])
        arrived.append(charge)
        v.append(v[-1] + charge - (leak if t < network.window else 0.0) - s * threshold)
        y.append(y[-1] + s)
    return v, y, arrived, threshold


def plot(check: CrossCheck, path: str | os.PathLike) -> None:
    """Both sides' membranes around the first difference, as an image file.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    ConversionError
        If nothing differs.
    """
    found = [(name, d) for name, d in check.first.items() if d is not None and d.trace]
    if not found:
        raise ConversionError("--plot", "no difference to draw", "leave it out")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", str(error)) from None
    figure = Figure(figsize=(8, 3 * len(found)), layout="constrained")
    for k, (name, d) in enumerate(found):
        axes = figure.add_subplot(len(found), 1, k + 1)
        axes.step(d.trace["step"], d.trace["first"], where="post", label=check.backends[0])
        axes.step(d.trace["step"], d.trace["other"], where="post", label=name, linestyle="--")
        for level in (d.threshold[0], -d.threshold[0]):
            axes.axhline(level, color="0.6", linewidth=0.8)
        axes.axvline(d.step, color="0.6", linewidth=0.8, linestyle=":")
        title = printable(f"{d.layer}, neuron {d.index}, image {d.image}")
        axes.set_title(title, parse_math=False)  # $ in a name is a $
        axes.set(xlabel="step", ylabel="V before the step")
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=os.path.splitext(os.fspath(path))[1].lstrip(".") or "png")
