"""A QuantGraph in one ``.safetensors`` file: integer weights, float64 thresholds, topology as JSON in its header.

``.safetensors.xz`` is the same file compressed, a tenth smaller; some of the checkpoints that ship are such files.
Nothing in a file is executed, and all of it is checked before a graph is built.
"""

from __future__ import annotations

import json
import lzma
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from converters.atomic import atomic_path
from converters.errors import ConversionError, FileFormatError
from converters.operations import OPERATIONS, Synapse
from converters.operations.node import settings_of
from converters.quantised import Checked, InputSpec, Layer, QuantGraph
from converters.reading import parse_json, read_bytes

__all__ = ["FORMAT", "load_quantised", "save_quantised"]

FORMAT = "calif-quantised"
_VERSION = 1
_LARGEST = 1 << 30  # bytes of a file, decompressed
_DICTIONARY = 1 << 28  # bytes that decompressing may take beside them; what xz writes takes 65 MiB at the most
_XZ = b"\xfd7zXZ\x00"
_AGAIN = "train or convert again"
# the notes that commands read; a caller may keep others, of any type
_NOTES: dict[str, tuple[str, set[type]]] = {
    **dict.fromkeys(("network", "dataset", "toolkit", "command"), ("a text", {str})),
    **dict.fromkeys(("levels", "weight_bits", "seed"), ("a whole number", {int})),
    **dict.fromkeys(("float_accuracy", "quantised_accuracy"), ("a number", {int, float})),
}


def save_quantised(path: str | os.PathLike, q: QuantGraph, *, notes: dict[str, Any] | None = None) -> None:
    """Write a quantised network, to a temporary name first.

    Parameters
    ----------
    path : str or path
        Compressed if it ends in ``.xz``.
    q : QuantGraph
    notes : dict, optional
        What else belongs to it (network, data set, accuracy, command); JSON values.

    Raises
    ------
    ConversionError
        If the folder does not exist.
    """
    tensors: dict[str, Tensor] = {}
    layers = []
    for layer in q.layers:
        tensors[f"{layer.name}/threshold"], tensors[f"{layer.name}/bias"] = layer.threshold, layer.bias
        synapses = []
        for k, synapse in enumerate(layer.synapses):
            ops = []
            for j, op in enumerate(synapse.ops):
                plain, arrays = settings_of(op)
                for name, value in arrays.items():
                    tensors[_tensor(layer.name, k, j, name)] = _smallest(value)
                ops.append({"op": type(op).__name__, **plain})
            source = synapse.sources[0] if len(synapse.sources) == 1 else list(synapse.sources)
            synapses.append({"source": source, "ops": ops})
        plain = {n: getattr(layer, n) for n in ("name", "y_min", "y_max", "scale", "shape", "tie", "spiking")}
        layers.append({**plain, "synapses": synapses})
    spec = {f.name: getattr(q.input, f.name) for f in fields(q.input)}
    topology = {"version": _VERSION, "source": q.source, "input": spec, "layers": layers, "notes": notes or {}}
    if q.checked is not None:
        topology["checked"] = q.checked.as_dict()
    metadata = {"format": FORMAT, "topology": json.dumps(topology)}
    data = save({k: t.contiguous() for k, t in tensors.items()}, metadata)
    if Path(path).suffix == ".xz":
        data = lzma.compress(data, preset=9)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_quantised(path: str | os.PathLike) -> QuantGraph:
    """Read a quantised network back, exactly.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, of another kind or of a later version.
    """
    return load_with_notes(path)[0]


def load_with_notes(path: str | os.PathLike) -> tuple[QuantGraph, dict[str, Any]]:
    """The network and the notes that were saved with it."""
    where = str(path)
    data = read_bytes(path, max_bytes=_LARGEST)
    try:
        if data[:6] == _XZ:
            data = _decompressed(data)
        tensors = load(data)  # checks the header before we read from it
        header = parse_json(where, data[8 : 8 + int.from_bytes(data[:8], "little")], _AGAIN).get("__metadata__", {})
    except FileFormatError:
        raise
    except (SafetensorError, lzma.LZMAError, ValueError) as error:
        raise FileFormatError(where, f"a damaged file, or one of another kind ({error})", _AGAIN) from None
    del data
    if header.get("format") != FORMAT:
        raise FileFormatError(
            where, "safetensors of another kind", "give a file written by calif train or save_quantised"
        )
    try:
        topology = json.loads(header["topology"])
        if topology["version"] != _VERSION:
            raise FileFormatError(
                where, f"format version {topology['version']}", f"this software reads version {_VERSION}"
            )
        spec = topology["input"]
        layers = tuple(_layer(entry, tensors) for entry in topology["layers"])
        checked = Checked(**topology["checked"]) if "checked" in topology else None
        graph = QuantGraph(InputSpec(**{**spec, "shape": tuple(spec["shape"])}), layers, topology["source"], checked)
        notes = dict(topology["notes"])
        _check_notes(where, notes)
        return graph, notes
    except FileFormatError:
        raise
    except ConversionError as error:
        raise FileFormatError(f"{where}: {error.where}", error.found, error.todo) from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FileFormatError(where, f"an incomplete description ({reason})", _AGAIN) from None


def _check_notes(where: str, notes: dict[str, Any]) -> None:
    for name, (text, types) in _NOTES.items():
        value = notes.get(name)
        if value is not None and type(value) not in types:
            raise FileFormatError(where, f"a note {name!r} of {value!r}", f"{text} belongs there")
    classes = notes.get("classes")
    if classes is not None and not (type(classes) is list and all(type(name) is str for name in classes)):
        raise FileFormatError(where, f"a note 'classes' of {classes!r}", "a list of names belongs there")


def _decompressed(data: bytes) -> bytes:
    """The bytes of a compressed file; one that would fill the memory, by its size or its dictionary, is refused."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY)
    plain = decompressor.decompress(data, _LARGEST + 1)
    if len(plain) > _LARGEST:
        raise ValueError(f"more than {_LARGEST >> 20} MiB when decompressed")
    if not decompressor.eof:
        raise ValueError("it ends too early")
    return plain


def _layer(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Layer:
    name = entry["name"]
    synapses = []
    for k, synapse in enumerate(entry["synapses"]):
        ops = []
        for j, given in enumerate(synapse["ops"]):
            arguments: dict[str, Any] = {
                key: tuple(v) if isinstance(v, list) else v for key, v in given.items() if key != "op"
            }
            prefix = _tensor(name, k, j, "weight")
            arguments |= {key[len(prefix) + 1 :] or "weight": t for key, t in tensors.items() if _is_of(key, prefix)}
            ops.append(OPERATIONS[given["op"]](**arguments))
        source = synapse["source"]
        synapses.append(Synapse(tuple(source) if isinstance(source, list) else (source,), tuple(ops)))
    plain = {n: entry[n] for n in ("name", "y_min", "y_max", "scale", "tie", "spiking")}
    return Layer(
        synapses=tuple(synapses),
        threshold=tensors[f"{name}/threshold"],
        bias=tensors[f"{name}/bias"],
        shape=tuple(entry["shape"]),
        **plain,
    )


def _tensor(layer: str, synapse: int, op: int, name: str) -> str:
    """The name of an operation's tensor in a file; weights have none of their own."""
    return f"{layer}/{synapse}/{op}" if name == "weight" else f"{layer}/{synapse}/{op}/{name}"


def _is_of(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}/")


def _smallest(weight: Tensor) -> Tensor:
    largest = int(weight.abs().max()) if weight.numel() else 0
    kinds = (torch.int8, torch.int16, torch.int32)
    return weight.to(next((k for k in kinds if largest <= torch.iinfo(k).max), torch.int64))
