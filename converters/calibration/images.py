"""Calibration images: all of them looked at once, then given a batch at a time, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.frontends.examples import Example, example_of
from converters.ports.inputs import Batches

__all__ = ["Calibration", "Images"]

Images: TypeAlias = "Batches | Iterable[Any]"
"""Batches of a network's inputs; or a stream of batches that can be gone through again, such as a ``DataLoader``."""

_STREAM = "give a batch of images, or batches that can be gone through again, such as a DataLoader"


class Calibration:
    """The images that a float network is calibrated on.

    Parameters
    ----------
    model : nn.Module
    given : float tensor ``(N, *shape)``; a sequence or dictionary of them for several inputs; or an iterable of such
        Of an iterable one batch is held at a time. Its batches may have labels behind the images, which are left out
        as integers are no images.
    batch : int
        Most images of a batch that is given on.

    Attributes
    ----------
    count : int
        How many images there are.
    signed : list of bool
        Of each input, whether one of its values is negative.
    first : Example
        The first batch.

    Raises
    ------
    ConversionError
        If there are none, they differ in shape, are no float tensors or not finite, or the model takes others.

    >>> images = Calibration(nn.Linear(2, 1), torch.rand(9, 2), 4)
    >>> images.count, images.signed, [len(x.tensors[0]) for x in images]
    (9, [False], [4, 4, 1])
    """

    def __init__(self, model: nn.Module, given: Images, batch: int = 32) -> None:
        if type(batch) is not int or batch < 1:
            raise ConversionError("batch", f"{batch!r}", "use a whole number of at least 1")
        self.model, self.given, self.batch = model, given, batch
        weight = next((p for p in model.parameters()), None)
        self.device = torch.device("cpu") if weight is None else weight.device
        self.stream = not isinstance(given, Tensor | Sequence | Mapping)
        if isinstance(given, str) or (self.stream and (not isinstance(given, Iterable) or isinstance(given, Iterator))):
            raise ConversionError("calibration", type(given).__name__, _STREAM)
        self.count, first, signed = 0, None, [False]
        for example in self._examples():
            if first is None:
                first, signed = example, [False] * len(example.names)
            shapes = [[tuple(x.shape[1:]) for x in e.tensors] for e in (first, example)]
            if shapes[0] != shapes[1]:
                raise ConversionError(
                    "calibration", f"images of shapes {shapes[0]} and {shapes[1]}", "resize them to one"
                )
            self.count += len(example.tensors[0])
            signed = [s or bool((x < 0).any()) for s, x in zip(signed, example.tensors, strict=True)]
        if first is None or not self.count:
            raise ConversionError("calibration", "no images", "give some that the network was trained for")
        self.first, self.signed = first, signed

    def _examples(self) -> Iterator[Example]:
        """What was given, as the model's arguments."""
        batches: Any = map(_images_of, self.given) if self.stream else [self.given]
        for given in batches:
            try:
                example = example_of(self.model, given)
            except ConversionError as error:
                raise ConversionError(error.where.replace("example", "calibration"), error.found, error.todo) from None
            yield example

    def __iter__(self) -> Iterator[Example]:
        for example in self._examples():
            for k in range(0, len(example.tensors[0]), self.batch):
                yield example.map(lambda x, k=k: x[k : k + self.batch].to(self.device))  # type: ignore[misc]


def _images_of(batch: Any) -> Any:
    """A batch of a stream without its labels."""
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        return batch
    return tuple(x for x in batch if not isinstance(x, Tensor) or x.is_floating_point())
