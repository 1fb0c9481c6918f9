"""How a layer uses its range: neurons that never spike, counts at the top level, a histogram of all counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Activity"]

_BARS = 33
_TOP = 0.5  # of a channel's counts, so that it is called saturated


class Activity:
    """Counts of one layer over images, batch by batch.

    Parameters
    ----------
    shape : tuple of int
        Of the layer; channels lie along the first axis.
    y_min, y_max : int
        Its range.

    Examples
    --------
    >>> seen = Activity((2, 3), 0, 4)
    >>> fired = torch.tensor([[[0, 0, 0], [4, 1, 4]], [[0, 0, 0], [4, 0, 4]]])
    >>> seen.add(fired, fired.sum(0))
    >>> seen.as_dict()["silent"], seen.as_dict()["silent_channels"], seen.as_dict()["top_channels"]
    (0.5, 1, 1)
    """

    def __init__(self, shape: tuple[int, ...], y_min: int, y_max: int) -> None:
        self.y_min, self.y_max = y_min, y_max
        self.step = -(-(y_max - y_min + 1) // _BARS)
        self.fired = torch.zeros(shape, dtype=torch.float64)
        self.top = torch.zeros(shape[0], dtype=torch.float64)
        self.counts = torch.zeros(-(-(y_max - y_min + 1) // self.step), dtype=torch.int64)
        self.images = 0

    def add(self, counts: Tensor, fired: Tensor) -> None:
        """Final counts ``(N, *shape)`` of a batch, and how often each neuron fired in it, ``shape``."""
        if not len(counts):
            return
        counts = counts.to("cpu", torch.int64)
        self.fired += fired.to("cpu", torch.float64)
        at_top = (counts == self.y_max).reshape(len(counts), len(self.top), -1)
        self.top += at_top.double().mean(2).sum(0)
        self.counts += torch.bincount((counts.flatten() - self.y_min) // self.step, minlength=len(self.counts))
        self.images += len(counts)

    def as_dict(self) -> dict[str, Any]:
        """For the layer's row in JSON.

        ``silent``: the share of neurons that never fired, with either sign; ``at_top``: the share of counts that are
        the largest there is; ``silent_channels``: channels all of whose neurons are silent; ``top_channels``: channels
        half of whose counts or more are at the top; ``histogram``: counts of ``low`` and above, ``step`` values a bar.
        """
        channels = self.fired.reshape(len(self.fired), -1)
        at_top = self.top / max(self.images, 1)
        return {
            "channels": len(self.fired),
            "silent": float((channels == 0).double().mean()),
            "silent_channels": int((channels == 0).all(1).sum()),
            "at_top": float(at_top.mean()),
            "top_channels": int((at_top >= _TOP).sum()),
            "histogram": {"low": self.y_min, "step": self.step, "counts": self.counts.tolist()},
        }
