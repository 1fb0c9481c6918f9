"""Errors that say where, what was found and what to do."""

from __future__ import annotations

import warnings

from converters.console.printing import printable

__all__ = ["ConversionError", "ConversionWarning", "FileFormatError", "MissingExtraError", "first_line", "warn"]


_LONGEST = 500


class ConversionError(ValueError):
    """A network, graph or input that cannot be converted or run exactly.

    Parameters
    ----------
    where : str
        Module path, node name or file.
    found : str
        What was found there.
    todo : str
        The way out.

    >>> print(ConversionError("head.rnn", "an LSTM", "unroll it"))
    head.rnn: found an LSTM; unroll it
    """

    def __init__(self, where: str, found: str, todo: str) -> None:
        found = " ".join(str(found).split())  # one line, whatever the file said
        if len(found) > 400:
            found = f"{found[:400]}..."
        place = where if len(where) <= _LONGEST else f"{where[:_LONGEST]}..."  # a file may give it any name
        super().__init__(printable(f"{place}: found {found}; {todo}"))
        self.where, self.found, self.todo = where, found, todo

    def __reduce__(self) -> tuple:  # so that it survives worker processes
        return type(self), (self.where, self.found, self.todo)


class FileFormatError(ConversionError):
    """A file that is missing, truncated, damaged or not of the expected kind."""


class MissingExtraError(ConversionError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        detail = f" ({reason})" if reason else ""
        super().__init__(
            package, f"that it is not installed{detail}", f'install it: pip install "calif-plugins[{extra}]"'
        )
        self.args_ = (package, extra, reason)

    def __reduce__(self) -> tuple:
        return type(self), self.args_


class ConversionWarning(UserWarning):
    """Something that converts and runs as it stands, and is rarely meant so; see :func:`warn`."""


def warn(where: str, found: str, todo: str) -> None:
    """Give a :class:`ConversionWarning` of one line: where, what was found, what to do.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("input", "an image of zeros", "give real images")
    >>> print(caught[0].message)
    input: found an image of zeros; give real images
    """
    warnings.warn(printable(f"{where}: found {found}; {todo}"), ConversionWarning, stacklevel=2)


def first_line(error: Exception) -> str:
    """Of its message, the first line that is not empty; its kind, if there is none.

    >>> first_line(ValueError("\\n  shapes\\n  differ")), first_line(KeyError())
    ('shapes', 'KeyError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
