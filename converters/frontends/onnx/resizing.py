"""Resize: each axis is an index map, or a matrix of the weights of its formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import is_constant, real, whole_numbers

__all__ = ["HANDLERS", "coordinates", "matrix_of", "nearest"]

_LARGEST = 2**14
_TODO = "export it with nearest or linear interpolation"


def _resize(r: Reader, c: Call) -> Any:
    shape = r.shape(c.arg(0))
    sizes, factors = _target(c, shape)
    if sizes[0] != shape[0]:
        raise ConversionError(c.name, "a Resize of the batch", "leave the axis of the images alone")
    mode, how = c.attr("mode", "nearest"), c.attr("coordinate_transformation_mode", "half_pixel")
    places = [coordinates(c.name, n, m, f, how) for n, m, f in zip(shape, sizes, factors, strict=True)]
    if mode == "nearest":
        rule = c.attr("nearest_mode", "round_prefer_floor")
        indices = [torch.from_numpy(nearest(c.name, x, n, rule)) for x, n in zip(places, shape, strict=True)]

        def take(t: Tensor) -> Tensor:
            for a, index in enumerate(indices):
                t = t.index_select(a, index.to(t.device))
            return t

        return r.move(c, c.arg(0), take)
    if mode not in ("linear", "cubic") or c.attr("antialias", 0) or sizes[1] != shape[1]:
        raise ConversionError(c.name, f"a Resize by {mode[:20]}, with antialiasing, or of channels", _TODO)
    a = float(c.attr("cubic_coeff_a", -0.75)) if mode == "cubic" else None
    outside = bool(c.attr("exclude_outside", 0))
    matrices = [matrix_of(x, n, a, outside) for x, n in zip(places[2:], shape[2:], strict=True)]
    return r.builder.mixed(c.name, c.arg(0), [torch.from_numpy(m) for m in matrices])


def _target(c: Call, shape: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Sizes of the result, and the factors by which ONNX finds its places."""
    scales, given = c.arg(2), c.arg(3)
    axes = [int(a) % len(shape) for a in c.attr("axes", [])] or list(range(len(shape)))
    sizes, factors = list(shape), [1.0] * len(shape)
    if given is not None and np.size(given):
        if c.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise ConversionError(c.name, "a Resize that keeps the aspect ratio", "give sizes to stretch to")
        wanted = whole_numbers(c.name, given)
        if len(wanted) != len(axes):
            raise ConversionError(c.name, f"{len(wanted)} sizes for {len(axes)} axes", "give one for each")
        for a, n in zip(axes, wanted, strict=True):
            sizes[a], factors[a] = n, n / shape[a]
    else:
        if not is_constant(scales) or real(scales).numel() != len(axes):
            raise ConversionError(c.name, "a Resize by factors that depend on the image", "use constants")
        for a, f in zip(axes, real(scales).reshape(-1).tolist(), strict=True):
            sizes[a], factors[a] = math.floor(shape[a] * f), f
    if not all(1 <= n <= _LARGEST for n in sizes[1:]):
        raise ConversionError(c.name, f"a Resize to {sizes}", f"to sizes from 1 to {_LARGEST}")
    return sizes, factors


def coordinates(where: str, size: int, wanted: int, factor: float, how: str) -> np.ndarray:
    """Where each of ``wanted`` places lies among ``size``, float64, by one of ONNX's transformations.

    They are computed in float32, as runtimes do: a place half way between two is one for them as well.
    """
    if wanted == size and factor == 1.0:
        return np.arange(wanted, dtype=np.float64)
    x, half, by = np.arange(wanted, dtype=np.float32), np.float32(0.5), np.float32(factor)
    if how == "align_corners":
        found = x * np.float32(size - 1) / np.float32(max(wanted - 1, 1))
    elif how == "asymmetric":
        found = x / by
    elif how == "half_pixel" or (how == "pytorch_half_pixel" and wanted > 1):
        found = (x + half) / by - half
    elif how == "pytorch_half_pixel":
        found = x * 0
    elif how == "half_pixel_symmetric":
        found = np.float32(size / 2 * (1 - wanted / (factor * size))) + (x + half) / by - half
    else:
        raise ConversionError(where, f"the coordinates {how[:40]!r}", "use half_pixel, asymmetric or align_corners")
    return found.astype(np.float64)


def nearest(where: str, places: np.ndarray, size: int, rule: str) -> np.ndarray:
    """The index next to each place, int64."""
    rules = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if rule not in rules:
        raise ConversionError(where, f"the rounding {rule[:40]!r}", "use round_prefer_floor, floor or ceil")
    return np.clip(rules[rule](places), 0, size - 1).astype(np.int64)


def matrix_of(places: np.ndarray, size: int, cubic: float | None = None, exclude: bool = False) -> np.ndarray:
    """Weights ``(places, size)`` of the two values next to each place, or of four where ``cubic`` is a coefficient."""
    base = np.floor(places)
    t = places - base
    taps: tuple[int, ...]
    if cubic is None:
        taps, weights = (0, 1), [1 - t, t]
    else:
        taps, weights = (-1, 0, 1, 2), [_cubic(np.abs(t - k), cubic) for k in (-1, 0, 1, 2)]
    found = np.zeros((len(places), size))
    rows = np.arange(len(places))
    for k, w in zip(taps, weights, strict=True):
        at = (base + k).astype(np.int64)
        inside = (at >= 0) & (at < size)
        np.add.at(found, (rows, np.clip(at, 0, size - 1)), np.where(inside | (not exclude), w, 0.0))
    return found / found.sum(1, keepdims=True) if exclude else found


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


HANDLERS: dict[str, Handler] = {"Resize": _resize}
