"""Global heaps (section III.E), where text of variable length is."""

from __future__ import annotations

from converters.files.hdf5.source import Cursor, Refused, Source

__all__ = ["text"]

_HEADER = 16  # of a collection, and of an object
_OBJECT = 256  # bytes of memory for the place of one


def text(source: Source, reference: bytes) -> bytes:
    """What a reference of 16 bytes points to: a length, the address of a collection and an object in it."""
    part = Cursor(reference)
    length, address, index = part.number(4), part.number(8), part.number(4)
    source.work()
    if not length:
        return b""
    if address not in source.heaps:
        source.heaps[address] = _objects(source, address)
    at, size = source.heaps[address].get(index, (0, -1))
    if size != length:
        raise Refused(f"text of {length} bytes that its heap does not hold")
    source.take(size)
    return source.read(at, size)


def _objects(source: Source, address: int) -> dict[int, tuple[int, int]]:
    """Places and sizes of the objects of a collection, by index; what is free has none."""
    head = source.read(address, _HEADER)
    if head[:5] != b"GCOL\x01":
        raise Refused(f"no string heap at {address}")
    length = int.from_bytes(head[8:], "little")
    source.check(address, length)
    found: dict[int, tuple[int, int]] = {}
    at, end = address + _HEADER, address + length
    while at + _HEADER <= end:
        part = Cursor(source.read(at, _HEADER))
        index = part.number(2)
        part.raw(6)
        size = part.number(8)
        step = _HEADER + -(-size // 8) * 8 if index else size
        if step < _HEADER or at + step > end or index in found:
            raise Refused(f"a string heap whose object {index} at byte {at} has size {size}")
        if index:
            source.take(_OBJECT)
            found[index] = (at + _HEADER, size)
        at += step
    return found
