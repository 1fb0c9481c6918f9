"""The links of a group: a symbol table, or link messages in its header or in a heap (sections III.A, III.B, IV.A.2)."""

from __future__ import annotations

from collections.abc import Iterator

from converters.files.hdf5.fractal_heaps import dense
from converters.files.hdf5.headers import LINK, LINK_INFO, SYMBOL_TABLE, Messages
from converters.files.hdf5.source import UNDEFINED, Cursor, Refused, Source
from converters.files.hdf5.trees import leaves

__all__ = ["MAX_NAME", "links"]

MAX_NAME = 200
"""Bytes of a name that are read; a longer one comes out a byte longer than that, for the caller to refuse."""
_ENTRY = 40  # bytes of a symbol table's entry
_SOFT = 2  # its cache type


def links(source: Source, found: Messages) -> dict[str, int | None]:
    """Names of a group's members, sorted, and addresses of their headers: None for a link that is not a hard one."""
    result: dict[str, int | None] = {}
    for raw, address in _all(source, found):
        source.take(1024)  # of Python objects, for each member
        name = raw.decode("utf8", "backslashreplace")
        if name in result:
            raise Refused(f"two members of one name ({name[:40]!r})")
        result[name] = address
    return dict(sorted(result.items()))


def _all(source: Source, found: Messages) -> Iterator[tuple[bytes, int | None]]:
    for body in found.get(SYMBOL_TABLE, []):
        yield from _symbols(source, *Cursor(body).numbers(8, 2))
    for body in found.get(LINK, []):
        yield _link(body)
    for body in found.get(LINK_INFO, []):
        info = Cursor(body)
        version, flags = info.numbers(1, 2)
        if version != 0:
            raise Refused(f"a link message of version {version}")
        info.raw(8 if flags & 1 else 0)
        heap, names = info.numbers(8, 2)
        if heap != UNDEFINED:
            for message in dense(source, heap, names):
                yield _link(message)


def _symbols(source: Source, tree: int, heap: int) -> Iterator[tuple[bytes, int | None]]:
    head = Cursor(source.read(heap, 32))
    if head.raw(5) != b"HEAP\x00":
        raise Refused(f"no heap of names at {heap}")
    head.raw(3)
    size, _, start = head.numbers(8, 3)
    source.check(start, size)
    for _, node in leaves(source, tree, kind=0, key=8):
        table = Cursor(source.read(node, 8))
        if table.raw(6)[:5] != b"SNOD\x01":
            raise Refused(f"no symbol table at {node}")
        count = table.number(2)
        entries = Cursor(source.read(node + 8, count * _ENTRY))
        for _ in range(count):
            source.work(2)
            name, address = entries.numbers(8, 2)
            cached = entries.number(4)
            entries.raw(20)
            if name >= size:
                raise Refused(f"a name at {name} in a heap of {size} bytes")
            text, end, _ = source.read(start + name, min(MAX_NAME + 1, size - name)).partition(b"\0")
            if not end and len(text) <= MAX_NAME:
                raise Refused("a name without end")
            yield text, None if cached == _SOFT else address


def _link(body: bytes) -> tuple[bytes, int | None]:
    """Name and address of a link message (IV.A.2.g)."""
    message = Cursor(body)
    version, flags = message.numbers(1, 2)
    if version != 1:
        raise Refused(f"a link message of version {version}")
    kind = message.number(1) if flags & 8 else 0
    message.raw((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = message.raw(message.number(1 << (flags & 3)))
    return name[: MAX_NAME + 1], message.number(8) if kind == 0 else None
