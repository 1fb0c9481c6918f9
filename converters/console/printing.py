"""What is printed: foreign text shows what it holds and does nothing else, and JSON is JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["STANDARD_OUTPUT", "json_text", "printable", "standard_output"]

STANDARD_OUTPUT = "standard output"


@contextmanager
def standard_output() -> Iterator[None]:
    """For a block that writes there: an ``OSError`` of a full disk or a reader that went away names it as its file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def printable(text: str) -> str:
    """The text with what does not print written as an escape.

    Control characters (ESC would move the cursor, recolour or retitle the terminal), line ends, marks that turn the
    direction of writing, and halves of surrogate pairs, which stand for the bytes of a file's name that are no text.

    >>> printable("a[/red].nir"), printable("\\x1b[2Jb\\n"), printable("\\udcff\\u202e.nir")
    ('a[/red].nir', '\\\\x1b[2Jb\\\\n', '\\\\udcff\\\\u202e.nir')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: what is no finite number is null.

    >>> json_text({"accuracy": float("nan"), "T": 8})
    '{"accuracy": null, "T": 8}'
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(finite, indent=indent, allow_nan=False)
