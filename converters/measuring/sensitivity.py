"""Which layers need how many levels: each alone with fewer, and a division of levels over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.quantised import QuantGraph
from converters.requantising import requantised, sharing

__all__ = ["Allocation", "Sensitivity", "allocations", "best_tops", "sensitivity"]

_TOPS = 24  # ranges that are tried
_LEAST = 1e-9  # divergence that a step of an allocation is taken to cost at least


@dataclass(frozen=True)
class Sensitivity:
    """What fewer levels in some layers, all others as they were, do to a network.

    Attributes
    ----------
    layers : tuple of str
        They share a scale (:func:`~converters.requantising.sharing`).
    levels, top : int
        The largest level, and the count that has become it.
    divergence : float
        Mean Kullback-Leibler divergence of the class probabilities from those that the network gave before, in nats.
    agreeing : float
        Share of images whose class is the same as before.
    accuracy : float, optional
        Of labelled images.
    counts : float
        Sum of the sizes of all layers' final counts, per image: spikes, but for those that are taken back.
    """

    layers: tuple[str, ...]
    levels: int
    top: int
    divergence: float
    agreeing: float
    accuracy: float | None
    counts: float


@dataclass(frozen=True)
class Allocation:
    """Levels for some layers, as :func:`~converters.requantising.requantised` takes them, and what that should do.

    ``divergence`` and ``counts`` are those of :class:`Sensitivity`, with the effects of all layers added up.
    """

    levels: dict[str, int]
    tops: dict[str, int]
    divergence: float
    counts: float


@torch.no_grad()
@exact
def best_tops(q: QuantGraph, images: Tensor, levels: Sequence[int], *, batch: int = 64) -> dict[tuple[str, int], int]:
    """For each group and number of levels: the count that becomes the largest level, with the least squared error.

    Keys are the name of a group's first layer and a number of levels below its own; groups with an input keep their
    whole range.
    """
    sizes = {layer.name: torch.zeros(max(-layer.y_min, layer.y_max) + 1) for layer in q.layers if layer.spiking}
    for part in images.split(batch):
        values = q.execute(part)
        for name, histogram in sizes.items():
            histogram += torch.bincount(values[name].abs().flatten(), minlength=len(histogram))
    inputs = {spec.name for spec in q.inputs}
    found = {}
    for group in sharing(q):
        if inputs & set(group):
            continue
        whole = max(len(sizes[name]) for name in group)
        histogram = sum((torch.nn.functional.pad(sizes[n], (0, whole - len(sizes[n]))) for n in group), torch.zeros(1))
        for number in levels:
            if number < whole - 1:
                found[group[0], number] = _best_top(histogram, number)
    return found


def _best_top(histogram: Tensor, number: int) -> int:
    """Of counts ``0 .. len - 1``, so many of each."""
    n = torch.arange(len(histogram), dtype=torch.float64)
    tops = sorted({round(t) for t in torch.linspace(number, len(histogram) - 1, _TOPS).tolist()})

    def error(top: int) -> float:
        step = top / number
        return float((histogram * ((n / step).round().clamp(max=number) * step - n).square()).sum())

    return min(tops, key=error)


@torch.no_grad()
@exact
def sensitivity(
    q: QuantGraph,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    levels: Sequence[int] = (3, 7, 15, 31, 63),
    batch: int = 64,
    tick: Callable[[int], None] = lambda images: None,
) -> list[Sensitivity]:
    """Give each group of layers fewer levels, all others as they are; a group with an input is left out.

    Ranges are those with the least squared error on the images, which need no labels. The first row is the network
    as it is, with no layers.

    Parameters
    ----------
    q : QuantGraph
        A classifier.
    images : float tensor ``(N, *input shape)``
    labels : int tensor ``(N,)``, optional
    levels : sequence of int
        Those below a group's own are tried.
    batch : int
        Images at a time.
    tick : callable
        Told the number of images of each batch that is done.

    Raises
    ------
    ConversionError
        If there are no images, or labels for another number.

    Examples
    --------
    >>> from converters.zoo.datasets import load
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-127")
    >>> rows = sensitivity(q, load("digits", "test").pixels[:20], levels=(3,))
    >>> [(row.layers, row.levels) for row in rows[:2]]
    [((), 127), (('features.0',), 3)]
    """
    if not len(images) or (labels is not None and len(labels) != len(images)):
        found = f"{len(images)} images, {'no' if labels is None else len(labels)} labels"
        raise ConversionError("images", found, "give some, and one label for each")
    tops = best_tops(q, images, levels, batch=batch)
    asked: list[tuple[tuple[str, ...], int, int]] = [((), q.levels, q.levels)]
    asked += [
        (group, number, tops[group[0], number])
        for group in sharing(q)
        for number in sorted(levels)
        if (group[0], number) in tops
    ]
    changed = [requantised(q, {g[0]: number}, {g[0]: top}) if g else q for g, number, top in asked]
    totals = torch.zeros(len(asked), 4, dtype=torch.float64)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        truth = None if labels is None else labels[start : start + batch]
        before = q.execute(part)
        was = q.logits(before).flatten(1).log_softmax(1)
        for row, (network, (group, _, _)) in zip(totals, zip(changed, asked, strict=True), strict=True):
            values = _executed(network, before, group)
            now = network.logits(values).flatten(1).log_softmax(1)
            row += torch.tensor([*_judged(was, now, truth), _counts(network, values)], dtype=torch.float64)
        tick(len(part))
    means = (totals / len(images)).tolist()
    return [
        Sensitivity(group, number, top, divergence, agreeing, None if labels is None else right, counts)
        for (group, number, top), (divergence, agreeing, right, counts) in zip(asked, means, strict=True)
    ]


def _executed(q: QuantGraph, before: Mapping[str, Tensor], group: tuple[str, ...]) -> dict[str, Tensor]:
    """Every layer's integers, where those of a network that differs in one group are known: what is behind is new."""
    values = dict(before)
    moved = set(group)
    for layer in q.layers:
        if layer.name in moved or any(name in moved for synapse in layer.synapses for name in synapse.sources):
            acc = q.accumulate(layer, values)
            values[layer.name] = layer.round(acc) if layer.spiking else acc
            moved.add(layer.name)
    return values


def _judged(was: Tensor, now: Tensor, truth: Tensor | None) -> list[float]:
    """Sums over images: divergence of log probabilities, classes as before, right ones."""
    guesses = now.argmax(1)
    right = 0 if truth is None else int((guesses == truth).sum())
    return [float((was.exp() * (was - now)).sum()), int((guesses == was.argmax(1)).sum()), right]


def _counts(q: QuantGraph, values: Mapping[str, Tensor]) -> float:
    return float(sum(int(values[layer.name].abs().sum()) for layer in q.layers if layer.spiking))


def allocations(rows: Sequence[Sensitivity]) -> Iterator[Allocation]:
    """Divisions of levels over all layers, each with fewer counts than the one before, the first as the network is.

    Each step takes from one group the levels that save most counts for what they add to the divergence, if the effects
    of groups add up. It is for the caller to stop: at a divergence, or where images say so.

    Parameters
    ----------
    rows : sequence of Sensitivity
        What :func:`sensitivity` gave.

    Yields
    ------
    Allocation
    """
    whole, *others = rows
    by_group: dict[tuple[str, ...], list[Sensitivity]] = {}
    for row in others:
        by_group.setdefault(row.layers, []).append(row)
    now = dict.fromkeys(by_group, whole)
    while True:
        chosen = {group[0]: row for group, row in now.items() if row is not whole}
        yield Allocation(
            {name: row.levels for name, row in chosen.items()},
            {name: row.top for name, row in chosen.items()},
            sum(row.divergence for row in chosen.values()),
            whole.counts + sum(row.counts - whole.counts for row in chosen.values()),
        )
        steps = [
            (group, row)
            for group, candidates in by_group.items()
            for row in candidates
            if row.levels < now[group].levels and row.counts < now[group].counts
        ]
        if not steps:
            return

        def worth(step: tuple[tuple[str, ...], Sensitivity]) -> float:
            group, row = step
            saved = now[group].counts - row.counts
            return saved / max(row.divergence - now[group].divergence, _LEAST)

        group, row = max(steps, key=worth)
        now[group] = row
