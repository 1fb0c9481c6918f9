"""Weights in files beside a model: only there, and no more of them than the model declares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from converters.errors import FileFormatError
from converters.frontends.onnx.tensors import bits_of, count_of, kind_of
from converters.reading import open_regular

__all__ = ["load_external", "tensors_of"]

_TODO = "keep the weights' file beside the model, as it was written"


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds: initialisers, and attributes of nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def load_external(model: ModelProto, path: Path | None) -> None:
    """Put values that lie in files of their own into the model, in place.

    Parameters
    ----------
    model : ModelProto
    path : Path, optional
        Of the model. Only files in its folder, or in folders within it, are read; links that lead out of it are not.

    Raises
    ------
    FileFormatError
        For any other place, or a file that has not the bytes which the model declares.
    """
    functions = [t for f in model.functions for n in f.node for a in n.attribute if a.HasField("t") for t in (a.t,)]
    for tensor in [*tensors_of(model.graph), *functions]:
        if tensor.data_location == TensorProto.EXTERNAL:
            if path is None:
                raise FileFormatError(tensor.name, "values in a file of their own", "give the path of the model")
            _load(tensor, path.parent)


def _load(tensor: TensorProto, folder: Path) -> None:
    where = tensor.name or "a tensor"
    given = {entry.key: entry.value for entry in tensor.external_data}
    place = _inside(where, folder, given.get("location", ""))
    count, kind = count_of(where, tuple(tensor.dims)), kind_of(where, tensor.data_type)
    wanted = -(-count * bits_of(kind) // 8)
    offset = _whole(where, given.get("offset", "0"))
    if "length" in given and _whole(where, given["length"]) != wanted:
        found = f"{given['length'][:20]} bytes for a tensor of shape {tuple(tensor.dims)}, which takes {wanted:,}"
        raise FileFormatError(where, found, _TODO)
    with open_regular(place, todo=_TODO) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + wanted > size:
            found = f"that {place.name} has {size:,} bytes, and not the {offset + wanted:,} which the model declares"
            raise FileFormatError(where, found, _TODO)
        file.seek(offset)
        data = file.read(wanted)
    if len(data) != wanted:
        raise FileFormatError(where, f"that {place.name} shrinks while it is read", _TODO)
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _inside(where: str, folder: Path, location: str) -> Path:
    """The place of a file that the model names, which must be within its folder, links followed."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
        raise FileFormatError(where, f"values in the file {location[:80]!r}", _TODO)
    root = os.path.realpath(folder)
    place = os.path.realpath(os.path.join(root, location))
    if os.path.commonpath([root, place]) != root:
        raise FileFormatError(where, f"values in the file {location[:80]!r}, a link out of the model's folder", _TODO)
    return Path(place)


def _whole(where: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise FileFormatError(where, f"the offset or length {text[:24]!r}", _TODO)
    return int(text)
