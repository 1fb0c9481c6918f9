"""What the modules, functions and methods of PyTorch itself become, whatever the toolkit: exact matches only."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "add", "concatenate", "of_module", "refuse", "same"]


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


def add(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input + alpha * other``."""
    return walker.builder.add(where_is(node), (input, 1.0), (other, float(alpha)))


def _subtract(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    return add(walker, node, input, other, alpha=-alpha)


def concatenate(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Along channels."""
    return walker.builder.concatenate(where_is(node), tensors, dim, len(walker.shape(node)))


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


def refuse(found: str, todo: str) -> Handler:
    def handler(walker: Walker, node: fx.Node, *_: Any, **__: Any) -> Any:
        raise ConversionError(where_is(node), found, todo)

    return handler


def of_module(function: Handler, *names: str) -> Handler:
    """A module as the function that it calls, with its attributes as arguments."""

    def handler(walker: Walker, node: fx.Node, module: nn.Module, x: Any) -> Any:
        return function(walker, node, x, **{name: getattr(module, name) for name in names})

    return handler


_MAX_POOL = refuse("a max pool", "use an average pool (nn.AvgPool2d) or a strided convolution")
_SOFTMAX = refuse("a softmax", "leave it out of the model: the arg-max is the same")
_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


MODULES: dict[type, Handler] = {
    nn.ReLU: of_module(_relu),
    nn.ReLU6: of_module(_relu6),
    nn.AvgPool2d: of_module(_avg_pool, *_POOL),
    nn.AdaptiveAvgPool2d: of_module(_adaptive_pool, "output_size"),
    nn.Flatten: of_module(_reshape),
    nn.Identity: of_module(same),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), of_module(same)
    ),
    **dict.fromkeys((nn.MaxPool2d, nn.AdaptiveMaxPool2d), _MAX_POOL),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), _SOFTMAX),
}

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), _relu),
    F.relu6: _relu6,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
    torch.mean: _mean,
    **dict.fromkeys((operator.add, operator.iadd, torch.add), add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _subtract),
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze), _reshape),
    **dict.fromkeys((*_DROPOUTS, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.clone, torch.detach), same),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d), _MAX_POOL),
    **dict.fromkeys((F.softmax, F.log_softmax, torch.softmax, torch.log_softmax), _SOFTMAX),
}

METHODS: dict[str, Handler] = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("add", "add_"), add),
    **dict.fromkeys(("sub", "sub_"), _subtract),
    "mean": _mean,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze"), _reshape),
    **dict.fromkeys(("contiguous", "clone", "detach"), same),
}
