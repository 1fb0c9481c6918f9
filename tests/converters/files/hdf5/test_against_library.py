"""What HDF5's own library writes, read by ours: the same names, shapes, types and values, in all of its formats."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.files import hdf5

FORMATS = ["earliest", "v108", "v110", "v112", "latest"]
TYPES = ["<f2", "<f4", "<f8", ">f8", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", "<u8", "?", "S5", "text"]


def ours(data: bytes) -> dict[str, Any]:
    source = hdf5.Source(io.BytesIO(data), len(data), 2**28)

    def tree(address: int | None) -> Any:
        assert address is not None
        found = hdf5.messages(source, address)
        if hdf5.is_group(found):
            return {name: tree(member) for name, member in hdf5.links(source, found).items()}
        return hdf5.value(source, found)

    return tree(hdf5.root(source))


def theirs(group: h5py.Group) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            found[name] = theirs(item)
        elif h5py.check_string_dtype(item.dtype) is not None:
            text = item.asstr()[()]
            found[name] = text if isinstance(text, str) else text.astype(str)
        else:
            found[name] = item[()]
    return found


def assert_same(a: Any, b: Any, place: str = "") -> None:
    if isinstance(b, dict):
        assert list(a) == list(b), place
        for name in b:
            assert_same(a[name], b[name], f"{place}/{name}")
    elif isinstance(b, str):
        assert type(a) is str, place
        assert a == b, place
    else:
        assert type(a) is type(b), place
        assert a.shape == b.shape, place
        assert a.dtype.kind == b.dtype.kind, place
        assert a.dtype.kind == "U" or a.dtype == b.dtype.newbyteorder("="), place
        assert a.dtype.isnative
        assert np.array_equal(a, b), place


@st.composite
def datasets(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """An array, and how it is stored."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    kind = draw(st.sampled_from(TYPES))
    values = np.array(draw(st.lists(st.integers(0, 2**62), min_size=max(int(np.prod(shape)), 1), max_size=1300)))
    values = values[: int(np.prod(shape))].reshape(shape)
    if kind == "text":
        array = np.array([("é" * (v % 5) + "x" * (v % 3)) for v in values.ravel()], dtype=object).reshape(shape)
        array = array.astype(h5py.string_dtype())
    elif kind == "S5":
        array = (values % 99999).astype("S5")
    elif kind == "?":
        array = values % 2 == 1
    else:
        array = (values % 2**15).astype(kind)
    options: dict[str, Any] = {}
    if shape and 0 not in shape and draw(st.booleans()):
        options = {
            "chunks": tuple(draw(st.integers(1, n)) for n in shape),
            "compression": draw(st.sampled_from([None, "gzip"])),
            "shuffle": draw(st.booleans()),
        }
    return array, options


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FORMATS), st.lists(datasets(), max_size=6))
def test_data_sets(libver: str, found: list[tuple[np.ndarray, dict[str, Any]]]) -> None:
    data = io.BytesIO()
    with h5py.File(data, "w", libver=libver) as file:
        for k, (array, options) in enumerate(found):
            file.create_dataset(f"x{k}", data=array, **options)
    with h5py.File(data) as file:
        assert_same(ours(data.getvalue()), theirs(file))


@pytest.mark.parametrize("libver", FORMATS)
def test_groups_of_all_sizes(libver: str) -> None:
    """Symbol tables, messages in headers, and heaps with blocks of blocks."""
    data = io.BytesIO()
    with h5py.File(data, "w", libver=libver) as file:
        one = file.create_dataset("one", data=1)
        for count in (0, 1, 8, 9, 100, 300, 4000 if libver == "v108" else 900):
            group = file.create_group(f"{count}/é")
            for k in range(count):
                group[f"name{k}".ljust(k % 190 if count <= 900 else 190, "_")] = one
        for k in range(12):
            file.attrs[f"note {k}"] = "x" * 100 * k  # what no one asks for is passed over
    with h5py.File(data) as file:
        assert_same(ours(data.getvalue()), theirs(file))


@pytest.mark.parametrize("libver", FORMATS)
@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (1, 1)},
        {"chunks": (1, 1), "compression": "gzip"},
        {"chunks": (7, 9), "compression": "gzip", "shuffle": True},
        {"chunks": (60, 50), "compression": "gzip"},
        {"compression": "gzip"},
        {},
    ],
)
def test_indices_of_chunks(libver: str, options: dict[str, Any]) -> None:
    """Trees of several levels; in newer formats one chunk, or arrays of one and of several pages."""
    array = np.random.default_rng(0).integers(-99, 99, (60, 50)).astype("<f4")
    data = io.BytesIO()
    with h5py.File(data, "w", libver=libver) as file:
        file.create_dataset("x", data=array, **options)
    assert np.array_equal(ours(data.getvalue())["x"], array)


def test_chunks_that_went_through_some_of_the_filters() -> None:
    """As earlier libraries leave gzip out where a chunk would not become smaller."""
    values = np.arange(24, dtype="<u4")
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        made = file.create_dataset("x", (24,), "<u4", chunks=(6,), compression="gzip", shuffle=True)
        shuffled = [np.frombuffer(v.tobytes(), np.uint8).reshape(6, 4).T.tobytes() for v in values.reshape(4, 6)]
        made.id.write_direct_chunk((0,), zlib.compress(shuffled[0]), filter_mask=0)
        made.id.write_direct_chunk((6,), zlib.compress(values[6:12].tobytes()), filter_mask=1)
        made.id.write_direct_chunk((12,), shuffled[2], filter_mask=2)
        made.id.write_direct_chunk((18,), values[18:].tobytes(), filter_mask=3)
    with h5py.File(data) as file:
        assert np.array_equal(file["x"], values)
    assert np.array_equal(ours(data.getvalue())["x"], values)


def test_data_in_the_header() -> None:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32BE, h5py.h5s.create_simple((5,)), plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype="i4"))
    assert np.array_equal(ours(data.getvalue())["x"], np.arange(5))


def _write(change: Any, libver: str = "earliest") -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w", libver=libver) as file:
        change(file)
    return data.getvalue()


def _committed(file: h5py.File) -> None:
    file["t"] = np.dtype("f4")
    file.create_dataset("x", (3,), file["t"])
    del file["t"]


OTHERS = {
    "complex": (lambda f: f.create_dataset("x", data=np.zeros(3, complex)), "numbers or text"),
    "long double": (lambda f: f.create_dataset("x", data=np.zeros(3, np.longdouble)), "float64 at most"),
    "enumeration": (
        lambda f: f.create_dataset("x", (3,), h5py.enum_dtype({"A": 0, "B": 1}, "i1")),
        "type enumeration",
    ),
    "sequences": (lambda f: f.create_dataset("x", (3,), h5py.vlen_dtype(np.int32)), "type sequence"),
    "references": (lambda f: f.create_dataset("x", (3,), h5py.ref_dtype), "type reference"),
    "opaque": (lambda f: f.create_dataset("x", data=np.zeros(3, "V7")), "type opaque"),
    "arrays": (lambda f: f.create_dataset("x", (3,), np.dtype(("f4", (2,)))), "type array"),
    "12 bits": (
        lambda f: h5py.h5d.create(f.id, b"x", _twelve_bits(), h5py.h5s.create_simple((3,))),
        "numbers of 12 bits",
    ),
    "nothing": (lambda f: f.create_dataset("x", data=h5py.Empty("f4")), "without shape"),
    "named type": (_committed, "shared between objects"),
    "never written": (lambda f: f.create_dataset("x", (3,), "f4"), "never written"),
    "chunks never written": (lambda f: f.create_dataset("x", (3,), "f4", chunks=(1,)), "3 of 3 chunks"),
    "one chunk never written": (
        lambda f: f.create_dataset("x", (3,), "f4", chunks=(1,)).write_direct(np.ones(2, "f4"), dest_sel=np.s_[:2]),
        "1 of 3 chunks",
    ),
    "empty, and large": (lambda f: f.create_dataset("x", (2**40, 0), "f4"), "an empty data set of shape"),
}


def _twelve_bits() -> h5py.h5t.TypeID:
    kind = h5py.h5t.STD_I16LE.copy()
    kind.set_precision(12)
    return kind


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_read_is_said(name: str) -> None:
    change, message = OTHERS[name]
    with pytest.raises(hdf5.Refused, match=message):
        ours(_write(change))


@pytest.mark.parametrize("axes", [(None,), (None, None), (100,)])
def test_data_sets_that_can_grow_are_read_where_their_index_is_old(axes: tuple[int | None, ...]) -> None:
    def change(file: h5py.File) -> None:
        file.create_dataset("x", data=np.ones((3,) * len(axes)), chunks=(1,) * len(axes), maxshape=axes)

    assert np.array_equal(ours(_write(change))["x"], np.ones((3,) * len(axes)))
    with pytest.raises(hdf5.Refused, match="that can grow; write it with a fixed shape"):
        ours(_write(change, "latest"))


def test_addresses_of_four_bytes_and_user_blocks_are_refused(tmp_path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    h5py.h5f.create(bytes(tmp_path / "four.h5"), fcpl=plist).close()
    with pytest.raises(hdf5.Refused, match="addresses of other than 8 bytes"):
        ours((tmp_path / "four.h5").read_bytes())
    with h5py.File(tmp_path / "block.h5", "w", userblock_size=512):
        pass
    with pytest.raises(hdf5.Refused, match="not HDF5"):
        ours((tmp_path / "block.h5").read_bytes())


def test_the_order_of_creation_does_not_matter() -> None:
    data = io.BytesIO()
    with h5py.File(data, "w", track_order=True) as file:
        for name in ["b", "a", *(f"n{k}" for k in range(20))]:
            file[name] = 1
    assert list(ours(data.getvalue())) == sorted(["b", "a", *(f"n{k}" for k in range(20))])
