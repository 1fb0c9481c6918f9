"""Ranges of all quantisers, from one pass of the float network over the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx

from converters.calibration.histogram import Histogram
from converters.calibration.ranges import activation_range, weight_ranges
from converters.calibration.walking import Walk, quantisers, set_range
from converters.errors import ConversionError
from converters.frontends.examples import Example
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_module import PreparedModel

__all__ = ["observe"]


@torch.no_grad()
def observe(
    model: PreparedModel,
    batches: Iterable[Example],
    *,
    ranges: str,
    percentile: float,
    weights: str,
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Set the ranges of all quantisers, in place. Branches that share one have the range of all their values.

    Parameters
    ----------
    model : PreparedModel
        In evaluation mode.
    batches : iterable of Example
    ranges, percentile
        See :func:`~converters.calibration.ranges.activation_range`.
    weights : str
        See :func:`~converters.calibration.ranges.weight_ranges`.
    done : callable
        Told the number of images of each batch.

    Raises
    ------
    ConversionError
        For a layer whose values are not finite.
    """
    kinds = quantisers(model)
    seen: dict[LevelQuantiser, list[Histogram]] = {}
    weighed: dict[fx.Node, tuple[LevelQuantiser, Tensor]] = {}

    def at(node: fx.Node, quantiser: LevelQuantiser, x: Tensor) -> Tensor:
        if not kinds[node]:
            if not bool(torch.isfinite(x).all()):
                todo = "clean the data, or mend the weights"
                raise ConversionError(quantiser.path, "values that are not finite on calibration images", todo)
            sizes = x.clamp(min=0) if quantiser.quant_min == 0 else x.abs()
            rows = sizes.movedim(quantiser.ch_axis, 0) if quantiser.is_per_channel else [sizes]
            for held, row in zip(seen.setdefault(quantiser, [Histogram() for _ in rows]), rows, strict=True):
                held.add(row)
        else:
            weighed[node] = quantiser, x
        return x

    for batch in batches:
        Walk(model, at).run(*batch.tensors)
        done(len(batch.tensors[0]))
    for quantiser, held in seen.items():
        high = [activation_range(sizes, int(quantiser.quant_max), ranges, percentile) for sizes in held]
        set_range(quantiser, torch.tensor(high if quantiser.is_per_channel else high[0]))
    for quantiser, weight in weighed.values():  # which take in the scales of what they read
        _set_weights(quantiser, quantiser.rescaled(weight), weights)


def _set_weights(quantiser: LevelQuantiser, weight: Tensor, how: str) -> None:
    largest = int(quantiser.quant_max)
    if quantiser.is_per_channel:
        rows = weight.detach().movedim(quantiser.ch_axis, 0).flatten(1)
        set_range(quantiser, weight_ranges(rows, largest, how))
    else:
        set_range(quantiser, weight_ranges(weight.detach().reshape(1, -1), largest, how)[0])
