"""The range of a layer's levels, from how large its values are.

With ``L`` levels on the range ``r`` a value ``x >= 0`` becomes ``s round(min(x, r) / s)``, ``s = r / L``; signed ranges
are symmetric, so that the sizes alone count. ``minmax`` clips nothing, ``percentile`` a given share of the values
(`McKinstry et al. 2019 <https://arxiv.org/abs/1809.04191>`_), and ``mse`` as many as make the mean squared error least
(`Banner et al. 2019 <https://arxiv.org/abs/1810.05723>`_, by search and not by a model of the distribution).
"""

from __future__ import annotations

import torch
from torch import Tensor

from converters.calibration.histogram import Histogram
from converters.errors import ConversionError

__all__ = ["RANGES", "activation_range", "weight_ranges"]

RANGES = ("minmax", "percentile", "mse")
_COARSE, _FINE = 128, 17


def activation_range(sizes: Histogram, levels: int, how: str, percentile: float = 99.99) -> float:
    """The largest value that has a level of its own.

    Parameters
    ----------
    sizes : Histogram
        Of the values' sizes; of those that are not negative, where there are no negative levels.
    levels : int
    how : {"minmax", "percentile", "mse"}
    percentile : float
        Above 0 and at most 100: the share of the values that is not clipped, for ``percentile``.

    >>> sizes = Histogram()
    >>> sizes.add(torch.linspace(0, 1, 10001))
    >>> sizes.add(torch.tensor([10.0]))
    >>> [round(activation_range(sizes, 8, how, 99.0), 1) for how in RANGES]
    [10.0, 1.0, 1.0]
    """
    if how not in RANGES:
        raise ConversionError("ranges", f"{how!r}", f"use one of {', '.join(RANGES)}")
    if how == "minmax" or not sizes.top:
        return sizes.top
    if how == "percentile":
        if not 0 < percentile <= 100:
            raise ConversionError("percentile", f"{percentile}", "use a number above 0 and at most 100")
        held = sizes.counts.cumsum(0)
        k = int((held < held[-1] * (percentile / 100)).sum())
        return min(sizes.top, (k + 1) * sizes.edge / len(held))
    best = sizes.top
    for low, high, number in ((0.0, 1.0, _COARSE + 1), (-1 / _COARSE, 1 / _COARSE, _FINE)):
        around = 0.0 if low == 0 else best
        ranges = around + sizes.top * torch.linspace(low, high, number, dtype=torch.float64)
        ranges = ranges[(ranges > 0) & (ranges <= sizes.top)]
        best = float(ranges[_errors(sizes, ranges, levels).argmin()])
    return best


def _errors(sizes: Histogram, ranges: Tensor, levels: int) -> Tensor:
    """The squared error of each range, added up over all values, which lie in the middle of their bins.

    Levels that are closer than bins are: an error evenly spread over half a level either way.
    """
    width = sizes.edge / len(sizes.counts)
    some = sizes.counts.nonzero()[:, 0]
    counts = sizes.counts[some]
    x = (some + 0.5) * width
    found = []
    for r in ranges.tolist():
        step = r / levels
        rounded = torch.round(x.clamp(max=r) / step) * step
        error = (rounded - x).square() if step > 2 * width else (x - r).clamp(min=0).square() + step * step / 12
        found.append((counts * error).sum())
    return torch.stack(found)


def weight_ranges(rows: Tensor, largest: int, how: str) -> Tensor:
    """The range of each row of weights ``(C, K)``, on the levels ``-largest .. largest``: float ``(C,)``.

    ``how`` is ``minmax`` or ``mse``.

    >>> weight_ranges(torch.tensor([[3.0, -1.0], [0.5, 0.25]]), 127, "minmax").tolist()
    [3.0, 0.5]
    """
    top = rows.abs().amax(1)
    if how == "minmax":
        return top
    if how != "mse":
        raise ConversionError("weights", f"{how!r}", "use minmax or mse")
    best, least = top.clone(), torch.full_like(top, torch.inf)
    for share in torch.linspace(1.0, 0.3, 71).tolist():
        r = top * share
        step = (r / largest).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
        error = (torch.round(rows / step).clamp(-largest, largest) * step - rows).square().sum(1)
        best, least = torch.where(error < least, r, best), torch.minimum(error, least)
    return best
