"""Convolutions of whole numbers by float32 kernels, exactly: in digits so short that no sum leaves 24 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from converters.errors import ConversionError
from converters.onnx_export.whole_operations import WHOLE, Whole
from converters.onnx_export.writer import Writer
from converters.operations import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from converters.operations.convolution import Kernels
from converters.operations.transposed import from_pytorch

__all__ = ["conv_attributes", "digits", "onnx_weight", "summed"]

_EXACT = 2**24  # float32 holds whole numbers up to here, and sums of them in any order
_LONGEST = 31


@WHOLE.says(Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
def _convolution(w: Writer, op: Any, x: Whole) -> str:
    kind = "Conv" if type(op) in (Conv1d, Conv2d, Conv3d) else "ConvTranspose"
    return summed(w, kind, op, x)


def summed(w: Writer, kind: str, op: Kernels, x: Whole) -> str:
    """``kind``, a ``Conv`` or a ``ConvTranspose``, of ``x``: exactly."""
    return _summed(w, kind, op, x.name, x.largest)


def _summed(w: Writer, kind: str, op: Kernels, x: str, largest: int) -> str:
    """The sum of one convolution for each digit of the weights; ``x`` in two parts where a single bit is too long."""
    taps = int((op.weight != 0).flatten(1).sum(1).max()) if op.weight.numel() else 0
    if taps * largest >= _EXACT:
        return _halved(w, kind, op, x, largest, taps)
    single, terms = w.cast(x, TensorProto.FLOAT), []
    for digit, factor in digits(op.weight, largest):
        weight = w.whole(onnx_weight(op.with_weight(digit)), TensorProto.FLOAT)
        term = w.cast(w.node(kind, single, weight, **conv_attributes(op)), TensorProto.DOUBLE)
        terms.append(term if factor == 1 else w.node("Mul", term, w.constant(np.float64(factor))))
    total = terms[0]
    for term in terms[1:]:
        total = w.node("Add", total, term)
    return total


def _halved(w: Writer, kind: str, op: Kernels, x: str, largest: int, taps: int) -> str:
    if taps >= _EXACT // 2:
        raise ConversionError(type(op).__name__, f"windows of {taps:,} weights", "use smaller ones")
    base = 2 ** (_EXACT // taps // 2).bit_length() // 2  # of the lower part, which is below it and not negative
    size = w.constant(np.float64(base))
    upper = w.node("Floor", w.node("Div", x, size))
    lower = w.node("Sub", x, w.node("Mul", upper, size))
    high, low = (_summed(w, kind, op, part, n) for part, n in ((upper, largest // base + 1), (lower, base - 1)))
    return w.node("Add", w.node("Mul", high, size), low)


def digits(weight: Tensor, largest: int) -> Iterator[tuple[Tensor, int]]:
    """``weight`` as a sum of digits times powers of 2, each so short that float32 adds up its products exactly.

    Parameters
    ----------
    weight : int tensor ``(C_out, ...)``
    largest : int
        Of the counts that are multiplied.

    >>> [(d.tolist(), factor) for d, factor in digits(torch.tensor([[70_000, -3]]), 300)]
    [([[4464, -3]], 1), ([[1, 0]], 65536)]
    """
    rest, factor = weight.to(torch.int64), 1
    while True:
        if _gain(rest) * largest < _EXACT:
            if factor == 1 or bool((rest != 0).any()):
                yield rest, factor
            return
        for bits in range(_LONGEST, 0, -1):
            low = (rest + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
            if _gain(low) * largest < _EXACT:
                break
        yield low, factor
        rest, factor = (rest - low) >> bits, factor << bits


def _gain(weight: Tensor) -> int:
    return int(weight.abs().flatten(1).sum(1).max()) if weight.numel() else 0


def onnx_weight(op: Kernels) -> Tensor:
    """The weight as ONNX has it, which is as PyTorch does."""
    return op.weight if type(op) in (Conv1d, Conv2d, Conv3d) else from_pytorch(op.weight, op.groups)


def conv_attributes(op: Any) -> dict[str, Any]:
    """Of a ``Conv`` or a ``ConvTranspose``."""
    found = {
        "kernel_shape": list(op.weight.shape[2:]),
        "strides": list(op.stride),
        "pads": [*op.padding, *op.padding],
        "dilations": list(op.dilation),
        "group": op.groups,
    }
    return found | ({"output_padding": list(op.output_padding)} if hasattr(op, "output_padding") else {})
