"""The images on which a conversion is compared with the model that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.examples import Given, each, is_tokens
from converters.ports.inputs import Batches, batches
from converters.quantised import QuantGraph

__all__ = ["Probes", "limits", "noise", "own_images", "probes"]

_OF_A_KIND = 4


@dataclass(frozen=True)
class Probes:
    """Float batches of images, one for each input, and what they are, for people."""

    images: Given
    kind: str

    def __len__(self) -> int:
        return len(self.images if isinstance(self.images, Tensor) else next(iter(self.images.values())))


def probes(example: Given, check: bool | Batches) -> Probes | None:
    """The images that ``check`` asks for; None for ``False``.

    Parameters
    ----------
    example : float tensor ``(N, *shape)``, or several by name
        The batch that the front-end was given.
    check : bool, or like the example with any number of images
        True: up to four images of the example; four of uniform noise in its range; the smallest value, zeros and the
        largest value everywhere; two of one pixel of the largest value among zeros, and two of one pixel of the
        smallest among the largest. Of several inputs also two where every second one has its largest value and
        the others their smallest, and the other way round. Images are taken as they are.

    Raises
    ------
    ConversionError
        If ``check`` is neither a bool nor finite images of the example's shape and type.

    Examples
    --------
    >>> probes(torch.rand(2, 1, 8, 8), True).images.shape
    torch.Size([13, 1, 8, 8])
    """
    own = own_images(example, check)
    if own is not None:
        return Probes(own, "the user's own")
    if check is False:
        return None
    generator = torch.Generator().manual_seed(0)
    kind = "the example, random and extreme images"
    if isinstance(example, Tensor):
        return Probes(_of_one(example.detach(), generator), kind)
    found = {}
    for k, (name, x) in enumerate(example.items()):
        low, high = limits(x)
        ends = torch.tensor([low, high] if k % 2 else [high, low], dtype=x.dtype, device=x.device)
        against = ends.view(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
        found[name] = torch.cat([_of_one(x.detach(), generator), against])
    return Probes(found, kind)


def noise(q: QuantGraph, count: int) -> Given:
    """Images of even noise in the range of each input's quantiser, or tokens."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for spec in q.inputs:
        if spec.table is not None:
            found[spec.name] = torch.randint(spec.table.vocabulary, (count, *spec.given), generator=generator)
            continue
        x = torch.rand(count, *spec.shape, generator=generator)
        found[spec.name] = (x * (spec.q_max - spec.q_min) + spec.q_min) * spec.scale
    return next(iter(found.values())) if len(found) == 1 else found


def limits(example: Tensor) -> tuple[float, float]:
    """Between what noise like the example lies."""
    low, high = (float(x) for x in example.detach().aminmax())
    if is_tokens(example):
        return low, high
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))  # else nothing is known of the range


def _of_one(example: Tensor, generator: torch.Generator) -> Tensor:
    low, high = limits(example)
    shape = example.shape[1:]
    options: Any = {"dtype": example.dtype, "device": example.device}
    noise = torch.rand(_OF_A_KIND, *shape, generator=generator, dtype=torch.float64) * (high - low) + low
    flat = torch.tensor([low, 0.0, high], **options).view(-1, *[1] * len(shape)).expand(-1, *shape)
    pixels = torch.zeros(_OF_A_KIND, shape.numel(), **options)
    pixels[_OF_A_KIND // 2 :] = high
    where = torch.randint(shape.numel(), (_OF_A_KIND,), generator=generator)
    for k, place in enumerate(where.tolist()):
        pixels[k, place] = high if k < _OF_A_KIND // 2 else low
    return torch.cat([example[:_OF_A_KIND], noise.to(**options), flat, pixels.view(-1, *shape)])


def own_images(example: Given, check: Any) -> Given | None:
    """The images of ``check``, where the example is; None where it is a bool.

    Raises
    ------
    ConversionError
        Unless it is a bool, or finite images of the example's shapes and types.
    """
    if type(check) is bool:
        return None
    if isinstance(example, Tensor):
        if isinstance(check, list | tuple | dict) and len(check) == 1:
            (check,) = check.values() if isinstance(check, dict) else check
        _check("check", example, check)
        return each(check, lambda x: x.detach().to(example.device))
    by_name = batches(list(example), check, "check")
    for name, x in by_name.items():
        _check(f"check of {name}", example[name], x)
    if len({len(x) for x in by_name.values()}) > 1:
        found = ", ".join(f"{len(x)} of {name}" for name, x in by_name.items())
        raise ConversionError("check", found, "give as many for each input")
    return {name: x.detach().to(example[name].device) for name, x in by_name.items()}


def _check(where: str, example: Tensor, images: Any) -> None:
    if not isinstance(images, Tensor):
        raise ConversionError(where, type(images).__name__, "give True, False or a batch of images")
    if images.dtype != example.dtype or images.shape[1:] != example.shape[1:] or not len(images):
        raise ConversionError(
            where,
            f"{images.dtype} of shape {tuple(images.shape)}",
            f"give images like the example, {example.dtype} of shape (N, {', '.join(map(str, example.shape[1:]))})",
        )
    if not bool(torch.isfinite(images).all()):
        raise ConversionError(where, "NaN or infinite pixels", "clean the data first")
