"""Faults for the length of a test: functions that are called with other arguments, or give another result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["Patch", "argument", "handler", "keywords", "result", "wrap"]

Patch = Callable[[pytest.MonkeyPatch], None]


def wrap(home: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """``home.name`` becomes what ``change`` makes of it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(home, name, change(getattr(home, name)))

    return patch


def handler(table: dict[Any, Any], key: Any, other: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setitem(table, key, other)


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
