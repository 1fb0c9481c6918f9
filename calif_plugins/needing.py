"""Optional packages: whoever lacks one is told the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needing"]


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """For a block with imports in it.

    >>> with needing("plot"):
    ...     raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    Traceback (most recent call last):
    ModuleNotFoundError: matplotlib: found that it is not installed; install it: pip install "calif-plugins[plot]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        todo = f'install it: pip install "calif-plugins[{extra}]"'
        raise ModuleNotFoundError(f"{error.name}: found that it is not installed; {todo}", name=error.name) from None
