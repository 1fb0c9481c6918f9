"""What the modules, functions and methods of PyTorch itself become, whatever the toolkit: exact matches only."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.walker import Grid, Handler, Pending, Raw, Walker
from converters.frontends.weighted import pair
from converters.operations import SumPool2d
from converters.quantised import Value, average_pool

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "add", "concatenate", "of_module", "refuse", "same"]


# --- pools ----------------------------------------------------------------------------------------


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
) -> Pending:
    kernel, pad, name = pair(kernel_size), pair(padding), where_is(node)
    steps = kernel if stride is None or stride == [] else pair(stride)
    if ceil_mode:
        raise ConversionError(name, "an average pool with ceil_mode", "pad the image instead")
    if not count_include_pad and any(pad):
        raise ConversionError(name, "an average pool with count_include_pad=False", "count the padding")
    if divisor_override not in (None, kernel[0] * kernel[1]):
        raise ConversionError(name, f"an average pool with divisor_override={divisor_override}", "leave it out")
    value = walker.value(node, input)

    def emit(name: str, grid: Grid) -> Value:
        return average_pool(
            walker.builder,
            name,
            value,
            kernel,
            steps,
            pad,
            scale=grid.scale,
            y_min=grid.y_min,
            y_max=grid.y_max,
        )

    def readout() -> Value:
        return walker.builder.layer(
            name,
            [(value, SumPool2d(kernel, steps, pad))],
            threshold=kernel[0] * kernel[1] / value.scale,
            y_min=0,
            y_max=0,
            scale=1.0,
            spiking=False,
        )

    return Pending(name, emit, readout)


def _adaptive_pool(walker: Walker, node: fx.Node, input: Any, output_size: Any) -> Pending:
    value = walker.value(node, input)
    if value.flat or len(value.shape) != 3:
        raise ConversionError(where_is(node), f"a pool of shape {value.shape}", "it needs channels, height and width")
    size = value.shape[1:]
    wanted = pair(output_size)
    target = tuple(s if w is None else w for s, w in zip(size, wanted, strict=True))
    if any(s % t for s, t in zip(size, target, strict=True)):
        raise ConversionError(
            where_is(node),
            f"an adaptive pool from {size} to {target}",
            "let the input be a multiple of the output",
        )
    return _avg_pool(walker, node, value, (size[0] // target[0], size[1] // target[1]))


def _mean(
    walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Pending:
    rank = len(walker.shape(node)) + (0 if keepdim else 2)
    dims = sorted(d % rank for d in dim) if isinstance(dim, tuple | list) else None
    if rank != 4 or dims != [2, 3] or dtype is not None:
        raise ConversionError(where_is(node), f"a mean over {dim}", "average over height and width: dim=(2, 3)")
    pooled = _adaptive_pool(walker, node, input, 1)
    return pooled if keepdim else _flatten(walker, node, pooled)


# --- additions, concatenation, shape ----------------------------------------------------------------


def add(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Pending:
    """``input + alpha * other``."""
    name = where_is(node)
    a, b = walker.values(node, input, other)
    if a.shape != b.shape:
        raise ConversionError(name, f"an addition of shapes {a.shape} and {b.shape}", "add equal shapes")
    terms = [(a, 1.0), (b, float(alpha))]
    return Pending(name, lambda name, grid: walker.requantise(name, terms, grid))


def _subtract(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Pending:
    return add(walker, node, input, other, alpha=-alpha)


def concatenate(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    name = where_is(node)
    if dim % len(walker.shape(node)) != 1:
        raise ConversionError(name, f"a concatenation along axis {dim}", "concatenate channels: dim=1")
    values = walker.values(node, *tensors)
    if len({v.scale for v in values}) == 1:
        return walker.builder.concat(name, values)

    def emit(name: str, grid: Grid) -> Value:
        parts = [
            v if walker.on_grid(v, grid) else walker.requantise(f"{name}_{k}", [(v, 1.0)], grid)
            for k, v in enumerate(values)
        ]
        return walker.builder.concat(name, parts)

    return Pending(name, emit)


def _flatten(walker: Walker, node: fx.Node, input: Any, start_dim: int = 1, end_dim: int = -1) -> Any:
    return _reshape(walker, node, input)


def _reshape(walker: Walker, node: fx.Node, input: Any, *_: Any, **__: Any) -> Any:
    """Whatever it is called: it must keep the batch, and flatten the rest, or put it back, or leave it alone."""
    before, after = walker.shape(node.all_input_nodes[0]), walker.shape(node)
    if before == after:
        return input
    x = input if type(input) in (Raw, Pending) else walker.value(node, input)
    if before[0] == after[0] and len(after) == 2:
        if type(x) is Value:
            return walker.builder.flatten(x)
        return replace(x, flat=True, **({"shape": before[1:]} if type(x) is Pending and not x.flat else {}))
    if before[0] == after[0] and x.flat:
        plain = x.unflattened if type(x) is Value else replace(x, flat=False)
        if plain is not None and plain.shape == after[1:]:
            return plain
    raise ConversionError(where_is(node), f"a change of shape from {before} to {after}", "only flatten images")


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
    return walker.clamp(node, input)


def _relu6(walker: Walker, node: fx.Node, input: Any, inplace: bool = False) -> Any:
    return walker.clamp(node, input, 6.0)


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
