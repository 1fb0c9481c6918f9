"""How large a layer's values are, of any number of batches in the memory of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Histogram"]

_BINS = 4096
_AT_ONCE = 2**20


class Histogram:
    """Counts of sizes in equal bins from 0 to a power of two, which doubles as larger ones come.

    Attributes
    ----------
    counts : float64 tensor ``(4096,)``
    top : float
        The largest size.
    edge : float
        Where the last bin ends: less than twice as large as ``top``.

    >>> h = Histogram()
    >>> for size in (0.75, 3.0):
    ...     h.add(torch.full((5,), size))
    >>> h.top, h.edge, [(int(k), float(h.counts[k])) for k in h.counts.nonzero()]
    (3.0, 4.0, [(768, 5.0), (3072, 5.0)])
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.float64)
        self.top = self.edge = 0.0
        self._at_edge = 0.0  # sizes that are in the last bin, and begin the next one once there is one

    def add(self, sizes: Tensor) -> None:
        """Take in a tensor of any shape; its values are finite and not negative."""
        if not sizes.numel():
            return
        largest = float(sizes.max())
        self.top = max(self.top, largest)
        if largest > self.edge:
            self._grow(2.0 ** math.ceil(math.log2(largest)))
        for part in sizes.detach().flatten().split(_AT_ONCE):
            bins = (part.double() * (_BINS / self.edge if self.edge else 0.0)).long().clamp_(max=_BINS - 1)
            self.counts += torch.bincount(bins, minlength=_BINS).cpu()
            self._at_edge += float((part == self.edge).sum()) if self.edge else 0.0

    def _grow(self, edge: float) -> None:
        """Bins two by two, until they reach ``edge``."""
        while self.edge and self.edge < edge and bool(self.counts[1:].any()):
            pairs = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([pairs, torch.zeros_like(pairs)])
            self.counts[_BINS // 2 - 1] -= self._at_edge
            self.counts[_BINS // 2] += self._at_edge
            self._at_edge = 0.0
            self.edge *= 2
        self.edge = max(edge, self.edge)
