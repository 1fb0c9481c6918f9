"""Pointwise functions: an ONNX operation is a name of the table of activations, with parameters in its order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import is_constant, real
from converters.frontends.onnx.quantisers import Codes, clip_codes
from converters.graph_builder import Value

__all__ = ["HANDLERS", "SIMPLE"]

SIMPLE: Mapping[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "Abs": ("abs", ()),
    "Celu": ("celu", (("alpha", 1.0),)),
    "Cos": ("cos", ()),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Erf": ("erf", ()),
    "Exp": ("exp", ()),
    "HardSwish": ("hardswish", ()),
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Mish": ("mish", ()),
    "Sigmoid": ("sigmoid", ()),
    "Sign": ("sign", ()),
    "Sin": ("sin", ()),
    "Softsign": ("softsign", ()),
    "Tanh": ("tanh", ()),
}
"""Operations that are one function: its name, and the attributes that are its parameters, with their defaults."""
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _simple(r: Reader, c: Call) -> Any:
    name, attributes = SIMPLE[c.node.op]
    return r.builder.activate(c.name, c.arg(0), name, tuple(float(c.attr(a, d)) for a, d in attributes))


def _relu(r: Reader, c: Call) -> Any:
    if isinstance(c.arg(0), Codes):
        raise ConversionError(c.name, "a Relu of integers", "put it behind the DequantizeLinear")
    return r.builder.rectify(c.name, c.arg(0))


def _clip(r: Reader, c: Call) -> Any:
    x, low, high = c.arg(0), c.arg(1), c.arg(2)
    if isinstance(x, Codes):
        return clip_codes(r, c, x, low, high)
    bounds = []
    for b in (low, high):
        if b is not None and (not is_constant(b) or real(b).numel() != 1):
            raise ConversionError(c.name, "a clip at bounds that are no constant numbers", "give numbers")
        value = None if b is None else float(real(b))
        bounds.append(None if value is not None and abs(value) >= 3e38 else value)
    return r.builder.clamp(c.name, x, *bounds) if bounds != [None, None] else x


def _prelu(r: Reader, c: Call) -> Any:
    x, slope = c.arg(0), c.arg(1)
    if not is_constant(slope):
        raise ConversionError(c.name, "a slope that the network computes", "use a constant")
    shape, given = r.shape(x), real(slope)
    lead = [1] * (len(shape) - given.ndim)
    if given.numel() > 1 and [*lead, *given.shape][1] != given.numel():
        raise ConversionError(c.name, f"slopes of shape {tuple(given.shape)}", "use one for each channel")
    if given.numel() > 1 and isinstance(x, Value):
        x = r.builder.relay(c.name, x)  # channels as they are seen have numbers of their own
    return r.builder.activate(c.name, x, "leaky_relu", (given.reshape(-1),))


def _hard_sigmoid(r: Reader, c: Call) -> Any:
    alpha, beta = float(c.attr("alpha", 0.2)), float(c.attr("beta", 0.5))
    if beta == 0.5 and math.isclose(alpha, 1 / 6, rel_tol=1e-6):
        return r.builder.activate(c.name, c.arg(0), "hardsigmoid")
    y = r.builder.shift(c.name, r.builder.scale(c.name, c.arg(0), alpha), beta)
    return r.builder.clamp(c.name, y, 0.0, 1.0)


def _selu(r: Reader, c: Call) -> Any:
    given = float(c.attr("alpha", _SELU[0])), float(c.attr("gamma", _SELU[1]))
    if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, _SELU, strict=True)):
        raise ConversionError(c.name, f"a Selu with alpha {given[0]:g} and gamma {given[1]:g}", "use its own")
    return r.builder.activate(c.name, c.arg(0), "selu")


def _gelu(r: Reader, c: Call) -> Any:
    name = "gelu_tanh" if c.attr("approximate", "none") == "tanh" else "gelu"
    return r.builder.activate(c.name, c.arg(0), name)


def _softplus(r: Reader, c: Call) -> Any:
    return r.builder.activate(c.name, c.arg(0), "softplus", (1.0, 20.0))


def _threshold(r: Reader, c: Call) -> Any:
    return r.builder.activate(c.name, c.arg(0), "threshold", (float(c.attr("alpha", 1.0)), 0.0))


def _shrink(r: Reader, c: Call) -> Any:
    bias, bound = float(c.attr("bias", 0.0)), float(c.attr("lambd", 0.5))
    if bias not in (0.0, bound):
        raise ConversionError(c.name, f"a Shrink with the bias {bias:g}", f"use 0 or {bound:g}")
    return r.builder.activate(c.name, c.arg(0), "softshrink" if bias else "hardshrink", (bound,))


def _pow(r: Reader, c: Call) -> Any:
    exponent = c.arg(1)
    if not is_constant(exponent) or bool((real(exponent) != 2).any()):
        raise ConversionError(c.name, "a power that is no square", "only squares are converted")
    return r.builder.activate(c.name, c.arg(0), "square")


def _swish(r: Reader, c: Call) -> Any:
    if float(c.attr("alpha", 1.0)) != 1.0:
        raise ConversionError(c.name, f"a Swish with alpha {c.attr('alpha', 1.0):g}", "use 1")
    return r.builder.activate(c.name, c.arg(0), "silu")


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(SIMPLE, _simple),
    "Relu": _relu,
    "Clip": _clip,
    "PRelu": _prelu,
    "HardSigmoid": _hard_sigmoid,
    "Selu": _selu,
    "Gelu": _gelu,
    "Softplus": _softplus,
    "ThresholdedRelu": _threshold,
    "Shrink": _shrink,
    "Pow": _pow,
    "Swish": _swish,
}
_ = torch
