"""A trained float network, quantised from some of its images: no labels, no training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from converters.calibration.biases import correct_biases
from converters.calibration.images import Calibration, Images
from converters.calibration.layers import weighted_layers
from converters.calibration.observing import observe
from converters.calibration.ranges import RANGES
from converters.calibration.reconstruction import reconstruct as fit_weights
from converters.errors import ConversionError
from converters.frontends.examples import Example
from converters.frontends.layer_levels import LevelNumbers
from converters.frontends.models import check_finite, check_float_model
from converters.frontends.pt2e import prepare_qat
from converters.frontends.pt2e_module import PreparedModel
from converters.ports.inputs import Batches

__all__ = ["quantise"]

Progress = Callable[[str, int, int], None]


def quantise(
    model: nn.Module,
    calibration: Images,
    levels: LevelNumbers = 127,
    weight_bits: int = 8,
    *,
    per_channel: bool = True,
    signed_input: bool | Sequence[bool] | Mapping[str, bool] | None = None,
    quantise_output: bool = True,
    input_levels: int | None = None,
    per_channel_norms: bool = False,
    ranges: str = "mse",
    percentile: float = 99.99,
    weights: str = "mse",
    bias_correction: bool = True,
    reconstruct: int = 0,
    batch: int = 32,
    check: bool | Batches = True,
    progress: Progress | None = None,
) -> PreparedModel:
    """Quantise a trained float network without training it.

    Parameters
    ----------
    model : nn.Module
        Any network that :func:`~converters.prepare_qat` takes; left as it is.
    calibration : float tensor ``(N, C, H, W)``, or an iterable of batches
        Some hundred images of those that the network was trained for, without labels. For a forward of several tensors
        a tuple or dictionary of batches. An iterable that can be gone through again, such as a ``DataLoader``, is held
        one batch at a time; labels behind its images are left out.
    levels, weight_bits, per_channel, quantise_output, input_levels, per_channel_norms, check
        As in :func:`~converters.prepare_qat`.
    signed_input : bool, optional
        Whether pixels can be negative; by default whether one of the calibration images' is.
    ranges : {"mse", "minmax", "percentile"}
        How the range of each layer's levels is chosen: with the least squared error, nothing clipped, or a share of
        the values clipped.
    percentile : float
        The share that is not, in percent.
    weights : {"mse", "minmax"}
        The same of the weights' scales.
    bias_correction : bool
        Whether the biases make up for the mean error of each channel (:mod:`~converters.calibration.biases`).
    reconstruct : int
        On how many of the images the weights and biases are fitted, layer by layer, to give the float network's results
        from quantised inputs (:mod:`~converters.calibration.reconstruction`); 0: weights are rounded as they are. It
        pays where levels or weight bits are few, and holds what these images are between two layers in memory.
    batch : int
        Images at a time: what bounds the memory.
    progress : callable ``(phase, done, total)``, optional
        Phases ``ranges`` and ``biases`` in images, ``weights`` in layers.

    Returns
    -------
    PreparedModel
        In evaluation mode, with all ranges set; what :func:`~converters.from_pt2e` takes. It is as
        :func:`~converters.prepare_qat` makes it: it can be saved, and trained from there.

    Raises
    ------
    ConversionError
        If there are no images or they do not fit, a value is not finite, or the model is prepared already; and for what
        :func:`~converters.prepare_qat` refuses.

    Examples
    --------
    >>> import converters, torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> images = torch.rand(16, 1, 4, 4)
    >>> m = converters.quantise(net, images, levels=15)
    >>> q = converters.from_pt2e(m)
    >>> [layer.name for layer in q.layers], q.levels
    (['_0', '_3'], 15)
    """
    _refuse(model, ranges, percentile, weights, reconstruct)
    images = Calibration(model, calibration, batch)
    prepared = prepare_qat(
        model,
        images.first.map(lambda x: x[:8].to(images.device)).given,
        levels,
        weight_bits,
        per_channel=per_channel,
        signed_input=images.signed if signed_input is None else signed_input,
        quantise_output=quantise_output,
        input_levels=input_levels,
        per_channel_norms=per_channel_norms,
        check=check,
    ).eval()
    check_finite(prepared)
    reference = copy.deepcopy(prepared)
    observe(
        prepared,
        images,
        ranges=ranges,
        percentile=percentile,
        weights=weights,
        done=_counter("ranges", images.count, progress),
    )
    if reconstruct:
        some = _first(images, reconstruct)
        if sum(len(x.tensors[0]) for x in some) < 2:
            raise ConversionError("reconstruct", "one image", "give more, or leave the weights as they are")
        layers = len(weighted_layers(prepared))
        fit_weights(prepared, reference, some, weights=weights, done=_counter("weights", layers, progress))
    if bias_correction:
        correct_biases(prepared, reference, images, _counter("biases", images.count, progress))
    return prepared


def _first(images: Calibration, number: int) -> list[Example]:
    """Batches of the first ``number`` images, or of all."""
    found: list[Example] = []
    for batch in images:
        left = number - sum(len(x.tensors[0]) for x in found)
        if left <= 0:
            break
        found.append(batch.map(lambda x, left=left: x[:left]))  # type: ignore[misc]
    return found


def _refuse(model: nn.Module, ranges: str, percentile: float, weights: str, reconstruct: int) -> None:
    check_float_model(model)
    if ranges not in RANGES:
        raise ConversionError("ranges", f"{ranges!r}", f"use one of {', '.join(RANGES)}")
    if not 0 < percentile <= 100:
        raise ConversionError("percentile", f"{percentile}", "use a number above 0 and at most 100")
    if type(reconstruct) is not int or reconstruct < 0:
        raise ConversionError("reconstruct", f"{reconstruct!r}", "use the number of images, or 0")
    if weights not in ("minmax", "mse"):
        raise ConversionError("weights", f"{weights!r}", "use minmax or mse")


def _counter(phase: str, total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(phase, done, total)

    return count
