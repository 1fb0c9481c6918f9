"""Pools, and reductions over axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import whole_numbers
from converters.frontends.onnx.geometry import Windows, windows_of
from converters.frontends.onnx.meanings import UNARY, Meaning
from converters.frontends.onnx.quantisers import Codes, counts_of

__all__ = ["HANDLERS", "MEANINGS", "axes_of"]


def _max_pool(r: Reader, c: Call) -> Any:
    if len(c.node.outputs) > 1 and c.node.outputs[1]:
        raise ConversionError(c.name, "a max pool that gives places as well", "use its values alone")
    x = c.arg(0)
    if isinstance(x, Codes):
        inner = Call(c.node, (counts_of(r, x), *c.args[1:]))
        return r.with_source(c, x, _max_pool(r, inner))
    shape = r.shape(x)
    w = windows_of(c, shape[2:])
    inside = w.before
    if not w.even or any(2 * p > k for p, k in zip(w.before, w.kernel, strict=True)):
        x, inside = _repeated(r, c, x, w), (0,) * len(w.kernel)
    return r.builder.max_pool(c.name, x, w.kernel, w.stride, inside, w.dilation, ceil_mode=bool(c.attr("ceil_mode", 0)))


def _repeated(r: Reader, c: Call, x: Any, w: Windows) -> Any:
    """Values at the border repeated outwards: they stand in every window that reaches there, so no maximum changes."""
    outside = [p >= k for side in (w.before, w.behind) for p, k in zip(side, w.kernel, strict=True)]
    if any(outside) or any(d > 1 for d in w.dilation):
        raise ConversionError(c.name, f"a max pool padded {w.before} before and {w.behind} behind", "pad it evenly")
    return r.move(c, x, lambda t: F.pad(t, w.around, mode="replicate"))


def _average_pool(r: Reader, c: Call) -> Any:
    x, shape = c.arg(0), r.shape(c.arg(0))
    w = windows_of(c, shape[2:])
    if any(d > 1 for d in w.dilation):
        raise ConversionError(c.name, "an average pool with gaps", "use a depthwise convolution")
    counted, ceil = bool(c.attr("count_include_pad", 0)), bool(c.attr("ceil_mode", 0))
    inside = w.before
    if w.even and not any(2 * p > k for p, k in zip(w.before, w.kernel, strict=True)):
        return r.builder.average_pool(c.name, x, w.kernel, w.stride, inside, ceil_mode=ceil, count_include_pad=counted)
    x = r.move(c, x, lambda t: F.pad(t, w.around))
    y = r.builder.average_pool(c.name, x, w.kernel, w.stride, 0, ceil_mode=ceil)
    if counted:
        return y
    real = F.pad(torch.ones(1, *shape[2:], dtype=torch.float64), w.around)
    share = _average(real, w, ceil)
    if bool((share == 0).any()):
        raise ConversionError(c.name, "windows that lie in the padding alone", "pad it less")
    return r.builder.scale(c.name, y, 1 / share)


def _average(x: torch.Tensor, w: Windows, ceil: bool) -> torch.Tensor:
    pools: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    return pools[len(w.kernel) - 1](x[None], w.kernel, w.stride, ceil_mode=ceil)[0]


def _global(r: Reader, c: Call) -> Any:
    axes = list(range(2, len(r.shape(c.arg(0)))))
    if c.node.op == "GlobalMaxPool":
        return r.builder.amax(c.name, c.arg(0), axes, keepdim=True)
    return r.builder.mean(c.name, c.arg(0), axes, keepdim=True)


def axes_of(r: Reader, c: Call) -> list[int] | None:
    """Axes of a reduction, an attribute or an operand; None where there are none."""
    if "axes" in c.node.attributes:
        found = [int(a) for a in c.attr("axes", [])]
    else:
        found = [] if c.arg(1) is None else whole_numbers(c.name, c.arg(1))
    if not found:
        return None if c.attr("noop_with_empty_axes", 0) else list(range(len(r.shape(c.arg(0)))))
    return found


def _reduce(r: Reader, c: Call) -> Any:
    axes, x = axes_of(r, c), c.arg(0)
    if axes is None:
        return x
    keep, b = bool(c.attr("keepdims", 1)), r.builder
    if c.node.op == "ReduceMean":
        return b.mean(c.name, x, axes, keepdim=keep)
    if c.node.op == "ReduceSum":
        return b.sum(c.name, x, axes, keepdim=keep)
    return (b.amax if c.node.op == "ReduceMax" else b.amin)(c.name, x, axes, keepdim=keep)


HANDLERS: dict[str, Handler] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global,
    "GlobalMaxPool": _global,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
}

MEANINGS: dict[str, Meaning] = {
    "QLinearAveragePool": Meaning("AveragePool", UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearGlobalAveragePool": Meaning("GlobalAveragePool", UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearReduceMean": Meaning("ReduceMean", UNARY, (3, 4)),
}
"""onnxruntime's operators on integers."""
