"""Labelled images: bytes where they came as bytes, and floats one batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Images"]


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size with their labels.

    Attributes
    ----------
    stored : float32 or uint8 tensor ``(N, C, H, W)``
        Pixels in [0, 1] (or of both signs), or bytes from 0 to 255.
    labels : int64 tensor ``(N,)``
        Or what else a network's output is held against: ``(N, *places)`` of maps, real numbers of a regression.
    classes : int
        Number of classes.
    filter : callable, optional
        Applied to every batch of floats, and of the same shape: a difference of Gaussians.
    names : tuple of str
        Of the classes, in the order of their numbers, where folders give them.
    more_labels : tuple of tensors
        Of a network's further outputs, in their order.

    Examples
    --------
    >>> data = Images(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(3), 3)
    >>> data[1:].pixels.max(), len(data[1:]), data.shape
    (tensor(1.), 2, (1, 2, 2))
    """

    stored: Tensor
    labels: Tensor
    classes: int
    filter: Callable[[Tensor], Tensor] | None = None
    names: tuple[str, ...] = ()
    more_labels: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | list[int] | Tensor) -> Images:
        """Some of them, still as they are stored."""
        more = tuple(y[index] for y in self.more_labels)
        return replace(self, stored=self.stored[index], labels=self.labels[index], more_labels=more)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, ``(C, H, W)``."""
        return tuple(self.stored.shape[1:])

    @property
    def pixels(self) -> Tensor:
        """All of them as float32, filtered. Of a large set, take a part first: ``data[start:stop].pixels``."""
        x = self.stored.float().div_(255) if self.stored.dtype == torch.uint8 else self.stored
        return x if self.filter is None else self.filter(x)

    @property
    def signed(self) -> bool:
        """Whether there are negative pixels."""
        if self.stored.dtype == torch.uint8:
            return self.filter is not None
        return bool((self.stored < 0).any()) or self.filter is not None

    def digest(self) -> str:
        """SHA-256 of images, labels and the filter's name, in hexadecimal: of other data, another one."""
        found = hashlib.sha256(repr(getattr(self.filter, "__name__", str(self.filter))).encode())
        for t in (self.stored, self.labels, *self.more_labels):
            found.update(repr([tuple(t.shape), t.dtype]).encode())
            found.update(t.contiguous().cpu().numpy().data)
        return found.hexdigest()

    def with_gradients(self) -> Images:
        """The same, for training: what was made in ``torch.inference_mode`` is copied."""
        if not (self.stored.is_inference() or self.labels.is_inference()):
            return self
        return replace(self, stored=self.stored.clone(), labels=self.labels.clone())

    def to(self, device: torch.device | str) -> Images:
        """The same on a device, as they are stored."""
        return replace(self, stored=self.stored.to(device), labels=self.labels.to(device))

    def first(self, n: int | None) -> Images:
        """The first ``n`` images, or all."""
        return self if n is None else self[:n]
