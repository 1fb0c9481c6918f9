"""The range of levels with the least squared error, of a sample, and how it moves from batch to batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best_range", "moving_range"]

_RANGES = 17


def best_range(sample: Tensor, levels: int, low: float) -> Tensor:
    """Of each row of ``sample`` ``(..., n)``, one of 17 shares of its largest size: ``(...)``.

    ``low`` is -1 for as many negative levels, 0 for none. With 127 levels that is nearly the largest size; with few,
    a range that clips outliers. No number is read by the CPU.

    >>> [round(float(r), 3) for r in best_range(torch.tensor([[1.0] * 99 + [2.0], [0.5] * 100]), 1, -1.0)]
    [1.0, 0.5]
    """
    shares = torch.linspace(0.2, 1.0, _RANGES, device=sample.device, dtype=sample.dtype)
    ranges = sample.abs().amax(-1, keepdim=True) * shares
    step = (ranges / levels).clamp(min=torch.finfo(sample.dtype).tiny)[..., None]
    x = (sample if low else sample.clamp(min=0))[..., None, :]
    error = (torch.round(x / step).clamp(low * levels, levels) * step - x).square().sum(-1)
    return ranges.gather(-1, error.argmin(-1, keepdim=True))[..., 0]


def moving_range(before: Tensor, now: Tensor, share: float) -> Tensor:
    """torchao's moving average, without the CPU's look at whether there was one before: then it is infinite."""
    return torch.where(torch.isinf(before), now, before + share * (now - before))
