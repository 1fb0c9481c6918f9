"""Fields of stock NIR nodes, checked where they become operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["LARGEST_WEIGHT", "channel_bias", "whole_numbers", "whole_pair", "whole_weights"]

LARGEST_WEIGHT = 2**24
"""float32 holds whole numbers up to there, and files are of float32."""


def whole_numbers(name: str, value: Any, count: int, least: int = 0) -> tuple[int, ...]:
    """So many whole numbers from ``least`` to 2**20, of one or as many; else a ConversionError at ``name``."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.size not in (1, count) or (array < least).any() or (array > 2**20).any():
        words = {1: "one whole number", 2: "two whole numbers", 3: "three whole numbers"}
        raise ConversionError(name, f"a geometry of {value!r}", f"give {words[count]} of at least {least}")
    return tuple(int(n) for n in np.broadcast_to(array.reshape(-1), (count,)))


def whole_pair(name: str, value: Any, least: int = 0) -> tuple[int, int]:
    """Two of :func:`whole_numbers`."""
    first, second = whole_numbers(name, value, 2, least)
    return first, second


def whole_weights(name: str, value: Any, most: int = LARGEST_WEIGHT) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ConversionError(name, f"weights of type {array.dtype}", "give whole numbers as integers or floats")
    if not np.isfinite(array).all() or (array != np.round(array)).any():
        raise ConversionError(name, "weights that are not whole numbers", "export with to_nir or from_snntorch")
    largest = max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0
    if largest > most:
        found = f"a weight of {largest:.4g}" if largest < 2**1000 else "a weight above 2^1000"
        raise ConversionError(name, found, f"the limit is {most}, up to which sums stay exact: use smaller ones")
    kind = next((d for d in (np.int8, np.int16, np.int32) if largest <= np.iinfo(d).max), np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(kind)))


def channel_bias(value: Any) -> np.ndarray | None:
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    return array if array.any() else None
