"""Hostile ``.nir`` files: each takes a good one of one dense layer, and changes one thing in it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WEIGHT = "node/nodes/fc.s0.1_linear/weight"
NOTES = "node/nodes/fc/metadata"
SHAPE, CHUNK = (5, 64), (5, 16)  # of the weights, float32: chunks of 320 bytes
BYTES = 320

Change = Callable[[h5py.File], None]


def weights(file: h5py.File, payloads: list[bytes], mask: int = 0, **options: Any) -> None:
    """The weights as chunks that are stored as given, whatever the filters would have made."""
    del file[WEIGHT]
    data = file.create_dataset(WEIGHT, SHAPE, "f4", chunks=CHUNK, **options)
    for k, payload in enumerate(payloads):
        data.id.write_direct_chunk((0, 16 * k), payload, filter_mask=mask)


def filtered(*filters: tuple[int, tuple[int, ...]]) -> Change:
    """The weights behind filters, deflate as often as it is among them."""

    def change(file: h5py.File) -> None:
        del file[WEIGHT]
        space, plist = h5py.h5s.create_simple(SHAPE), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(CHUNK)
        payload = bytes(BYTES)
        for code, values in filters:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
            payload = zlib.compress(payload) if code == h5py.h5z.FILTER_DEFLATE else payload
        made = h5py.h5d.create(file.id, WEIGHT.encode(), h5py.h5t.IEEE_F32LE, space, plist)
        for k in range(4):
            made.write_direct_chunk((0, 16 * k), payload)

    return change


def bomb(times: int, size: int = 2**24) -> bytes:
    """Zeros, deflated so often."""
    data, block = [], bytes(2**20)
    stream = zlib.compressobj(9)
    for _ in range(size // len(block)):
        data.append(stream.compress(block))
    whole = b"".join([*data, stream.flush()])
    for _ in range(times - 1):
        whole = zlib.compress(whole, 9)
    return whole


def stored(payload: bytes, mask: int = 0, **options: Any) -> Change:
    """Three chunks of zeros and this."""
    good = zlib.compress(bytes(BYTES)) if options.get("compression") == "gzip" and not mask else bytes(BYTES)
    return lambda file: weights(file, [good] * 3 + [payload], mask, **options)


def repeated_bomb(times: int) -> Change:
    def change(file: h5py.File) -> None:
        filtered(*[(h5py.h5z.FILTER_DEFLATE, (9,))] * times)(file)
        payload = bomb(times, 2**24)
        for k in range(4):
            file[WEIGHT].id.write_direct_chunk((0, 16 * k), payload)

    return change


def small_chunks(file: h5py.File) -> None:
    """As many bytes as the limit allows, in chunks of one element that were never written."""
    file.create_dataset(f"{NOTES}/x", (10_000, 1000), "i1", chunks=(1, 1))


def written_small_chunks(count: int) -> Change:
    def change(file: h5py.File) -> None:
        file.create_dataset(f"{NOTES}/x", data=np.zeros(count, "i1"), chunks=(1,))

    return change


def _references(count: int, text: str) -> Change:
    """One object of a heap, referred to often."""

    def change(file: h5py.File) -> None:
        kind = h5py.string_dtype()
        file.create_dataset(f"{NOTES}/one", data=np.array([text], dtype=kind))
        place = file[f"{NOTES}/one"].id.get_offset()
        file.create_dataset(f"{NOTES}/x", data=np.array(["a"] * count, dtype=kind))
        many = file[f"{NOTES}/x"].id.get_offset()

        def edit(data: bytearray) -> None:
            data[many : many + 16 * count] = data[place : place + 16] * count

        _edit(file, edit)

    return change


def long_among_short(file: h5py.File) -> None:
    """NumPy makes all strings of an array as long as the longest."""
    file.create_dataset(f"{NOTES}/x", data=np.array(["x" * 10**6, *["a"] * 20_000], dtype=h5py.string_dtype()))


def linked_text(file: h5py.File) -> None:
    file[f"{NOTES}/x"] = "x" * 10**6
    for k in range(500):
        file[f"{NOTES}/x{k}"] = file[f"{NOTES}/x"]


def long_fixed_text(file: h5py.File) -> None:
    """One byte of a string's length: 950 MB."""
    file[f"{NOTES}/x"] = np.array([b"abcd"], dtype="S4")
    _patch(file, b"\x13\x01\0\0\x04\0\0\0", b"\x13\x01\0\0\x04\0\0\x38")


def _patch(file: h5py.File, old: bytes, new: bytes) -> None:
    """Other bytes in the place of the last of their kind."""

    def edit(data: bytearray) -> None:
        at = data.rindex(old)
        data[at : at + len(old)] = new

    _edit(file, edit)


def linked_data(file: h5py.File) -> None:
    file.create_dataset(f"{NOTES}/x", data=np.zeros(2**20), compression="gzip")
    for k in range(500):
        file[f"{NOTES}/x{k}"] = file[f"{NOTES}/x"]


def wide_chunk(file: h5py.File) -> None:
    """One element in a chunk of 2 GB."""
    data = file.create_dataset(f"{NOTES}/x", (1,), "i1", chunks=(2**31,), maxshape=(None,), compression="gzip")
    data.id.write_direct_chunk((0,), bomb(1, 2**24))


def wide_chunks_linked(file: h5py.File) -> None:
    """One element in a chunk of 16 MB, read 500 times."""
    data = file.create_dataset(f"{NOTES}/x", (1,), "i1", chunks=(2**24,), maxshape=(None,), compression="gzip")
    data.id.write_direct_chunk((0,), bomb(1, 2**24))
    for k in range(500):
        file[f"{NOTES}/x{k}"] = file[f"{NOTES}/x"]


def endless_input(file: h5py.File) -> None:
    """Blocks of deflate without content, 10 MB of them for each of 5,000 chunks."""
    data = file.create_dataset(f"{NOTES}/x", (5000,), "i1", chunks=(1,), compression="gzip")
    data.id.write_direct_chunk((0,), b"\x78\x9c" + b"\x00\x00\x00\xff\xff" * 2 * 10**6)
    for k in range(1, 5000):
        data.id.write_direct_chunk((k,), b"\x78\x9c" + b"\x00\x00\x00\xff\xff")


def many_numbers(count: int) -> Change:
    def change(file: h5py.File) -> None:
        group = file.create_group(NOTES)
        for k in range(count):
            group[f"g{k}"] = k

    return change


def many_strings(count: int) -> Change:
    def change(file: h5py.File) -> None:
        file.create_dataset(f"{NOTES}/x", data=np.array(["abc"] * count, dtype=h5py.string_dtype()))

    return change


def large(side: int) -> Change:
    """Zeros, which compress 1,000 times, within the limit."""
    return lambda file: (
        file.create_dataset(f"{NOTES}/x", data=np.zeros((side, side), "f4"), compression="gzip") and None
    )


def many_links(count: int) -> Change:
    def change(file: h5py.File) -> None:
        data = file.create_dataset(f"{NOTES}/x", data=np.zeros(100), compression="gzip")
        for k in range(count):
            file[f"{NOTES}/x{k}"] = data

    return change


def overlapping_heaps(file: h5py.File) -> None:
    """Each object of a heap's is the beginning of a heap, to the end of the file; text refers to all of them."""
    count, header = 2000, 32
    file.create_dataset(f"{NOTES}/x", data=np.array(["a"] * count, dtype=h5py.string_dtype()))
    place = file[f"{NOTES}/x"].id.get_offset()

    def edit(data: bytearray) -> None:
        data += bytes(-len(data) % 8)
        for k in range(count):
            at, length = len(data), (count - k) * header + 16 & 0x7F7F7F  # whose bytes are text
            data[place + 16 * k : place + 16 * k + 16] = struct.pack("<IQI", 16, at, k + 1)
            data += b"GCOL\x01\0\0\0" + struct.pack("<QHHIQ", length, k + 1, 1, 0, 16)
        data += bytes(16)

    _edit(file, edit)


def _edit(file: h5py.File, what: Callable[[bytearray], None]) -> None:
    path = Path(file.filename)
    file.close()
    data = bytearray(path.read_bytes())
    what(data)
    path.write_bytes(data)


def endless_heap(file: h5py.File) -> None:
    """The free rest of a heap, of no size: HDF5's library stays there."""

    def edit(data: bytearray) -> None:
        at = start = data.index(b"GCOL\x01")
        at += 16
        while data[at : at + 2] != b"\0\0":
            at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
        assert at < start + 4096
        data[at : at + 16] = bytes(16)

    _edit(file, edit)


def _index(file: h5py.File, edit: Callable[[bytearray, int], None]) -> None:
    """Change the index of the weights' chunks, which is at the place given."""
    stored(bytes(BYTES))(file)
    first = file[WEIGHT].id.get_chunk_info(0).byte_offset.to_bytes(8, "little")
    _edit(file, lambda data: edit(data, data.index(bytes(24) + first) - 32))


def index_in_itself(file: h5py.File) -> None:
    def edit(data: bytearray, at: int) -> None:
        assert data[at : at + 6] == b"TREE\x01\0"
        data[at + 5] = 1  # a level above the leaves
        data[at + 56 : at + 64] = at.to_bytes(8, "little")

    _index(file, edit)


def doubling_index(file: h5py.File) -> None:
    """An index of 60 levels, whose nodes are twice the child of the one above: 2 to the 60 ways to its end."""

    def edit(data: bytearray, at: int) -> None:
        place = data.rindex(at.to_bytes(8, "little"))  # in the layout
        key, below = bytes(data[at + 24 : at + 56]), at
        data[at + 6 : at + 8] = bytes(2)  # which holds nothing
        for level in range(1, 61):
            new = len(data)
            child = key + below.to_bytes(8, "little")
            data += struct.pack("<4sBBHQQ", b"TREE", 1, level, 2, 2**64 - 1, 2**64 - 1) + 2 * child + key
            below = new
        data[place : place + 8] = below.to_bytes(8, "little")

    _index(file, edit)


def chunk_twice(file: h5py.File) -> None:
    def edit(data: bytearray, at: int) -> None:
        data[at + 64 : at + 104] = data[at + 24 : at + 64]

    _index(file, edit)


def chunk_elsewhere(file: h5py.File) -> None:
    def edit(data: bytearray, at: int) -> None:
        data[at + 40] = 7  # its second axis

    _index(file, edit)


GZIP: dict[str, Any] = {"compression": "gzip"}
SHORT = zlib.compress(bytes(4))
LONG = zlib.compress(bytes(BYTES + 1))
NOISE = np.random.default_rng(0).bytes(BYTES)

HOSTILE: dict[str, tuple[Change, str]] = {
    "inflates to 4 of 320 bytes": (stored(SHORT, **GZIP), r"inflates to 4 of 320 bytes"),
    "inflates to one byte more": (stored(LONG, **GZIP), r"inflates to more than its 320 bytes"),
    "inflates to 64 MB": (stored(bomb(1, 2**26), **GZIP), r"a chunk of 320 bytes that \d+ are stored for"),
    "deflate and a byte": (stored(zlib.compress(bytes(BYTES)) + b"x", **GZIP), r"does not end there"),
    "deflate cut off": (stored(zlib.compress(NOISE)[:-1], **GZIP), r"inflates to 320 of 320 bytes, or does not end"),
    "deflate with another checksum": (stored(zlib.compress(NOISE)[:-1] + b"\0", **GZIP), r"a damaged chunk"),
    "no deflate": (stored(NOISE, **GZIP), r"a damaged chunk"),
    "short without filter": (stored(bytes(4)), r"a chunk of 4 bytes instead of 320"),
    "long without filter": (stored(bytes(400)), r"a chunk of 400 bytes instead of 320"),
    "short, gzip left out": (stored(bytes(4), 1, **GZIP), r"a chunk of 4 bytes instead of 320"),
    "short, shuffled": (stored(bytes(4), shuffle=True), r"a chunk of 4 bytes instead of 320"),
    "a mask of filters that are not there": (stored(bytes(BYTES), 3, **GZIP), r"leaves out filters"),
    "2 bytes behind fletcher32": (stored(b"ab", fletcher32=True), r"the compression filters fletcher32"),
    "deflate twice": (repeated_bomb(2), r"the compression filters gzip, gzip"),
    "deflate three times": (repeated_bomb(3), r"the compression filters gzip, gzip, gzip"),
    "lzf": (stored(bytes(BYTES), compression="lzf"), r"the compression filters lzf"),
    "scaleoffset": (filtered((6, (0, 2))), r"the compression filters scaleoffset"),
    "nbit": (filtered((5, ())), r"the compression filters nbit"),
    "deflate before shuffle": (filtered((1, (9,)), (2, ())), r"the compression filters gzip, shuffle"),
    "small chunks, never written": (small_chunks, r"more than \d+ pieces of structure"),
    "one string, many references": (_references(30_000, "x" * 10_000), r"bytes of data; the limit"),
    "one long string among short ones": (long_among_short, r"bytes of data; the limit"),
    "linked text": (linked_text, r"bytes of data; the limit"),
    "linked data": (linked_data, r"bytes of data; the limit"),
    "one byte of a text's length": (long_fixed_text, r"9[34]\d{7} bytes of data; the limit"),
    "one element in a chunk of 2 GB": (wide_chunk, r"bytes of data; the limit"),
    "one element in a chunk of 16 MB, linked": (wide_chunks_linked, r"bytes of data; the limit"),
    "input without output": (endless_input, r"a chunk of 1 bytes that 10000002 are stored for"),
    "300,000 strings": (many_strings(300_000), r"bytes of data; the limit"),
    "a heap in a heap in a heap": (overlapping_heaps, r"more than \d+ pieces of structure|bytes of data; the limit"),
    "heaps without end": (endless_heap, r"a string heap whose object 0 at byte \d+ has size 0"),
    "an index that is its own part": (index_in_itself, r"an index of level 1 at \d+, where 0 comes"),
    "a chunk twice": (chunk_twice, r"two chunks at \(0, 0\)"),
    "a chunk where none is": (chunk_elsewhere, r"a chunk at \(0, 7\), which is no place of one"),
    "60 MB of zeros": (large(3900), r"read "),
}
MANY: dict[str, tuple[Change, str]] = {
    "chunks": (written_small_chunks(230_000), r"pieces of structure; split the network, or write larger chunks"),
    "numbers": (many_numbers(100_000), r"^read "),
    "strings": (many_strings(400_000), r"pieces of structure"),
    "links": (many_links(80_000), r"pieces of structure"),
    "an index that doubles": (doubling_index, r"pieces of structure"),
    "as many chunks as may be": (written_small_chunks(200_000), r"read "),
}
"""What takes time rather than memory: files that are at the limit, and those beyond it; some take long to make."""
