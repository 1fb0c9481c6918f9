"""Where the images of a batch are in a tensor: not always along its first axis.

Attention puts tokens in front of the images (``batch_first=False``), heads and windows beside them, on one axis:
``(L, N, D)``, ``(N * heads, L, d)``, ``(L * N, D)``. Verbs speak of images, so a front-end keeps every value with the
images first, and beside it the :class:`Layout` that the toolkit has it in; it is followed through moves by looking
where the images' own numbers go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["FIRST", "Layout", "laid_out"]


@dataclass(frozen=True)
class Layout:
    """A tensor whose ``axis`` is ``before`` times the images times ``after``, in this order; the images are N.

    Examples
    --------
    >>> heads = Layout(axis=0, after=2)  # (N * heads, L, d)
    >>> heads.first(torch.zeros(6, 5, 4), 3).shape
    torch.Size([3, 2, 5, 4])
    >>> heads.back(torch.zeros(3, 2, 5, 4)).shape
    torch.Size([6, 5, 4])
    """

    axis: int = 0
    before: int = 1
    after: int = 1

    @property
    def kept(self) -> bool:
        """Whether an axis stays where the images are taken from."""
        return self.before * self.after > 1

    def first(self, x: Tensor, images: int) -> Tensor:
        """With the images first, and every other axis in its order."""
        k = self.axis
        y = x.unflatten(k, (self.before, images, self.after)).movedim(k + 1, 0)
        return y.flatten(k + 1, k + 2) if self.kept else y.reshape(images, *x.shape[:k], *x.shape[k + 1 :])

    def back(self, x: Tensor) -> Tensor:
        """What :meth:`first` was given."""
        k = self.axis
        y = x.unflatten(k + 1, (self.before, self.after)) if self.kept else x.unsqueeze(k + 1).unsqueeze(k + 1)
        return y.movedim(0, k + 1).flatten(k, k + 2).contiguous()

    def dim(self, dim: int, rank: int) -> int:
        """An axis of the tensor, of ``rank`` axes, as one of :meth:`first`; the images' own is 0."""
        dim %= rank
        if dim == self.axis:
            return 0
        return dim + 1 if dim < self.axis or self.kept else dim

    def without(self, dims: list[int], rank: int) -> Layout:
        """Of the tensor without some other axes."""
        return replace(self, axis=self.axis - sum(d % rank < self.axis for d in dims))

    def constant(self, x: Tensor, rank: int) -> Tensor:
        """A constant that broadcasts to the tensor, for what broadcasts to :meth:`first`."""
        place = self.axis - (rank - x.ndim)
        return x if place < 0 or self.kept or x.shape[place] != 1 else x.squeeze(place)

    @classmethod
    def of(cls, images: Tensor) -> Layout | None:
        """Of a tensor of images' numbers, 0 and 1, each in its place; -1 is in none. None where they are mixed."""
        for axis, size in enumerate(images.shape):
            for after in range(1, size // 2 + 1):
                if size % (2 * after) == 0:
                    pattern = (torch.arange(size) // after % 2).reshape(-1, *[1] * (images.ndim - axis - 1))
                    if bool(((images == pattern) | (images < 0)).all()):
                        return cls(axis, size // (2 * after), after)
        return None


FIRST = Layout()


def laid_out(
    where: str, shape: tuple[int, ...], before: Layout, function: Callable[[Tensor], Tensor]
) -> tuple[Layout, Callable[[Tensor], Tensor]]:
    """Where ``function``, which only moves values, puts the images; and the same function with the images first.

    Parameters
    ----------
    where : str
        For errors.
    shape : tuple of int
        Of one image of what it takes, the images first.
    before : Layout
        In which it takes two images.

    Raises
    ------
    ConversionError
        If it mixes images.
    """
    numbers = torch.arange(1.0, 3.0, dtype=torch.float64).reshape(2, *[1] * len(shape)).expand(2, *shape)
    found = function(before.back(numbers)).round().to(torch.int64) - 1
    after = Layout.of(found)
    if after is None:
        raise ConversionError(where, "an operation that mixes images", "leave the axis of the images alone")
    return after, lambda x: after.first(function(before.back(x)), len(x))
