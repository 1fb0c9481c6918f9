"""A QuantGraph in one ``.safetensors`` file: integer weights, float64 thresholds, topology as JSON in its header.

``.safetensors.xz`` is the same file compressed, a tenth smaller; most of the repository's checkpoints are such files.
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

from converters.errors import ConversionError, FileFormatError
from converters.files.atomic import atomic_path
from converters.files.endings import QUANTISED, check_ending
from converters.files.quantised_schema import Description, InputEntry, LayerEntry, described
from converters.operations import Synapse
from converters.operations.building import build_operation, tensor_fields
from converters.operations.node import settings_of
from converters.ports.outputs import Output, from_json, to_json
from converters.ports.tokens import TokenTable
from converters.quantised import Checked, InputSpec, Layer, QuantGraph
from converters.reading import parse_json, read_bytes

__all__ = ["FORMAT", "load_quantised", "save_quantised"]

FORMAT = "calif-quantised"
_VERSIONS = (1, 2)
"""The second has several inputs, tokens, or other outputs than the last layer alone; readers of the first refuse it."""
_LARGEST = 1 << 30  # bytes of a file, decompressed
_DICTIONARY = 1 << 28  # bytes that decompressing may take beside them; what xz writes takes 65 MiB at the most
_LARGEST_TEXT = 1 << 24  # bytes of the description
_XZ = b"\xfd7zXZ\x00"
_AGAIN = "train or convert again"
# the notes that commands read; a caller may keep others, of any type
_NOTES: dict[str, tuple[str, set[type]]] = {
    **dict.fromkeys(("network", "dataset", "toolkit", "command"), ("a text", {str})),
    **dict.fromkeys(("levels", "weight_bits", "seed"), ("a whole number", {int})),
    "levels_by_layer": ("numbers by module path", {dict}),
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
        If ``path`` has the ending of another kind of file, the folder does not exist, or notes are no JSON (NaN is
        none).
    """
    if not isinstance(q, QuantGraph):
        raise ConversionError("q", type(q).__name__, "give a quantised network: save_quantised(path, q)")
    check_ending(path, QUANTISED)
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
    first, *more = (_entry(spec, tensors) for spec in q.inputs)
    topology = {"version": _VERSIONS[0], "source": q.source, "input": first, "layers": layers, "notes": notes or {}}
    if q.outputs != Output(q.layers[-1].name):
        topology |= {"version": _VERSIONS[1], "outputs": to_json(q.outputs)}
    if any(spec.table is not None for spec in q.inputs):
        topology["version"] = _VERSIONS[1]
    if more:
        topology |= {"version": _VERSIONS[1], "more_inputs": more}
    if q.checked is not None:
        topology["checked"] = q.checked.as_dict()
    metadata = {"format": FORMAT, "topology": _json(topology)}
    data = _in_order(save({k: t.clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}, metadata))
    if Path(path).suffix == ".xz":
        data = lzma.compress(data, preset=9)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _entry(spec: InputSpec, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An input's entry; its table becomes one of the tensors."""
    entry: dict[str, Any] = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "table"}
    if spec.table is not None:
        tensors[f"{spec.name}/table"] = _smallest(spec.table.rows)
        entry["tokens"] = True
    return entry


def _json(topology: dict[str, Any]) -> str:
    """Text that the reader takes; of all that is in it, only the notes can be what JSON does not have."""
    try:
        return json.dumps(topology, allow_nan=False)
    except (TypeError, ValueError) as error:
        todo = "give text, finite numbers, lists and dictionaries of them"
        raise ConversionError("notes", f"what JSON cannot hold ({error})", todo) from None


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata by name: safetensors 0.8 writes them in another order each time, and so of the
    same network other bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin where numbers of 8 bytes may
    return len(text).to_bytes(8, "little") + text + data[end:]


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
    header, tensors = _records(where, read_bytes(path, max_bytes=_LARGEST))
    if header.get("format") != FORMAT:
        raise FileFormatError(
            where, "safetensors of another kind", "give a file written by calif train or save_quantised"
        )
    text = header.get("topology", "")
    if len(text) > _LARGEST_TEXT:
        raise FileFormatError(where, f"{len(text):,} bytes of description", f"at most {_LARGEST_TEXT:,} are read")
    topology = parse_json(where, text, _AGAIN)
    version = topology.get("version") if isinstance(topology, dict) else None
    if version not in _VERSIONS or type(version) is not int:
        raise FileFormatError(where, f"format version {version!s:.40}", "this software reads version 1 and 2")
    found = described(where, topology, _AGAIN)
    _check_notes(where, found.notes)
    try:
        return _graph(found, tensors), found.notes
    except ConversionError as error:
        raise FileFormatError(f"{where}: {error.where}", error.found, error.todo) from None
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FileFormatError(where, f"an incomplete description ({reason})", _AGAIN) from None


def _records(where: str, data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file's bytes."""
    try:
        if data[:6] == _XZ:
            data = _decompressed(data)
        tensors = load(data)  # checks the header before we read from it
    except (SafetensorError, lzma.LZMAError, ValueError, KeyError) as error:
        raise FileFormatError(where, f"a damaged file, or one of another kind ({error})", _AGAIN) from None
    length = int.from_bytes(data[:8], "little")
    if length > 2 * _LARGEST_TEXT:
        raise FileFormatError(where, f"{length:,} bytes of description", f"at most {2 * _LARGEST_TEXT:,} are read")
    return parse_json(where, data[8 : 8 + length], _AGAIN).get("__metadata__", {}), tensors


def _graph(found: Description, tensors: dict[str, Tensor]) -> QuantGraph:
    first, *more = (_input(spec, tensors) for spec in (found.input, *found.more_inputs))
    checked = Checked(**found.checked) if found.checked is not None else None
    outputs = None if found.outputs is None else from_json(found.outputs)
    layers = tuple(_layer(entry, tensors) for entry in found.layers)
    return QuantGraph(first, layers, found.source, checked, outputs, tuple(more))


def _input(spec: InputEntry, tensors: dict[str, Tensor]) -> InputSpec:
    table = None
    if spec.tokens:
        rows = tensors.get(f"{spec.name}/table")
        if rows is None:
            raise ConversionError(f"{spec.name}.table", "none", "an input of tokens has one")
        table = TokenTable(rows)
    return InputSpec(tuple(spec.shape), spec.scale, spec.q_min, spec.q_max, spec.name, table)


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


def _layer(entry: LayerEntry, tensors: dict[str, Tensor]) -> Layer:
    synapses = []
    for k, synapse in enumerate(entry.synapses):
        ops = []
        for j, given in enumerate(synapse.ops):
            plain = dict(given)
            name = plain.pop("op", None)
            keys = {n: _tensor(entry.name, k, j, n) for n in tensor_fields(entry.name, name)}
            arrays = {n: tensors[key] for n, key in keys.items() if key in tensors}
            ops.append(build_operation(entry.name, name, plain, arrays))
        sources = (synapse.source,) if isinstance(synapse.source, str) else tuple(synapse.source)
        synapses.append(Synapse(sources, tuple(ops)))
    return Layer(
        name=entry.name,
        synapses=tuple(synapses),
        threshold=_per_channel(entry, tensors, "threshold"),
        bias=_per_channel(entry, tensors, "bias"),
        y_min=entry.y_min,
        y_max=entry.y_max,
        scale=entry.scale,
        shape=tuple(entry.shape),
        tie=entry.tie,  # type: ignore[arg-type]  # the layer checks it
        spiking=entry.spiking,
    )


def _per_channel(entry: LayerEntry, tensors: dict[str, Tensor], name: str) -> Tensor:
    value = tensors.get(f"{entry.name}/{name}")
    if value is None or value.dtype != torch.float64 or value.shape != (entry.shape[0],):
        of = "none" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
        raise ConversionError(f"{entry.name}.{name}", of, f"{entry.shape[0]} float64 values belong there")
    return value


def _tensor(layer: str, synapse: int, op: int, name: str) -> str:
    """The name of an operation's tensor in a file; weights have none of their own."""
    return f"{layer}/{synapse}/{op}" if name == "weight" else f"{layer}/{synapse}/{op}/{name}"


def _smallest(weight: Tensor) -> Tensor:
    largest = max(abs(int(w)) for w in weight.aminmax()) if weight.numel() else 0  # int8 has no 128
    kinds = (torch.int8, torch.int16, torch.int32)
    return weight.to(next((k for k in kinds if largest <= torch.iinfo(k).max), torch.int64))
