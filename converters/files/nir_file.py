"""Reading and writing ``.nir`` files. What is read is not trusted: it is validated before it is built.

An HDF5 file can point into other files, declare gigabytes in kilobytes, contain cycles and carry names that
later reach code generation. So the file is read without the HDF5 library (:mod:`converters.files.hdf5`): the reader
walks it first, follows no link out of it, and adds up what it allocates; only then are nodes built, each by its own
field table.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np

from converters.errors import ConversionError, FileFormatError
from converters.files import hdf5
from converters.files.atomic import atomic_path
from converters.files.endings import NIR, check_ending
from converters.files.nir_building import NAME, build_graph, check_name, shown
from converters.graphs.flattening import DEEPEST, without_repeats
from converters.network import Network
from converters.nodes import NODES, CaLIF, SpikeEncoder
from converters.reading import open_regular

__all__ = ["MAX_BYTES", "NirFile", "read", "read_file", "register", "write"]

MAX_BYTES = 2**30
"""Default limit of what a file may ask the reader to allocate, in bytes."""
_MAX_OBJECTS = 200_000
_MAX_DEPTH = 4 + 2 * DEEPEST
_NUMBERED = re.compile(r"[0-9][A-Za-z0-9_.]*\Z")  # nodes as exporters of nn.Sequential name them: "0", "1", ...


def write(path: str | os.PathLike, graph: nir.NIRGraph) -> None:
    """Write a graph, to a temporary name first, so that ``path`` is never half a file.

    An edge that is there twice gets a Scale of ones, since a file's edges are a set.

    Raises
    ------
    ConversionError
        If ``path`` has the ending of another kind of file, as ``.onnx`` or ``.pt`` (``.h5`` and none will do); if a
        node's name is one that readers must refuse, the folder does not exist, or the disk is full.
    """
    if not isinstance(graph, nir.NIRGraph):
        raise ConversionError("graph", type(graph).__name__, "give a NIR graph: write(path, graph)")
    check_ending(path, NIR)
    for name in graph.nodes:
        check_name("node", name)
    graph = without_repeats(graph)
    with atomic_path(path) as temporary:
        whole = io.BytesIO()  # HDF5 ends the process when it cannot write to a disk
        nir.write(whole, graph)
        temporary.write_bytes(whole.getbuffer())


def read(
    path: str | os.PathLike, *, max_bytes: int = MAX_BYTES, rename: bool = False, allow_large: bool = False
) -> nir.NIRGraph:
    """Read and validate a ``.nir`` file.

    Parameters
    ----------
    path : str or path
    max_bytes : int
        Refuse files whose data would take more memory than this.
    rename : bool
        Put an underscore before names of nodes that begin with a digit, as other tools write them, instead of
        refusing them.
    allow_large : bool
        Take networks of more than 2**27 values for an image and windows of more than 2**20 steps, which a small file
        can ask for.

    Returns
    -------
    nir.NIRGraph
        Without graphs inside of it, and checked for shapes and connections.

    Raises
    ------
    FileFormatError
        Naming the place in the file, what was found there, and what to do.
    """
    return read_file(path, max_bytes=max_bytes, rename=rename, allow_large=allow_large).graph


@dataclass(frozen=True, eq=False)
class NirFile:
    """What is in a file.

    Attributes
    ----------
    graph : nir.NIRGraph
    network : Network or None
        The graph as backends run it; None of a graph without Ca-LIF nodes.
    """

    graph: nir.NIRGraph
    network: Network | None


def read_file(
    path: str | os.PathLike, *, max_bytes: int = MAX_BYTES, rename: bool = False, allow_large: bool = False
) -> NirFile:
    """As :func:`read`, with the network that a graph of Ca-LIF nodes was found to be."""
    where = str(path)
    tree = _load(where, Path(path), max_bytes, rename)
    version = tree.get("version")
    if not isinstance(version, str):
        raise FileFormatError(where, "no NIR version", "write the file with NIR 1.0 or converters.write")
    found = tuple(int(n) for n in re.findall(r"\d+", version[:40])[:2])
    if len(found) < 2 or found > tuple(int(n) for n in nir.version.split(".")[:2]):
        raise FileFormatError(where, f"NIR version {version[:40]!r}", f"this reader knows versions up to {nir.version}")
    node = tree.get("node")
    if not isinstance(node, dict):
        raise FileFormatError(where, "no graph", "write the file with NIR 1.0 or converters.write")
    try:
        graph = build_graph(node, allow_large=allow_large)
        spiking = any(type(n) in (CaLIF, SpikeEncoder) for n in graph.nodes.values())
        network = Network.from_graph(graph) if spiking else None
    except ConversionError as error:
        raise FileFormatError(f"{where}: {error.where}", error.found, error.todo) from None
    return NirFile(graph, network)


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
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FileFormatError(where, f"{size} bytes", f"the limit is {max_bytes}; raise max_bytes if you trust it")
        walk = _Walk(where, hdf5.Source(file, size, max_bytes), rename)
        try:
            return walk.tree()
        except hdf5.Refused as error:
            place = f"{where}:{walk.place}" if walk.place else where
            raise FileFormatError(place, error.found, error.todo) from None
        except OSError as error:
            raise FileFormatError(where, f"that it cannot be read ({error.strerror})", "copy it again") from None
        except MemoryError:
            raise FileFormatError(
                where, "more data than there is memory for", "lower max_bytes, or free some"
            ) from None


class _Walk:
    """What a file holds, as nested dictionaries of arrays and text."""

    def __init__(self, where: str, source: hdf5.Source, rename: bool) -> None:
        self.where, self.source, self.rename = where, source, rename
        self.place = ""  # of what is read
        self.objects = 0
        self.seen: set[int] = set()

    def fail(self, place: str, found: str, todo: str) -> FileFormatError:
        return FileFormatError(f"{self.where}:{place or '/'}", found, todo)

    def tree(self) -> dict[str, Any]:
        address = hdf5.root(self.source)
        found = hdf5.messages(self.source, address)
        if not hdf5.is_group(found):
            raise hdf5.Refused("no root group")
        return self.group(address, found, "", 0)

    def group(self, address: int, found: hdf5.Messages, place: str, depth: int) -> dict[str, Any]:
        if depth > _MAX_DEPTH:
            raise self.fail(place, "groups nested too deeply", "NIR files have nodes and their fields")
        if address in self.seen:
            raise self.fail(place, "a link back to a group already read", "links must form a tree")
        self.seen.add(address)
        result: dict[str, Any] = {}
        members = hdf5.links(self.source, found)
        for name, target in members.items():
            self.objects += 1
            if self.objects > _MAX_OBJECTS:
                raise self.fail(place, f"more than {_MAX_OBJECTS} objects", "split the network")
            here = self.place = f"{place}/{shown(name)}"
            if len(name) > hdf5.MAX_NAME or not NAME.match(name):
                self.numbered(name, place, here)
            if target is None:
                raise self.fail(here, "a soft or external link", "copy the data into the file")
            item = hdf5.messages(self.source, target)
            if hdf5.is_group(item):
                new = name if NAME.match(name) else f"_{name}"
                if new in members and new != name:
                    raise self.fail(here, f"both this name and {new!r}", "rename one")
                result[new] = self.group(target, item, here, depth + 1)
            elif hdf5.is_dataset(item):
                result[name] = self.dataset(item, here)
                if name == "edges" and self.rename:
                    result[name] = _renamed(result[name])
            else:
                raise self.fail(here, "an object of another kind", "NIR files hold groups and data sets")
        return result

    def numbered(self, name: str, place: str, here: str) -> None:
        """Refuse a name, except a number for a node where that was asked for."""
        if len(name) > hdf5.MAX_NAME or not place.endswith("/nodes") or not _NUMBERED.match(name):
            raise self.fail(here, "a name with other characters than letters, digits, _ and .", "rename it")
        if not self.rename:
            raise self.fail(here, "a name that begins with a digit", "rename it, or read the file with rename=True")

    def dataset(self, found: hdf5.Messages, here: str) -> Any:
        value = hdf5.value(self.source, found)
        if not isinstance(value, str) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.fail(here, "NaN or infinity", "all parameters must be finite")
        return value


def _renamed(edges: Any) -> Any:
    """Edges between nodes whose names begin with a digit, by their new names."""
    if not (isinstance(edges, np.ndarray) and edges.dtype.kind == "U"):
        return edges
    return np.array([f"_{n}" if _NUMBERED.match(n) else n for n in edges.ravel()]).reshape(edges.shape)
