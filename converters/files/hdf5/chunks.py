"""Where the chunks of a data set are: its layout (section IV.A.2.i) and the indices of chunks (III.A.1, VII)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from converters.files.hdf5.source import UNDEFINED, Cursor, Refused, Source
from converters.files.hdf5.trees import leaves

__all__ = ["Chunk", "Chunked", "Layout", "layout"]

_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = range(4)
_TREE, _SINGLE, _FIXED_ARRAY = 0, 1, 3  # the first is of earlier versions, and has no number there


_GROWING, _FIXED = "chunks of a data set that can grow", "write it with a fixed shape"


class Chunk(NamedTuple):
    place: tuple[int, ...]
    """Its first element, in every axis."""
    address: int
    stored: int
    """Bytes in the file."""
    mask: int


@dataclass(frozen=True)
class Layout:
    """All elements in a row: ``data`` itself, or ``size`` bytes at ``address``."""

    address: int
    size: int
    data: bytes | None = None


@dataclass(frozen=True)
class Chunked:
    """Chunks of ``shape``, in elements; ``width`` is the bytes of one."""

    shape: tuple[int, ...]
    width: int
    index: int
    address: int
    single: tuple[int, int] | None = None  # stored bytes and mask of the only chunk
    whole_edges: bool = True

    def chunks(self, source: Source, grid: tuple[int, ...], filtered: bool, size: int) -> Iterator[Chunk]:
        """All that the index lists, of a data set of ``grid`` chunks of ``size`` bytes each."""
        if self.address == UNDEFINED:
            return
        if self.index == _TREE:
            axes = len(self.shape)
            for key, address in leaves(source, self.address, kind=1, key=8 + 8 * (axes + 1)):
                part = Cursor(key)
                stored, mask = part.numbers(4, 2)
                yield Chunk(part.numbers(8, axes), address, stored, mask)
        elif self.index == _SINGLE:
            stored, mask = self.single or (size, 0)
            yield Chunk((0,) * len(self.shape), self.address, stored, mask)
        else:
            places = itertools.product(*(range(0, n * step, step) for n, step in zip(grid, self.shape, strict=True)))
            entries = _fixed_array(source, self.address, filtered, math.prod(grid))
            for place, (address, stored, mask) in zip(places, entries, strict=True):
                yield Chunk(place, address, stored if filtered else size, mask)


def layout(body: bytes, axes: int) -> Layout | Chunked:
    """The layout of a data set of so many axes."""
    message = Cursor(body)
    version = message.number(1)
    if version in (1, 2):
        return _early(message, axes)
    kind = message.number(1)
    if version not in (3, 4, 5):
        raise Refused(f"a layout of version {version}", "write it with h5py's own settings")
    if kind == _VIRTUAL:
        raise Refused("data stored outside of the file", "copy the data into the file")
    if kind == _COMPACT:
        data = message.raw(message.number(2))
        return Layout(0, len(data), data)
    if kind == _CONTIGUOUS:
        address, size = message.numbers(8, 2)
        return Layout(address, size)
    if kind != _CHUNKED:
        raise Refused(f"a layout of class {kind}")
    if version == 3:
        rank, address = message.number(1), message.number(8)
        return _chunked(message.numbers(4, rank), axes, _TREE, address)
    flags, rank, width = message.numbers(1, 3)
    dims = message.numbers(width, rank)
    index = message.number(1)
    single = (message.number(8), message.number(4)) if index == _SINGLE and flags & 2 else None
    if index == _FIXED_ARRAY:
        message.raw(1)
    elif index != _SINGLE:
        raise Refused(_GROWING, _FIXED)
    return _chunked(dims, axes, index, message.number(8), single, not flags & 1)


def _early(message: Cursor, axes: int) -> Layout | Chunked:
    rank, kind = message.numbers(1, 2)
    message.raw(5)
    address = message.number(8) if kind != _COMPACT else 0
    dims = message.numbers(4, rank)
    if kind == _CHUNKED:
        return _chunked(dims, axes, _TREE, address)
    if kind == _CONTIGUOUS:
        return Layout(address, -1)  # as many bytes as the shape says
    if kind != _COMPACT:
        raise Refused(f"a layout of class {kind}")
    data = message.raw(message.number(4))
    return Layout(0, len(data), data)


def _chunked(
    dims: tuple[int, ...],
    axes: int,
    index: int,
    address: int,
    single: tuple[int, int] | None = None,
    whole_edges: bool = True,
) -> Chunked:
    if len(dims) != axes + 1 or axes == 0 or 0 in dims:
        raise Refused(f"chunks of shape {dims[:-1]} for {axes} axes")
    return Chunked(dims[:-1], dims[-1], index, address, single, whole_edges)


def _fixed_array(source: Source, address: int, filtered: bool, chunks: int) -> Iterator[tuple[int, int, int]]:
    """Entries of a fixed array (VII.C): address, and of filtered chunks their bytes and mask."""
    head = Cursor(source.read(address, 24))
    if head.raw(6) != b"FAHD\x00" + bytes([filtered]):
        raise Refused(f"no index at {address}")
    size, page_bits = head.numbers(1, 2)
    count, block = head.numbers(8, 2)
    if not (12 < size <= 20 if filtered else size == 8) or not 0 < page_bits <= 30:
        raise Refused(f"an index with entries of {size} bytes")
    if count != chunks:  # as many as the largest shape has
        raise Refused(_GROWING, _FIXED)
    start = source.read(block, 14)
    if start[:6] != b"FADB\x00" + bytes([filtered]):
        raise Refused(f"no index at {block}")
    at, per_page = block + 14, 1 << page_bits
    paged = count > per_page
    if paged:
        pages = -(-count // per_page)
        at += -(-pages // 8) + 4  # a bit for each page, and a checksum
    while count > 0:
        here = min(count, per_page)
        source.work(here)
        page = Cursor(source.read(at, here * size))
        for _ in range(here):
            entry = page.number(8)
            yield (entry, page.number(size - 12), page.number(4)) if filtered else (entry, 0, 0)
        at, count = at + here * size + 4, count - here
