"""The value of a data set, every byte of it from the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters.files.hdf5.chunks import Chunked, layout
from converters.files.hdf5.datatypes import datatype, shape
from converters.files.hdf5.filters import Filters, filters
from converters.files.hdf5.global_heaps import text
from converters.files.hdf5.headers import DATASPACE, DATATYPE, EXTERNAL, FILTERS, LAYOUT, Messages
from converters.files.hdf5.source import UNDEFINED, Refused, Source

__all__ = ["value"]

_LEAST = 4  # bytes that an element counts for: what is built of small integers is larger than they are
_STRING = 64  # bytes of a Python string beside its characters
_CHUNK = 4  # pieces of structure that a chunk counts for


def value(source: Source, found: Messages) -> Any:
    """The value of a data set: a scalar or an array of numbers or booleans, a string or an array of strings.

    It is the caller's, in the machine's byte order. Its memory is taken from ``source`` before it is allocated: each
    chunk counts whole, and a string as often as it is referred to.
    """
    if EXTERNAL in found:
        raise Refused("data stored outside of the file", "copy the data into the file")
    if DATASPACE not in found or DATATYPE not in found:
        raise Refused("a data set without shape or type")
    axes, kind = shape(found[DATASPACE][0]), datatype(found[DATATYPE][0])
    raw = _stored(source, found, axes, kind.stored)
    if kind.text:
        return _strings(source, raw)
    if kind.truth:
        if (raw.view(np.uint8) > 1).any():
            raise Refused("a boolean that is neither true nor false")
        return raw.view(np.bool_)[()]
    if not raw.dtype.isnative:
        raw = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder("="))
    return raw[()]


def _stored(source: Source, found: Messages, axes: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """The elements as they are stored."""
    where = layout(found[LAYOUT][0], len(axes))
    pipeline = filters(found[FILTERS][0], kind.itemsize) if FILTERS in found else Filters()
    size = math.prod(axes) * kind.itemsize
    if isinstance(where, Chunked):
        return _assembled(source, where, pipeline, axes, kind)
    if pipeline.kinds:
        raise Refused("filters of a data set without chunks")
    source.take(math.prod(axes) * max(kind.itemsize, _LEAST))
    if where.size not in (-1, size) and (size or where.address != UNDEFINED):
        raise Refused(f"{where.size} bytes of data instead of {size}")
    flat = np.empty(size, np.uint8)
    if where.data is not None:
        if len(where.data) != size:
            raise Refused(f"{len(where.data)} bytes of data instead of {size}")
        flat[:] = np.frombuffer(where.data, np.uint8)
    elif size:
        if where.address == UNDEFINED:
            raise Refused("data that was never written", "write all of it")
        source.fill(where.address, flat)
    return flat.view(kind).reshape(axes)


def _assembled(source: Source, where: Chunked, pipeline: Filters, axes: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """The elements of all chunks, each of which must be there once."""
    if where.width != kind.itemsize:
        raise Refused(f"chunks with elements of {where.width} bytes instead of {kind.itemsize}")
    if not where.whole_edges and pipeline.kinds:
        raise Refused("chunks at the edges that are stored in another way", "write it with h5py's own settings")
    grid = tuple(-(-n // step) for n, step in zip(axes, where.shape, strict=True))
    count, elements = math.prod(grid), math.prod(where.shape)
    source.take(count * elements * max(kind.itemsize, _LEAST))
    source.work(_CHUNK * count)
    result = np.empty(axes, kind)
    if not count:
        return result
    buffer = np.empty(elements * kind.itemsize, np.uint8)
    block = buffer.view(kind).reshape(where.shape)
    missing = np.ones(grid, bool)
    for place, address, stored, mask in where.chunks(source, grid, bool(pipeline.kinds), len(buffer)):
        number = tuple(at // step for at, step in zip(place, where.shape, strict=True))
        if any(at % step for at, step in zip(place, where.shape, strict=True)) or any(
            k >= n for k, n in zip(number, grid, strict=True)
        ):
            raise Refused(f"a chunk at {place}, which is no place of one")
        if not missing[number]:
            raise Refused(f"two chunks at {place}")
        if address == UNDEFINED:
            continue
        pipeline.decode(source, address, stored, mask, buffer)
        inside = tuple(min(step, n - at) for at, step, n in zip(place, where.shape, axes, strict=True))
        target = tuple(slice(at, at + n) for at, n in zip(place, inside, strict=True))
        result[target] = block[tuple(slice(n) for n in inside)]
        missing[number] = False
    if missing.any():
        raise Refused(f"{missing.sum()} of {count} chunks that were never written", "write all of the data")
    return result


def _strings(source: Source, raw: np.ndarray) -> Any:
    """Text that was stored as bytes or as references to a heap."""
    source.work(raw.size)
    found: list[str] = []
    for element in raw.reshape(-1):
        data = text(source, element.tobytes()) if raw.dtype.kind == "V" else bytes(element)
        source.take(_STRING + 4 * len(data))
        try:
            found.append(data.decode("utf8"))
        except UnicodeDecodeError:
            raise Refused("text that is not UTF-8", "write it again") from None
    if raw.ndim == 0:
        return found[0]
    longest = max(map(len, found), default=0)
    source.take(4 * max(longest, 1) * len(found))  # NumPy makes all as long as the longest
    return np.array(found, dtype=f"U{max(longest, 1)}").reshape(raw.shape)
