"""Operations between dequantiser and quantiser: real values in float32, as toolkits write them.

A tensor stands for integers times a ``unit``, which is worked out in float64. Weights are stored as the integers that
they are, with a scale for each channel that makes a layer's sum come out in its unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from converters.errors import ConversionError
from converters.onnx_export.functions import write_function
from converters.onnx_export.table import Table
from converters.onnx_export.whole_convolutions import conv_attributes, onnx_weight
from converters.onnx_export.whole_operations import by_matrix, flat_move, max_pool, parted_maxima
from converters.onnx_export.writer import Writer, smallest
from converters.operations import (
    AdaptiveMaxPool,
    Add,
    Concatenate,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Flatten,
    Levels,
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

__all__ = ["QUANTISED", "Real", "Unit", "by_channel", "in_unit", "single", "uniform"]

Unit: TypeAlias = np.ndarray
"""Float64 of no axes, or with those of one image, as it broadcasts."""

_CLOSE = 2.0**-22  # relative: what float32 rounds a scale by, and no more


@dataclass(frozen=True)
class Real:
    """A float32 tensor ``(N, *shape)``: integers times ``unit``."""

    name: str
    shape: Shape
    unit: Unit


Says: TypeAlias = Callable[..., Real]  # (writer, operation, unit that is wanted or None, *sources as Real)


def _of_matrix(w: Writer, op: Operation, goal: Unit | None, *xs: Real) -> Real:
    x = uniform(w, xs[0])
    weight = _weight(w, by_matrix(op, *(x.shape for x in xs)), np.ones(()), 1)
    out = op.output_shape(x.shape)
    flat = w.reshaped(x.name, [math.prod(x.shape)])
    return Real(w.reshaped(w.node("MatMul", flat, weight), out), out, x.unit)


QUANTISED: Table[Says] = Table("float32", _of_matrix)
"""Every operation between quantisers; a function takes a writer, an operation, the unit in which the result is wanted
or None, and the sources as :class:`Real`, and returns one."""


def by_channel(values: Sequence[float] | np.ndarray, shape: Shape) -> Unit:
    """One number for all, or one for each channel of ``shape``."""
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    return array[0].reshape(()) if bool((array == array[0]).all()) else array.reshape(-1, *[1] * (len(shape) - 1))


def single(w: Writer, values: Unit, name: str = "number") -> str:
    """Float32 numbers that broadcast to a batch."""
    return w.constant((values if values.ndim == 0 else values[None]).astype(np.float32), name)


def in_unit(w: Writer, x: Real, unit: Unit) -> Real:
    """The same integers in another unit: times a number, unless that is 1 as float32 has it."""
    ratio = unit / x.unit
    if bool((np.abs(ratio - 1) > _CLOSE).any()):
        one = bool((ratio == ratio.reshape(-1)[0]).all())
        factor = single(w, ratio.reshape(-1)[0].reshape(()) if one else ratio, "factor")
        x = replace(x, name=w.node("Mul", x.name, factor))
    return replace(x, unit=unit)


def uniform(w: Writer, x: Real) -> Real:
    """In one positive unit for all places."""
    size = np.abs(x.unit)
    return in_unit(w, x, size.reshape(-1)[0].reshape(()))


def _alike(w: Writer, xs: Sequence[Real]) -> list[Real]:
    """All in the positive unit of the first."""
    first = uniform(w, xs[0])
    return [first, *(in_unit(w, x, first.unit) for x in xs[1:])]


# --- with weights -----------------------------------------------------------------------------------


def _weight(w: Writer, stored: torch.Tensor, scales: np.ndarray, axis: int) -> str:
    """Integers and their dequantiser; scales that are negative or 0 are in the integers' signs.

    ``stored`` has the channels that go out at ``axis``.
    """
    sign = torch.from_numpy(np.asarray(np.sign(scales), dtype=np.int64))
    view = [1] * stored.ndim
    if scales.ndim:
        view[axis] = -1
    integers = smallest(stored.to(torch.int64) * sign.reshape(view))
    size = np.asarray(np.where(scales == 0, 1.0, np.abs(scales)), dtype=np.float32)
    if not bool((np.isfinite(size) & (size > 0)).all()):
        raise ConversionError("weights", "a scale that float32 does not hold", "use exact=True")
    attributes: dict[str, Any] = {"axis": axis} if size.ndim else {}
    return w.node("DequantizeLinear", w.constant(integers, "weight"), w.constant(size, "scale"), **attributes)


def _scales(x: Real, goal: Unit | None) -> np.ndarray:
    """Of weights: of one number, or one for each channel."""
    return np.ones(()) if goal is None else np.reshape(goal / x.unit, -1 if goal.ndim else ())


@QUANTISED.says(Conv1d, Conv2d, Conv3d)
def _convolution(w: Writer, op: Any, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    weight = _weight(w, op.weight, _scales(x, goal), 0)
    name = w.node("Conv", x.name, weight, **conv_attributes(op))
    return Real(name, op.output_shape(x.shape), x.unit if goal is None else goal)


@QUANTISED.says(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
def _transposed(w: Writer, op: Any, goal: Unit | None, x: Real) -> Real:
    x, stored = uniform(w, x), onnx_weight(op)
    goal = None if goal is not None and goal.ndim and op.groups > 1 else goal  # its channels are on no axis
    weight = _weight(w, stored, _scales(x, goal), 1)
    name = w.node("ConvTranspose", x.name, weight, **conv_attributes(op))
    return Real(name, op.output_shape(x.shape), x.unit if goal is None else goal)


@QUANTISED.says(Linear)
def _linear(w: Writer, op: Linear, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    weight = _weight(w, op.weight, _scales(x, goal), 0)
    return Real(w.node("Gemm", x.name, weight, transB=1), op.output_shape(x.shape), x.unit if goal is None else goal)


@QUANTISED.says(Mix)
def _mix(w: Writer, op: Mix, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    goal = None if goal is not None and goal.ndim and op.axis else goal
    order = list(range(len(x.shape) + 1))
    order[op.axis + 1], order[-1] = order[-1], order[op.axis + 1]
    weight = _weight(w, op.weight.T, _scales(x, goal), 1)
    mixed = w.node("MatMul", w.transposed(x.name, order), weight)
    return Real(w.transposed(mixed, order), op.output_shape(x.shape), x.unit if goal is None else goal)


# --- moves and one by one ---------------------------------------------------------------------------


@QUANTISED.says(Flatten, Reshape)
def _reshape(w: Writer, op: Operation, goal: Unit | None, x: Real) -> Real:
    x, out = uniform(w, x), op.output_shape(x.shape)
    if type(op) is Flatten:
        return Real(w.node("Flatten", x.name, axis=1), out, x.unit)
    return Real(w.reshaped(x.name, out), out, x.unit)


@QUANTISED.says(Move)
def _move(w: Writer, op: Move, goal: Unit | None, *xs: Real) -> Real:
    alike = _alike(w, xs)
    parts = [w.reshaped(x.name, [math.prod(x.shape)]) for x in alike]
    x = parts[0] if len(parts) == 1 else w.node("Concat", *parts, axis=1)
    moved = flat_move(w, op, x, w.constant(np.float32(0)))
    return Real(moved, tuple(op.index.shape), alike[0].unit)


@QUANTISED.says(Concatenate)
def _concatenate(w: Writer, op: Concatenate, goal: Unit | None, *xs: Real) -> Real:
    alike = _alike(w, xs)
    parts = [w.reshaped(x.name, [math.prod(x.shape)]) if op.flat else x.name for x in alike]
    name = w.node("Concat", *parts, axis=1 if op.flat else 1 + op.axis)
    return Real(name, op.output_shape(*(x.shape for x in xs)), alike[0].unit)


@QUANTISED.says(Scale)
def _scale(w: Writer, op: Scale, goal: Unit | None, x: Real) -> Real:
    return _weighed(w, x, np.array(float(op.weight)))


@QUANTISED.says(Weigh)
def _weigh(w: Writer, op: Weigh, goal: Unit | None, x: Real) -> Real:
    return _weighed(w, x, op.weights.double().numpy())


def _weighed(w: Writer, x: Real, weights: np.ndarray) -> Real:
    """Real values stay as they are, and are more integers of a smaller unit; where all become 0, they do."""
    if bool((weights == 0).any()):
        name = w.node("Mul", x.name, single(w, (weights != 0).astype(np.float64)))
        x, weights = replace(x, name=name), np.where(weights == 0, 1.0, weights)
    return replace(x, unit=x.unit / weights)


@QUANTISED.says(Add)
def _add(w: Writer, op: Add, goal: Unit | None, *xs: Real) -> Real:
    some = [(x, k) for x, k in zip(xs, op.weights, strict=True) if k]
    alike = _alike(w, [replace(x, unit=x.unit / k) for x, k in some])
    return _joined(w, "Add", op, xs, [x.name for x in alike], alike[0].unit)


@QUANTISED.says(Product)
def _product(w: Writer, op: Product, goal: Unit | None, *xs: Real) -> Real:
    each = [uniform(w, x) for x in xs]
    unit = np.asarray(math.prod(float(x.unit) for x in each))
    return _joined(w, "Mul", op, xs, [x.name for x in each], unit)


def _joined(w: Writer, kind: str, op: Operation, xs: Sequence[Real], names: Sequence[str], unit: Unit) -> Real:
    total = names[0]
    for name in names[1:]:
        total = w.node(kind, total, name)
    return Real(total, op.output_shape(*(x.shape for x in xs)), unit)


@QUANTISED.says(MatMul)
def _matmul(w: Writer, op: MatMul, goal: Unit | None, a: Real, b: Real) -> Real:
    a, b = uniform(w, a), uniform(w, b)
    n = len(b.shape) + 1
    turned = w.transposed(b.name, [*range(n - 2), n - 1, n - 2]) if op.transposed else b.name
    return Real(w.node("MatMul", a.name, turned), op.output_shape(a.shape, b.shape), a.unit * b.unit)


# --- maxima -----------------------------------------------------------------------------------------


@QUANTISED.says(Maximum, Minimum)
def _extremum(w: Writer, op: Operation, goal: Unit | None, *xs: Real) -> Real:
    alike = _alike(w, xs)
    name = w.node("Max" if type(op) is Maximum else "Min", *(x.name for x in alike))
    return Real(name, op.output_shape(*(x.shape for x in xs)), alike[0].unit)


@QUANTISED.says(MaxOver)
def _max_over(w: Writer, op: MaxOver, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    axes = w.places([a + 1 for a in op.axes])
    name = w.node("ReduceMin" if op.smallest else "ReduceMax", x.name, axes, keepdims=int(op.keepdim))
    return Real(name, op.output_shape(x.shape), x.unit)


@QUANTISED.says(MaxPool)
def _max_pool(w: Writer, op: MaxPool, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    return Real(max_pool(w, op, x.name, x.shape), op.output_shape(x.shape), x.unit)


@QUANTISED.says(AdaptiveMaxPool)
def _adaptive(w: Writer, op: AdaptiveMaxPool, goal: Unit | None, x: Real) -> Real:
    x = uniform(w, x)
    return Real(parted_maxima(w, op, x.name, x.shape), op.output_shape(x.shape), x.unit)


# --- functions --------------------------------------------------------------------------------------


@QUANTISED.says(Levels)
def _levels(w: Writer, op: Levels, goal: Unit | None, x: Real) -> Real:
    """The function itself of real values; the quantiser behind it makes levels of them."""
    x = in_unit(w, x, by_channel(op.units, x.shape)) if all(op.units) else _partly_off(w, op, x)
    given = w.biased(x.name, by_channel(op.offsets, x.shape), x.shape[0]) if any(op.offsets) else x.name
    name = write_function(w, op.function, given, op.parameters, len(x.shape))
    return Real(name, x.shape, np.asarray(op.scale))


def _partly_off(w: Writer, op: Levels, x: Real) -> Real:
    """Channels of unit 0, whose offset alone counts; a convolution in front has made 0 of them already."""
    units = by_channel(op.units, x.shape)
    if x.unit.shape == units.shape and bool((x.unit == units).all()):
        return x
    factor = units / x.unit
    return replace(x, name=w.node("Mul", x.name, single(w, factor, "factor")), unit=units)
