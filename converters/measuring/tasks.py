"""What is asked of each output: its shape and its labels say whether it tells classes apart, or gives numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.measuring.scores import MOST_WRONG, ClassScore, Score, ValueScore, confusion, deviation
from converters.network import Network
from converters.ports.answers import classes_of, named, predicted
from converters.ports.outputs import Output
from converters.ports.tails import apply, shape_behind

__all__ = ["Labels", "Question", "is_unlabelled", "labels_of", "questions", "unlabelled"]

Labels: TypeAlias = Tensor | Sequence[Tensor | None] | Mapping[str, Tensor] | None
"""Of the main output; of several, in their order or by name; None where nothing is known."""

_VOID = 255  # what maps of classes hold, by custom, where nobody knows the class
_SAME = 1e-9


@dataclass(frozen=True)
class Question:
    """One output, and how it is judged.

    Attributes
    ----------
    name : str
    output : Output
    task : {"classes", "map", "values"}
        One class for each image, one at each place, or numbers.
    classes : int
        0 of values.
    shape : tuple of int
        Of what is judged, for one image: of the places, or of the values.
    """

    name: str
    output: Output
    task: str
    classes: int
    shape: tuple[int, ...]

    def answer(self, value: Tensor) -> Tensor:
        """Of the layer's output ``(N, *layer shape)`` in real units: int64 classes, or float64 values."""
        return apply(self.output.tail, value) if self.task == "values" else predicted(self.output, value)

    def score(self, quantised: Tensor, spiking: Tensor, labels: Tensor | None) -> Score:
        """Of what the layer puts out in both networks; ``labels`` as :func:`questions` has checked them."""
        ours, theirs = self.answer(quantised), self.answer(spiking).to(quantised.device)
        n, places = len(ours), ours.numel()
        truth = self.truth(labels, ours)
        if self.task != "values":
            same = (ours == theirs).reshape(n, math.prod(self.shape))
            off = ((truth >= 0) & (theirs != truth)).nonzero().flatten()[:MOST_WRONG] if self.task == "classes" else ()
            return ClassScore(
                self.name,
                self.task,
                self.classes,
                images=n,
                places=places,
                alike=int(same.all(1).sum()),
                agreeing=int(same.sum()),
                quantised=confusion(truth, ours, self.classes),
                spiking=confusion(truth, theirs, self.classes),
                wrong=tuple((int(k), int(truth[k]), int(theirs[k])) for k in off),
            )
        gap = (ours - theirs).abs()
        near = (gap <= _SAME * (1 + ours.abs())).reshape(n, math.prod(self.shape))
        return ValueScore(
            self.name,
            images=n,
            values=places,
            alike=int(near.all(1).sum()),
            quantised=deviation(ours, truth),
            spiking=deviation(theirs, truth),
            between=deviation(theirs, ours),
            largest=float(gap.max()) if places else 0.0,
        )

    def truth(self, labels: Tensor | None, answer: Tensor) -> Tensor:
        """Labels as this ``answer`` is: int64 with -1, or float64 with NaN, where nothing is known."""
        if self.task == "values":
            known = torch.tensor(torch.nan) if labels is None else labels.to(torch.float64)
        else:
            known = torch.tensor(-1) if labels is None else _classes(labels, self.classes)
        known = known.to(answer.device)
        return known.reshape(answer.shape) if known.ndim else known.expand(answer.shape)


def unlabelled(n: int) -> Tensor:
    """What stands for the labels of ``n`` images of which nobody knows any: -1 for each."""
    return torch.full((n,), -1)


def labels_of(labels: Labels, names: Sequence[str], n: int) -> tuple[Tensor, ...]:
    """A tensor for each of the outputs ``names``, from what the user has given; see :func:`unlabelled`.

    Raises
    ------
    ConversionError
        If there are more than outputs, of an output that is not there, or not one for each of ``n`` images.

    >>> labels_of({"aux": torch.tensor([3, 4])}, ["out", "aux"], 2)
    (tensor([-1, -1]), tensor([3, 4]))
    """
    if isinstance(labels, Mapping):
        for name in labels:
            if name not in names:
                raise ConversionError("labels", f"of {name!r}, which is no output", f"outputs are {', '.join(names)}")
        labels = [labels.get(name) for name in names]
    parts: list[Any] = [labels] if labels is None or isinstance(labels, Tensor) else _listed(labels)
    if not 1 <= len(parts) <= len(names):
        raise ConversionError(
            "labels", f"{len(parts)} for {n} images", f"give one integer for each image, or one tensor for each of the "
            f"{len(names)} outputs" if len(names) > 1 else "give one integer for each image, as a tensor"
        )  # fmt: skip
    found = []
    for part in [*parts, *[None] * (len(names) - len(parts))]:
        if part is not None and (not isinstance(part, Tensor) or part.shape[:1] != (n,)):
            kind = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ConversionError("labels", f"{kind} for {n} images", "give one integer for each image, as a tensor")
        found.append(unlabelled(n) if part is None else part)
    return tuple(found)


def _listed(labels: Any) -> list[Any]:
    if isinstance(labels, list | tuple):
        return list(labels)
    raise ConversionError("labels", type(labels).__name__, "give one integer for each image, as a tensor")


def questions(network: Network, labels: Sequence[Tensor | None]) -> list[Question]:
    """One for each output of a network, in their order, with ``labels`` of all images for the first of them.

    Integers are classes: ``(N,)``, or ``(N, *places)`` of a map, where those below 0 and 255 stand for a place without
    a class. Real numbers are values, of the output's own shape; NaN stands for one that is not known. Where there are
    no labels, an output of one number is a value, and any other tells classes apart.

    Raises
    ------
    ConversionError
        If labels have another shape than the output, or are no classes of it.
    """
    shapes = {stage.name: stage.shape for stage in network.output_stages}
    outputs = named(network.outputs)
    given = [*labels, *[None] * (len(outputs) - len(labels))]
    return [_question(name, out, shapes[out.layer], y) for (name, out), y in zip(outputs, given, strict=True)]


def _question(name: str, output: Output, shape: Sequence[int], labels: Tensor | None) -> Question:
    trial = torch.zeros(1, *shape, dtype=torch.float64)
    values = tuple(shape_behind(name, output.tail, shape))
    places, classes = tuple(predicted(output, trial).shape[1:]), classes_of(output, shape)
    numbers = apply(output.tail, trial).is_floating_point()
    if labels is None or is_unlabelled(labels):
        if numbers and trial.numel() == 1:
            return Question(name, output, "values", 0, values)
        return Question(name, output, "map" if places else "classes", classes, places)
    if labels.is_floating_point():
        alone = not labels.shape[1:] and torch.Size(values).numel() == 1
        if not numbers or not (alone or tuple(labels.shape[1:]) == values):
            todo = f"give numbers of shape {('N', *values)}" if numbers else f"give classes of shape {('N', *places)}"
            raise ConversionError("labels", f"numbers of shape {tuple(labels.shape)} for {name}", todo.replace("'", ""))
        return Question(name, output, "values", 0, values)
    if labels.is_complex() or tuple(labels.shape[1:]) != places:
        found = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)} for {name}"
        todo = f"give one integer for each place, {('N', *places)}" if places else "give one integer for each image"
        raise ConversionError("labels", found, f"{todo}; or real numbers of shape {('N', *values)}".replace("'", ""))
    task = "map" if places else "classes"
    strange = _classes(labels, classes) >= classes
    if bool(strange.any()):
        found = f"the class {int(labels[strange][0])} for {name}, which has {classes}"
        raise ConversionError("labels", found, "number classes from 0; give real numbers where they are no classes")
    return Question(name, output, task, classes, places)


def is_unlabelled(labels: Tensor) -> bool:
    """Whether these are :func:`unlabelled`'s."""
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    return whole and labels.ndim == 1 and len(labels) > 0 and bool((labels < 0).all())


def _classes(labels: Tensor, classes: int) -> Tensor:
    """int64, and -1 where there is none."""
    found = labels.to(torch.int64)
    none = found < 0
    if found.ndim > 1 and classes <= _VOID:
        none = none | (found == _VOID)
    return torch.where(none, -1, found)
