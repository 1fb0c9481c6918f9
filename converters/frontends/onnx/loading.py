"""From a path or a model to a checked graph: nothing that a stranger wrote is believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, inliner

from converters.errors import ConversionError, FileFormatError, first_line
from converters.frontends.onnx.external import load_external
from converters.reading import read_bytes

__all__ = ["load"]

_LARGEST = 2**31 - 1  # of protobuf itself
_MOST_NODES = 100_000
_TODO = "give an .onnx file"


def load(source: Any) -> ModelProto:
    """A model with all values in it and its functions inlined; a given one is copied, and left as it is.

    Raises
    ------
    FileFormatError
        If the file is none, or what it declares is not there.
    ConversionError
        If ``source`` is neither a path nor a model.
    """
    if isinstance(source, ModelProto):
        model, path = ModelProto(), None
        model.CopyFrom(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        model = _parsed(path)
    else:
        raise ConversionError("from_onnx", f"a {type(source).__name__}", "give a path, or an onnx.ModelProto")
    _check_texts(model)
    load_external(model, path)
    if model.functions:
        model = _inlined(model)
    if len(model.graph.node) > _MOST_NODES:
        raise FileFormatError("model", f"{len(model.graph.node):,} nodes", f"at most {_MOST_NODES:,} are read")
    return model


def _check_texts(model: ModelProto) -> None:
    """Refuse names that are no text: protobuf hands them out as bytes."""
    left: list[Any] = [model]
    while left:
        for kind, value in left.pop().ListFields():
            several = (value,) if isinstance(value, str | bytes | Message) else value
            if kind.type == FieldDescriptor.TYPE_MESSAGE:
                left += several
            elif kind.type == FieldDescriptor.TYPE_STRING and any(type(text) is not str for text in several):
                raise FileFormatError("model", f"a {kind.name} that is no UTF-8 text", _TODO)


def _parsed(path: Path) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(read_bytes(path, max_bytes=_LARGEST, todo=_TODO))
    except DecodeError:
        raise FileFormatError(str(path), "no ONNX model, or a part of one", _TODO) from None
    if not model.HasField("graph") or not model.opset_import:
        raise FileFormatError(str(path), "no ONNX model", _TODO)
    return model


def _inlined(model: ModelProto) -> ModelProto:
    """With the bodies of its own functions in the places of their calls, which are counted first."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], depth: int) -> int:
        if depth > 64:
            raise FileFormatError(key[1][:80], "a function that calls itself, or calls too deep", "inline it")
        if key not in sizes:
            called = [(n.domain, n.op_type) for n in bodies[key].node]
            sizes[key] = min(sum(size(k, depth + 1) if k in bodies else 1 for k in called), 2 * _MOST_NODES)
        return sizes[key]

    called = [(n.domain, n.op_type) for n in model.graph.node]
    total = sum(size(k, 0) if k in bodies else 1 for k in called)
    if total > _MOST_NODES:
        raise FileFormatError("model", f"functions of {total:,} nodes or more", f"at most {_MOST_NODES:,} are read")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # of onnx's own C++, of no one type
        reason = first_line(error)
        raise FileFormatError("model", f"functions that cannot be inlined ({reason[:120]})", "inline them") from None
