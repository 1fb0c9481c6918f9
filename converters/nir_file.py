"""Reading and writing ``.nir`` files. What is read is not trusted: it is validated before it is built.

An HDF5 file can point into other files, declare gigabytes in kilobytes, contain cycles and carry names that
later reach code generation. So the reader walks the file first, follows no link out of it, and adds up what
it would allocate; only then are nodes built, each by its own field table.
"""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from converters.atomic import atomic_path
from converters.errors import ConversionError, FileFormatError
from converters.hdf5_heaps import damaged_heap
from converters.network import Network
from converters.nir_building import NAME, build_graph, check_connected, check_name, shown
from converters.nodes import NODES, CaLIF, SpikeEncoder

__all__ = ["MAX_BYTES", "read", "register", "write"]

MAX_BYTES = 2**30
"""Default limit of what a file may ask the reader to allocate, in bytes."""
_MAX_OBJECTS = 200_000
_MAX_DEPTH = 4
_NUMBERED = re.compile(r"[0-9][A-Za-z0-9_.]*\Z")  # nodes as exporters of nn.Sequential name them: "0", "1", ...
# deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf: built in; any other would load a plugin
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def write(path: str | os.PathLike, graph: nir.NIRGraph) -> None:
    """Write a graph, to a temporary name first, so that ``path`` is never half a file.

    Raises
    ------
    ConversionError
        If a node's name is one that readers must refuse, the folder does not exist, or the disk is full.
    """
    for name in graph.nodes:
        check_name("node", name)
    with atomic_path(path) as temporary:
        whole = io.BytesIO()  # HDF5 ends the process when it cannot write to a disk
        nir.write(whole, graph)
        temporary.write_bytes(whole.getbuffer())


def read(path: str | os.PathLike, *, max_bytes: int = MAX_BYTES, rename: bool = False) -> nir.NIRGraph:
    """Read and validate a ``.nir`` file.

    Parameters
    ----------
    path : str or path
    max_bytes : int
        Refuse files whose data would take more memory than this.
    rename : bool
        Put an underscore before names of nodes that begin with a digit, as other tools write them, instead of
        refusing them.

    Returns
    -------
    nir.NIRGraph
        With :class:`~converters.nodes.CaLIF` nodes checked for shapes and connections.

    Raises
    ------
    FileFormatError
        Naming the place in the file, what was found there, and what to do.
    """
    where = str(path)
    tree = _load(where, Path(path), max_bytes, rename)
    version = tree.get("version")
    if not isinstance(version, str):
        raise FileFormatError(where, "no NIR version", "write the file with NIR 1.0 or converters.write")
    found = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if len(found) < 2 or found > tuple(int(n) for n in nir.version.split(".")[:2]):
        raise FileFormatError(where, f"NIR version {version[:40]!r}", f"this reader knows versions up to {nir.version}")
    node = tree.get("node")
    if not isinstance(node, dict):
        raise FileFormatError(where, "no graph", "write the file with NIR 1.0 or converters.write")
    try:
        graph = build_graph(node)
        check_connected(graph)
        if any(type(n) in (CaLIF, SpikeEncoder) for n in graph.nodes.values()):
            Network.from_graph(graph)
    except ConversionError as error:
        raise FileFormatError(f"{where}: {error.where}", error.found, error.todo) from None
    return graph


def register() -> None:
    """Let plain ``nir.read`` understand our nodes, in this process (opt-in).

    NIR has no registry; this adds to the one table that its deserialiser looks names up in.
    """
    table = vars(nir.ir)
    known = table["__all_ir"]
    for name, cls in NODES.items():
        table[name] = cls
        if name not in known:
            known.append(name)


# --- the walk -------------------------------------------------------------------------------------


def _load(where: str, path: Path, max_bytes: int, rename: bool) -> dict[str, Any]:
    try:
        info = path.stat()
    except (OSError, ValueError):
        raise FileFormatError(where, "no such file", "check the path") from None
    if not stat.S_ISREG(info.st_mode):
        raise FileFormatError(where, "something that is not a regular file", "give a .nir file")
    if info.st_size > max_bytes:
        raise FileFormatError(
            where, f"{info.st_size} bytes", f"the limit is {max_bytes}; raise max_bytes if you trust it"
        )
    try:
        with h5py.File(path, "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise FileFormatError(where, "addresses of other than 8 bytes", "write it with h5py's own settings")
            damage = damaged_heap(path)  # opening a file does not touch them yet
            if damage is not None:
                raise FileFormatError(where, damage, "the file is damaged; write it again")
            return _Walk(where, max_bytes, info.st_size, rename).group(file, "", 0)
    except FileFormatError:
        raise
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        UnicodeError,
        OverflowError,
        AttributeError,
    ) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise FileFormatError(
            where, f"a damaged or truncated file, or one that is not HDF5 ({reason})", "write it again"
        ) from None


class _Walk:
    def __init__(self, where: str, max_bytes: int, file_size: int, rename: bool) -> None:
        self.rename = rename
        self.where, self.left, self.file_size = where, max_bytes, file_size
        self.limit = max_bytes
        self.objects = 0
        self.seen: set[Any] = set()

    def fail(self, place: str, found: str, todo: str) -> FileFormatError:
        return FileFormatError(f"{self.where}:{place or '/'}", found, todo)

    def group(self, group: h5py.Group, place: str, depth: int) -> dict[str, Any]:
        if depth > _MAX_DEPTH:
            raise self.fail(place, "groups nested too deeply", "NIR files have nodes and their fields")
        address = h5py.h5o.get_info(group.id).addr
        if address in self.seen:
            raise self.fail(place, "a link back to a group already read", "links must form a tree")
        self.seen.add(address)
        result: dict[str, Any] = {}
        for name in group:
            self.objects += 1
            if self.objects > _MAX_OBJECTS:
                raise self.fail(place, f"more than {_MAX_OBJECTS} objects", "split the network")
            here = f"{place}/{shown(name)}"
            if not isinstance(name, str) or len(name) > 200 or not NAME.match(name):
                self.numbered(name, place, here)
            link = group.get(name, getlink=True)
            if type(link) is not h5py.HardLink:
                raise self.fail(here, "a soft or external link", "copy the data into the file")
            item = group[name]
            if isinstance(item, h5py.Group):
                new = name if NAME.match(name) else f"_{name}"
                if new in group and new != name:
                    raise self.fail(here, f"both this name and {new!r}", "rename one")
                result[new] = self.group(item, here, depth + 1)
            elif isinstance(item, h5py.Dataset):
                result[name] = self.dataset(item, here)
                if place == "/node" and name == "edges" and self.rename:
                    result[name] = _renamed(result[name])
            else:
                raise self.fail(here, f"a {type(item).__name__}", "NIR files hold groups and data sets")
        return result

    def numbered(self, name: Any, place: str, here: str) -> None:
        """Refuse a name, except a number for a node where that was asked for."""
        if not isinstance(name, str) or len(name) > 200 or place != "/node/nodes" or not _NUMBERED.match(name):
            raise self.fail(here, "a name with other characters than letters, digits, _ and .", "rename it")
        if not self.rename:
            raise self.fail(here, "a name that begins with a digit", "rename it, or read the file with rename=True")

    def dataset(self, data: h5py.Dataset, here: str) -> Any:
        if data.is_virtual or data.external:
            raise self.fail(here, "data stored outside of the file", "copy the data into the file")
        plist = data.id.get_create_plist()
        filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
        if not filters <= _FILTERS:
            raise self.fail(here, f"an unknown compression filter {sorted(filters - _FILTERS)}", "use gzip")
        if data.shape is None or len(data.shape) > 8:
            raise self.fail(here, "a data set without shape or with more than 8 axes", "write it again")
        text = h5py.check_string_dtype(data.dtype)
        if text is None and data.dtype.kind not in "fiub":
            raise self.fail(here, f"data of type {data.dtype}", "NIR fields are numbers or text")
        if data.dtype.kind == "f" and data.dtype.itemsize > 8:
            raise self.fail(here, f"data of type {data.dtype}", "use float64 at most")
        size = int(np.prod([int(n) for n in data.shape], dtype=object)) * max(data.dtype.itemsize, 1)
        if text is not None:
            size *= 16  # each becomes a Python object
            if size > 64 * self.file_size:
                raise self.fail(here, "more text than the file can hold", "write it again")
        chunks = data.chunks
        if chunks is not None:  # a chunk is decompressed whole, whatever the data set needs of it
            size += int(np.prod([int(n) for n in chunks], dtype=object)) * max(data.dtype.itemsize, 1)
        if size > self.left:
            raise self.fail(
                here, f"{size} bytes of data", f"the limit is {self.limit} bytes; raise max_bytes if you trust it"
            )
        self.left -= size
        value = data[()]
        if isinstance(value, bytes):
            return value.decode("utf8")
        if text is not None and isinstance(value, np.ndarray):
            return np.array([v.decode("utf8") if isinstance(v, bytes) else v for v in value.ravel()]).reshape(
                value.shape
            )
        if data.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.fail(here, "NaN or infinity", "all parameters must be finite")
        return value


def _renamed(edges: Any) -> Any:
    """Edges between nodes whose names begin with a digit, by their new names."""
    if not (isinstance(edges, np.ndarray) and edges.dtype.kind == "U"):
        return edges
    return np.array([f"_{n}" if _NUMBERED.match(n) else n for n in edges.ravel()]).reshape(edges.shape)
