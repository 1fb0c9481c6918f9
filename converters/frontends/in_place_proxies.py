"""Proxies for torch.fx that see ``z += a``, which its own take for ``z = z + a``, and item assignments."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.proxy import Attribute

__all__ = ["InPlaceTracer"]

_AUGMENTED = [
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "imatmul",
    "iand",
    "ior",
    "ixor",
    "ilshift",
    "irshift",
]


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: fx.Proxy, *args: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, *args), {})

    return method


class _Proxy(fx.Proxy):
    def __getattr__(self, k: str) -> Attribute:
        return _Attribute(self, k)


class _Attribute(Attribute):
    __getattr__ = _Proxy.__getattr__


for _kind in (_Proxy, _Attribute):
    for _name in _AUGMENTED:
        setattr(_kind, f"__{_name}__", _method(getattr(operator, _name)))
    _kind.__setitem__ = _method(operator.setitem)


class InPlaceTracer(fx.Tracer):
    """A tracer in whose graphs augmented and item assignments are nodes, as in-place operations are."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)
