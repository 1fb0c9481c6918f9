"""Operations that only move values: shapes, permutations, slices, paddings, repetitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import is_constant, real, whole_numbers
from converters.frontends.onnx.quantisers import Codes

__all__ = ["HANDLERS"]

_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _axis(c: Call, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ConversionError(c.name, f"axis {axis} of {rank}", "give an axis that there is")
    return axis % rank


def _shaped(r: Reader, c: Call, after: tuple[int, ...]) -> Any:
    before = r.shape(c.arg(0))
    if math.prod(before) != math.prod(after) or min(after, default=1) < 1:
        raise ConversionError(c.name, f"a change of shape from {before} to {after}", "keep as many values")
    return r.move(c, c.arg(0), lambda t: t.reshape(after))


def _flatten(r: Reader, c: Call) -> Any:
    shape = r.shape(c.arg(0))
    axis = int(c.attr("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return _shaped(r, c, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _reshape(r: Reader, c: Call) -> Any:
    before, wanted = r.shape(c.arg(0)), whole_numbers(c.name, c.arg(1))
    if not c.attr("allowzero", 0):
        wanted = [before[k] if n == 0 and k < len(before) else n for k, n in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=1) < -1:
        raise ConversionError(c.name, f"a change of shape to {wanted}", "leave one size open at the most")
    if -1 in wanted:
        known = -math.prod(wanted)
        wanted[wanted.index(-1)] = math.prod(before) // known if known else 0
    return _shaped(r, c, tuple(wanted))


def _given_axes(c: Call) -> list[int] | None:
    if "axes" in c.node.attributes:
        return [int(a) for a in c.attr("axes", [])]
    return None if c.arg(1) is None else whole_numbers(c.name, c.arg(1))


def _squeeze(r: Reader, c: Call) -> Any:
    shape, axes = r.shape(c.arg(0)), _given_axes(c)
    if axes is None:
        dropped = [a for a, n in enumerate(shape) if n == 1 and a]
    else:
        dropped = [_axis(c, a, len(shape)) for a in axes]
    if any(shape[a] != 1 for a in dropped):
        raise ConversionError(c.name, f"a Squeeze of axes {dropped} of {shape}", "only axes of size 1 go")
    return _shaped(r, c, tuple(n for a, n in enumerate(shape) if a not in dropped))


def _unsqueeze(r: Reader, c: Call) -> Any:
    shape, axes = list(r.shape(c.arg(0))), _given_axes(c) or []
    for a in sorted(_axis(c, a, len(shape) + len(axes)) for a in axes):
        shape.insert(a, 1)
    return _shaped(r, c, tuple(shape))


def _transpose(r: Reader, c: Call) -> Any:
    rank = len(r.shape(c.arg(0)))
    order = c.attr("perm", []) or list(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise ConversionError(c.name, f"the permutation {order[:8]} of {rank} axes", "give every axis once")
    return r.move(c, c.arg(0), lambda t: t.permute(order))


def _slice(r: Reader, c: Call) -> Any:
    shape = r.shape(c.arg(0))
    starts, ends = (whole_numbers(c.name, c.arg(k)) for k in (1, 2))
    axes = list(range(len(starts))) if c.arg(3) is None else whole_numbers(c.name, c.arg(3))
    steps = [1] * len(starts) if c.arg(4) is None else whole_numbers(c.name, c.arg(4))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ConversionError(c.name, "a Slice of unequal starts, ends, axes and steps", "give one of each")
    cuts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        a = _axis(c, axis, len(shape))
        cuts[a] = torch.tensor(_places(start, end, step, shape[a]), dtype=torch.int64)
        _check_images(r, c, a, cuts[a])

    def cut(t: Tensor) -> Tensor:
        for a, index in cuts.items():
            t = t.index_select(a, index.to(t.device))
        return t

    return r.move(c, c.arg(0), cut)


def _places(start: int, end: int, step: int, size: int) -> list[int]:
    """As ONNX bounds them; the end of a step backwards may lie in front of the first."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start = min(max(start + size if start < 0 else start, max(low, 0)), high)
    end = min(max(end + size if end < 0 else end, low), high if step > 0 else size)
    return list(range(start, end, step))


def _check_images(r: Reader, c: Call, axis: int, index: Tensor) -> None:
    x = c.arg(0)
    if not is_constant(x) and r.axis(x, axis) == 0 and index.tolist() != list(range(r.shape(x)[axis])):
        raise ConversionError(c.name, "a part of the batch", "leave the axis of the images alone")


def _split(r: Reader, c: Call) -> Any:
    shape = r.shape(c.arg(0))
    axis = _axis(c, int(c.attr("axis", 0)), len(shape))
    count = len(c.node.outputs)
    if c.arg(1) is not None:
        sizes = whole_numbers(c.name, c.arg(1))
    elif c.attr("split", []):
        sizes = [int(n) for n in c.attr("split", [])]
    else:
        count = int(c.attr("num_outputs", count))
        if not 1 <= count <= shape[axis]:
            raise ConversionError(c.name, f"{count} parts of an axis of {shape[axis]}", "give as many at the most")
        most = -(-shape[axis] // count)
        sizes = [min(most, shape[axis] - k * most) for k in range(count)]
    if sum(sizes) != shape[axis] or min(sizes, default=0) < 1:
        raise ConversionError(c.name, f"parts of {sizes[:8]} of an axis of {shape[axis]}", "give sizes that add up")

    def part(start: int, size: int) -> Callable[[Tensor], Tensor]:
        return lambda t: t.narrow(axis, start, size)

    return tuple(r.move(c, c.arg(0), part(sum(sizes[:k]), n)) for k, n in enumerate(sizes))


def _pad(r: Reader, c: Call) -> Any:
    shape, mode = r.shape(c.arg(0)), c.attr("mode", "constant")
    amounts = whole_numbers(c.name, c.arg(1))
    axes = list(range(len(shape))) if c.arg(3) is None else whole_numbers(c.name, c.arg(3))
    if len(amounts) != 2 * len(axes) or any(abs(n) > 2**16 for n in amounts):
        raise ConversionError(c.name, f"{len(amounts)} paddings for {len(axes)} axes", "give two for each")
    before, behind = [0] * len(shape), [0] * len(shape)
    for k, axis in enumerate(axes):
        a = _axis(c, axis, len(shape))
        before[a], behind[a] = amounts[k], amounts[len(axes) + k]
    if (before[0] or behind[0]) and not is_constant(c.arg(0)):
        raise ConversionError(c.name, "padding with images", "leave the axis of the images alone")
    if mode == "constant":
        _check_value(c)
        around = [n for pair in zip(reversed(before), reversed(behind), strict=True) for n in pair]
        return r.move(c, c.arg(0), lambda t: F.pad(t, around))
    if mode not in _MODES or min(*before, *behind) < 0:
        raise ConversionError(c.name, f"the padding {mode[:40]!r}, or a negative one", "use constant, reflect or edge")
    indices = [_padded(c, n, a, b, mode) for n, a, b in zip(shape, before, behind, strict=True)]

    def pad(t: Tensor) -> Tensor:
        for a, index in enumerate(indices):
            t = t.index_select(a, index.to(t.device)) if before[a] or behind[a] else t
        return t

    return r.move(c, c.arg(0), pad)


def _padded(c: Call, size: int, before: int, behind: int, mode: str) -> Tensor:
    """Places of an axis in its padded form."""
    if mode == "reflect" and max(before, behind) >= size and before + behind:
        raise ConversionError(c.name, f"a reflection of {max(before, behind)} places of {size}", "pad it less")
    name = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    return torch.from_numpy(np.pad(np.arange(size), (before, behind), mode=name))


def _check_value(c: Call) -> None:
    """Counts are padded with 0; integers of a quantiser with its zero point."""
    x, value = c.arg(0), c.arg(2)
    if value is None:
        fill = 0.0
    elif is_constant(value):
        fill = float(real(value).reshape(-1)[0]) if real(value).numel() == 1 else float("nan")
    else:
        fill = float("nan")
    wanted = x.zero if isinstance(x, Codes) else 0
    if fill != wanted:
        raise ConversionError(c.name, f"padding with {fill:g}", f"pad with {wanted}, and add a constant behind it")


def _gather(r: Reader, c: Call) -> Any:
    x, index = c.arg(0), c.arg(1)
    if is_constant(x):
        raise ConversionError(c.name, "a look-up by the images' values", "compute it: indices are no activations")
    shape = r.shape(x)
    axis = _axis(c, int(c.attr("axis", 0)), len(shape))
    places = whole_numbers(c.name, index)
    if any(not -shape[axis] <= p < shape[axis] for p in places):
        raise ConversionError(c.name, f"places beyond an axis of {shape[axis]}", "correct them")
    flat = torch.tensor([p % shape[axis] for p in places], dtype=torch.int64)
    _check_images(r, c, axis, flat)
    after = (*shape[:axis], *np.asarray(index).shape, *shape[axis + 1 :])
    return r.move(c, x, lambda t: t.index_select(axis, flat.to(t.device)).reshape(after))


def _expand(r: Reader, c: Call) -> Any:
    before, wanted = r.shape(c.arg(0)), whole_numbers(c.name, c.arg(1))
    try:
        after = tuple(np.broadcast_shapes(before, tuple(wanted)))
    except ValueError:
        raise ConversionError(c.name, f"an Expand from {before} to {wanted}", "give shapes that broadcast") from None
    return r.move(c, c.arg(0), lambda t: t.expand(after))


def _tile(r: Reader, c: Call) -> Any:
    times = whole_numbers(c.name, c.arg(1))
    if len(times) != len(r.shape(c.arg(0))) or min(times, default=0) < 1:
        raise ConversionError(c.name, f"a Tile by {times[:8]}", "give a number of at least 1 for each axis")
    return r.move(c, c.arg(0), lambda t: t.repeat(times))


def _depth_to_space(r: Reader, c: Call) -> Any:
    b, (n, d, h, w) = int(c.attr("blocksize", 1)), r.shape(c.arg(0))
    if b < 1 or d % (b * b):
        raise ConversionError(c.name, f"blocks of {b} of {d} channels", "they must divide")
    if c.attr("mode", "DCR") == "CRD":
        return r.move(c, c.arg(0), lambda t: F.pixel_shuffle(t, b))

    def move(t: Tensor) -> Tensor:
        t = t.reshape(n, b, b, d // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return t.reshape(n, d // (b * b), h * b, w * b)

    return r.move(c, c.arg(0), move)


def _space_to_depth(r: Reader, c: Call) -> Any:
    b, (n, d, h, w) = int(c.attr("blocksize", 1)), r.shape(c.arg(0))
    if b < 1 or h % b or w % b:
        raise ConversionError(c.name, f"blocks of {b} of maps of {h} by {w}", "they must divide")

    def move(t: Tensor) -> Tensor:
        return t.reshape(n, d, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, d * b * b, h // b, w // b)

    return r.move(c, c.arg(0), move)


def _identity(r: Reader, c: Call) -> Any:
    return c.arg(0)


def _dropout(r: Reader, c: Call) -> Any:
    if c.arg(2) is not None and (not is_constant(c.arg(2)) or bool(real(c.arg(2)).any())):
        raise ConversionError(c.name, "a dropout in training mode", "export the model in evaluation mode")
    return c.arg(0)


def _cast(r: Reader, c: Call) -> Any:
    """To another type of real numbers."""
    if int(c.attr("to", 1)) not in (1, 10, 11):
        raise ConversionError(c.name, "a cast of activations to integers", "quantise them with QuantizeLinear")
    if isinstance(c.arg(0), Codes):
        raise ConversionError(c.name, "integers of a quantiser taken as numbers", "put a DequantizeLinear there")
    return c.arg(0)


HANDLERS: dict[str, Handler] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
}
