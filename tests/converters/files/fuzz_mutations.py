"""Changes to a good ``.nir`` file: of bytes, of fields of HDF5's structures, of groups, of storage, and of the network.

Each takes a path and a random number generator, and returns the name of what it did.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["FAMILIES"]

# --- bytes ----------------------------------------------------------------------------------------


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "block", "cut", "copy", "zero", "grow"])
    at = rng.randrange(len(data))
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "block":
        data[at : at + 8] = rng.choice([b"\xff" * 8, b"\x00" * 8, rng.randbytes(8), (2**40).to_bytes(8, "little")])
    elif kind == "cut":
        del data[at:]
    elif kind == "copy":
        other, n = rng.randrange(len(data)), rng.randrange(1, 200)
        data[at : at + n] = data[other : other + n]
    elif kind == "zero":
        n = rng.randrange(1, 400)
        data[at : at + n] = bytes(len(data[at : at + n]))
    else:
        data[at:at] = rng.randbytes(rng.randrange(1, 50))
    path.write_bytes(data)
    return kind


# --- fields of HDF5's structures ------------------------------------------------------------------

_SIGNATURES = re.compile(rb"TREE|SNOD|HEAP|GCOL|OHDR|OCHK|FRHP|FHDB|FHIB|BTHD|BTLF|BTIN|FAHD|FADB")
# messages of object headers as the library writes them: data space, type, fill value, layout, filters, symbol table
_MESSAGES = re.compile(rb"[\x01\x03\x05\x06\x08\x0b\x10\x11]\x00[\x08\x10\x18\x20\x28\x30]\x00[\x00\x01]\x00\x00\x00")


def _fields(path: Path, rng: random.Random) -> str:
    """Numbers of headers, indices and heaps: sizes, counts, levels and addresses, often of others of their kind."""
    data = bytearray(path.read_bytes())
    places: dict[bytes, list[int]] = {}
    for match in _SIGNATURES.finditer(data):
        places.setdefault(match[0], []).append(match.start())
    places[b"message"] = [match.start() for match in _MESSAGES.finditer(data)]
    places[b"superblock"] = [0]
    kind = rng.choice([k for k, found in places.items() if found])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at, width = rng.choice(places[kind]) + rng.randrange(rng.choice([16, 64, 256])), rng.choice([1, 2, 4, 8])
        at = min(at, len(data) - width)
        old = int.from_bytes(data[at : at + width], "little")
        new = rng.choice([0, 1, 2, 7, 255, old + 1, old - 1, old * 2, old ^ 1 << rng.randrange(8 * width), len(data),
                          rng.choice(places[kind]), rng.choice(rng.choice([p for p in places.values() if p])),
                          2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(8 * width)])  # fmt: skip
        data[at : at + width] = (new % 2 ** (8 * width)).to_bytes(width, "little")
    path.write_bytes(data)
    return f"field of {kind.decode()}"


# --- groups, links and values ---------------------------------------------------------------------


def _structure(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        groups: list[h5py.Group] = [file]
        datasets: list[h5py.Dataset] = []
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
        elif kind == "storage":
            parent.create_dataset("raw", (100,), "i1", external=[("/etc/passwd", 0, 100)])
        elif kind == "huge":
            side = rng.choice([2**10, 2**16, 2**24, 2**31])
            del parent[name]
            parent.create_dataset(name, (side, side), rng.choice(["f4", "f8", "i1"]), chunks=(1, 1024))
        elif kind == "type":
            del parent[name]
            parent[name] = rng.choice(["IF", "CaLIF", "Conv2d", "NIRGraph", "Unknown", "os.system", ""])
        elif kind == "version":
            del file["version"]
            file["version"] = rng.choice(["2.0", "1.0.99", "9" * 50, "", "a.b", "1", "9" * 5000])
        elif kind == "edges" and "node/edges" in file:
            _edges(file, rng)
        else:
            _links(kind, group, groups, data, rng)
    return kind


def _edges(file: h5py.File, rng: random.Random) -> None:
    edges = file["node/edges"][()]
    del file["node/edges"]
    rows = rng.sample(range(len(edges)), rng.randrange(len(edges)))
    kept = edges[rows]
    if rng.random() < 0.5 and len(edges):
        kept = np.concatenate([edges, [[rng.choice(edges)[1], rng.choice(edges)[0]]]])
    if len(kept):
        file["node/edges"] = kept


def _links(kind: str, group: h5py.Group, groups: list[h5py.Group], data: h5py.Dataset, rng: random.Random) -> None:
    if kind == "soft":
        group["link"] = h5py.SoftLink(rng.choice(["/node", "/nowhere", "/", "."]))
    elif kind == "external":
        group["link"] = h5py.ExternalLink("/etc/passwd", "/node")
    elif kind == "cycle":
        group["cycle"] = rng.choice(groups)
    elif kind == "many":
        for k in range(rng.choice([10, 3000])):
            group.create_group(f"g{k}")
    elif kind == "linked often":
        notes = rng.choice([g for g in groups if g.name.count("/") <= 3]).require_group("metadata")
        for k in range(rng.choice([5, 500])):
            notes[f"l{k}"] = data
    elif kind == "deep":
        for _ in range(rng.choice([5, 60])):
            group = group.create_group("g")


_KINDS = ("delete", "delete", "rename", "value", "value", "value", "soft", "external", "cycle", "storage", "huge",
          "many", "deep", "type", "version", "edges", "edges", "linked often")  # fmt: skip
_VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: float("nan"),
    lambda rng: float("inf"),
    lambda rng: -1,
    lambda rng: 2**40,
    lambda rng: 0,
    lambda rng: True,
    lambda rng: np.zeros(0),
    lambda rng: np.full((3, 3), np.nan),
    lambda rng: np.ones(rng.choice([(1,), (2, 2), (7,), (1, 2, 3, 4)])),
    lambda rng: np.ones((2, 2), dtype=rng.choice(["i1", "u2", "i8", "u8", "f2", "c16", "?", ">f4"])),
    lambda rng: "text",
    lambda rng: "x" * 10000,
    lambda rng: np.array([b"a", b"bc"]),
    lambda rng: np.array(["a", "b" * rng.choice([1, 10**4])] * rng.choice([1, 50]), dtype=h5py.string_dtype()),
    lambda rng: h5py.Empty("f4"),
)

# --- storage --------------------------------------------------------------------------------------

_FILTERS: list[tuple[int, tuple[int, ...]]] = [
    (1, (9,)),
    (1, (9,)),
    (2, ()),
    (3, ()),
    (5, ()),
    (6, (0, 2)),
    (32000, ()),
]  # deflate, shuffle, others


def _storage(path: Path, rng: random.Random) -> str:
    """The same values in chunks of another shape, behind any filters, some damaged, missing or of another size."""
    with h5py.File(path, "r+") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) and item.shape else None)
        data = rng.choice([d for d in found if d.dtype.kind in "fiu"])
        values, name, parent = data[()], data.name, data.parent
        filters: list[tuple[int, tuple[int, ...]]] = rng.choice(
            [[], [(1, (9,))], [(2, ()), (1, (9,))], rng.choices(_FILTERS, k=rng.randrange(1, 4))]
        )
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        wide = rng.choice([1, 1, 1, 100, 10**4])
        chunk = tuple(min(rng.randint(1, n) * wide, 2**24) for n in values.shape)
        plist.set_chunk(chunk)
        for code, options in filters:
            plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, options)
        most = tuple(max(n, c) for n, c in zip(values.shape, chunk, strict=True))
        space = h5py.h5s.create_simple(values.shape, most)
        del parent[name]
        made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(values.dtype), space, plist)
        kind = rng.choice(["kept", "one damaged", "one damaged", "some missing", "one linked by all"])
        usual = {code for code, _ in filters} <= {1, 2}  # the library crashes when it writes through some others
        if kind == "kept" and usual and np.prod(chunk) < 2**20:
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
            return "storage kept"
        starts = [tuple(int(k) * c for k, c in zip(place, chunk, strict=True))
                  for place in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunk, strict=True)))]  # fmt: skip
        size = int(np.prod(chunk)) * values.itemsize
        for start in starts[:200]:
            if kind == "some missing" and rng.random() < 0.2:
                continue
            length = size if rng.random() < 0.8 else rng.choice([0, 1, size - 1, size + 1, 4, 2 * size, 2**22])
            payload = bytes(min(length, 2**22)) if rng.random() < 0.5 else rng.randbytes(min(length, 2**12))
            for code, _ in filters:
                payload = zlib.compress(payload) if code == 1 else payload
            if rng.random() < 0.1:
                payload = payload[: rng.randrange(len(payload) + 1)] + rng.randbytes(rng.randrange(3))
            made.write_direct_chunk(start, payload or b"x", filter_mask=rng.choice([0, 0, 0, 0, 1, 2, 3, 2**31]))
    return f"storage {kind}"


# --- sizes of networks ----------------------------------------------------------------------------

_SIZES = (0, -1, 1, 2, 3, 7, 255, 2**12, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))


def _network(path: Path, rng: random.Random) -> str:
    """Shapes, geometry, windows and weights; chains and diamonds of nodes."""
    with h5py.File(path, "r+") as file:
        nodes = file["node/nodes"]
        if rng.random() < 0.25:
            return _more_nodes(file, rng)
        sizes = [f"{n}/{k}" for n in nodes for k in nodes[n]
                 if k in ("shape", "stride", "padding", "dilation", "groups", "kernel_size", "input_shape", "window",
                          "q_max", "q_min", "y_max", "y_min", "input_type", "start_dim", "end_dim")]  # fmt: skip
        values = [
            f"{n}/{k}" for n in nodes for k in nodes[n] if k in ("weight", "v_threshold", "leak", "v_init", "bias")
        ]
        if rng.random() < 0.6:
            for name in rng.sample(sizes, rng.choice([1, 1, 2, 4])):
                old = np.array(nodes[name][()])
                new = old.reshape(-1).copy()
                new[rng.randrange(len(new))] = rng.choice(_SIZES)
                del nodes[name]
                nodes[name] = new.reshape(old.shape).astype(rng.choice(["i8", "i8", "u8", "i4", "f8", ">i8"]))
            return "sizes"
        name = rng.choice(values)
        old = nodes[name][()]
        kind = rng.choice(["f4", "f8", "i1", "i2", "i8", "u2", "u8", "?", "c8", "f2", ">f8"])
        with np.errstate(all="ignore"):
            factor = rng.choice([1, 1, 2.0**24, -(2.0**63), 2.0**64, 1e30, 1e308, 1e-320, 0, 0.5])
            new = np.asarray(old, np.float64) * factor
            new = new.astype(kind) if kind in ("f4", "f8", "f2", "c8", ">f8", "?") else _whole(new, kind)
        del nodes[name]
        nodes[name] = new
    return "values"


def _whole(values: np.ndarray, kind: str) -> np.ndarray:
    """Rounded, and within the type's range."""
    info = np.iinfo(kind)
    inside = np.clip(values, float(info.min), float(info.max) * (1 - 1e-15))
    return np.round(inside).astype(kind)


def _more_nodes(file: h5py.File, rng: random.Random) -> str:
    """A chain of scales, or diamonds of them, on one of the edges: 2 to the number of diamonds are the paths."""
    nodes, edges = file["node/nodes"], file["node/edges"].asstr()[()].tolist()
    kind, count = rng.choice(["chain", "diamonds"]), rng.choice([1, 3, 30, 300])
    start, end = edges.pop(rng.randrange(len(edges)))
    last = start
    for k in range(count):
        names = [f"more{k}"] if kind == "chain" else [f"more{k}a", f"more{k}b", f"more{k}c"]
        for name in names:
            nodes.create_group(name)["type"] = "Scale"
            nodes[name]["scale"] = np.ones(1) * rng.choice([1, 1, 2])
        edges += [[last, name] for name in names[:2]]
        if kind == "diamonds":
            edges += [[names[0], names[2]], [names[1], names[2]]]
        last = names[-1]
    edges.append([last, end])
    del file["node/edges"]
    file["node/edges"] = np.array(edges, dtype=h5py.string_dtype())
    return kind


FAMILIES: tuple[Callable[[Path, random.Random], str], ...] = (_bytes, _fields, _structure, _storage, _network)
