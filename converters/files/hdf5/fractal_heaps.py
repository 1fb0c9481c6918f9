"""Fractal heaps (section III.G), where groups of more than eight members keep their links."""

from __future__ import annotations

from collections.abc import Iterator

from converters.files.hdf5.source import UNDEFINED, Cursor, Refused, Source
from converters.files.hdf5.trees import records

__all__ = ["dense"]

_NAMES, _RECORD = 5, 11  # type and size of records in an index of link names: a hash, and the place in the heap


def dense(source: Source, heap: int, names: int) -> Iterator[bytes]:
    """The link messages that a heap holds, found by their index of names."""
    blocks = _Heap(source, heap)
    for record in records(source, names, kind=_NAMES, size=_RECORD):
        yield blocks.get(record[4:])


class _Heap:
    """Objects in blocks whose sizes double from row to row, ``width`` blocks in a row; the first two rows are equal.

    Places count from the heap's beginning, and include the blocks' own headers.
    """

    def __init__(self, source: Source, address: int) -> None:
        self.source = source
        head = Cursor(source.read(address, 142))
        if head.raw(5) != b"FRHP\x00":
            raise Refused(f"no heap of links at {address}")
        _, filters = head.number(2), head.number(2)
        if filters:
            raise Refused("compressed links", "write them without a filter")
        head.raw(1)
        largest = head.number(4)
        head.raw(96)  # counts and free space
        self.width = head.number(2)
        self.start, self.direct = head.numbers(8, 2)
        bits = head.number(2)
        head.raw(2)
        self.root, self.rows = head.number(8), head.number(2)
        if not (self.width and _power(self.width) and _power(self.start) and _power(self.direct)) or bits > 64:
            raise Refused("a heap of links whose blocks are no powers of two")
        if not self.start <= self.direct <= 2**32:
            raise Refused("a heap of links whose first block is its largest")
        self.place_bytes = -(-bits // 8)
        self.length_bytes = min(-(-(self.direct.bit_length() - 1) // 8), -(-largest.bit_length() // 8))

    def get(self, identifier: bytes) -> bytes:
        part = Cursor(identifier)
        if part.number(1) & 0xF0:  # version 0, and managed: neither huge nor tiny
            raise Refused("a link that is not in its heap")
        place, length = part.number(self.place_bytes), part.number(self.length_bytes)
        block, offset, size = self._block(place)
        if block == UNDEFINED or offset + length > size:
            raise Refused(f"a link at {place} that its heap does not hold")
        if self.source.read(block, 5) != b"FHDB\x00":
            raise Refused(f"no part of a heap at {block}")
        return self.source.read(block + offset, length)

    def _block(self, place: int) -> tuple[int, int, int]:
        """Address and size of the direct block that holds ``place``, and the rest of the place."""
        at, rows, size = self.root, self.rows, self.start
        while rows:  # an indirect block: each is smaller than the one before
            row, rest = 0, place
            size = self.start
            while row < rows and rest >= size * self.width:
                rest -= size * self.width
                row += 1
                size = self.start << (row - 1)
            if row == rows or at == UNDEFINED:
                raise Refused(f"a link at {place} that its heap does not hold")
            column, place = divmod(rest, size)
            head = self.source.read(at, 13)
            if head[:5] != b"FHIB\x00":
                raise Refused(f"no part of a heap at {at}")
            entry = at + 13 + self.place_bytes + 8 * (row * self.width + column)
            at = int.from_bytes(self.source.read(entry, 8), "little")
            below = (size // (self.start * self.width)).bit_length() if size > self.direct else 0
            if size > self.direct and not 0 < below < rows:
                raise Refused("a heap of links that does not become smaller")
            rows = below
        return at, place, size


def _power(number: int) -> bool:
    return number > 0 and not number & (number - 1)
