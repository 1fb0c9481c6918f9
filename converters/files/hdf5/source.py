"""The bytes of a file, and what reading it may still cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

__all__ = ["MAX_PIECES", "UNDEFINED", "Cursor", "Refused", "Source"]

MAX_PIECES = 2**20
"""Links, messages, index entries, chunks and strings of one file, together, each of which takes some 4 µs; as many
again for each 100 MB of the file."""
UNDEFINED = 2**64 - 1
"""The address of what is not there."""
_BLOCK = 2**16
_PER_PIECE = 512  # bytes of structure that are read in the time that one piece takes


class Refused(Exception):
    """What was found in a file, and what to do; who catches it knows where.

    >>> str(Refused("a header that ends early"))
    'a header that ends early; the file is damaged: write it again'
    """

    def __init__(self, found: str, todo: str = "the file is damaged: write it again") -> None:
        super().__init__(f"{found}; {todo}")
        self.found, self.todo = found, todo


class Source:
    """An open file. Nothing outside of it can be read, and nothing twice for free.

    Parameters
    ----------
    file : binary file
    size : int
        Its bytes.
    max_bytes : int
        What its data may take in memory.

    >>> import io
    >>> source = Source(io.BytesIO(b"abcdef"), 6, max_bytes=100)
    >>> source.read(2, 3)
    b'cde'
    >>> source.read(2, 5)
    Traceback (most recent call last):
    converters.files.hdf5.source.Refused: 5 bytes at 2 in a file of 6; the file is damaged: write it again
    """

    def __init__(self, file: BinaryIO, size: int, max_bytes: int) -> None:
        self._file, self.size = file, size
        self.limit = self._left = max_bytes
        self._pieces = self.pieces = MAX_PIECES * (10**8 + size) // 10**8
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def take(self, count: int) -> None:
        """Ask for ``count`` bytes of memory, before they are allocated."""
        if count > self._left:
            asked = self.limit - self._left + count
            raise Refused(f"{asked} bytes of data", f"the limit is {self.limit} bytes; raise max_bytes if you trust it")
        self._left -= count

    def work(self, pieces: int = 1) -> None:
        """Ask for the time that so many pieces of structure take."""
        if pieces > self._pieces:
            raise Refused(f"more than {self.pieces} pieces of structure", "split the network, or write larger chunks")
        self._pieces -= pieces

    def check(self, at: int, count: int) -> None:
        """Refuse a place that is not in the file."""
        if at < 0 or count < 0 or at + count > self.size:
            raise Refused(f"{count} bytes at {at} in a file of {self.size}")

    def read(self, at: int, count: int) -> bytes:
        """Bytes of structure."""
        self.check(at, count)
        self.work(1 + count // _PER_PIECE)
        self._file.seek(at)
        data = self._file.read(count)
        if len(data) != count:
            raise Refused("a file that became shorter while it was read")
        return data

    def stream(self, at: int, count: int) -> Iterator[bytes]:
        """Bytes of data, block by block; whoever asks has taken what they become."""
        self.check(at, count)
        while count:
            self._file.seek(at)
            data = self._file.read(min(count, _BLOCK))
            if not data:
                raise Refused("a file that became shorter while it was read")
            yield data
            at, count = at + len(data), count - len(data)

    def fill(self, at: int, out: np.ndarray) -> None:
        """Read into all of ``out``, contiguous bytes."""
        done = 0
        for block in self.stream(at, len(out)):
            out[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)


class Cursor:
    """Numbers and bytes, one after the other, of bytes that were read.

    >>> cursor = Cursor(bytes([1, 2, 1, 7]))
    >>> cursor.number(1), cursor.number(2), cursor.rest()
    (1, 258, b'\\x07')
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def raw(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise Refused("a header that ends early")
        data, self.at = self._data[self.at : end], end
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "little")

    def numbers(self, size: int, count: int) -> tuple[int, ...]:
        return tuple(self.number(size) for _ in range(count))

    def rest(self) -> bytes:
        return self.raw(len(self._data) - self.at)
