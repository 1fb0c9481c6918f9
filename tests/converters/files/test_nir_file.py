"""Files that travel: exact round trips, in other processes too; and whatever is wrong with one is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

import converters
from converters.errors import ConversionError, FileFormatError
from converters.network import Network
from tests.converters.sample_graphs import GRAPHS, images, lenet


@pytest.fixture(scope="module")
def graph() -> nir.NIRGraph:
    return converters.to_nir(lenet(), T=15)


@pytest.fixture
def file(graph: nir.NIRGraph, tmp_path: Path) -> Path:
    converters.write(tmp_path / "net.nir", graph)
    return tmp_path / "net.nir"


@pytest.mark.parametrize("name", GRAPHS)
def test_round_trip_keeps_every_field(name: str, tmp_path: Path) -> None:
    g = converters.to_nir(GRAPHS[name](), T=20)
    converters.write(tmp_path / "net.nir", g)
    back = converters.read(tmp_path / "net.nir")
    assert set(back.nodes) == set(g.nodes)
    assert sorted(back.edges) == sorted(g.edges)
    for key, node in g.nodes.items():
        assert type(back.nodes[key]) is type(node)
        for field, value in node.to_dict().items():
            if field != "metadata":
                read = back.nodes[key].to_dict()[field]
                pairs = [(read[k], value[k]) for k in value] if isinstance(value, dict) else [(read, value)]
                assert all(np.array_equal(a, b) for a, b in pairs), (key, field)
    assert [s.name for s in Network.from_graph(back).stages][-1] == [s.name for s in Network.from_graph(g).stages][-1]


def test_a_fresh_process_gives_the_same_counts(file: Path, graph: nir.NIRGraph, tmp_path: Path) -> None:
    q = lenet()
    x = images(q, 4)
    np.save(tmp_path / "x.npy", x.numpy())
    program = (
        "import sys, numpy, torch, converters\n"
        "g = converters.read(sys.argv[1]); x = torch.from_numpy(numpy.load(sys.argv[2]))\n"
        "r = converters.run(g, x, backend='snntorch')\n"
        "numpy.savez(sys.argv[3], **{k: v.numpy() for k, v in r.counts.items()})\n"
    )
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(file), str(tmp_path / "x.npy"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, env=env, cwd=tmp_path)
    expected = q.execute(x)
    with np.load(tmp_path / "out.npz") as out:
        assert set(out) == {"conv", "pool", "fc1", "fc2"}
        for name in out:
            assert (out[name] == expected[name].numpy()).all()


def test_plain_nir_read_understands_it_after_register_only(file: Path, tmp_path: Path) -> None:
    program = (
        "import sys, nir, converters\n"
        "try: nir.read(sys.argv[1], type_check=False)\n"
        "except AssertionError: pass\n"
        "else: sys.exit('understood without register')\n"
        "converters.register(); converters.register()\n"
        "g = nir.read(sys.argv[1], type_check=False)\n"
        "assert type(g.nodes['fc1']).__name__ == 'CaLIF'\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", program, str(file)], check=True, env=env, cwd=tmp_path)


def test_our_node_is_no_stock_neuron(graph: nir.NIRGraph) -> None:
    assert not isinstance(graph.nodes["fc1"], nir.IF | nir.LIF)


def test_nothing_is_left_when_writing_fails(graph: nir.NIRGraph, tmp_path: Path) -> None:
    converters.write(tmp_path / "net.nir", graph)
    before = (tmp_path / "net.nir").read_bytes()
    broken = converters.to_nir(lenet(), T=15)
    broken.nodes["fc1"].v_threshold = None  # HDF5 cannot store it
    with pytest.raises(TypeError):
        converters.write(tmp_path / "net.nir", broken)
    assert (tmp_path / "net.nir").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]


def test_names_that_reach_code_generation_are_not_written(graph: nir.NIRGraph, tmp_path: Path) -> None:
    evil = nir.NIRGraph(nodes={"a; import os": graph.nodes["fc1"]}, edges=[], metadata={}, type_check=False)
    with pytest.raises(ConversionError, match="a name that readers refuse"):
        converters.write(tmp_path / "evil.nir", evil)


# --- what a hostile or broken file can hold --------------------------------------------------------


def _edit(path: Path, change: Callable[..., Any]) -> Path:
    with h5py.File(path, "r+") as f:
        change(f)
    return path


def _replace(f: Any, where: str, value: Any) -> None:
    del f[where]
    f[where] = value


def _external(f: Any) -> None:
    del f["node/nodes/fc1/v_threshold"]
    f["node/nodes/fc1/v_threshold"] = h5py.ExternalLink("other.h5", "/secret")


def _soft(f: Any) -> None:
    del f["node/nodes/fc1/v_threshold"]
    f["node/nodes/fc1/v_threshold"] = h5py.SoftLink("/node/nodes/fc2/v_threshold")


def _external_storage(f: Any) -> None:
    del f["node/nodes/fc1/leak"]
    f["node/nodes/fc1"].create_dataset("leak", (12,), "f8", external=[("/etc/hostname", 0, 96)])


def _cycle(f: Any) -> None:
    f["node/nodes/fc1/loop"] = f["node/nodes"]


def _huge(f: Any) -> None:
    del f["node/nodes/fc1/leak"]
    f["node/nodes/fc1"].create_dataset("leak", (2**40,), "f8", chunks=(1024,), compression="gzip")


def _deep(f: Any) -> None:
    g = f["node"]
    for _ in range(40):
        g = g.create_group("deeper")


def _virtual(f: Any) -> None:
    del f["node/nodes/fc1/leak"]
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (12,))
    f["node/nodes/fc1"].create_virtual_dataset("leak", layout)


BROKEN = {
    "external link": (_external, "soft or external link"),
    "soft link": (_soft, "soft or external link"),
    "external storage": (_external_storage, "outside of the file"),
    "virtual data": (_virtual, "outside of the file"),
    "link cycle": (_cycle, "a link back"),
    "absurd size": (_huge, "bytes of data"),
    "absurd depth": (_deep, "nested too deeply"),
    "code in a name": (lambda f: f["node/nodes"].move("fc1", "fc1)\nimport os"), "a name with other characters"),
    "unknown node": (lambda f: _replace(f, "node/nodes/fc1/type", "Evil"), "unknown node type 'Evil'"),
    "NaN": (lambda f: f["node/nodes/fc1/leak"].write_direct(np.full(12, np.nan)), "NaN or infinity"),
    "infinity": (lambda f: f["node/nodes/fc1/leak"].write_direct(np.full(12, np.inf)), "NaN or infinity"),
    "wrong shape": (lambda f: _replace(f, "node/nodes/fc1/leak", np.zeros(11)), "12 channels"),
    "wrong type": (lambda f: _replace(f, "node/nodes/fc1/leak", "none"), "no number"),
    "complex": (lambda f: _replace(f, "node/nodes/fc1/leak", np.zeros(12, complex)), "numbers or text"),
    "future": (lambda f: _replace(f, "version", "7.1.0"), "NIR version '7.1.0'"),
    "no version": (lambda f: f.__delitem__("version"), "no NIR version"),
    "no graph": (lambda f: f.__delitem__("node"), "no graph"),
    "missing field": (lambda f: f.__delitem__("node/nodes/fc1/tie"), r"missing \['tie'\]"),
    "extra field": (lambda f: _replace_new(f, "node/nodes/fc1/extra", 1.0), r"unexpected \['extra'\]"),
    "missing node": (lambda f: f.__delitem__("node/nodes/fc1"), "unknown node 'fc1'"),
    "missing edges": (lambda f: _replace(f, "node/edges", f["node/edges"][:-2]), "not reached from an Input"),
    "no edges": (lambda f: f.__delitem__("node/edges"), "no list of pairs"),
    "unreachable node": (
        lambda f: f.copy("node/nodes/fc1", f["node/nodes"], "island"),
        "not reached from an Input",
    ),
    "other window": (lambda f: _replace(f, "node/nodes/fc1/window", 99), "a window of 99"),
    "fractional weight": (
        lambda f: _replace(f, "node/nodes/fc1.s0.1_linear/weight", np.full((12, 36), 0.5, "f4")),
        "not whole numbers",
    ),
    "weights of another shape": (
        lambda f: _replace(f, "node/nodes/fc1.s0.1_linear/weight", np.ones((12, 35), "f4")),
        "36",
    ),
    "bad tie": (lambda f: _replace(f, "node/nodes/fc1/tie", "down"), "'down'"),
    "negative threshold": (
        lambda f: _replace(f, "node/nodes/fc1/v_threshold", -np.ones(12)),
        "thresholds must be positive",
    ),
}


def _replace_new(f: Any, where: str, value: Any) -> None:
    f[where] = value


@pytest.mark.parametrize("kind", BROKEN)
def test_one_clear_error(kind: str, file: Path) -> None:
    change, message = BROKEN[kind]
    with pytest.raises(FileFormatError, match=message) as caught:
        converters.read(_edit(file, change))
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def _heap(data: bytes | bytearray) -> list[int]:
    """Places of the objects of the first heap of strings, the free rest last."""
    start = data.index(b"GCOL\x01")
    at, end, places = start + 16, start + int.from_bytes(data[start + 8 : start + 16], "little"), []
    while at < end:
        places.append(at)
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        at += 16 + -(-size // 8) * 8 if data[at : at + 2] != b"\0\0" else size
    assert at == end
    return places


@pytest.mark.parametrize(
    ("which", "header"),
    [
        (-1, bytes(16)),  # free space of no size: the library would stay there
        (2, b"\x03\0" + bytes(6) + (2**64 - 16).to_bytes(8, "little")),  # a step of 0 after overflow
        (2, b"\x03\0" + bytes(6) + (2**64 - 64).to_bytes(8, "little")),  # and one backwards
        (2, b"\x03\0" + bytes(6) + (2**20).to_bytes(8, "little")),  # out of the heap
    ],
)
def test_heaps_of_strings_without_end(file: Path, which: int, header: Any) -> None:
    data = bytearray(file.read_bytes())
    at = _heap(data)[which]
    data[at : at + 16] = header
    file.write_bytes(data)
    said = f"a string heap whose object {int.from_bytes(header[:2], 'little')} at byte {at} has size"
    with pytest.raises(FileFormatError, match=said):
        converters.read(file)


@pytest.mark.parametrize("size", [0, 7, 100, 2000, -40])
def test_truncated(file: Path, size: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:size])
    with pytest.raises(FileFormatError, match=r"net\.nir"):
        converters.read(file)


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        converters.read(tmp_path / "absent.nir")
    with pytest.raises(FileFormatError, match="a folder"):
        converters.read(tmp_path)


def test_limit_is_the_callers(file: Path) -> None:
    with pytest.raises(FileFormatError, match="raise max_bytes if you trust it"):
        converters.read(file, max_bytes=1000)


@pytest.mark.parametrize("value", [np.array([b"a", b"b"]), np.zeros(0), np.ones((2, 2)), 3])
def test_a_graph_whose_type_is_no_text(file: Path, value: Any) -> None:
    with h5py.File(file, "r+") as f:
        del f["node/type"]
        f["node/type"] = value
    with pytest.raises(FileFormatError, match="no NIRGraph"):
        converters.read(file)


def test_a_bias_of_another_size(file: Path) -> None:
    with h5py.File(file, "r+") as f:
        (name,) = [k for k in f["node/nodes"] if k.startswith("conv.")]
        del f[f"node/nodes/{name}/bias"]
        f[f"node/nodes/{name}/bias"] = np.ones(2)
    with pytest.raises(FileFormatError, match="a bias of 2 values; the layer has 4 channels"):
        converters.read(file)


def test_messages_are_one_line(file: Path) -> None:
    with h5py.File(file, "r+") as f:
        del f["node/nodes/fc1/y_min"]
        f["node/nodes/fc1/y_min"] = np.ones((40, 40))
    with pytest.raises(FileFormatError) as caught:
        converters.read(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def fuzz(count: int, seed: int) -> None:
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.converters.files.fuzz_reader", str(count), str(seed)]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=120 + count, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{count} files: ")


def test_mutated_files() -> None:
    fuzz(250, 99)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_thousand_mutated_files(seed: int) -> None:
    fuzz(5000, seed)
