"""Chunks: exactly the bytes that are declared come out of a filter, or nothing does."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.files.hdf5.filters import filters
from converters.files.hdf5.source import MAX_PIECES, Refused, Source

GZIP, SHUFFLE = 1, 2
PIPELINES = [(), (GZIP,), (SHUFFLE,), (SHUFFLE, GZIP)]


def message(kinds: tuple[int, ...], width: int) -> bytes:
    """The filters of a data set, as version 2 of the message has them."""
    found = bytes([2, len(kinds)])
    for kind in kinds:
        found += struct.pack("<HHHI", kind, 1, 1, width if kind == SHUFFLE else 9)
    return found


def decoded(kinds: tuple[int, ...], width: int, stored: bytes, mask: int, size: int) -> bytes:
    out = np.frombuffer(bytearray(b"\xaa" * size), np.uint8)  # what must not be left
    source = Source(io.BytesIO(b"before" + stored + b"after"), 11 + len(stored), 2**20)
    filters(message(kinds, width), width).decode(source, 6, len(stored), mask, out)
    return out.tobytes()


def applied(kinds: tuple[int, ...], width: int, data: bytes, mask: int, level: int) -> bytes:
    for k, kind in enumerate(kinds):
        if mask >> k & 1:
            continue
        if kind == SHUFFLE:
            data = b"".join(data[n::width] for n in range(width)) if len(data) % width == 0 else data
        else:
            data = zlib.compress(data, level)
    return data


@given(st.sampled_from(PIPELINES), st.sampled_from([1, 2, 4, 8]), st.integers(1, 400), st.data())
def test_what_was_filtered_comes_back(kinds: tuple[int, ...], width: int, count: int, data: st.DataObject) -> None:
    values = data.draw(st.binary(min_size=count * width, max_size=count * width))
    mask = data.draw(st.integers(0, 2 ** len(kinds) - 1))
    stored = applied(kinds, width, values, mask, data.draw(st.integers(0, 9)))
    assert decoded(kinds, width, stored, mask, count * width) == values


@given(st.sampled_from(PIPELINES), st.integers(1, 400), st.integers(0, 5000), st.data())
def test_a_chunk_of_another_size_is_refused(
    kinds: tuple[int, ...], size: int, length: int, data: st.DataObject
) -> None:
    mask = data.draw(st.integers(0, 2 ** len(kinds) - 1))
    if length == size:
        length += 1
    values = data.draw(st.sampled_from([bytes(length), (b"noise" * (length // 5 + 1))[:length]]))
    with pytest.raises(Refused, match=r"a chunk (of|that)"):
        decoded(kinds, 1, applied(kinds, 1, values, mask, 6), mask, size)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_stream_that_is_cut_off_or_goes_on_is_refused(values: bytes, data: st.DataObject) -> None:
    stored = zlib.compress(values)
    cut = data.draw(st.integers(0, len(stored) - 1))
    more = data.draw(st.binary(min_size=1, max_size=20))
    for damaged in (stored[:cut], stored + more):
        with pytest.raises(Refused, match="chunk"):
            decoded((GZIP,), 1, damaged, 0, len(values))


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(1, 300))
def test_any_bytes_fill_the_chunk_or_are_refused(stored: bytes, mask: int, size: int) -> None:
    try:
        found = decoded((SHUFFLE, GZIP), 1, stored, mask, size)
    except Refused:
        return
    assert found == (stored if mask & 2 else zlib.decompress(stored))
    assert len(found) == size


def test_what_inflates_to_much_more_is_not_inflated() -> None:
    """128 MB of zeros in half a MB, which a chunk of 2 MB may have."""
    stored = zlib.compress(bytes(2**27), 1)
    with pytest.raises(Refused, match="inflates to more than its 2097152 bytes"):
        decoded((GZIP,), 1, stored, 0, 2**21)


@pytest.mark.parametrize(
    "kinds", [(GZIP, GZIP), (GZIP, SHUFFLE), (SHUFFLE, SHUFFLE), (3,), (GZIP, 3), (32000,), (307,)]
)
def test_other_filters_are_refused(kinds: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match="use gzip, shuffle before it, or none"):
        filters(b"".join([bytes([1, len(kinds)]), bytes(6), *(struct.pack("<HHHH", k, 0, 1, 0) for k in kinds)]), 4)


def test_shuffle_for_elements_of_another_size() -> None:
    found, source = filters(message((SHUFFLE,), 8), 4), Source(io.BytesIO(bytes(16)), 16, 100)
    with pytest.raises(Refused, match="elements of another size"):
        found.decode(source, 0, 16, 0, np.zeros(16, np.uint8))


def test_bytes_and_pieces_end() -> None:
    source = Source(io.BytesIO(bytes(100)), 100, max_bytes=1000)
    source.take(600)
    with pytest.raises(Refused, match="1001 bytes of data; the limit is 1000 bytes; raise max_bytes"):
        source.take(401)
    source.take(400)
    source.work(source.pieces)
    with pytest.raises(Refused, match="pieces of structure; split the network"):
        source.read(0, 1)
    assert Source(io.BytesIO(), 10**8, 0).pieces == 2 * MAX_PIECES


@pytest.mark.parametrize(("at", "count"), [(-1, 1), (0, -1), (100, 1), (0, 101), (2**64 - 1, 8), (2**63, 2**64)])
def test_places_outside_of_the_file(at: int, count: int) -> None:
    source = Source(io.BytesIO(bytes(100)), 100, max_bytes=1000)
    for read in (source.read, lambda *a: list(source.stream(*a))):
        with pytest.raises(Refused, match=f"{count} bytes at {at} in a file of 100"):
            read(at, count)


def test_a_file_that_becomes_shorter_while_it_is_read() -> None:
    source = Source(io.BytesIO(bytes(10)), 100, max_bytes=1000)
    with pytest.raises(Refused, match="became shorter"):
        source.read(0, 50)
    with pytest.raises(Refused, match="became shorter"):
        source.fill(0, np.zeros(50, np.uint8))
