"""Faults for the length of a test: functions that are called with other arguments, or give another result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from torch import Tensor

from converters.quantised import QuantGraph

__all__ = ["Patch", "argument", "differ", "keywords", "result", "wrap"]

Patch = Callable[[pytest.MonkeyPatch], None]


def wrap(home: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """``home.name`` becomes what ``change`` makes of it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(home, name, change(getattr(home, name)))

    return patch


def argument(home: Any, name: str, change: Callable[..., tuple[Any, ...]]) -> Patch:
    """A function that is called with other arguments."""
    return wrap(home, name, lambda f: lambda *args, **kwargs: f(*change(*args), **kwargs))


def result(home: Any, name: str, change: Callable[[Any], Any]) -> Patch:
    """A function whose result is another one."""
    return wrap(home, name, lambda f: lambda *args, **kwargs: change(f(*args, **kwargs)))


def keywords(home: Any, name: str, **change: Callable[[Any], Any]) -> Patch:
    def planted(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: f(*args, **kwargs | {k: c(kwargs[k]) for k, c in change.items() if k in kwargs})

    return wrap(home, name, planted)


def differ(one: QuantGraph, other: QuantGraph) -> bool:
    """Whether two graphs are unlike in shapes, integers, scales or topology."""
    return _said(one.input) != _said(other.input) or _said(one.layers) != _said(other.layers)


def _said(x: Any) -> Any:
    if isinstance(x, Tensor):
        return tuple(x.shape), x.double().flatten().tolist()
    if isinstance(x, tuple):
        return tuple(_said(part) for part in x)
    return (type(x), {f.name: _said(getattr(x, f.name)) for f in fields(x)}) if is_dataclass(x) else x
