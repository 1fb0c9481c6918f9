"""Quantisers: QuantizeLinear, DequantizeLinear, a Clip between them (QCDQ), and QONNX's Quant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import Dequantised, is_constant, real
from converters.frontends.onnx.graph import DOMAIN, MICROSOFT, QONNX
from converters.frontends.onnx.tensors import bits_of, kind_of
from converters.frontends.verbs import Grid
from converters.graph_builder import Value

__all__ = ["HANDLERS", "Codes", "clip_codes", "counts_of", "range_of"]

_RANGES = {
    "int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip
_STATIC = "quantise it with a static scale and zero point, calibrated beforehand"


@dataclass(frozen=True, eq=False)
class Codes:
    """Integers of an activation, zero point included: what QuantizeLinear gives.

    Attributes
    ----------
    source : Value, Pending or Raw
        What they were made from.
    scale, zero : float, int
    low, high : int
        Between what they lie.
    place : str
        Of what is quantised, for its layer.
    tensor : str
        The model's name for them.
    real, narrow : bool
        Whether that tensor holds their real values instead, or integers of less than 8 bits, which runtimes do not put
        out.
    """

    source: Any
    scale: float
    zero: int
    low: int
    high: int
    place: str
    tensor: str
    real: bool = False
    narrow: bool = False


def range_of(where: str, kind: np.dtype) -> tuple[int, int]:
    """The integers that a type holds."""
    if kind.name not in _RANGES:
        raise ConversionError(where, f"a quantiser to {kind.name}", "quantise to integers of at most 16 bits")
    return _RANGES[kind.name]


def counts_of(r: Reader, codes: Codes) -> Value:
    """The layer of what is quantised, made when it is first asked for."""
    low, high = codes.low - codes.zero, codes.high - codes.zero
    key = (id(codes.source), codes.scale, low, high)
    if key not in r.quantised:
        if codes.scale <= 0 or not np.isfinite(codes.scale):
            raise ConversionError(codes.place, f"a quantiser with the scale {codes.scale}", "calibrate it")
        if not low <= 0 <= high:
            raise ConversionError(codes.place, f"a quantiser whose range {low} to {high} has no 0", "calibrate it")
        r.quantised[key] = r.builder.quantise(
            codes.place, codes.source, Grid(codes.scale, low, high), lambda b: _level(b, codes.scale)
        )
        r.kept.append(codes.source)  # an id is one as long as its object lives
        if codes.narrow:
            r.narrow.add(codes.tensor)
        r.shown.append((codes.tensor, r.quantised[key], None if codes.real else codes.zero))
    return r.quantised[key]


def _level(bound: float, scale: float) -> int:
    return int(np.rint(np.float32(bound) / np.float32(scale)))


def clip_codes(r: Reader, c: Call, codes: Codes, low: Any, high: Any) -> Codes:
    """A clip between quantiser and dequantiser: fewer levels."""
    bounds = [None if b is None else _integer(c, b) for b in (low, high)]
    return replace(
        codes,
        low=codes.low if bounds[0] is None else max(codes.low, bounds[0]),
        high=codes.high if bounds[1] is None else min(codes.high, bounds[1]),
        tensor=c.node.outputs[0],
    )


def _integer(c: Call, bound: Any) -> int:
    if not isinstance(bound, np.ndarray) or bound.size != 1 or bound.astype(np.int64) != bound.astype(np.float64):
        raise ConversionError(c.name, "a clip of integers at bounds that are no constant integers", "give integers")
    return int(bound.astype(np.int64).reshape(()))


def _constants(c: Call) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, float32 and int64."""
    scale, zero = c.arg(1), c.arg(2)
    if isinstance(scale, Dequantised):
        scale = scale.real.numpy()
    if not isinstance(scale, np.ndarray) or not (zero is None or isinstance(zero, np.ndarray)):
        raise ConversionError(c.name, "a scale or zero point that depends on the images", _STATIC)
    points = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    if points.size not in (1, scale.size):
        raise ConversionError(c.name, f"{points.size} zero points for {scale.size} scales", "give one for each")
    if not np.isfinite(scale.astype(np.float64)).all() or (scale.astype(np.float64) <= 0).any():
        raise ConversionError(c.name, "a scale that is not positive and finite", "calibrate it")
    return scale, points.reshape(scale.shape) if points.size == scale.size else np.broadcast_to(points, scale.shape)


def _one(c: Call, scale: np.ndarray, zero: np.ndarray) -> tuple[float, int]:
    """Of an activation."""
    if np.unique(scale).size > 1 or np.unique(zero).size > 1 or scale.size == 0:
        raise ConversionError(c.name, "an activation quantised per channel", "use one scale and zero point for it")
    return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])


def _along(c: Call, x: np.ndarray, given: np.ndarray) -> np.ndarray:
    """One number for all, one per channel along the quantiser's axis, or one per block along it."""
    if given.size == 1:
        return given.reshape(())
    axis, block = int(c.attr("axis", 1)), int(c.attr("block_size", 0))
    if not -x.ndim <= axis < x.ndim:
        raise ConversionError(c.name, f"axis {axis} of {x.ndim}", "give one that there is")
    axis %= x.ndim
    if block:
        if given.ndim != x.ndim or not 0 < block <= x.shape[axis]:
            raise ConversionError(c.name, f"scales of shape {given.shape} for blocks of {block}", "one for each block")
        found = np.repeat(given, block, axis=axis).take(np.arange(x.shape[axis]), axis=axis)
        return np.broadcast_to(found, x.shape)
    if given.size != x.shape[axis]:
        raise ConversionError(c.name, f"{given.size} scales for {x.shape[axis]} channels", "give one for each")
    return given.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


def _quantize(r: Reader, c: Call) -> Any:
    x, (scale, zero) = c.arg(0), _constants(c)
    kind = c.arg(2).dtype if c.arg(2) is not None else np.dtype(np.uint8)
    if c.attr("output_dtype", 0):
        kind = kind_of(c.name, int(c.attr("output_dtype", 0)))
    low, high = range_of(c.name, kind)
    if is_constant(x):
        values = real(x).numpy().astype(scale.dtype if scale.dtype.kind == "f" else np.float32)
        with np.errstate(over="ignore"):
            levels = np.asarray(np.rint(values / _along(c, values, scale)), np.float64) + _along(c, values, zero)
        if not np.isfinite(levels).all():
            raise ConversionError(c.name, "weights that are not finite", "check the training run")
        return np.asarray(np.clip(levels, low, high)).astype(np.int32)
    if isinstance(x, Codes):
        raise ConversionError(c.name, "a quantiser of integers", "put a DequantizeLinear in front of it")
    place = r.places.get(c.node.inputs[0], c.name)
    return Codes(x, *_one(c, scale, zero), low, high, place, c.node.outputs[0], narrow=bits_of(kind) < 8)


def _dequantize(r: Reader, c: Call) -> Any:
    x, (scale, zero) = c.arg(0), _constants(c)
    if isinstance(x, np.ndarray):
        if x.dtype.kind == "f" and x.dtype.name not in _RANGES:
            raise ConversionError(c.name, f"a constant of {x.dtype.name}", "quantise it to integers")
        whole = np.asarray(x.astype(np.int64) - _along(c, x, zero))
        return Dequantised(torch.from_numpy(whole), _float64(_along(c, x, scale)))
    step, point = _one(c, scale, zero)
    if isinstance(x, Codes):
        if point != x.zero:
            found = f"the zero point {point} behind a quantiser with {x.zero}"
            raise ConversionError(c.name, found, "give both the same scale and zero point")
        value = counts_of(r, x)
        return value if step == value.scale else replace(value, scale=step)
    return r.dequantised_input(c, x, step, point)


def _float64(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.astype(np.float64)))


def _quant(r: Reader, c: Call) -> Any:
    """QONNX: ``round(clip(x / scale + zero)) - zero``, in integers of any number of bits."""
    scale, zero = (np.asarray(real(c.arg(k))) if is_constant(c.arg(k)) else None for k in (1, 2))
    bits = real(c.arg(3)) if is_constant(c.arg(3)) else None
    if scale is None or zero is None or bits is None or bits.numel() != 1:
        raise ConversionError(c.name, "a scale, zero point or number of bits that depends on the images", _STATIC)
    width = int(bits)
    mode = c.attr("rounding_mode", "ROUND")
    if mode.upper() not in ("ROUND", "HALF_EVEN"):
        raise ConversionError(c.name, f"a quantiser that rounds by {mode}", "round to the nearest: ROUND")
    if width != float(bits) or not 2 <= width <= 16 or (zero != np.rint(zero)).any():
        found = f"a quantiser of {float(bits):g} bits, or with a zero point that is no integer"
        raise ConversionError(c.name, found, "use 2 to 16 bits")
    signed, narrow = bool(c.attr("signed", 1)), bool(c.attr("narrow", 0))
    low = -(2 ** (width - 1)) + narrow if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - narrow
    x = c.arg(0)
    if is_constant(x):
        values = real(x).numpy().astype(np.float32)
        levels = np.rint(np.clip(values / scale.astype(np.float32) + zero.astype(np.float32), low, high))
        whole = torch.from_numpy(np.asarray(levels - zero, np.int64))
        return Dequantised(whole, torch.from_numpy(np.ascontiguousarray(scale)))
    step, point = _one(c, scale, zero)
    place = r.places.get(c.node.inputs[0], c.name)
    return counts_of(r, Codes(x, step, point, low, high, place, c.node.outputs[0], real=True))


def _dynamic(r: Reader, c: Call) -> Any:
    raise ConversionError(c.name, "a DynamicQuantizeLinear, whose scale depends on the images", _STATIC)


def _bipolar(r: Reader, c: Call) -> Any:
    raise ConversionError(c.name, "a BipolarQuant, whose levels -1 and 1 leave out 0", "use a Quant of 2 bits")


HANDLERS: dict[tuple[str, str], Handler] = {
    (DOMAIN, "QuantizeLinear"): _quantize,
    (DOMAIN, "DequantizeLinear"): _dequantize,
    (MICROSOFT, "QuantizeLinear"): _quantize,
    (MICROSOFT, "DequantizeLinear"): _dequantize,
    (DOMAIN, "DynamicQuantizeLinear"): _dynamic,
    (QONNX, "Quant"): _quant,
    (QONNX, "IntQuant"): _quant,
    (QONNX, "BipolarQuant"): _bipolar,
}
