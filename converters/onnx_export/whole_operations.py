"""Operations in whole numbers: float64 tensors that hold integers, so that nothing is ever rounded.

onnxruntime's CPU kernels take float64 almost everywhere. Its convolutions know float32 alone, which holds whole numbers
up to 2^24: where a sum could leave that, weights and counts are split into digits, each with a convolution of its own
(``whole_convolutions.py``). Its integer kernels (``ConvInteger``, ``MatMulInteger``) are not used: on x86 without VNNI
they add up pairs of products in 16 bits, and saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from converters.errors import ConversionError
from converters.onnx_export.table import Table
from converters.onnx_export.writer import Writer
from converters.operations import (
    AdaptiveMaxPool,
    Add,
    Concatenate,
    Flatten,
    Linear,
    MatMul,
    Maximum,
    MaxOver,
    MaxPool,
    Minimum,
    Mix,
    Move,
    Operation,
    Product,
    Reshape,
    Scale,
    Shape,
    Weigh,
)

__all__ = ["WHOLE", "Whole", "by_matrix", "flat_move", "max_pool", "parted_maxima"]

D = TensorProto.DOUBLE
_LARGEST = 2**24  # entries of a matrix


@dataclass(frozen=True)
class Whole:
    """A tensor ``(N, *shape)`` of whole numbers in float64, none larger than ``largest`` in size."""

    name: str
    shape: Shape
    largest: int


Says: TypeAlias = Callable[..., str]  # (writer, operation, *sources as Whole) -> name of the result


def by_matrix(op: Operation, *shapes: Shape) -> Tensor:
    """A linear operation that is in no table, as its matrix ``(counts, results)``."""
    entries = math.prod(shapes[0]) * math.prod(op.output_shape(*shapes))
    if len(shapes) > 1 or entries > _LARGEST:
        found = f"an operation without ONNX nodes, of {len(shapes)} sources or a matrix of {entries:,} entries"
        raise ConversionError(type(op).__name__, found, "enter a function for it: see converters.onnx_export")
    return torch.from_numpy(op.matrix(shapes[0]).toarray().T)


def _of_matrix(w: Writer, op: Operation, *xs: Whole) -> str:
    matrix = w.whole(by_matrix(op, *(x.shape for x in xs)), D)
    flat = w.reshaped(xs[0].name, [math.prod(xs[0].shape)])
    return w.reshaped(w.node("MatMul", flat, matrix), op.output_shape(xs[0].shape))


WHOLE: Table[Says] = Table("whole numbers", _of_matrix)
"""Every operation in whole numbers; a function takes a writer, an operation and its sources as :class:`Whole`, and
returns the name of the result, as :class:`Whole` has it."""


@WHOLE.says(Linear)
def _linear(w: Writer, op: Linear, x: Whole) -> str:
    return w.node("MatMul", x.name, w.whole(op.weight.T, D))


@WHOLE.says(Mix)
def _mix(w: Writer, op: Mix, x: Whole) -> str:
    order = list(range(len(x.shape) + 1))
    order[op.axis + 1], order[-1] = order[-1], order[op.axis + 1]
    mixed = w.node("MatMul", w.transposed(x.name, order), w.whole(op.weight.T, D))
    return w.transposed(mixed, order)


# --- moves ------------------------------------------------------------------------------------------


@WHOLE.says(Flatten, Reshape)
def _reshape(w: Writer, op: Operation, x: Whole) -> str:
    return w.reshaped(x.name, op.output_shape(x.shape))


@WHOLE.says(Move)
def _move(w: Writer, op: Move, *xs: Whole) -> str:
    parts = [w.reshaped(x.name, [math.prod(x.shape)]) for x in xs]
    x = parts[0] if len(parts) == 1 else w.node("Concat", *parts, axis=1)
    return flat_move(w, op, x, w.constant(np.float64(0)))


def flat_move(w: Writer, op: Move, x: str, zero: str) -> str:
    """A move of a flat ``(N, size)``; a place that is -1 takes the 0 that is put behind it, as ONNX counts -1."""
    if bool((op.index < 0).any()):
        x = w.node("Pad", x, w.places([0, 0, 0, 1]), zero)
    index = w.constant(op.index.reshape(-1).to(op.index.dtype).numpy(), "index")
    return w.reshaped(w.node("Gather", x, index, axis=1), tuple(op.index.shape))


@WHOLE.says(Concatenate)
def _concatenate(w: Writer, op: Concatenate, *xs: Whole) -> str:
    parts = [w.reshaped(x.name, [math.prod(x.shape)]) if op.flat else x.name for x in xs]
    return w.node("Concat", *parts, axis=1 if op.flat else 1 + op.axis)


# --- one by one -------------------------------------------------------------------------------------


def _times(w: Writer, x: str, factor: int) -> str:
    return x if factor == 1 else w.node("Mul", x, w.constant(np.float64(factor)))


@WHOLE.says(Scale)
def _scale(w: Writer, op: Scale, x: Whole) -> str:
    return _times(w, x.name, op.weight)


@WHOLE.says(Weigh)
def _weigh(w: Writer, op: Weigh, x: Whole) -> str:
    return w.node("Mul", x.name, w.whole(op.weights[None], D))


@WHOLE.says(Add)
def _add(w: Writer, op: Add, *xs: Whole) -> str:
    terms = [_times(w, x.name, k) for x, k in zip(xs, op.weights, strict=True)]
    return _joined(w, "Add", terms)


@WHOLE.says(Product)
def _product(w: Writer, op: Product, *xs: Whole) -> str:
    return _joined(w, "Mul", [x.name for x in xs])


def _joined(w: Writer, kind: str, terms: list[str]) -> str:
    total = terms[0]
    for term in terms[1:]:
        total = w.node(kind, total, term)
    return total


@WHOLE.says(MatMul)
def _matmul(w: Writer, op: MatMul, a: Whole, b: Whole) -> str:
    n = len(b.shape) + 1
    turned = w.transposed(b.name, [*range(n - 2), n - 1, n - 2]) if op.transposed else b.name
    return w.node("MatMul", a.name, turned)


# --- maxima -----------------------------------------------------------------------------------------


@WHOLE.says(Maximum, Minimum)
def _extremum(w: Writer, op: Operation, *xs: Whole) -> str:
    return w.node("Max" if type(op) is Maximum else "Min", *(x.name for x in xs))


@WHOLE.says(MaxOver)
def _max_over(w: Writer, op: MaxOver, x: Whole) -> str:
    kind = "ReduceMin" if op.smallest else "ReduceMax"
    return w.node(kind, x.name, w.places([a + 1 for a in op.axes]), keepdims=int(op.keepdim))


@WHOLE.says(MaxPool)
def _max_pool(w: Writer, op: MaxPool, x: Whole) -> str:
    return max_pool(w, op, x.name, x.shape)


def max_pool(w: Writer, op: MaxPool, x: str, shape: Shape) -> str:
    """A max pool of ``(N, *shape)``, with so much padding behind that whole windows alone are as many as there are."""
    out = op.output_shape(shape)
    behind = [
        max(0, (o - 1) * s + d * (k - 1) + 1 - n - p)
        for o, s, d, k, n, p in zip(out[1:], op.stride, op.dilation, op.kernel, shape[1:], op.padding, strict=True)
    ]
    geometry: dict[str, Any] = {"kernel_shape": op.kernel, "strides": op.stride, "dilations": op.dilation}
    return w.node("MaxPool", x, pads=[*op.padding, *behind], **geometry)


@WHOLE.says(AdaptiveMaxPool)
def _adaptive(w: Writer, op: AdaptiveMaxPool, x: Whole) -> str:
    return parted_maxima(w, op, x.name, x.shape)


def parted_maxima(w: Writer, op: AdaptiveMaxPool, x: str, shape: Shape) -> str:
    """Axis by axis, the maximum of the places of each part; a shorter part has its last place several times."""
    for axis, parts in enumerate(op.size, start=2):
        n = shape[axis - 1]
        ends = [(k * n // parts, -(-(k + 1) * n // parts)) for k in range(parts)]
        widest = max(b - a for a, b in ends)
        index = np.array([[min(a + j, b - 1) for j in range(widest)] for a, b in ends], dtype=np.int64)
        gathered = w.node("Gather", x, w.constant(index, "index"), axis=axis)
        x = w.node("ReduceMax", gathered, w.places([axis + 1]), keepdims=0)
    return x
