"""The measurement that every table is made of: a quantised network against its spikes, on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import nir
import torch
from torch import Tensor

from converters.backends import run
from converters.measuring.scores import MOST_WRONG, ClassScore, Score
from converters.measuring.tasks import Question, is_unlabelled, questions
from converters.network import Network
from converters.quantised import QuantGraph
from converters.results import RunResult, compare_counts

if TYPE_CHECKING:
    from converters.zoo.images import Images
    from converters.zoo.processes import Team

__all__ = ["LayerTotals", "Measurement", "Tick", "measure", "piece_size", "pieces"]

Tick = Callable[[int], None]
_SAMPLE = 4  # images of each piece of a closed form that are simulated too


@dataclass(frozen=True)
class LayerTotals:
    """Totals of the input or of one layer, over all images.

    Attributes
    ----------
    compared, differing : int
        Final counts that were compared, and how many of them differ: 0 of the input, and of what does not spike.
    positive, negative : int
        Spikes by sign; 0 where none were simulated.
    """

    compared: int = 0
    differing: int = 0
    positive: int = 0
    negative: int = 0

    def __add__(self, other: LayerTotals) -> LayerTotals:
        return LayerTotals(
            self.compared + other.compared,
            self.differing + other.differing,
            self.positive + other.positive,
            self.negative + other.negative,
        )


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found: totals over all images, and the shares and means that follow from them.

    Attributes
    ----------
    window : int
        ``T``, in steps.
    phase, backend : str
        The backend is the one that ran.
    counts_from : str
        ``simulation``, or ``closed form`` where no spike was simulated: latency, spikes, SOPs and MACs are then None.
    compared_with : str
        ``quantised network``, or ``closed form`` where that is not known.
    images, images_simulated, simulation_mismatches : int
        Images; how many of them were simulated; and how many counts of a closed form the simulation of some images
        contradicts.
    images_checked : int
        Images that the runs themselves computed in another way too (``RunResult.checked``). Their number depends on the
        batches, so it is no part of a comparison of measurements.
    outputs : tuple of ClassScore or ValueScore
        How each output does, the main one first. What is said of accuracy below is of the main one.
    layers : dict of LayerTotals
        Of the input and of every layer, by name.
    slowest : int
        Largest latency of an image, in steps.
    steps, sops, macs : float
        Sums over the images: latency in steps, synaptic operations, multiplications of a directly coded input.
    """

    window: int
    phase: str
    backend: str
    counts_from: str
    compared_with: str
    images: int
    images_simulated: int
    simulation_mismatches: int
    outputs: tuple[Score, ...]
    layers: dict[str, LayerTotals]
    slowest: int
    steps: float
    sops: float
    macs: float
    images_checked: int = field(default=0, compare=False)

    @property
    def quantised_right(self) -> int:
        """Images, or places of a map, with the right label by the quantised network; 0 where there are no classes."""
        main = self.outputs[0]
        return main.quantised_right if isinstance(main, ClassScore) else 0

    @property
    def spiking_right(self) -> int:
        """The same by the spiking network."""
        main = self.outputs[0]
        return main.spiking_right if isinstance(main, ClassScore) else 0

    @property
    def agreeing(self) -> int:
        """Images to which both networks give the same answer, in every place of it."""
        return self.outputs[0].alike

    @property
    def quantised_accuracy(self) -> float | None:
        """Share of the labels, of images or of places, that the quantised network gives; None of values, which have no
        classes, and where no label is known."""
        main = self.outputs[0]
        return main.accuracy(main.quantised) if isinstance(main, ClassScore) else None

    @property
    def snn_accuracy(self) -> float | None:
        """The same of the spiking network."""
        main = self.outputs[0]
        return main.accuracy(main.spiking) if isinstance(main, ClassScore) else None

    @property
    def counts_compared(self) -> int:
        return self._total.compared

    @property
    def count_mismatches(self) -> int:
        return self._total.differing

    @property
    def positive(self) -> int:
        """Positive spikes of the input and all layers."""
        return self._total.positive

    @property
    def negative(self) -> int:
        """Negative spikes of the input and all layers."""
        return self._total.negative

    @property
    def predictions_differing(self) -> int:
        """Images to which the two networks give different answers."""
        return self.images - self.agreeing

    def as_dict(self) -> dict[str, Any]:
        """A row of ``windows``, for JSON."""
        simulated = self.counts_from == "simulation"
        return {
            "T": self.window,
            "phase": self.phase,
            "backend": self.backend,
            "counts_from": self.counts_from,
            "images_simulated": self.images_simulated,
            "simulation_mismatches": self.simulation_mismatches,
            "images_checked": self.images_checked,
            "images": self.images,
            "task": self.outputs[0].task,
            "quantised_accuracy": self.quantised_accuracy,
            "snn_accuracy": self.snn_accuracy,
            "counts_compared": self.counts_compared,
            "count_mismatches": self.count_mismatches,
            "compared_with": self.compared_with,
            "prediction_agreement": self._mean(self.agreeing),
            "latency_steps": self.slowest if simulated else None,
            "latency_steps_mean": self._mean(self.steps) if simulated else None,
            "spikes_per_image": self._mean(self.positive + self.negative) if simulated else None,
            "sops_per_image": self._mean(self.sops) if simulated else None,
            "macs_per_image": self._mean(self.macs) if simulated else None,
            "outputs": [one.as_dict() for one in self.outputs],
        }

    def of_all(self, team: Team) -> Measurement:
        """The measurement of all processes together, each of which has measured its share of the images."""
        sums = ("images", "images_simulated", "simulation_mismatches", "images_checked")
        parts = [(t.compared, t.differing, t.positive, t.negative) for t in self.layers.values()]
        own = [*(getattr(self, name) for name in sums), *(n for part in parts for n in part)]
        scores = [n for one in self.outputs for n in one.sums()]
        numbers = iter(team.total(*own, self.steps, self.sops, self.macs, *scores))
        added: dict[str, Any] = {name: int(next(numbers)) for name in sums}
        layers = {name: LayerTotals(*(int(next(numbers)) for _ in range(4))) for name in self.layers}
        steps, sops, macs = (next(numbers) for _ in range(3))
        outputs: list[Score] = []
        for one in self.outputs:
            if isinstance(one, ClassScore):
                outputs.append(replace(one.of_sums(numbers), wrong=_wrong_of_all(one, team)))
            else:
                outputs.append(one.of_sums(numbers, team.largest(one.largest)))
        return replace(
            self,
            **added,
            outputs=tuple(outputs),
            layers=layers,
            slowest=int(team.largest(self.slowest)),
            steps=steps,
            sops=sops,
            macs=macs,
        )

    @property
    def _total(self) -> LayerTotals:
        return sum(self.layers.values(), LayerTotals())

    def _mean(self, total: float) -> float:
        return total / max(self.images, 1)


def _wrong_of_all(one: ClassScore, team: Team) -> tuple[tuple[int, int, int], ...]:
    """The first wrong images of all processes, whose shares follow each other; each adds its own in their place."""
    size = 2 + 3 * MOST_WRONG
    own = [one.images, len(one.wrong), *(n for row in one.wrong for n in row)]
    slots = [0.0] * (size * team.count)
    slots[size * team.rank : size * team.rank + len(own)] = own
    found: list[tuple[int, int, int]] = []
    before = 0
    every = [int(n) for n in team.total(*slots)]
    for start in range(0, len(every), size):
        images, rows = every[start : start + 2]
        for at in range(start + 2, start + 2 + 3 * rows, 3):
            place, label, said = every[at : at + 3]
            found.append((before + place, label, said))
        before += images
    return tuple(found[:MOST_WRONG])


def pieces(data: Images, size: int) -> Iterator[Images]:
    """``size`` images at a time; at least one piece, if an empty one."""
    for start in range(0, max(len(data), 1), size):
        yield data[start : start + size]


def piece_size(network: Network) -> int:
    """Images of a piece, so that all counts of it take some hundred megabytes at the most."""
    return max(16, min(500, 20_000_000 // max(network.neurons, 1)))


def measure(
    graph: nir.NIRGraph | Network,
    q: QuantGraph | None,
    data: Images,
    *,
    backend: str = "auto",
    phase: str = "settle",
    batch: int | None = None,
    size: int | None = None,
    simulate: Callable[[Network, Tensor], RunResult] | None = None,
    observe: Callable[[RunResult, Images], None] | None = None,
    asked: Sequence[Question] | None = None,
    tick: Tick = lambda n: None,
    **own: Any,
) -> Measurement:
    """Run a network on images, and hold every final count against the quantised network's integer.

    Images go through in pieces, so memory does not grow with their number.

    Parameters
    ----------
    graph : nir.NIRGraph or Network
    q : QuantGraph or None
        What the network was converted from, at any window. Without it the closed form stands in.
    data : Images
        ``N`` images with labels. Their kind says what the outputs are: classes of images, maps of classes, or values
        (:func:`~converters.measuring.tasks.questions`); all -1 where no label is known.
    backend, phase, batch, **own
        As :func:`converters.run` takes them.
    size : int, optional
        Images of a piece.
    simulate : callable ``(network, images) -> RunResult``, optional
        Runs the network instead of :func:`converters.run`: another neuron.
    observe : callable ``(result, images of the piece)``, optional
        Sees every piece.
    asked : sequence of Question, optional
        What is asked of each output, where ``data`` are a part of the images by which that was decided.
    tick : callable, optional
        Told how many images a piece had.

    Raises
    ------
    ConversionError
        If images, labels, network and quantised network do not fit each other.

    Examples
    --------
    >>> import converters
    >>> from converters.zoo.datasets import load
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-4")
    >>> m = measure(converters.to_nir(q, T=4), q, load("digits", "test").first(6))
    >>> m.counts_compared, m.count_mismatches, m.images, m.predictions_differing
    (48504, 0, 6, 0)
    """
    network = Network.from_graph(graph)
    if backend == "closed_form":
        own.setdefault("check", _SAMPLE)

    def ordinary(network: Network, pixels: Tensor) -> RunResult:
        return run(network, pixels, backend=backend, phase=phase, batch=batch, **own)  # type: ignore[arg-type]

    asked = asked or questions(network, (data.labels, *data.more_labels))
    exact = _exact(network, q, batch, own.get("device"))
    found: Measurement | None = None
    for part in pieces(data, size or piece_size(network)):
        pixels = part.pixels
        r = (simulate or ordinary)(network, pixels)
        integers, values = exact(pixels)
        scores = _scores(asked, values, r, (part.labels, *part.more_labels))
        one = _of_piece(network, r, integers, scores, len(part))
        found = one if found is None else _together(found, one)
        if observe is not None:
            observe(r, part)
        tick(len(part))
    assert found is not None  # there is a piece always
    return replace(found, phase=phase, compared_with="closed form" if q is None else "quantised network")


def _exact(
    network: Network, q: QuantGraph | None, batch: int | None, device: Any
) -> Callable[[Tensor], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]:
    """From images to what all counts should be, and to the output layers' values in real units that follow."""
    if q is None:

        def closed_form(pixels: Tensor) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
            r = run(network, pixels, backend="closed_form", batch=batch, device=device)
            return r.counts, r.output_values

        return closed_form
    shrunk = q.at_window(network.window, network.coding)
    read = [layer for layer in shrunk.layers if layer.name in shrunk.output_names]

    def integers(pixels: Tensor) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        values = shrunk.execute(pixels)
        return values, {layer.name: layer.real(values[layer.name]) for layer in read}

    return integers


def _scores(
    asked: Sequence[Question], values: Mapping[str, Tensor], r: RunResult, labels: Sequence[Tensor]
) -> tuple[Score, ...]:
    """How each output of a piece does."""
    theirs = r.output_values or {r.output_name: r.logits}
    given = [y if not is_unlabelled(y) else None for y in labels]
    given += [None] * (len(asked) - len(given))
    return tuple(
        one.score(values[one.output.layer], theirs[one.output.layer], y) for one, y in zip(asked, given, strict=True)
    )


def _of_piece(
    network: Network, r: RunResult, integers: Mapping[str, Tensor], scores: tuple[Score, ...], n: int
) -> Measurement:
    compared = {row.layer: row for row in compare_counts(r, integers)}
    layers = {}
    for name in network.shapes:
        row = compared.get(name)
        positive, negative = (int(by[name].sum()) if name in by else 0 for by in (r.positive, r.negative))
        layers[name] = LayerTotals(row.compared if row else 0, row.differing if row else 0, positive, negative)
    latency = torch.zeros(0) if r.latency is None else r.latency
    return Measurement(
        window=network.window,
        phase=r.phase,
        backend=r.backend,
        counts_from=r.exact_from,
        compared_with="",
        images=n,
        images_simulated=n if r.exact_from == "simulation" else r.checked,
        simulation_mismatches=r.check_mismatches,
        images_checked=r.checked,
        outputs=scores,
        layers=layers,
        slowest=int(latency.max()) if len(latency) else 0,
        steps=float(latency.sum()),
        sops=0.0 if r.sops is None else float(r.sops.sum()),
        macs=0.0 if r.macs is None else float(r.macs.sum()),
    )


def _together(a: Measurement, b: Measurement) -> Measurement:
    return replace(
        b,
        images=a.images + b.images,
        images_simulated=a.images_simulated + b.images_simulated,
        simulation_mismatches=a.simulation_mismatches + b.simulation_mismatches,
        images_checked=a.images_checked + b.images_checked,
        outputs=tuple(x + y for x, y in zip(a.outputs, b.outputs, strict=True)),  # type: ignore[operator]  # one task
        layers={name: a.layers[name] + b.layers[name] for name in a.layers},
        slowest=max(a.slowest, b.slowest),
        steps=a.steps + b.steps,
        sops=a.sops + b.sops,
        macs=a.macs + b.macs,
    )
