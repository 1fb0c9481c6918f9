"""What the modules, functions and methods of PyTorch itself become, whatever the toolkit: exact matches only."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.counting_operations import COUNTING_FUNCTIONS, COUNTING_METHODS, COUNTING_MODULES
from converters.frontends.handlers import of_module, refuse
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "MODULES",
    "add",
    "concatenate",
    "constant",
    "moving_module",
    "of_module",
    "refuse",
    "same",
]


def _avg_pool(
    walker: Walker,
    node: fx.Node,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    return walker.builder.average_pool(
        where_is(node), input, kernel_size, stride, padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        divisor=divisor_override,
    )  # fmt: skip


def _adaptive_pool(walker: Walker, node: fx.Node, input: Any, output_size: Any) -> Any:
    return walker.builder.adaptive_pool(where_is(node), input, output_size)


def _mean(
    walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    axes = dim if dtype is None else None
    return walker.builder.mean(where_is(node), input, axes, keepdim=keepdim)


def _sum(
    walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    axes = dim if dtype is None else None
    return walker.builder.sum(where_is(node), input, axes, keepdim=keepdim)


def constant(x: Any) -> bool:
    """Whether an operand is a number or a tensor that does not depend on the input."""
    return isinstance(x, int | float | Tensor) and not isinstance(x, bool)


def add(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input + alpha * other``, of which one may be a constant."""
    where, builder = where_is(node), walker.builder
    if constant(other) and not constant(input):
        return builder.shift(where, input, alpha * other)
    if constant(input) and not constant(other):
        return builder.shift(where, other if alpha == 1 else builder.scale(where, other, alpha), input)
    return builder.add(where, (input, 1.0), (other, float(alpha)))


def _subtract(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    return add(walker, node, input, other, alpha=-alpha)


def _multiply(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
    """By a constant, or of two values."""
    where = where_is(node)
    if constant(other) and not constant(input):
        return walker.builder.scale(where, input, other)
    if constant(input) and not constant(other):
        return walker.builder.scale(where, other, input)
    return walker.builder.multiply(where, input, other)


def _divide(walker: Walker, node: fx.Node, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None or constant(input) or not constant(other):
        raise ConversionError(where_is(node), "a division by an activation, or one that rounds", "divide by constants")
    return walker.builder.scale(where_is(node), input, 1 / torch.as_tensor(other, dtype=torch.float64))


def _negate(walker: Walker, node: fx.Node, input: Any) -> Any:
    return walker.builder.scale(where_is(node), input, -1.0)


def concatenate(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Along any axis but the images'."""
    return walker.builder.concatenate(where_is(node), tensors, dim, len(walker.shape(node)))


def _stack(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    where, rank = where_is(node), len(walker.shape(node))
    wide = [walker.builder.move(where, x, lambda t: t.unsqueeze(dim % rank)) for x in tensors]
    return walker.builder.concatenate(where, wide, dim, rank)


def _move(walker: Walker, node: fx.Node, input: Any, *given: Any, **named: Any) -> Any:
    """Whatever takes each result from one place: PyTorch's own function, run on places."""
    target: Any = node.target
    function = getattr(Tensor, target) if isinstance(target, str) else target
    batch = walker.shape(node.all_input_nodes[0])[0]
    return walker.builder.move(where_is(node), input, lambda t: function(t, *given, **named), batch)


def _parts(walker: Walker, node: fx.Node, input: Any, *given: Any, **named: Any) -> list[Any]:
    """Several of these at once."""
    target: Any = node.target
    function = getattr(Tensor, target) if isinstance(target, str) else target
    shape = walker.shape(node.all_input_nodes[0])
    count = len(function(torch.empty(shape), *given, **named))

    def one(k: int) -> Any:
        return walker.builder.move(where_is(node), input, lambda t: function(t, *given, **named)[k], shape[0])

    return [one(k) for k in range(count)]


def _item(walker: Walker, node: fx.Node, input: Any, key: Any) -> Any:
    """A part of a list, or a slice of an activation."""
    return input[key] if isinstance(input, list | tuple | Tensor) else _move(walker, node, input, key)


def moving_module(walker: Walker, node: fx.Node, module: nn.Module, x: Any) -> Any:
    """A module that only moves values, run on places."""
    return walker.builder.move(where_is(node), x, module, walker.shape(node.all_input_nodes[0])[0])


def _interpolate(
    walker: Walker,
    node: fx.Node,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    return walker.builder.interpolate(
        where_is(node), input, size, mode, align_corners, scale_factor=scale_factor,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip


def _reshape(walker: Walker, node: fx.Node, input: Any, *_: Any, **__: Any) -> Any:
    """Whatever it is called."""
    before, after = walker.shape(node.all_input_nodes[0]), walker.shape(node)
    return walker.builder.reshape(where_is(node), input, before, after)


def same(walker: Walker, node: fx.Node, input: Any, *_: Any, **__: Any) -> Any:
    return input


def _dropout(walker: Walker, node: fx.Node, input: Any, p: float = 0.5, *given: Any, **named: Any) -> Any:
    """Nothing, if it is switched off."""
    on_by_default = node.target in _DROPOUTS
    training = named.get("training", named.get("train", given[0] if given else on_by_default))
    if training and p:
        raise ConversionError(
            where_is(node), "a dropout that stays on in eval mode", "give it training=self.training, or use nn.Dropout"
        )
    return input


_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def _relu(walker: Walker, node: fx.Node, input: Any, inplace: bool = False) -> Any:
    return walker.builder.rectify(where_is(node), input)


def _relu6(walker: Walker, node: fx.Node, input: Any, inplace: bool = False) -> Any:
    return walker.builder.rectify(where_is(node), input, 6.0)


_LOG_SOFTMAX = refuse("a log-softmax", "leave it out of the model: the arg-max is the same")
_MOVING_MODULES = (
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ReflectionPad1d,
    nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
    nn.Unfold,
)  # fmt: skip
_MOVING = (
    F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle, F.unfold, torch.permute, torch.transpose,
    torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis, torch.flip, torch.roll, torch.rot90, torch.narrow,
    torch.select, torch.tile, torch.repeat_interleave, torch.broadcast_to, torch.index_select,
)  # fmt: skip
_PARTS = (torch.chunk, torch.split, torch.unbind, torch.tensor_split)
_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


MODULES: dict[type, Handler] = {
    nn.ReLU: of_module(_relu),
    nn.ReLU6: of_module(_relu6),
    nn.AvgPool1d: of_module(_avg_pool, *_POOL[:-1]),
    **dict.fromkeys((nn.AvgPool2d, nn.AvgPool3d), of_module(_avg_pool, *_POOL)),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), of_module(_adaptive_pool, "output_size")
    ),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        of_module(_interpolate, "size", "scale_factor", "mode", "align_corners"),
    ),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), of_module(_reshape)),
    **dict.fromkeys(_MOVING_MODULES, moving_module),
    nn.Identity: of_module(same),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), of_module(same)
    ),
    **COUNTING_MODULES,
    nn.LogSoftmax: _LOG_SOFTMAX,
}

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), _relu),
    F.relu6: _relu6,
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), _avg_pool),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), _adaptive_pool),
    F.interpolate: _interpolate,
    torch.mean: _mean,
    torch.sum: _sum,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), _multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide), _divide),
    **dict.fromkeys((operator.neg, torch.neg, torch.negative), _negate),
    operator.getitem: _item,
    torch.stack: _stack,
    **dict.fromkeys(_MOVING, _move),
    **dict.fromkeys(_PARTS, _parts),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _subtract),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), concatenate),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten), _reshape),
    **dict.fromkeys((*_DROPOUTS, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.clone, torch.detach), same),
    **COUNTING_FUNCTIONS,
    **dict.fromkeys((F.log_softmax, torch.log_softmax), _LOG_SOFTMAX),
}

METHODS: dict[str, Handler] = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("add", "add_"), add),
    **dict.fromkeys(("sub", "sub_"), _subtract),
    **dict.fromkeys(("mul", "mul_", "multiply"), _multiply),
    **dict.fromkeys(("div", "div_", "divide", "true_divide"), _divide),
    **dict.fromkeys(("neg", "negative"), _negate),
    "mean": _mean,
    "sum": _sum,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"), _reshape),
    **dict.fromkeys({f.__name__ for f in _MOVING if hasattr(Tensor, f.__name__)} | {"expand", "repeat"}, _move),
    **dict.fromkeys((f.__name__ for f in _PARTS), _parts),
    **dict.fromkeys(("contiguous", "clone", "detach"), same),
    **COUNTING_METHODS,
}
