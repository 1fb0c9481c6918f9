"""What was typed and when: for pages and files that say how they were made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["command_line", "remember", "today"]

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


def remember(arguments: Sequence[str]) -> None:
    """The arguments that the command line was given, for :func:`command_line`."""
    _ARGUMENTS.set(tuple(arguments))


def command_line() -> str:
    """The command and its arguments, as a shell takes them.

    >>> remember(["run", "my net.nir"])
    >>> command_line()
    "calif run 'my net.nir'"
    """
    return shlex.join(["calif", *_ARGUMENTS.get()])


def today() -> str:
    """Date and time, in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
