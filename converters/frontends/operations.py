"""What the modules, functions and methods of PyTorch itself become, whatever the toolkit: exact matches only."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from converters.errors import ConversionError
from converters.frontends import moving_operations, norm_operations, pointwise_operations, pooling_operations
from converters.frontends.handlers import constant, of_module, refuse, same
from converters.frontends.moving_operations import concatenate
from converters.frontends.pointwise_operations import activate
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "add", "concatenate", "of_module", "refuse", "same"]


def add(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input + alpha * other``; a constant becomes bias."""
    where, (a, b) = where_is(node), (constant(input), constant(other))
    if b is not None:
        return walker.builder.shift(where, input, b * alpha)
    if a is not None:
        scaled = other if alpha == 1 else walker.builder.scale(where, other, float(alpha))
        return walker.builder.shift(where, scaled, a)
    return walker.builder.add(where, (input, 1.0), (other, float(alpha)))


def _subtract(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    return add(walker, node, input, other, alpha=-alpha)


def _from(walker: Walker, node: fx.Node, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``torch.rsub``: ``other - alpha * input``."""
    return add(walker, node, other, input, alpha=-alpha)


def _multiply(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
    """A product, a square, or a constant factor."""
    if input is other:
        return activate(walker, node, "square", input)
    for x, factor in ((input, constant(other)), (other, constant(input))):
        if factor is not None:
            return walker.builder.scale(where_is(node), x, factor)
    return walker.builder.multiply(where_is(node), input, other)


def _matmul(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
    if constant(input) is not None or constant(other) is not None:
        raise ConversionError(where_is(node), "a matrix product with a constant", "use nn.Linear")
    return walker.builder.matmul(where_is(node), input, other)


def _divide(walker: Walker, node: fx.Node, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    by = constant(other)
    if by is None or rounding_mode is not None:
        raise ConversionError(where_is(node), "a division by an activation", "multiply by a constant")
    inverse = 1.0 / (float(by) if isinstance(by, int | float) else by.double())
    return walker.builder.scale(where_is(node), input, inverse)


def _negative(walker: Walker, node: fx.Node, input: Any) -> Any:
    return walker.builder.scale(where_is(node), input, -1.0)


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

MODULES: dict[type, Handler] = {
    nn.Identity: of_module(same),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), of_module(same)
    ),
    **pointwise_operations.MODULES,
    **pooling_operations.MODULES,
    **moving_operations.MODULES,
    **norm_operations.MODULES,
}

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract), _subtract),
    torch.rsub: _from,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), _multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide), _divide),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm), _matmul),
    **dict.fromkeys((operator.neg, torch.neg, torch.negative), _negative),
    **dict.fromkeys((*_DROPOUTS, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout), _dropout),
    **dict.fromkeys((torch.clone, torch.detach), same),
    **pointwise_operations.FUNCTIONS,
    **pooling_operations.FUNCTIONS,
    **moving_operations.FUNCTIONS,
    **norm_operations.FUNCTIONS,
}

METHODS: dict[str, Handler] = {
    **dict.fromkeys(("add", "add_"), add),
    **dict.fromkeys(("sub", "sub_", "subtract"), _subtract),
    **dict.fromkeys(("mul", "mul_", "multiply"), _multiply),
    **dict.fromkeys(("div", "div_", "divide", "true_divide"), _divide),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    **dict.fromkeys(("neg", "negative"), _negative),
    **dict.fromkeys(("contiguous", "clone", "detach"), same),
    **pointwise_operations.METHODS,
    **pooling_operations.METHODS,
    **moving_operations.METHODS,
    **norm_operations.METHODS,
}
