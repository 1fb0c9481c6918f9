"""Superblocks (section II.A) and the messages of object headers (IV.A)."""

from __future__ import annotations

from collections.abc import Iterator

from converters.files.hdf5.source import Cursor, Refused, Source

__all__ = [
    "DATASPACE", "DATATYPE", "EXTERNAL", "FILTERS", "LAYOUT", "LINK", "LINK_INFO", "SYMBOL_TABLE",
    "is_dataset", "is_group", "messages", "root",
]  # fmt: skip

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, FILTERS, SYMBOL_TABLE = 1, 2, 3, 6, 7, 8, 0xB, 0x11
_CONTINUATION = 0x10
_READ = {DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, FILTERS, SYMBOL_TABLE}
_KNOWN = 0x18  # types from here on are later than this reader
_SHARED, _MUST_BE_KNOWN = 0x02, 0x80  # flags
_MAX_BLOCK = 2**20  # of a header: the library's have some hundred bytes, more with many attributes
_NEWER = "write it with h5py's own settings"

Messages = dict[int, list[bytes]]


def root(source: Source) -> int:
    """The address of the root group's header."""
    if source.size < 96 or source.read(0, 8) != b"\x89HDF\r\n\x1a\n":
        raise Refused("a damaged or truncated file, or one that is not HDF5", "write it again")
    block = Cursor(source.read(8, 88))
    version = block.number(1)
    if version > 3:
        raise Refused(f"a superblock of version {version}", _NEWER)
    if version < 2:
        block.raw(4)
    if block.numbers(1, 2) != (8, 8):
        raise Refused("addresses of other than 8 bytes", _NEWER)
    block.raw({0: 9, 1: 13}.get(version, 1))
    base, _, end = block.numbers(8, 3)
    block.raw(16 if version < 2 else 0)  # driver, and the place of the root's name
    if base:
        raise Refused(f"addresses that are counted from {base}", "write the file without a user block")
    if end > source.size:
        raise Refused(f"a truncated file: {source.size} of {end} bytes", "copy or write it again")
    return block.number(8)


def messages(source: Source, address: int) -> Messages:
    """The messages of an object that say what it is, by type. One of each, but links."""
    found: Messages = {}
    for kind, flags, body in _all(source, address):
        if kind in _READ:
            if flags & _SHARED:
                raise Refused("a type or message that is shared between objects", "store it with each data set")
            if kind in found and kind != LINK:
                raise Refused(f"two messages of type {kind} in one header")
            found.setdefault(kind, []).append(body)
        elif kind >= _KNOWN and flags & _MUST_BE_KNOWN:
            raise Refused(f"a message of the unknown type {kind}", _NEWER)
    return found


def is_group(found: Messages) -> bool:
    return SYMBOL_TABLE in found or LINK_INFO in found or LINK in found


def is_dataset(found: Messages) -> bool:
    return LAYOUT in found


def _all(source: Source, address: int) -> Iterator[tuple[int, int, bytes]]:
    start = source.read(address, 16)
    if start[0] == 1:
        sizes, skip, pad = (2, 2, 1), 3, 0  # of a message's type, length and flags; then reserved bytes
        signature, blocks = b"", [(address + 16, int.from_bytes(start[8:12], "little"))]
    elif start[:5] == b"OHDR\x02":
        flags = start[5]
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        sizes, skip, pad = (1, 2, 1), 2 if flags & 4 else 0, 4  # creation order; a checksum ends each block
        signature, blocks = b"OCHK", [(at + width, int.from_bytes(source.read(at, width), "little"))]
    else:
        raise Refused(f"no object at {address}")
    head = sum(sizes) + skip
    while blocks:
        at, length = blocks.pop()
        if length > _MAX_BLOCK:
            raise Refused(f"an object header of {length} bytes", "store less beside the data")
        block = Cursor(source.read(at, length))
        while block.at + head <= length:
            source.work()
            kind, size, flags = (block.number(n) for n in sizes)
            block.raw(skip)
            body = block.raw(size)
            if kind != _CONTINUATION:
                yield kind, flags, body
                continue
            at, more = Cursor(body).numbers(8, 2)
            if signature and source.read(at, 4) != signature:
                raise Refused(f"no continuation of a header at {at}")
            blocks.append((at + len(signature), more - len(signature) - pad))
