"""Files that are read: regular ones, of a size that was looked at, and JSON whose numbers and depth have bounds.

Whatever takes a path from a user or from another file opens it here. A pipe would be waited for, a device never ends.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from converters.errors import FileFormatError

__all__ = ["open_regular", "parse_json", "read_bytes", "read_text"]

_CHECK = "check the path"
_LARGEST_INTEGER = 2**63
# without waiting, should a pipe have taken the file's place since it was looked at
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike, *, max_bytes: int | None = None, todo: str = _CHECK) -> BinaryIO:
    """Open a regular file for reading bytes; links are followed.

    Parameters
    ----------
    path : str or path
    max_bytes : int, optional
        Refuse a larger file, before any of it is read.
    todo : str
        What to do about a path that has no such file.

    Raises
    ------
    FileFormatError
        If there is no such file, it is a folder, a pipe, a socket or a device, it may not be read, or it is too large.

    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
    converters.errors.FileFormatError: /dev/zero: found something that is not a regular file; check the path
    """
    where = str(path)
    with _one_line(where, todo):
        found = os.stat(path)  # before it is opened: to open a tape rewinds it
    _check(where, found, max_bytes, todo)
    with _one_line(where, todo):
        descriptor = os.open(path, _FLAGS)
    try:
        _check(where, os.fstat(descriptor), max_bytes, todo)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def _one_line(where: str, todo: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        raise FileFormatError(where, "no such file", todo) from None
    except OSError as error:
        raise FileFormatError(where, f"that it cannot be read ({error.strerror or error})", todo) from None


def _check(where: str, info: os.stat_result, max_bytes: int | None, todo: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise FileFormatError(where, "a folder", todo)
    if not stat.S_ISREG(info.st_mode):
        raise FileFormatError(where, "something that is not a regular file", todo)
    if max_bytes is not None and info.st_size > max_bytes:
        raise FileFormatError(where, f"{info.st_size:,} bytes", f"at most {max_bytes:,} are read")


def read_bytes(path: str | os.PathLike, *, max_bytes: int, todo: str = _CHECK) -> bytes:
    """All of a regular file of at most ``max_bytes``; see :func:`open_regular`."""
    with open_regular(path, max_bytes=max_bytes, todo=todo) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)  # that much room is made
    if len(data) > size:
        raise FileFormatError(str(path), "a file that grows while it is read", "wait until it is written")
    return data


def read_text(path: str | os.PathLike, *, max_bytes: int, todo: str = _CHECK) -> str:
    """All of a regular UTF-8 file of at most ``max_bytes``; see :func:`open_regular`."""
    data = read_bytes(path, max_bytes=max_bytes, todo=todo)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(str(path), f"bytes that are no UTF-8 text ({error.reason})", todo) from None


def parse_json(where: str | Path, text: str | bytes, todo: str, *, finite: bool = True) -> Any:
    """JSON of a stranger: finite numbers, integers of 64 bits, text that can be encoded, and not too deep.

    ``finite=False`` leaves NaN and Infinity to the caller, who can say which entry it is.

    Raises
    ------
    FileFormatError
        If it is anything else.

    >>> parse_json("notes", '{"levels": 8}', "")
    {'levels': 8}
    >>> parse_json("notes", "[1e400]", "train again")
    Traceback (most recent call last):
    converters.errors.FileFormatError: notes: found no JSON (the number 1e400); train again
    """
    try:
        constant = _constant if finite else float
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=constant)
        if "\\u" in (text if isinstance(text, str) else text.decode("utf-8", "replace")):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair has no bytes
    except RecursionError:
        reason = "nested too deeply"
    except UnicodeError:
        reason = "text that cannot be encoded"
    except ValueError as error:
        reason = str(error)
    else:
        return value
    raise FileFormatError(str(where), f"no JSON ({reason})", todo)


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else _LARGEST_INTEGER
    if not -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
        raise ValueError(f"the number {_short(text)}")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {_short(text)}")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"the number {text}")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}... of {len(text)} characters"
