"""What a network is given: images or integers, one batch for each of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations import Shape

if TYPE_CHECKING:
    from converters.quantised import InputSpec

__all__ = ["Batches", "accept", "batches", "packed", "split", "unpacked"]

Batches: TypeAlias = "Tensor | Sequence[Tensor] | Mapping[str, Tensor]"
"""A batch of images, or of integers: a tensor; or one for each input, in their order or by their names."""


def accept(specs: Sequence[InputSpec], images: Batches | None, integers: Batches | None) -> dict[str, Tensor]:
    """Integers of a batch, by the inputs' names: int64 ``(N, *shape)``.

    Parameters
    ----------
    specs : sequence of InputSpec
        The network's inputs, in order.
    images, integers : tensor, sequence of tensors, or dict
        One of them; see :meth:`converters.quantised.InputSpec.accept`.

    Raises
    ------
    ConversionError
        If both are given or neither, an input is missing, or what is given does not fit; naming the input.
    """
    what, given = ("integers", integers) if images is None else ("images", images)
    if len(specs) == 1 and not isinstance(given, Sequence | Mapping):
        return {specs[0].name: specs[0].accept(images, integers)}  # type: ignore[arg-type]  # it says what is wrong
    if (images is None) == (integers is None):
        raise ConversionError("images", "both images and integers, or neither", "give one of them")
    by_name = batches([spec.name for spec in specs], given, what)
    found = {}
    for spec in specs:
        one = by_name[spec.name]
        try:
            found[spec.name] = spec.accept(one, None) if images is not None else spec.accept(None, one)
        except ConversionError as error:
            raise ConversionError(f"{error.where} of input {spec.name}", error.found, error.todo) from None
    if len({len(x) for x in found.values()}) > 1:
        counts = ", ".join(f"{len(x)} of {name}" for name, x in found.items())
        raise ConversionError(what, counts, "give as many for each input")
    return found


def batches(names: Sequence[str], given: Any, what: str = "images") -> dict[str, Any]:
    """One batch for each of the inputs ``names``.

    >>> batches(["left", "right"], (1, 2)), batches(["left", "right"], {"right": 2, "left": 1})
    ({'left': 1, 'right': 2}, {'left': 1, 'right': 2})
    """
    todo = f"give one tensor for each of {', '.join(names)}: in this order, or by name in a dictionary"
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ConversionError(what, f"those of {sorted(map(str, given))}", todo)
        return {name: given[name] for name in names}
    parts = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if len(parts) != len(names):
        raise ConversionError(what, f"{len(parts)} for {len(names)} inputs", todo)
    return dict(zip(names, parts, strict=True))


def split(given: Batches, size: int) -> list[Any]:
    """``size`` images at a time, given as they were: a list of tensors, of sequences, or of dictionaries.

    >>> [len(a) for a, b in split((torch.zeros(5, 2), torch.zeros(5, 3)), 2)]
    [2, 2, 1]
    """
    if isinstance(given, Tensor):
        return list(given.split(size))
    if isinstance(given, Mapping):
        return [dict(zip(given, part, strict=True)) for part in split(list(given.values()), size)]
    return list(zip(*(x.split(size) for x in given), strict=True))


def packed(values: Mapping[str, Tensor]) -> Tensor:
    """All inputs' batches as one tensor: the only one as it is; several flat and side by side, ``(N, values)``."""
    if len(values) == 1:
        return next(iter(values.values()))
    return torch.cat([x.flatten(1) for x in values.values()], 1)


def unpacked(shapes: Mapping[str, Shape], x: Tensor) -> dict[str, Tensor]:
    """What :func:`packed` made one of, by name; ``x`` may have more axes in front, as steps.

    >>> shapes = {"a": (2,), "b": (1, 3)}
    >>> {name: part.tolist() for name, part in unpacked(shapes, torch.arange(5)[None]).items()}
    {'a': [[0, 1]], 'b': [[[2, 3, 4]]]}
    """
    if len(shapes) == 1:
        return dict.fromkeys(shapes, x)
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = x.split(sizes, -1)
    return {name: part.unflatten(-1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
