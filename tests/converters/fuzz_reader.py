"""Mutated ``.nir`` files for the reader: bytes and structure. Run as a program; exits 0 if every file was handled.

    python -m tests.converters.fuzz_reader COUNT SEED

Handled means: a graph, or a FileFormatError of one line. In this process memory is limited, and an audit hook
reports anything that would be executed, imported or opened for writing while a file is read.
"""

from __future__ import annotations

import contextlib
import encodings.ascii
import encodings.latin_1
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import h5py
import numpy as np

import converters
from converters.errors import ConversionError, FileFormatError
from converters.network import Network
from tests.converters.graphs import GRAPHS

LIMIT = 64 * 2**20  # what read() may allocate here
SLOW = 20.0  # seconds for one file of some 20 kB, on a busy machine
assert encodings.ascii  # h5py decodes with it, and imports it when it first does
assert encodings.latin_1
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile", "pickle.find_class",
             "ctypes.dlopen", "import", "socket.connect", "shutil.", "os.remove", "os.rename")  # fmt: skip


class Watch:
    """What happens while a file is read."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:100]}")


def mutate_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "block", "cut", "copy", "zero", "grow"])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "block":
        at = rng.randrange(len(data))
        data[at : at + 8] = rng.choice([b"\xff" * 8, b"\x00" * 8, os.urandom(8), (2**40).to_bytes(8, "little")])
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "copy":
        a, b, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, 200)
        data[a : a + n] = data[b : b + n]
    elif kind == "zero":
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(1, 400)] = b"\x00" * 5
    else:
        at = rng.randrange(len(data))
        data[at:at] = os.urandom(rng.randrange(1, 50))
    path.write_bytes(bytes(data))
    return kind


def mutate_structure(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        groups, datasets = [file], []
        file.visititems(lambda _, item: (groups if isinstance(item, h5py.Group) else datasets).append(item))
        kind = rng.choice(_KINDS)
        group, data = rng.choice(groups), rng.choice(datasets)
        parent, name = data.parent, data.name.rsplit("/", 1)[1]
        if kind == "delete":
            target = rng.choice([g for g in groups if g.name != "/"] + datasets)
            del target.parent[target.name.rsplit("/", 1)[1]]
        elif kind == "rename":
            parent.move(name, rng.choice(["x", "a b", "é", "__import__('os')", "x" * 300, "1a", "a;b", "type", ".."]))
        elif kind == "value":
            del parent[name]
            parent[name] = rng.choice(_VALUES)(rng)
        elif kind == "soft":
            group["link"] = h5py.SoftLink(rng.choice(["/node", "/nowhere", "/", "."]))
        elif kind == "external":
            group["link"] = h5py.ExternalLink("/etc/passwd", "/node")
        elif kind == "cycle":
            group["cycle"] = rng.choice(groups)
        elif kind == "storage":
            parent.create_dataset("raw", (100,), "i1", external=[("/etc/passwd", 0, 100)])
        elif kind == "huge":
            side = rng.choice([2**10, 2**16, 2**24, 2**31])
            del parent[name]
            parent.create_dataset(name, (side, side), rng.choice(["f4", "f8", "i1"]), chunks=(1, 1024))
        elif kind == "many":
            for k in range(rng.choice([10, 3000])):
                group.create_group(f"g{k}")
        elif kind == "deep":
            for _ in range(rng.choice([5, 60])):
                group = group.create_group("g")
        elif kind == "type":
            del parent[name]
            parent[name] = rng.choice(["IF", "CaLIF", "Conv2d", "NIRGraph", "Unknown", "os.system", ""])
        elif kind == "version":
            del file["version"]
            file["version"] = rng.choice(["2.0", "1.0.99", "9" * 50, "", "a.b", "1"])
        elif kind == "edges" and "node/edges" in file:
            edges = file["node/edges"][()]
            del file["node/edges"]
            rows = rng.sample(range(len(edges)), rng.randrange(len(edges)))
            kept = edges[rows]
            if rng.random() < 0.5 and len(edges):
                kept = np.concatenate([edges, [[rng.choice(edges)[1], rng.choice(edges)[0]]]])
            if len(kept):
                file["node/edges"] = kept
    return kind


_KINDS = ("delete", "delete", "rename", "value", "value", "value", "soft", "external", "cycle", "storage", "huge",
          "many", "deep", "type", "version", "edges", "edges")  # fmt: skip
_VALUES = (
    lambda rng: float("nan"),
    lambda rng: float("inf"),
    lambda rng: -1,
    lambda rng: 2**40,
    lambda rng: 0,
    lambda rng: np.zeros(0),
    lambda rng: np.full((3, 3), np.nan),
    lambda rng: np.ones(rng.choice([(1,), (2, 2), (7,), (1, 2, 3, 4)])),
    lambda rng: np.ones((2, 2), dtype=rng.choice(["i1", "u2", "i8", "f2", "c16", "?"])),
    lambda rng: "text",
    lambda rng: "x" * 10000,
    lambda rng: np.array([b"a", b"bc"]),
    lambda rng: h5py.Empty("f4"),
)


def main(count: int, seed: int) -> int:
    rng = random.Random(seed)
    np.random.seed(seed)  # noqa: NPY002
    read_well = refused = 0
    kinds: dict[str, int] = {}
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        seeds = []
        for name in GRAPHS:
            path = Path(folder) / f"{name}.nir"
            converters.write(path, converters.to_nir(GRAPHS[name](), T=15))
            converters.read(path)  # whatever is imported lazily is imported now
            seeds.append(path)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 8 * LIMIT, used + 8 * LIMIT))
        victim = Path(folder) / "victim.nir"
        for k in range(count):
            shutil.copy(rng.choice(seeds), victim)
            try:
                kind = mutate_bytes(victim, rng) if rng.random() < 0.5 else mutate_structure(victim, rng)
            except (ValueError, OSError, RuntimeError, KeyError):
                kind = "not written"  # HDF5 itself refused to make such a file
            kinds[kind] = kinds.get(kind, 0) + 1
            watch.on, start = True, time.perf_counter()
            try:
                graph = converters.read(victim, max_bytes=LIMIT)
                with contextlib.suppress(ConversionError):
                    Network.from_graph(graph)
                read_well += 1
            except FileFormatError as error:
                refused += 1
                if "\n" in str(error) or len(str(error)) > 2000:
                    sys.stderr.write(f"file {k} ({kind}): message of several lines, or endless: {str(error)[:300]!r}\n")
                    return 1
            except BaseException as error:
                watch.on = False
                traceback.print_exc()
                sys.stderr.write(f"file {k} ({kind}): {type(error).__name__}: {error}\n")
                shutil.copy(victim, Path(tempfile.gettempdir()) / f"calif-fuzz-{seed}-{k}.nir")
                return 1
            watch.on = False
            if watch.seen or time.perf_counter() - start > SLOW:
                sys.stderr.write(f"file {k} ({kind}): {watch.seen or 'slow'}\n")
                return 1
    sys.stdout.write(f"{count} files: {read_well} read, {refused} refused; {dict(sorted(kinds.items()))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
