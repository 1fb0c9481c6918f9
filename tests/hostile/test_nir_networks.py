"""``.nir`` files whose bytes are in order, of networks that would cost time: long, branched, of many nodes or texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import pytest

import converters
from converters.errors import FileFormatError
from tests.converters.sample_graphs import lenet
from tests.converters.test_network_reading import diamonds, row


def scales(count: int) -> Callable[[Path], None]:
    """So many in a row, of -1 each."""
    return lambda path: converters.write(path, row(count, -1.0))


def doubling(path: Path) -> None:
    converters.write(path, row(4000, 2.0))


def branched(path: Path) -> None:
    converters.write(path, diamonds(24))


def text(path: Path) -> None:
    """20 MB of metadata, in one text and in many."""
    graph = converters.to_nir(lenet(), T=4)
    graph.metadata = {"one": "x" * 10**7, **{f"n{k}": "x" * 5000 for k in range(2000)}}
    nir.write(path, graph)


def many(count: int) -> Callable[[Path], None]:
    """So many nodes that nothing joins."""

    def make(path: Path) -> None:
        converters.write(path, converters.to_nir(lenet(), T=4))
        with h5py.File(path, "r+") as file:
            for k in range(count):
                node = file.create_group(f"node/nodes/n{k}")
                node["type"], node["scale"] = "Scale", 1.0

    return make


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "2,000 scales": (scales(2000), "read"),
    "24 diamonds": (branched, "16,777,216 paths of operations"),
    "20 MB of metadata": (text, "read"),
    "2,000 nodes": (many(2000), "not reached from an Input"),
}
LARGER: dict[str, tuple[Callable[[Path], None], str]] = {
    "4,000 scales": (scales(4000), "read"),
    "a product of 4,000 scales": (doubling, r"sums of up to 2\^400\d; float64 holds whole numbers below 2\^53"),
    "40,000 nodes": (many(40_000), "not reached from an Input|pieces of structure|objects"),
}


@pytest.mark.parametrize("name", [*FILES, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGER)])
def test_read_or_one_line_in_bounded_time(name: str, tmp_path: Path) -> None:
    make, expected = {**FILES, **LARGER}[name]
    path = tmp_path / "n.nir"
    make(path)
    start = time.process_time()
    if expected == "read":
        assert len(converters.read(path).nodes) > 4
    else:
        with pytest.raises(FileFormatError, match=expected) as caught:
            converters.read(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
    assert time.process_time() - start < 5 * (1 + path.stat().st_size / 1e8)


def test_weights_of_a_file_beyond_24_bits(tmp_path: Path) -> None:
    """In the file itself, in any type that holds them."""
    path, place = tmp_path / "n.nir", "node/nodes/fc1.s0.1_linear/weight"
    converters.write(path, converters.to_nir(lenet(), T=4))
    with h5py.File(path) as file:
        whole = file[place][()]
    for value, kind in ((-(2**63), "i8"), (2**64 - 1, "u8"), (1e30, "f4"), (2**24 + 1, "f8"), (-(2**24) - 1, "i4")):
        with h5py.File(path, "r+") as file:
            weight = whole.astype("i8").astype(kind)
            weight[0, 0] = value
            del file[place]
            file[place] = weight
        with pytest.raises(FileFormatError, match=r"found a weight of .*; the limit is 16777216"):
            converters.read(path)
    with h5py.File(path, "r+") as file:
        file[place][0, 0] = 2**24
    converters.read(path)
