"""What the experiments share: the checkpoints there are, their test images, and rows measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import ConversionError
from converters.experiments.kept import Kept, of_images, of_network
from converters.experiments.measuring import spiking_row, whole_row
from converters.experiments.paper import DATASETS, NETWORKS
from converters.measuring.measure import Tick
from converters.quantised import QuantGraph
from converters.zoo.datasets import load
from converters.zoo.images import Images
from converters.zoo.named import class_names, find_checkpoints, load_checkpoint, names, plain_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Available", "Outcome", "Session", "train_command", "wrong"]

_TRANSFORMERS = ("vit",)


@dataclass(frozen=True, eq=False)
class Available:
    """A checkpoint: its name, what it is of, and the network itself."""

    name: str
    network: str
    dataset: str
    levels: int
    q: QuantGraph
    notes: dict[str, Any]

    @property
    def codings(self) -> tuple[str, ...]:
        """Of the input, at a window of the network's levels: spikes first, where its own levels fit."""
        return ("isi", "direct") if self.q.levels == self.q.neuron_levels else ("direct",)

    @property
    def title(self) -> str:
        return NETWORKS.get(self.network, self.network)

    @property
    def dataset_title(self) -> str:
        return DATASETS.get(Path(self.dataset).name, Path(self.dataset).name)


@dataclass(eq=False)
class Outcome:
    """What an experiment found.

    ``data`` goes into the JSON file, ``markdown`` into the ``.md`` one, ``draw`` makes the figure;
    ``mismatches`` counts wrong final counts and differing predictions of phase ``settle``.
    """

    title: str
    data: dict[str, Any]
    markdown: str | None = None
    draw: Callable[[], Figure] | None = None
    mismatches: int = 0


def _known(option: str, given: Sequence[str], names: Sequence[str]) -> None:
    """An empty table must not take the place of a measured one for a slip of the pen."""
    for name in given:
        if name not in names:
            raise ConversionError(option, f"{name!r}", f"use one of {', '.join(dict.fromkeys(names))}")


def train_command(network: str, dataset: str, levels: int = 127) -> str:
    """How to make a checkpoint that is not there."""
    return f"calif train --network {network} --dataset {dataset} --levels {levels}"


@dataclass(eq=False)
class Session:
    """Checkpoints and settings of one call of ``calif reproduce``.

    Attributes
    ----------
    checkpoints : list of Available
    images : int
        How many test images have every spike simulated.
    windows : tuple of int
        Windows asked for; empty: those of the experiment.
    root : path, optional
        Where data sets are.
    networks, datasets : tuples of str
        The only ones that were asked for; empty: all.
    started : callable ``(text, total) -> tick``, optional
        Told of every measurement that begins.
    kept : Kept
        Rows of earlier calls.
    missing : list of dict
        What was wanted and not there: ``wanted``, ``why``, ``command``.
    """

    checkpoints: list[Available]
    images: int = 1000
    windows: tuple[int, ...] = ()
    root: Path | None = None
    networks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    started: Callable[[str, int], Any] | None = None
    kept: Kept = field(default_factory=lambda: Kept(None))
    missing: list[dict[str, str]] = field(default_factory=list)
    _data: dict[tuple[str, tuple[str, ...]], Images | ConversionError] = field(default_factory=dict)
    _rows: dict[tuple, dict[str, Any]] = field(default_factory=dict)
    _digests: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        extra: Iterable[str] = (),
        *,
        networks: Sequence[str] = (),
        datasets: Sequence[str] = (),
        **settings: Any,
    ) -> Session:
        """All checkpoints that have a name here, and ``extra`` (names, files, folders) beside or instead; filtered.

        Those of transformers only where ``extra`` names them: the tables have none, and each of their images takes
        as long as hundreds of others.
        """
        paths = {name: name for name in names() if not name.startswith(_TRANSFORMERS)}
        paths |= {plain_name(path): str(path) for which in extra for path in find_checkpoints(which)}
        found = []
        for name, which in paths.items():
            q, notes = load_checkpoint(which)
            if not notes.get("network") or not notes.get("dataset"):
                raise ConversionError(which, "no note of its network and data set", "give a file of calif train")
            levels = int(notes.get("levels") or q.levels)
            found.append(Available(name, str(notes["network"]), str(notes["dataset"]), levels, q, notes))
        _known("--network", networks, [*NETWORKS, *(c.network for c in found)])
        # a folder of images is a data set if a checkpoint was trained on it
        _known("--dataset", datasets, [*DATASETS, *(n for c in found for n in (Path(c.dataset).name, c.dataset))])
        datasets = [Path(d).name for d in datasets]
        chosen = [
            c
            for c in found
            if (not networks or c.network in networks) and (not datasets or Path(c.dataset).name in datasets)
        ]
        order = [*NETWORKS], [*DATASETS]

        def place(c: Available) -> tuple:
            data = Path(c.dataset).name
            known = [x.index(v) if v in x else len(x) for x, v in zip(order, (c.network, data), strict=True)]
            return known[1], known[0], -c.levels, c.name

        return cls(sorted(chosen, key=place), networks=tuple(networks), datasets=tuple(datasets), **settings)

    def want(self, network: str, dataset: str, levels: int = 127) -> Available | None:
        """A checkpoint, or None and a note that it is missing."""
        for c in self.checkpoints:
            if (c.network, Path(c.dataset).name, c.levels) == (network, dataset, levels):
                return c
        if (not self.networks or network in self.networks) and (not self.datasets or dataset in self.datasets):
            self.miss(f"{network}-{dataset}-{levels}", "no checkpoint", train_command(network, dataset, levels))
        return None

    def miss(self, wanted: str, why: str, command: str) -> None:
        """Note something that is not there, once."""
        row = {"wanted": wanted, "why": why, "command": command}
        if row not in self.missing:
            self.missing.append(row)

    def data(self, c: Available) -> Images | None:
        """The test images of a checkpoint, or None and a note that they are missing."""
        key = _key(c)
        if key not in self._data:
            try:
                self._data[key] = load(c.dataset, "test", root=self.root, classes=class_names(c.notes))
            except ConversionError as error:
                self._data[key] = error
        found = self._data[key]
        if isinstance(found, ConversionError):
            self.miss(f"test images of {c.dataset}", found.found, found.todo)
            return None
        return found

    def whole(self, c: Available, window: int, coding: str = "isi") -> dict[str, Any] | None:
        """:func:`whole_row` of a checkpoint; None without its images."""
        coding = coding if len(c.codings) == 1 else "isi"  # for the others both are the same network
        data = self.data(c)
        if data is None:
            return None
        key = (c.name, window, coding)
        about = {"row": "whole", "T": window} | ({} if coding == "isi" else {"coding": coding})
        if key not in self._rows:
            with self.step(f"{c.name}, T = {window}, all test images", len(data)) as tick:
                self._rows[key] = self.once(c, about, lambda: whole_row(c.q, data, window, tick, coding))
        return self._rows[key]

    def spikes(self, c: Available, window: int, **options: Any) -> dict[str, Any] | None:
        """:func:`spiking_row` of a checkpoint's first images; None without them."""
        data = self.data(c)
        if data is None:
            return None
        key = (c.name, window, *sorted(options.items()))
        if key not in self._rows:
            part = data.first(self.images)
            text = f"{c.name}, T = {window}, {options.get('neuron', 'settle')}, {options.get('coding', 'isi')}"
            about = {"row": "spikes", "T": window, "images": len(part), **options}
            with self.step(text, len(part)) as tick:
                self._rows[key] = self.once(c, about, lambda: spiking_row(c.q, part, window, tick=tick, **options))
        return self._rows[key]

    def row(self, c: Available, window: int, coding: str = "isi") -> dict[str, Any] | None:
        """A checkpoint at a window: the whole test set in closed form, and spikes of a part with their curve."""
        whole = self.whole(c, window, coding)
        spikes = self.spikes(c, window, coding=coding, anytime=True)
        if whole is None or spikes is None:
            return None
        return {
            "checkpoint": c.name,
            "network": c.network,
            "dataset": Path(c.dataset).name,
            "levels": c.levels,
            "T": window,
            "phase": "settle",
            "coding": coding,
            "float_accuracy": c.notes.get("float_accuracy"),
            "quantised_accuracy": whole["quantised_accuracy"],
            "snn_accuracy": whole["snn_accuracy"],
            "counts_compared": whole["counts_compared"] + spikes["counts_compared"],
            "count_mismatches": whole["count_mismatches"] + spikes["count_mismatches"],
            "predictions_differing": whole["predictions_differing"] + spikes["predictions_differing"],
            "latency_steps": spikes["latency_steps"],
            "latency_steps_mean": spikes["latency_steps_mean"],
            "spikes_per_image": spikes["spikes_per_image"],
            "sops_per_image": spikes["sops_per_image"],
            "macs_per_image": spikes["macs_per_image"],
            "whole_test_set": whole,
            "simulated": spikes,
        }

    def once(self, c: Available, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row of a checkpoint whose images are there, measured or kept from an earlier call."""
        data = self.data(c)
        if data is None:
            return measure()
        if _key(c) not in self._digests:
            self._digests[_key(c)] = of_images(data)
        return self.kept(of_network(c.q), self._digests[_key(c)], about, measure)

    @contextmanager
    def step(self, text: str, total: int) -> Iterator[Tick]:
        tick = self.started(text, total) if self.started is not None else None
        yield tick or (lambda n: None)


def _key(c: Available) -> tuple[str, tuple[str, ...]]:
    """Of a checkpoint's images: the data set, and how its classes are numbered."""
    return c.dataset, class_names(c.notes)


def wrong(rows: Iterable[dict[str, Any]]) -> int:
    """Wrong final counts and differing predictions of the rows of phase ``settle``."""
    return sum(
        r["count_mismatches"] + r["predictions_differing"]
        for r in rows
        if r.get("neuron", r.get("phase")) in ("settle", "settle_from_0")
    )
