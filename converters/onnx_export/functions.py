"""Pointwise functions by the names of :data:`converters.operations.activations.ACTIVATIONS`, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from converters.errors import ConversionError
from converters.onnx_export.writer import Writer

__all__ = ["FUNCTIONS", "number", "write_function"]

Says: TypeAlias = Callable[..., str]
"""Writer, name of ``x``, NumPy type, then each parameter: a number, or one for each channel. The result's name."""

_FAR = 16.0  # beyond it, softplus is its argument to the last bit of float32


def number(w: Writer, value: Any, kind: Any) -> str:
    """A number, or an array of such, of a NumPy type."""
    return w.constant(np.asarray(value, dtype=kind))


def write_function(w: Writer, name: str, x: str, parameters: Sequence[Sequence[float]], axes: int) -> str:
    """A function of a float32 batch with ``axes`` axes beside the batch.

    Parameters
    ----------
    name : str
        Of the function.
    x : str
        Of the tensor.
    parameters : sequence of sequences of float
        Each of one number, or of one for each channel.
    axes : int

    Raises
    ------
    ConversionError
        For a function of the user's own.
    """
    if name not in FUNCTIONS:
        todo = "use exact=True, where its table is what is written"
        raise ConversionError(name, "a function that ONNX has no node for", todo)
    spread = [p[0] if len(p) == 1 else np.reshape(p, (-1, *[1] * (axes - 1))) for p in parameters]
    return FUNCTIONS[name](w, x, np.float32, *spread)


def _plain(kind: str, **attributes: Any) -> Says:
    return lambda w, x, t: w.node(kind, x, **attributes)


def _attribute(kind: str, name: str) -> Says:
    """A node with one parameter as an attribute."""

    def says(w: Writer, x: str, t: Any, value: Any) -> str:
        if np.ndim(value):
            raise ConversionError(kind, "a parameter of its own for each channel", "use exact=True")
        attributes: dict[str, Any] = {name: float(value)}
        return w.node(kind, x, **attributes)

    return says


def _leaky(w: Writer, x: str, t: Any, slope: Any) -> str:
    if np.ndim(slope):
        return w.node("PRelu", x, number(w, slope, t))
    return w.node("LeakyRelu", x, alpha=float(slope))


def _shrink(bias: bool) -> Says:
    def says(w: Writer, x: str, t: Any, bound: Any) -> str:
        if np.ndim(bound):
            raise ConversionError("Shrink", "a bound of its own for each channel", "use exact=True")
        return w.node("Shrink", x, lambd=float(bound), bias=float(bound) if bias else 0.0)

    return says


def _clamp(w: Writer, x: str, t: Any, low: Any, high: Any) -> str:
    if not (np.ndim(low) or np.ndim(high)):
        return w.node("Clip", x, number(w, low, t), number(w, high, t))
    return w.node("Min", w.node("Max", x, number(w, low, t)), number(w, high, t))


def _end(kind: str) -> Says:
    return lambda w, x, t, bound: w.node(kind, x, number(w, bound, t))


def _silu(w: Writer, x: str, t: Any) -> str:
    return w.node("Mul", x, w.node("Sigmoid", x))


def _logsigmoid(w: Writer, x: str, t: Any) -> str:
    return w.node("Neg", w.node("Softplus", w.node("Neg", x)))


def _tanhshrink(w: Writer, x: str, t: Any) -> str:
    return w.node("Sub", x, w.node("Tanh", x))


def _softplus(w: Writer, x: str, t: Any, beta: Any, threshold: Any) -> str:
    if np.ndim(beta) or np.ndim(threshold) or threshold < _FAR:
        raise ConversionError("Softplus", f"the parameters {beta} and {threshold}", "use exact=True")
    if float(beta) == 1:
        return w.node("Softplus", x)
    b = number(w, beta, t)
    return w.node("Div", w.node("Softplus", w.node("Mul", x, b)), b)


def _threshold(w: Writer, x: str, t: Any, bound: Any, value: Any) -> str:
    return w.node("Where", w.node("Greater", x, number(w, bound, t)), x, number(w, value, t))


FUNCTIONS: dict[str, Says] = {
    "abs": _plain("Abs"),
    "celu": _attribute("Celu", "alpha"),
    "clamp": _clamp,
    "clamp_max": _end("Min"),
    "clamp_min": _end("Max"),
    "cos": _plain("Cos"),
    "elu": _attribute("Elu", "alpha"),
    "erf": _plain("Erf"),
    "exp": _plain("Exp"),
    "gelu": _plain("Gelu"),
    "gelu_tanh": _plain("Gelu", approximate="tanh"),
    "hardshrink": _shrink(False),
    "hardsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _plain("HardSwish"),
    "identity": lambda w, x, t: x,
    "leaky_relu": _leaky,
    "logsigmoid": _logsigmoid,
    "mish": _plain("Mish"),
    "neg": _plain("Neg"),
    "relu": _plain("Relu"),
    "relu6": lambda w, x, t: w.node("Clip", x, number(w, 0, t), number(w, 6, t)),
    "selu": _plain("Selu"),
    "sigmoid": _plain("Sigmoid"),
    "sign": _plain("Sign"),
    "silu": _silu,
    "sin": _plain("Sin"),
    "softplus": _softplus,
    "softshrink": _shrink(True),
    "softsign": _plain("Softsign"),
    "square": lambda w, x, t: w.node("Pow", x, number(w, 2, t)),
    "tanh": _plain("Tanh"),
    "tanhshrink": _tanhshrink,
    "threshold": _threshold,
}
"""What ONNX can say; all that are this package's own."""
