"""Functions behind the last layer as ONNX nodes, in the type of real values, or of indices behind an arg-max."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto

from converters.errors import ConversionError
from converters.onnx_export.functions import FUNCTIONS, number
from converters.onnx_export.writer import Writer
from converters.operations import Shape
from converters.ports.tails import Tail

__all__ = ["write_tail"]

I = TensorProto.INT64  # noqa: E741
_TYPES: dict[int, type] = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, I: np.int64}
_REDUCED = {"amax": "ReduceMax", "amin": "ReduceMin", "mean": "ReduceMean", "sum": "ReduceSum"}
_ARGUMENT = {"argmax": "ArgMax", "argmin": "ArgMin"}
_ALONG = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}

Says: TypeAlias = Callable[[Writer, Tail, str, Any, Shape, Shape], str]
"""Writer, function, name, NumPy type, shapes of one image before and behind it: the result's name."""


def write_tail(w: Writer, tail: Tail, x: str, kind: int, before: Shape, behind: Shape) -> tuple[str, int]:
    """The nodes of one function of ``x``, a batch ``(N, *before)`` of type ``kind``; the result and its type.

    Raises
    ------
    ConversionError
        For what ONNX has no node for.
    """
    if tail.function not in _SAYS:
        todo = "compute it outside of the model: leave it out of the outputs"
        raise ConversionError(str(tail), "a function behind the network without ONNX nodes", todo)
    single = tail.function in _SINGLE and kind != TensorProto.FLOAT
    x = w.cast(x, TensorProto.FLOAT) if single else x
    name = _SAYS[tail.function](w, tail, x, np.float32 if single else _TYPES[kind], before, behind)
    return w.cast(name, kind) if single else name, I if tail.function in _ARGUMENT else kind


def _along(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    return w.node(_ALONG[tail.function], x, axis=tail.parameters["dim"])


def _argument(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    keep = int(bool(tail.parameters.get("keepdim", False)))
    return w.node(_ARGUMENT[tail.function], x, axis=tail.parameters["dim"], keepdims=keep)


def _reduced(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    axes = w.places(_axes(tail.parameters["dim"]))
    return w.node(_REDUCED[tail.function], x, axes, keepdims=int(bool(tail.parameters.get("keepdim", False))))


def _axes(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _pointwise(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    return FUNCTIONS[tail.function](w, x, kind)


def _softplus(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    return w.node("Softplus", x)


def _hardtanh(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    return w.node("Clip", x, number(w, -1, kind), number(w, 1, kind))


def _clamp(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    for end, node in (("min", "Max"), ("max", "Min")):
        if tail.parameters.get(end) is not None:
            x = w.node(node, x, number(w, tail.parameters[end], kind))
    return x


def _with_number(node: str) -> Says:
    def says(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
        return w.node(node, x, number(w, tail.parameters["other"], kind))

    return says


def _normalize(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    p, axis = tail.parameters.get("p", 2), tail.parameters.get("dim", 1)
    if p not in (1, 2):
        raise ConversionError(str(tail), f"a norm of order {p}", "use 1 or 2, or compute it outside of the model")
    size = w.node(f"ReduceL{int(p)}", x, w.places([axis]), keepdims=1)
    return w.node("Div", x, w.node("Max", size, number(w, tail.parameters.get("eps", 1e-12), kind)))


def _reshape(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    return w.reshaped(x, behind)  # also of flatten, squeeze and unsqueeze: the batch stays the first axis


def _permute(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    axes = [d % len(before) for d in tail.parameters["dims"]]
    return w.transposed(x, [0, *(d + 1 for d in axes)])


def _interpolate(w: Writer, tail: Tail, x: str, kind: Any, before: Shape, behind: Shape) -> str:
    mode, corners = tail.parameters["mode"], bool(tail.parameters.get("align_corners"))
    if mode not in _MODES or tail.parameters.get("antialias"):
        raise ConversionError(str(tail), "an interpolation that ONNX has otherwise", "compute it outside of the model")
    options: dict[str, Any] = {"mode": _MODES[mode], "cubic_coeff_a": -0.75}
    options["coordinate_transformation_mode"] = "align_corners" if corners else "pytorch_half_pixel"
    if mode == "nearest":
        options |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    # scales, not sizes: those would name the size of the batch
    ratios = np.array([1, 1, *(b / a for a, b in zip(before[1:], behind[1:], strict=True))], dtype=np.float32)
    return w.node("Resize", x, "", w.constant(ratios, "scales"), **options)


_SINGLE = ("softplus", "logsigmoid", "hardsigmoid", "interpolate")
"""What onnxruntime computes in float32 alone."""

_SAYS: dict[str, Says] = {
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_ARGUMENT, _argument),
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(("sigmoid", "logsigmoid", "tanh", "exp", "relu", "hardsigmoid", "abs", "neg"), _pointwise),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), _reshape),
    "softplus": _softplus,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "mul": _with_number("Mul"),
    "add": _with_number("Add"),
    "normalize": _normalize,
    "permute": _permute,
    "interpolate": _interpolate,
}
