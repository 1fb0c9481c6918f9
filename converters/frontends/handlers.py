"""How tables of handlers are made of others."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["of_module", "refuse"]


def refuse(found: str, todo: str) -> Handler:
    def handler(walker: Walker, node: fx.Node, *_: Any, **__: Any) -> Any:
        raise ConversionError(where_is(node), found, todo)

    return handler


def of_module(function: Handler, *names: str) -> Handler:
    """A module as the function that it calls, with its attributes as arguments."""

    def handler(walker: Walker, node: fx.Node, module: nn.Module, x: Any) -> Any:
        return function(walker, node, x, **{name: getattr(module, name) for name in names})

    return handler
