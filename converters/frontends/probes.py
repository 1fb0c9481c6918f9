"""The images on which a conversion is compared with the model that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["Probes", "check_own_images", "probes"]

_OF_A_KIND = 4


@dataclass(frozen=True)
class Probes:
    """A float batch of images, and what they are, for people."""

    images: Tensor
    kind: str


def probes(example: Tensor, check: bool | Tensor) -> Probes | None:
    """The images that ``check`` asks for; None for ``False``.

    Parameters
    ----------
    example : float tensor ``(N, *shape)``
        The batch that the front-end was given.
    check : bool or float tensor ``(M, *shape)``
        True: up to four images of the example; four of uniform noise in its range; the smallest value, zeros and the
        largest value everywhere; two of one pixel of the largest value among zeros, and two of one pixel of the
        smallest among the largest. A tensor is taken as it is.

    Raises
    ------
    ConversionError
        If ``check`` is neither a bool nor finite images of the example's shape and type.

    Examples
    --------
    >>> probes(torch.rand(2, 1, 8, 8), True).images.shape
    torch.Size([13, 1, 8, 8])
    """
    check_own_images(example, check)
    if isinstance(check, Tensor):
        return Probes(check.detach().to(example.device), "the user's own")
    if not check:
        return None
    example = example.detach()
    low, high = (float(x) for x in example.aminmax())
    if low == high:  # nothing is known of the range
        low, high = min(low, 0.0), max(high, 1.0)
    shape = example.shape[1:]
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": example.dtype, "device": example.device}
    noise = torch.rand(_OF_A_KIND, *shape, generator=generator, dtype=torch.float64) * (high - low) + low
    flat = torch.tensor([low, 0.0, high], **options).view(-1, *[1] * len(shape)).expand(-1, *shape)
    pixels = torch.zeros(_OF_A_KIND, shape.numel(), **options)
    pixels[_OF_A_KIND // 2 :] = high
    where = torch.randint(shape.numel(), (_OF_A_KIND,), generator=generator)
    for k, place in enumerate(where.tolist()):
        pixels[k, place] = high if k < _OF_A_KIND // 2 else low
    images = torch.cat([example[:_OF_A_KIND], noise.to(**options), flat, pixels.view(-1, *shape)])
    return Probes(images, "the example, random and extreme images")


def check_own_images(example: Tensor, check: bool | Tensor) -> None:
    """Raise a ConversionError unless ``check`` is a bool, or finite images of the example's shape and type."""
    if type(check) is bool:
        return
    if not isinstance(check, Tensor):
        raise ConversionError("check", type(check).__name__, "give True, False or a batch of images")
    images = check
    if images.dtype != example.dtype or images.shape[1:] != example.shape[1:] or not len(images):
        raise ConversionError(
            "check",
            f"{images.dtype} of shape {tuple(images.shape)}",
            f"give images like the example, {example.dtype} of shape (N, {', '.join(map(str, example.shape[1:]))})",
        )
    if not bool(torch.isfinite(images).all()):
        raise ConversionError("check", "NaN or infinite pixels", "clean the data first")
