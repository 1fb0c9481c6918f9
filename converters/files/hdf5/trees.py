"""B-trees: version 1 of symbol tables and chunks (section III.A.1), version 2 of link names (III.A.2)."""

from __future__ import annotations

from collections.abc import Iterator

from converters.files.hdf5.source import UNDEFINED, Cursor, Refused, Source

__all__ = ["leaves", "records"]


def leaves(source: Source, address: int, *, kind: int, key: int) -> Iterator[tuple[bytes, int]]:
    """Keys, each of ``key`` bytes, and children of all leaves of a tree of version 1, in its order.

    A level is one below its parent's, so a tree ends; how often a part of it is visited, ``source`` bounds.
    """
    waiting = [(address, -1)]
    while waiting:
        at, expected = waiting.pop()
        node = Cursor(source.read(at, 24))
        if node.raw(4) != b"TREE" or node.number(1) != kind:
            raise Refused(f"no index at {at}")
        level, used = node.number(1), node.number(2)
        if expected not in (-1, level):
            raise Refused(f"an index of level {level} at {at}, where {expected} comes")
        source.work(used)
        pairs = Cursor(source.read(at + 24, used * (key + 8)))
        children = [(pairs.raw(key), pairs.number(8)) for _ in range(used)]
        if level:
            waiting.extend((child, level - 1) for _, child in reversed(children))
        else:
            yield from children


def records(source: Source, address: int, *, kind: int, size: int) -> Iterator[bytes]:
    """All records of a tree of version 2, in no particular order.

    How many bytes a child pointer has depends on how many records a node can hold (``H5B2hdr.c``).
    """
    head = Cursor(source.read(address, 38))
    if head.raw(6) != b"BTHD\x00" + bytes([kind]):
        raise Refused(f"no index at {address}")
    node_size, record, depth = head.number(4), head.number(2), head.number(2)
    head.raw(2)
    root, count = head.number(8), head.number(2)
    if record != size or not 64 <= node_size <= 2**20 or depth > 16:
        raise Refused(f"an index of {record} bytes a record, {node_size} a node and depth {depth}")
    most = (node_size - 10) // size  # records of a leaf
    width = _bytes_for(most)
    below, totals = most, [0]  # records under a node of a level, and the bytes of that number in its parent
    for _ in range(depth):
        pointer = 8 + width + totals[-1]
        inner = max((node_size - 10 - pointer) // (size + pointer), 0)
        below = (inner + 1) * below + inner
        totals.append(_bytes_for(below))
    waiting = [(root, count, depth)] if root != UNDEFINED else []
    while waiting:
        at, count, level = waiting.pop()
        source.work(count)
        pointer = 8 + width + totals[level - 1] if level else 0
        node = Cursor(source.read(at, 6 + count * size + (count + 1) * pointer))
        if node.raw(6) != (b"BTIN\x00" if level else b"BTLF\x00") + bytes([kind]):
            raise Refused(f"no part of an index at {at}")
        for _ in range(count):
            yield node.raw(size)
        for _ in range(count + 1 if level else 0):
            source.work()
            child, held = node.number(8), node.number(width)
            node.raw(totals[level - 1])
            waiting.append((child, held, level - 1))


def _bytes_for(number: int) -> int:
    return max(number.bit_length() + 7, 8) // 8
