"""From the operations of an exported graph to verbs: one handler per kind of operation.

A handler reads a node's arguments in PyTorch's own names and says what it is; everything that can be said of it being
possible stands behind the verbs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from converters.errors import ConversionError
from converters.frontends import aten
from converters.frontends.aten import Kind, arguments, where
from converters.frontends.layouts import FIRST, Layout, laid_out
from converters.frontends.verbs import Embedded, Masked, Pending, Raw, Verbs, Weight, transposed
from converters.graph_builder import Value
from converters.operations import Linear

__all__ = ["BY_TARGET", "HANDLERS", "IMAGES", "Batch", "Several"]

_a = torch.ops.aten
_ALL = 2**63 - 1
_CALLED = {"log_sigmoid": "logsigmoid", "prelu": "leaky_relu"}
IMAGES = 2  # with which moves are tried: what mixes them is found


@dataclass(frozen=True)
class Batch:
    """A size in the graph that is this many times the batch's."""

    times: int = 1


@dataclass(frozen=True)
class Several:
    """Parts of one value, of which ``operator.getitem`` takes one; ``layout`` is where the images are in the value."""

    parts: Callable[[Tensor], Any]
    of: Any
    layout: Layout = FIRST


class Reader(Protocol):
    """What handlers ask of whoever reads the graph."""

    builder: Verbs
    values: dict[fx.Node, Any]
    layouts: dict[fx.Node, Layout]

    def layout(self, node: Any) -> Layout: ...

    def rank(self, node: fx.Node) -> int: ...

    def axis(self, node: fx.Node, dim: int) -> int: ...

    def constant(self, node: fx.Node, x: fx.Node, constant: Any) -> Any: ...


def _plain(r: Reader, value: Any) -> Any:
    """An argument with the values of its nodes in their places."""
    return map_aggregate(value, lambda v: r.values[v] if isinstance(v, fx.Node) else v)


def _first(r: Reader, node: fx.Node, x: fx.Node) -> None:
    """Refuse a value that has its images elsewhere than first, where channels are meant to be second."""
    if r.layout(x) != FIRST:
        found = f"an input of shape {tuple(x.meta['shape'])} whose images are not first".replace("None", "N")
        raise ConversionError(where(node), found, "put the axis of the images first")


def _inside(r: Reader, node: fx.Node, x: fx.Node, last: int) -> None:
    """Refuse a value that has its images on one of the ``last`` axes."""
    if r.layout(x).axis >= r.rank(x) - last:
        raise ConversionError(where(node), "images along the axis that it works on", "leave their axis alone")


# --- layers with weights --------------------------------------------------------------------------------------------


def _weighted(r: Reader, node: fx.Node) -> Any:
    a = arguments(node)
    name, weight, x = where(node), r.values[a["weight"]], r.values[a["input"]]
    if not isinstance(weight, Weight):
        raise ConversionError(name, "weights that forward computes", "give the layer weights of its own")
    bias = r.values[a["bias"]] if a["bias"] is not None else None
    if node.target is _a.linear.default:
        _inside(r, node, a["input"], 1)
        return r.builder.weigh(name, x, Linear(weight.integers), weight.scale, bias)
    _first(r, node, a["input"])
    if node.target not in aten.TRANSPOSED:
        steps = {k: a[k] for k in ("stride", "padding", "dilation", "groups")}
        return r.builder.convolve(name, x, weight, bias, **steps)
    groups, scale = int(a["groups"]), weight.scale
    scale = scale.repeat(groups) if scale.numel() > 1 else scale  # those of one group
    op = transposed(name, weight.integers, a["stride"], a["padding"], a["output_padding"], a["dilation"], groups)
    return r.builder.weigh(name, x, op, scale, bias)


def _batch_norm(r: Reader, node: fx.Node) -> Any:
    a = arguments(node)
    mean, variance, gamma, beta = (
        None if a[k] is None else r.values[a[k]] for k in ("running_mean", "running_var", "weight", "bias")
    )
    x = r.values[a["input"]]
    _first(r, node, a["input"])
    return r.builder.batch_norm(where(node), x, mean, variance, float(a["eps"]), gamma, beta)


# --- pointwise functions, sums, products ----------------------------------------------------------------------------


def _rectify(r: Reader, node: fx.Node) -> Any:
    return r.builder.rectify(where(node), r.values[node.args[0]], aten.bounds(node)[1])


def _activate(r: Reader, node: fx.Node) -> Any:
    function, parameters = activation(node)
    name, x, given = where(node), r.values[node.args[0]], tuple(_plain(r, p) for p in parameters)
    if isinstance(x, Value) and any(isinstance(p, Tensor) and p.numel() > 1 for p in given):
        _first(r, node, node.args[0])
        x = r.builder.relay(name, x)  # channels as they are seen have numbers of their own
    return r.builder.activate(name, x, function, given)


def activation(node: fx.Node) -> tuple[str, tuple[Any, ...]]:
    """Name of a pointwise function, and its parameters: numbers, or nodes of constants."""
    name = aten.operation(node)
    if name in ("clamp", "clamp_min", "clamp_max", "clip", "hardtanh"):
        low, high = aten.bounds(node)
        if high == math.inf:
            return "clamp_min", (low,)
        return ("clamp_max", (high,)) if low == -math.inf else ("clamp", (low, high))
    if not hasattr(node.target, "_schema"):
        return name, ()
    a = arguments(node)
    if name == "gelu":
        return ("gelu_tanh" if a["approximate"] == "tanh" else "gelu"), ()
    if name == "rrelu":
        return "leaky_relu", ((float(a["lower"]) + float(a["upper"])) / 2,)
    if name == "elu":
        return "elu", (float(a["alpha"]),)
    called = _CALLED.get(name, name)
    return called, tuple(v if isinstance(v, fx.Node) else float(v) for k, v in a.items() if k not in ("self", "input"))


def _operands(r: Reader, node: fx.Node) -> tuple[Any, Any]:
    """Both, of which one may be a constant."""
    (a, b), (x, y) = node.args[:2], (_plain(r, n) for n in node.args[:2])
    return (r.constant(node, b, x), y) if isinstance(x, Tensor | int | float) else (x, r.constant(node, a, y))


def _add(r: Reader, node: fx.Node) -> Any:
    name, (x, other) = where(node), _operands(r, node)
    if isinstance(other, Tensor | int | float):
        return r.builder.shift(name, x, torch.as_tensor(other))
    if isinstance(x, Tensor | int | float):
        return r.builder.shift(name, other, torch.as_tensor(x))
    factor = float(arguments(node)["alpha"])
    return r.builder.add(name, (x, 1.0), (other, -factor if node.target is _a.sub.Tensor else factor))


def _multiply(r: Reader, node: fx.Node) -> Any:
    name, (x, other) = where(node), _operands(r, node)
    if isinstance(other, Tensor | int | float):
        return r.builder.scale(name, x, other)
    if isinstance(x, Tensor | int | float):
        return r.builder.scale(name, other, x)
    return r.builder.multiply(name, x, other)


def _divide(r: Reader, node: fx.Node) -> Any:
    """What the folding of a batch norm, which is still to come, takes back."""
    x, by = (_plain(r, n) for n in node.args)
    return r.builder.divide(where(node), x, by)


def _matmul(r: Reader, node: fx.Node) -> Any:
    a, b = (r.values[n] for n in node.args)
    for n in node.args:
        _inside(r, node, n, 2)
    return r.builder.matmul(where(node), a, b)


# --- pools, interpolation -------------------------------------------------------------------------------------------


def _pool(r: Reader, node: fx.Node) -> Any:
    name, kind = where(node), aten.operation(node)
    a = arguments(node)
    x = r.values[a["self"]]
    if kind in ("mean", "sum"):
        over = r.builder.mean if kind == "mean" else r.builder.sum
        return over(name, x, _over(r, node, a["self"], a["dim"], bool(a["keepdim"])), keepdim=bool(a["keepdim"]))
    _first(r, node, a["self"])
    if kind.startswith("adaptive"):
        return r.builder.adaptive_pool(name, x, a["output_size"])
    return r.builder.average_pool(
        name, x, a["kernel_size"], a["stride"], a["padding"], ceil_mode=a["ceil_mode"],
        count_include_pad=a["count_include_pad"], divisor=a.get("divisor_override"),
    )  # fmt: skip


def _over(r: Reader, node: fx.Node, x: fx.Node, dims: Any, keepdim: bool) -> Any:
    """The axes that an operation reduces, where the images come first; and the layout of what it leaves."""
    if r.layout(x) == FIRST:
        return dims
    given = list(range(r.rank(x))) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    if not keepdim:
        r.layouts[node] = r.layout(x).without(given, r.rank(x))
    return [r.axis(x, d) for d in given]


def _interpolate(r: Reader, node: fx.Node) -> Any:
    a, kind = arguments(node), aten.operation(node)
    _first(r, node, a["input"])
    mode = next(m for m in ("bilinear", "trilinear", "bicubic", "linear") if m in kind)
    return r.builder.interpolate(
        where(node), r.values[a["input"]], size=a["output_size"], scale_factor=a["scale_factors"], mode=mode,
        align_corners=bool(a["align_corners"]), antialias=kind.endswith("_aa"),
    )  # fmt: skip


# --- maxima ---------------------------------------------------------------------------------------------------------


def _max(r: Reader, node: fx.Node) -> Any:
    name, kind = where(node), aten.operation(node)
    x = r.values[node.args[0]]
    if kind in ("maximum", "minimum"):
        of_two = r.builder.maximum if kind == "maximum" else r.builder.minimum
        return of_two(name, x, r.values[node.args[1]])
    a = arguments(node)
    if kind in ("amax", "amin"):
        over = r.builder.amax if kind == "amax" else r.builder.amin
        dims = _over(r, node, a["self"], a["dim"], bool(a["keepdim"]))
        return over(name, x, dims, keepdim=bool(a["keepdim"]))
    _first(r, node, a["self"])
    if kind.startswith("adaptive"):
        return r.builder.adaptive_max_pool(name, x, a["output_size"])
    return r.builder.max_pool(
        name, x, a["kernel_size"], a["stride"], a["padding"], a["dilation"], ceil_mode=bool(a["ceil_mode"])
    )


# --- norms ----------------------------------------------------------------------------------------------------------


def _norm(r: Reader, node: fx.Node) -> Any:
    name, b = where(node), r.builder
    x = r.values[node.args[0]]
    if node.target is F.local_response_norm:
        size, alpha, beta, k = node.args[1:]
        _first(r, node, node.args[0])
        return b.local_response_norm(name, x, int(size), float(alpha), float(beta), float(k))
    if node.target is F.normalize:
        order, dims, eps = node.args[1:]
        return b.unit_length(name, x, _over(r, node, node.args[0], dims, True), float(order), float(eps))
    a, kind = arguments(node), aten.operation(node)
    gamma, beta = (None if a.get(k) is None else r.values[a[k]] for k in ("weight", "bias"))
    if kind in ("layer_norm", "rms_norm"):
        _inside(r, node, a["input"], len(a["normalized_shape"]))
        axes = tuple(range(-len(a["normalized_shape"]), 0))
        if kind == "layer_norm":
            return b.layer_norm(name, x, axes, gamma, beta, float(a["eps"]))
        return b.rms_norm(name, x, axes, gamma, torch.finfo(torch.float32).eps if a["eps"] is None else float(a["eps"]))
    _first(r, node, a["input"])
    if kind == "group_norm":
        return b.group_norm(name, x, int(a["num_groups"]), gamma, beta, float(a["eps"]))
    if a["running_mean"] is not None:  # which it uses in evaluation
        mean, variance = r.values[a["running_mean"]], r.values[a["running_var"]]
        return b.batch_norm(name, x, mean, variance, float(a["eps"]), gamma, beta)
    return b.instance_norm(name, x, gamma, beta, float(a["eps"]))


def _softmax(r: Reader, node: fx.Node) -> Any:
    a = arguments(node)
    return r.builder.softmax(where(node), r.values[a["self"]], r.axis(a["self"], int(a["dim"])))


def _mask(r: Reader, node: fx.Node) -> Any:
    x, dropped = node.args[:2]
    return r.builder.mask(where(node), r.values[x], r.constant(node, x, r.values[dropped]))


# --- moves ----------------------------------------------------------------------------------------------------------


def _function(r: Reader, node: fx.Node) -> Callable[[Tensor], Any]:
    """What a node does to its first argument, for two images."""
    rest, kwargs = _plain(r, node.args[1:]), _plain(r, node.kwargs)

    def move(x: Tensor) -> Any:
        def sized(v: Any) -> Any:
            return v.times * IMAGES if isinstance(v, Batch) else v

        return node.target(x, *map_aggregate(rest, sized), **map_aggregate(kwargs, sized))

    return move


def _move(r: Reader, node: fx.Node) -> Any:
    if aten.operation(node) in ("pad", "constant_pad_nd"):
        a = arguments(node)
        if a.get("mode", "constant") == "constant" and a["value"] not in (None, 0, 0.0):
            raise ConversionError(where(node), f"padding with {a['value']}", "pad with 0, and add a constant behind it")
    _check_batch(node)
    return _moved(r, node, r.values[node.args[0]], r.layout(node.args[0]), _function(r, node))


def _moved(r: Reader, node: fx.Node, x: Any, layout: Layout, function: Callable[[Tensor], Tensor]) -> Any:
    if not isinstance(x, Raw | Pending | Masked):
        x = r.builder.value(where(node), x)
    shape = x.seen if isinstance(x, Raw) else x.shape
    r.layouts[node], inside = laid_out(where(node), shape, layout, function)
    return r.builder.move(where(node), x, inside, IMAGES)


def _check_batch(node: fx.Node) -> None:
    """A slice of the batch, such as its first two images, which a batch of two does not show."""
    if node.target is _a.slice.Tensor:
        a = arguments(node)
        if a["dim"] == 0 and (a["start"] not in (None, 0) or a["step"] != 1 or (a["end"] or _ALL) < _ALL):
            raise ConversionError(where(node), "a part of the batch", "leave the axis of the images alone")


def _parts(r: Reader, node: fx.Node) -> Several:
    return Several(_function(r, node), r.values[node.args[0]], r.layout(node.args[0]))


def _item(r: Reader, node: fx.Node) -> Any:
    """One of several parts, or the values of a maximum, which come with their indices."""
    x, k = r.values[node.args[0]], node.args[1]
    return _moved(r, node, x.of, x.layout, lambda t: x.parts(t)[k]) if isinstance(x, Several) else x


def _join(r: Reader, node: fx.Node) -> Any:
    name, kind = where(node), aten.operation(node)
    operands = _plain(r, node.args[0])
    axis = {"hstack": 1, "vstack": 0}.get(kind)
    if axis is None:
        axis = int(arguments(node)["dim"])
    data = next(n for n, x in zip(node.args[0], operands, strict=True) if not isinstance(x, Tensor))
    layout, rank = r.layout(data), r.rank(data) + (kind == "stack")
    operands = [layout.constant(x, r.rank(data)).unsqueeze(0) if isinstance(x, Tensor) else x for x in operands]
    if kind == "stack":
        layout = replace(layout, axis=layout.axis + (axis % rank <= layout.axis))
        operands = [_wide(r, name, x, layout.dim(axis, rank)) for x in operands]
        r.layouts[node] = layout
    return r.builder.concatenate(name, operands, layout.dim(axis, rank), rank + layout.kept)


def _wide(r: Reader, name: str, x: Any, axis: int) -> Any:
    return x.unsqueeze(axis) if isinstance(x, Tensor) else r.builder.move(name, x, lambda t: t.unsqueeze(axis), IMAGES)


def _same(r: Reader, node: fx.Node) -> Any:
    if aten.operation(node) == "to":
        raise ConversionError(where(node), "a change of the numbers' type", "leave it to model.float() or double()")
    return r.values[node.args[0]]


# --- embeddings -----------------------------------------------------------------------------------------------------


def _embed(r: Reader, node: fx.Node) -> Embedded:
    rows, tokens = (r.values[n] for n in node.args[:2])
    if type(tokens) is not Raw or not isinstance(rows, Tensor):
        raise ConversionError(where(node), "an embedding of computed numbers", "embed an input as it is")
    return Embedded(rows, tokens.shape, tokens.name)


# --- sizes ----------------------------------------------------------------------------------------------------------


def _size(r: Reader, node: fx.Node) -> Any:
    if node.target is _a.sym_size.int:
        layout = r.layout(node.args[0])
        return Batch(layout.before * layout.after) if node.args[1] == layout.axis else None
    a, b = _plain(r, node.args)
    if isinstance(a, int):
        a, b = b, a
    if isinstance(a, Batch) and isinstance(b, int):
        if node.target is operator.mul:
            return Batch(a.times * b)
        if node.target is operator.floordiv and a.times % b == 0 and isinstance(_plain(r, node.args[0]), Batch):
            return Batch(a.times // b)
    return None


HANDLERS: dict[Kind, Callable[[Any, fx.Node], Any]] = {
    Kind.WEIGHTED: _weighted,
    Kind.BATCH_NORM: _batch_norm,
    Kind.RECTIFIER: _rectify,
    Kind.ACTIVATION: _activate,
    Kind.MOVE: _move,
    Kind.PARTS: _parts,
    Kind.IDENTITY: _same,
    Kind.MAX: _max,
    Kind.JOIN: _join,
    Kind.ADD: _add,
    Kind.MULTIPLY: _multiply,
    Kind.MATMUL: _matmul,
    Kind.POOL: _pool,
    Kind.INTERPOLATE: _interpolate,
    Kind.NORM: _norm,
    Kind.SOFTMAX: _softmax,
    Kind.EMBEDDING: _embed,
    Kind.MASK: _mask,
    Kind.SIZE: _size,
    Kind.IGNORED: lambda r, node: None,
}
BY_TARGET: dict[Any, Callable[[Any, fx.Node], Any]] = {operator.getitem: _item, _a.div.Tensor: _divide}
