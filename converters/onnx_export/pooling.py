"""Sums over windows, in both forms: a convolution with ones, and an average whose unit is that much smaller."""

from __future__ import annotations

import math
from typing import Any

import torch

from converters.onnx_export.quantised_operations import QUANTISED, Real, Unit, uniform
from converters.onnx_export.whole_convolutions import summed
from converters.onnx_export.whole_operations import WHOLE, Whole
from converters.onnx_export.writer import Writer
from converters.operations import SumPool1d, SumPool2d, SumPool3d
from converters.operations.convolution import convolution_of

__all__: list[str] = []


@WHOLE.says(SumPool1d, SumPool2d, SumPool3d)
def _whole(w: Writer, op: Any, x: Whole) -> str:
    channels, rank = x.shape[0], len(op.kernel)
    ones = torch.ones(channels, 1, *op.kernel, dtype=torch.int8)
    return summed(w, "Conv", convolution_of(rank, ones, op.stride, op.padding, (1,) * rank, channels), x)


@QUANTISED.says(SumPool1d, SumPool2d, SumPool3d)
def _quantised(w: Writer, op: Any, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    geometry = {"kernel_shape": op.kernel, "strides": op.stride, "pads": [*op.padding, *op.padding]}
    name = w.node("AveragePool", x.name, count_include_pad=1, **geometry)
    return Real(name, op.output_shape(x.shape), x.unit / math.prod(op.kernel))
