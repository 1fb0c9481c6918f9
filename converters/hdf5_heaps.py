"""HDF5's heaps of strings, checked before its library walks them: it loops for ever where an object has no length.

A global heap collection ("GCOL", file format specification III.E) is a row of objects, each with a header of 16 bytes
that holds its index and size; index 0 is the free rest. The library goes from one to the next by the sizes that it
finds, and checks neither that it moves on nor that it stays inside (HDF5 2.0.0; found by the fuzzer,
``tests/converters/fuzz_reader.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["damaged_heap"]

_MAGIC = b"GCOL\x01"
_HEADER = 16  # of a collection, and of an object, where lengths have 8 bytes
_SMALLEST = 4096  # collection
_BLOCK = 2**20
_MAX_OBJECTS = 2**20


def damaged_heap(path: Path) -> str | None:
    """What is wrong with the string heaps of a file whose lengths have 8 bytes; None if nothing is.

    Memory is bounded, and so is time: collections do not overlap, so there are no more objects than fit in the file.
    """
    size = path.stat().st_size
    left = min(size // _HEADER, _MAX_OBJECTS)
    with path.open("rb") as file:
        for place in _collections(file):
            file.seek(place + 8)
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            end = place + length
            if length < _SMALLEST or end > size:
                continue  # the library refuses it, or it is no collection but a weight
            at = place + _HEADER
            while at + _HEADER <= end:
                left -= 1
                if left < 0:
                    return f"more than {min(size // _HEADER, _MAX_OBJECTS)} strings"
                file.seek(at)
                index, _references, _reserved, length = struct.unpack("<HHIQ", file.read(_HEADER))
                step = _HEADER + -(-length // 8) * 8 if index else length
                if step < _HEADER or at + step > end:
                    return f"a string heap whose object {index} at byte {at} has size {length}"
                at += step
    return None


def _collections(file: BinaryIO) -> Iterator[int]:
    """Places of what looks like the beginning of a collection."""
    start, tail = 0, b""
    while True:
        file.seek(start + len(tail))
        block = file.read(_BLOCK)
        if not block:
            return
        data = tail + block
        at = data.find(_MAGIC)
        while at >= 0:
            yield start + at
            at = data.find(_MAGIC, at + 1)
        tail = data[-(len(_MAGIC) - 1) :]
        start += len(data) - len(tail)
