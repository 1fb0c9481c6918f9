"""Layers with weights: convolutions, transposed ones, Gemm, MatMul."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import Dequantised, is_constant, real, weight_of
from converters.frontends.onnx.geometry import Windows, windows_of
from converters.frontends.verbs import Pending, Weight, transposed
from converters.operations import Linear

__all__ = ["HANDLERS"]


def bias_of(c: Call, x: Any) -> Tensor | None:
    """A bias in real units, one for each channel; None where there is none."""
    if x is None:
        return None
    if not is_constant(x):
        raise ConversionError(c.name, "a bias that the network computes", "add it behind the layer")
    return real(x).reshape(-1)


def _maps(r: Reader, c: Call, rank: int) -> tuple[int, ...]:
    """Sizes of the maps that a layer takes."""
    shape = r.shape(c.arg(0))
    if len(shape) != rank + 2 or not 1 <= rank <= 3:
        raise ConversionError(c.name, f"values of shape {shape} for weights with {rank} spatial axes", "give 1 to 3")
    return shape[2:]


def _conv(r: Reader, c: Call) -> Any:
    weight = weight_of(c.name, c.arg(1), 0)
    kernel = tuple(weight.integers.shape[2:])
    w = windows_of(c, _maps(r, c, len(kernel)), kernel)
    x, inside = c.arg(0), w.before
    if not w.even:
        x, inside = r.move(c, x, lambda t: F.pad(t, w.around)), (0,) * len(kernel)
    return r.builder.convolve(
        c.name, x, weight, bias_of(c, c.arg(2)), stride=w.stride, padding=inside, dilation=w.dilation,
        groups=c.attr("group", 1),
    )  # fmt: skip


def _conv_transpose(r: Reader, c: Call) -> Any:
    groups = c.attr("group", 1)
    x = c.arg(1)
    if isinstance(x, Dequantised) and groups > 1 and x.integers.shape[0] % groups == 0:
        scale = x.scale.expand(x.integers.shape)
        by_group = scale.reshape(groups, -1, *scale.shape[1:])
        if bool((by_group == by_group[:1]).all()):
            weight = weight_of(c.name, x, 1)
            rows = weight.scale.repeat(groups) if weight.scale.numel() > 1 else weight.scale
            weight = Weight(weight.integers, rows)
        else:
            raise ConversionError(c.name, "scales that differ from group to group", "quantise its weights per tensor")
    else:
        weight = weight_of(c.name, x, 1)
    kernel = tuple(weight.integers.shape[2:])
    sizes = _maps(r, c, len(kernel))
    w, more = _transposed_windows(c, sizes, kernel)
    least = tuple(map(min, w.before, w.behind))
    op = transposed(c.name, weight.integers, w.stride, least, more, w.dilation, groups)
    y: Any = r.builder.weigh(c.name, c.arg(0), op, weight.scale, bias_of(c, c.arg(2)))
    cut = [(a - m, b - m) for a, b, m in zip(w.before, w.behind, least, strict=True)]
    if any(a or b for a, b in cut):
        y = r.move(c, y, lambda t: F.pad(t, [-n for pair in reversed(cut) for n in pair]))
    return y


def _transposed_windows(c: Call, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Windows, tuple[int, ...]]:
    """The windows, and the padding behind the output."""
    rank = len(sizes)
    how, wanted = c.attr("auto_pad", "NOTSET"), c.attr("output_shape", [])
    plain = Call(c.node, c.args) if how == "NOTSET" else _without_auto_pad(c)
    w = windows_of(plain, sizes, kernel)
    more = tuple(c.attr("output_padding", [])) or (0,) * rank
    if how not in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        return w, more
    there = tuple(wanted)[-rank:] if wanted else tuple(n * s for n, s in zip(sizes, w.stride, strict=True))
    totals = [
        s * (n - 1) + o + (k - 1) * d + 1 - m
        for s, n, o, k, d, m in zip(w.stride, sizes, more, kernel, w.dilation, there, strict=True)
    ]
    if any(t < 0 for t in totals):
        raise ConversionError(c.name, f"an output of shape {there}, beyond its windows", "give it output_padding")
    less, rest = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    before, behind = (less, rest) if how == "SAME_UPPER" else (rest, less)
    return Windows(kernel, w.stride, w.dilation, before, behind), more


def _without_auto_pad(c: Call) -> Call:
    kept = {k: v for k, v in c.node.attributes.items() if k not in ("auto_pad", "pads")}
    return Call(c.node.with_op(c.node.op, attributes=kept), c.args)


def _gemm(r: Reader, c: Call) -> Any:
    a, b, bias = (c.arg(k) for k in range(3))
    name = c.name
    if c.attr("transA", 0):
        raise ConversionError(name, "a Gemm of a transposed batch", "leave the axis of the images alone")
    if is_constant(a):
        raise ConversionError(name, "a Gemm of weights times images", "put the images first")
    alpha, beta = float(c.attr("alpha", 1.0)), float(c.attr("beta", 1.0))
    if is_constant(b):
        if r.axis(a, -1) == 0:
            raise ConversionError(name, "images along the axis that it works on", "leave their axis alone")
        rows = 0 if c.attr("transB", 0) else 1
        weight = weight_of(name, b, rows)
        integers = weight.integers if rows == 0 else weight.integers.mT.contiguous()
        y = r.builder.weigh(name, a, Linear(integers), weight.scale, None)
    else:
        raise ConversionError(name, "a Gemm of two activations", "use a MatMul")
    if alpha != 1.0:
        y = r.builder.scale(name, y, alpha)
    if bias is None or beta == 0:
        return y
    if not is_constant(bias):
        raise ConversionError(name, "a bias that the network computes", "add it behind the layer")
    return r.builder.shift(name, y, real(bias) * beta)


def _matmul(r: Reader, c: Call) -> Any:
    a, b = c.arg(0), c.arg(1)
    if is_constant(b):
        return _times_weight(r, c, a, b)
    if is_constant(a):
        if len(r.shape(b)) < 3:
            raise ConversionError(c.name, "a MatMul of weights times images", "put the images first")
        turned = r.move(c, b, lambda t: t.mT)
        y = _times_weight(r, c, turned, _matrix(c, a).moved(lambda t: t.mT))
        return r.move(c, y, lambda t: t.mT)
    return r.builder.matmul(c.name, a, b)


def _times_weight(r: Reader, c: Call, x: Any, w: Any) -> Pending:
    matrix = _matrix(c, w)
    vector = len(matrix.shape) == 1
    if vector:
        matrix = matrix.moved(lambda t: t[:, None])
    weight = weight_of(c.name, matrix, 1)
    if r.axis(x, -1) == 0:
        raise ConversionError(c.name, "images along the axis that it works on", "leave their axis alone")
    y = r.builder.weigh(c.name, x, Linear(weight.integers.mT.contiguous()), weight.scale, None)
    if vector and len(r.shape(y)) == 2:
        raise ConversionError(c.name, "a MatMul with a vector, which gives one number an image", "use a matrix")
    return r.move(c, y, lambda t: t.squeeze(-1)) if vector else y


def _matrix(c: Call, w: Any) -> Dequantised:
    """Weights of a matrix product: a matrix, or a vector; leading axes of one."""
    if not isinstance(w, Dequantised):
        weight_of(c.name, w, 0)  # says why
    lead = w.shape[:-2]
    if any(n != 1 for n in lead):
        raise ConversionError(c.name, f"weights of shape {w.shape}", "use one matrix for all")
    return w.moved(lambda t: t.reshape(t.shape[-2:])) if lead else w


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
