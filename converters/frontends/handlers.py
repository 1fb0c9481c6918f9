"""Handlers that are made of others: a module read as a function, a value left alone, a refusal."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Weight
from converters.frontends.walker import Handler, Walker

__all__ = ["constant", "last", "of_module", "refuse", "same"]


def same(walker: Walker, node: fx.Node, input: Any, *_: Any, **__: Any) -> Any:
    return input


def refuse(found: str, todo: str) -> Handler:
    def handler(walker: Walker, node: fx.Node, *_: Any, **__: Any) -> Any:
        raise ConversionError(where_is(node), found, todo)

    return handler


def of_module(function: Handler, *names: str) -> Handler:
    """A module as the function that it calls, with its attributes as arguments."""

    def handler(walker: Walker, node: fx.Node, module: nn.Module, x: Any) -> Any:
        return function(walker, node, x, **{name: getattr(module, name) for name in names})

    return handler


def constant(x: Any) -> Tensor | float | None:
    """A number, or a tensor that is no activation, perhaps rounded by a quantiser; None if it is none."""
    if isinstance(x, bool) or not isinstance(x, int | float | Tensor | Weight):
        return None
    if isinstance(x, Weight):
        return x.integers.double() * x.scale.reshape(-1, *[1] * (x.integers.ndim - 1))
    return x


def last(node: fx.Node) -> bool:
    """Whether only the output stands behind a node: a function there runs in float, on what the network returns."""
    return all(user.op == "output" for user in node.users)
