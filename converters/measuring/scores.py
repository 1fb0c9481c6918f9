"""How well an output does: classes against labels, maps of classes place by place, numbers against numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["ClassScore", "Confusion", "Deviation", "Score", "ValueScore", "confusion", "deviation", "rows_told"]

Confusion: TypeAlias = Mapping[tuple[int, int], int]
"""How often a label (first) met a prediction (second); pairs that never did are left out."""
Number: TypeAlias = Callable[[float | None], str]
"""Writes a number, or what stands for none."""

MATRIX_CLASSES = 20  # up to so many a matrix can be read; of more classes the pairs most often confused are told
_PAIRS = 20
MOST_WRONG = 24


def confusion(labels: Tensor, predictions: Tensor, classes: int) -> Confusion:
    """Pairs of label and prediction, of int64 tensors of one shape; labels below 0 take no part.

    >>> confusion(torch.tensor([0, 1, 1, -1]), torch.tensor([0, 1, 0, 1]), 2)
    {(0, 0): 1, (1, 0): 1, (1, 1): 1}
    """
    known = labels >= 0
    met = torch.bincount(labels[known] * classes + predictions[known], minlength=1)
    return {divmod(int(k), classes): int(met[k]) for k in met.nonzero().flatten()}


def _right(found: Confusion) -> int:
    return sum(n for (label, prediction), n in found.items() if label == prediction)


@dataclass(frozen=True)
class ClassScore:
    """An output that tells classes apart: one of an image, or, of a map, one at each place.

    Attributes
    ----------
    name : str
        Of the output.
    task : {"classes", "map"}
    classes : int
    images, places : int
        Places of all images; as many as images where there is one class of each.
    alike, agreeing : int
        Images to which both networks say the same everywhere, and places at which they do.
    quantised, spiking : Confusion
        Labels against what each network says; places without a label are left out.
    """

    name: str
    task: str
    classes: int
    images: int = 0
    places: int = 0
    alike: int = 0
    agreeing: int = 0
    quantised: Confusion = field(default_factory=dict)
    spiking: Confusion = field(default_factory=dict)
    wrong: tuple[tuple[int, int, int], ...] = ()
    """The first images that the spiking network gets wrong: place in the data set, label, prediction."""

    def __add__(self, other: ClassScore) -> ClassScore:
        return replace(
            self,
            images=self.images + other.images,
            places=self.places + other.places,
            alike=self.alike + other.alike,
            agreeing=self.agreeing + other.agreeing,
            quantised=dict(Counter(self.quantised) + Counter(other.quantised)),
            spiking=dict(Counter(self.spiking) + Counter(other.spiking)),
            wrong=(*self.wrong, *((self.images + k, y, said) for k, y, said in other.wrong))[:MOST_WRONG],
        )

    @property
    def labelled(self) -> int:
        """Places with a label."""
        return sum(self.spiking.values())

    @property
    def quantised_right(self) -> int:
        return _right(self.quantised)

    @property
    def spiking_right(self) -> int:
        return _right(self.spiking)

    def accuracy(self, found: Confusion) -> float | None:
        """The share of labelled places with the right class; None where there are images and no label."""
        if not self.labelled:
            return None if self.images else 0.0
        return _right(found) / self.labelled

    def overlaps(self, found: Confusion) -> list[float | None]:
        """Intersection over union of each class; None of a class that neither labels nor predictions have.

        >>> score = ClassScore("head", "map", 3, spiking={(0, 0): 6, (0, 1): 2, (1, 1): 2})
        >>> score.overlaps(score.spiking)
        [0.75, 0.5, None]
        """
        said: Counter[int] = Counter()
        true: Counter[int] = Counter()
        for (label, prediction), n in found.items():
            true[label] += n
            said[prediction] += n
        union = [true[c] + said[c] - found.get((c, c), 0) for c in range(self.classes)]
        return [found.get((c, c), 0) / n if n else None for c, n in enumerate(union)]

    def overlap(self, found: Confusion) -> float | None:
        """Mean of :meth:`overlaps` over the classes that occur."""
        known = [x for x in self.overlaps(found) if x is not None]
        return sum(known) / len(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {
            "name": self.name,
            "task": self.task,
            "classes": self.classes,
            "labelled": self.labelled,
            "quantised_accuracy": self.accuracy(self.quantised),
            "snn_accuracy": self.accuracy(self.spiking),
            "agreement": self.agreeing / self.places if self.places else 0.0,
        }
        if self.task == "map":
            row["quantised_iou"], row["snn_iou"] = self.overlap(self.quantised), self.overlap(self.spiking)
            row["iou_by_class"] = self.overlaps(self.spiking)
        if self.labelled and self.classes <= MATRIX_CLASSES:
            row["confusion"] = [[self.spiking.get((c, p), 0) for p in range(self.classes)] for c in range(self.classes)]
        elif self.labelled:
            wrong = sorted((-n, pair) for pair, n in self.spiking.items() if pair[0] != pair[1])
            row["confused"] = [[*pair, -n] for n, pair in wrong[:_PAIRS]]
        if self.wrong:
            row["wrong"] = [list(one) for one in self.wrong]
        return row

    def sums(self) -> list[float]:
        """All that adds up, as many numbers whatever was found."""
        pairs = [(c, p) for c in range(self.classes) for p in range(self.classes)]
        tables = [float(table.get(pair, 0)) for table in (self.quantised, self.spiking) for pair in pairs]
        return [self.images, self.places, self.alike, self.agreeing, *tables]

    def of_sums(self, numbers: Iterator[float]) -> ClassScore:
        """The score of these :meth:`sums`, taken from ``numbers``; but for ``wrong``, which do not add up."""
        images, places, alike, agreeing = (int(next(numbers)) for _ in range(4))
        quantised, spiking = (
            {(c, p): n for c in range(self.classes) for p in range(self.classes) if (n := int(next(numbers)))}
            for _ in range(2)
        )
        return replace(
            self,
            images=images,
            places=places,
            alike=alike,
            agreeing=agreeing,
            quantised=quantised,
            spiking=spiking,
        )


@dataclass(frozen=True)
class Deviation:
    """Sums over pairs of numbers ``(x, y)``, and what follows: how far ``x`` is from ``y``.

    The correlation comes from sums in float64: of numbers whose mean is ``r`` times as large as their spread, all but
    about ``16 - 2 log10(r)`` of its digits are rounding.
    """

    count: int = 0
    absolute: float = 0.0
    square: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(*(a + b for a, b in zip(self.sums(), other.sums(), strict=True)))  # type: ignore[arg-type]

    def sums(self) -> list[float]:
        return [self.count, self.absolute, self.square, self.x, self.y, self.xx, self.yy, self.xy]

    @property
    def mean_absolute(self) -> float | None:
        return self.absolute / self.count if self.count else None

    @property
    def rms(self) -> float | None:
        """Root of the mean square."""
        return math.sqrt(self.square / self.count) if self.count else None

    @property
    def correlation(self) -> float | None:
        """Pearson's; None where a side does not vary beyond rounding."""
        n = self.count
        if n < 2:
            return None
        spreads = [(s - m * m / n, s) for s, m in ((self.xx, self.x), (self.yy, self.y))]
        if any(spread <= 1e-12 * whole for spread, whole in spreads):
            return None
        found = (self.xy - self.x * self.y / n) / math.sqrt(spreads[0][0] * spreads[1][0])
        return min(1.0, max(-1.0, found))

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {"mean_absolute": self.mean_absolute, "rms": self.rms, "correlation": self.correlation}


def deviation(x: Tensor, y: Tensor) -> Deviation:
    """Of two tensors of one shape; pairs with a NaN are left out.

    >>> deviation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])).as_dict()
    {'mean_absolute': 0.666..., 'rms': 0.816..., 'correlation': 0.981...}
    """
    a, b = x.to(torch.float64).flatten(), y.to(x.device, torch.float64).flatten()
    known = ~(a.isnan() | b.isnan())
    a, b = a[known], b[known]
    off = a - b
    products = (off.abs(), off * off, a, b, a * a, b * b, a * b)
    return Deviation(len(a), *(float(v.sum()) for v in products))


@dataclass(frozen=True)
class ValueScore:
    """An output of numbers: a regression, or a map of numbers.

    Attributes
    ----------
    name : str
    images, values : int
        Values of all images.
    alike : int
        Images whose values are the same in both networks, but for the rounding of float64.
    quantised, spiking : Deviation
        Of each network's values from the labels, where there are labels.
    between : Deviation
        Of the spiking network's values from the quantised one's.
    largest : float
        The largest difference between the two.
    """

    name: str
    images: int = 0
    values: int = 0
    alike: int = 0
    quantised: Deviation = Deviation()
    spiking: Deviation = Deviation()
    between: Deviation = Deviation()
    largest: float = 0.0
    task: str = "values"

    def __add__(self, other: ValueScore) -> ValueScore:
        return ValueScore(
            self.name,
            images=self.images + other.images,
            values=self.values + other.values,
            alike=self.alike + other.alike,
            quantised=self.quantised + other.quantised,
            spiking=self.spiking + other.spiking,
            between=self.between + other.between,
            largest=max(self.largest, other.largest),
        )

    @property
    def labelled(self) -> int:
        """Values with a label."""
        return self.spiking.count

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"name": self.name, "task": self.task, "labelled": self.labelled}
        row["between"] = {**self.between.as_dict(), "largest": self.largest}
        if self.labelled:
            row |= {"quantised": self.quantised.as_dict(), "spiking": self.spiking.as_dict()}
        return row

    def sums(self) -> list[float]:
        """All that adds up."""
        parts = (self.quantised, self.spiking, self.between)
        return [self.images, self.values, self.alike, *(n for part in parts for n in part.sums())]

    def of_sums(self, numbers: Iterator[float], largest: float) -> ValueScore:
        """The score of these :meth:`sums`, taken from ``numbers``."""
        images, values, alike = (int(next(numbers)) for _ in range(3))
        parts = [Deviation(int(next(numbers)), *(next(numbers) for _ in range(7))) for _ in range(3)]
        quantised, spiking, between = parts
        return ValueScore(self.name, images, values, alike, quantised, spiking, between, largest)


Score: TypeAlias = ClassScore | ValueScore


def rows_told(one: Mapping[str, Any], percent: Number, real: Number, agreement: str) -> list[list[str]]:
    """What is measured of an output, for people: rows of what it is, of the quantised network, of the spiking one, and
    between the two.

    Parameters
    ----------
    one : mapping
        An output's JSON, as :meth:`ClassScore.as_dict` and :meth:`ValueScore.as_dict` have it; what it lacks is told as
        what is not known.
    percent, real : callable
        A share, and a number, or None, as text.
    agreement : str
        Format of the per cent of answers that are the same.
    """
    if one["task"] != "values":
        what = "right pixels" if one["task"] == "map" else "right images"
        sides = [percent(one.get(f"{who}_accuracy")) for who in ("quantised", "snn")]
        rows = [[what, *sides, agreement.format(100 * (one.get("agreement") or 0))]]
        if one["task"] == "map" and one["labelled"]:
            rows.append(["mean IoU", *(real(one.get(f"{who}_iou")) for who in ("quantised", "snn")), ""])
        return rows
    names = {"mean_absolute": "mean absolute error", "rms": "rms error", "correlation": "correlation"}
    columns = [one.get(who) or {} for who in ("quantised", "spiking", "between")]
    rows = [[name, *(real(column.get(k)) for column in columns)] for k, name in names.items()]
    return [*rows, ["largest difference", "", "", real(columns[2].get("largest"))]]
