"""Affine maps between named blocks of rows, as NIR nodes: dense, or as 1 x 1 convolutions of feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from converters.errors import ConversionError
from converters.operations import Shape

__all__ = ["RowMap", "Rows", "as_float32", "comparators"]

DT = 1e-4
"""Time step of the importers, in seconds."""
TAU = float(DT * (1 + 2.0**-51))
"""Time constant of a comparator: the smallest that importers take, who ask for more than one step."""


class Rows:
    """Named blocks of rows, in order: ``{"v": 4, "y": 4, "clock": 1}``."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.at: dict[str, slice] = {}
        start = 0
        for name, size in self.sizes.items():
            self.at[name] = slice(start, start + size)
            start += size
        self.total = start


class RowMap:
    """``y = W x + b`` between blocks; what is not put is zero."""

    def __init__(self, source: Rows, target: Rows) -> None:
        self.source, self.target = source, target
        self.weight = np.zeros((target.total, source.total))
        self.bias = np.zeros(target.total)

    def put(self, target: str, source: str, value: Any) -> None:
        """Row ``k`` of ``target`` reads row ``k`` of ``source``, or its only one, times ``value``."""
        rows, columns = self.target.at[target], self.source.at[source]
        k = np.arange(rows.start, rows.stop)
        j = np.broadcast_to(np.arange(columns.start, columns.stop), k.shape)
        self.weight[k, j] += value

    def add(self, target: str, value: Any) -> None:
        """Add a constant to a block."""
        self.bias[self.target.at[target]] += value

    def node(self, name: str, shape: Shape) -> nir.NIRNode:
        """An ``Affine``, or a 1 x 1 ``Conv2d`` where ``shape`` (of the layer) is a map."""
        weight, bias = as_float32(name, self.weight), as_float32(name, self.bias)
        if len(shape) == 1:
            return nir.Affine(weight=weight, bias=bias)
        return nir.Conv2d(
            input_shape=(int(shape[1]), int(shape[2])),
            weight=weight[:, :, None, None],
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
            bias=bias,
        )


def comparators(rows: int, shape: Shape) -> nir.LIF:
    """``rows`` neurons (maps of neurons) without memory, which fire exactly if their input exceeds 1."""
    size = (rows, *shape[1:])
    return nir.LIF(
        tau=np.full(size, TAU),
        r=np.ones(size),
        v_leak=np.zeros(size),
        v_threshold=np.ones(size),
        v_reset=np.zeros(size),
    )


def as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """The array in float32, if that changes nothing."""
    short = array.astype(np.float32)
    if (short.astype(np.float64) != array).any():
        raise ConversionError(name, "constants of more than 24 bits", "float32 cannot hold them: use fewer levels")
    return short
