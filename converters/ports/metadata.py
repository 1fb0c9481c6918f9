"""How a ``.nir`` graph says what it takes and returns, in its metadata: nodes alone would lose structure and order.

The key ``calif_outputs`` of the graph's ``metadata`` is a JSON text, the structure of
:func:`converters.ports.outputs.to_json`, whose layers are CaLIF nodes. It is there only where the network does not
simply return one layer's output. ``calif_inputs`` lists the SpikeEncoder nodes of several inputs, in the order in which
images are given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from converters.errors import ConversionError
from converters.ports.outputs import Output, from_json, leaves, to_json
from converters.reading import parse_json

__all__ = ["INPUTS", "OUTPUTS", "inputs_of", "outputs_of", "ports_metadata"]

INPUTS, OUTPUTS = "calif_inputs", "calif_outputs"
_LARGEST = 2**20  # characters


def ports_metadata(inputs: Sequence[str], outputs: Any) -> dict[str, str]:
    """What a graph's metadata says: nothing of one input, or of one output without functions behind it."""
    said = {INPUTS: json.dumps(list(inputs))} if len(inputs) > 1 else {}
    if type(outputs) is Output and not outputs.tail:
        return said
    return {**said, OUTPUTS: json.dumps(to_json(outputs))}


def inputs_of(metadata: Mapping[str, Any], encoders: Sequence[str]) -> list[str]:
    """The encoders of a graph in the order in which images are given; that of its nodes, where it says nothing.

    Raises
    ------
    ConversionError
        If the metadata do not list these encoders.
    """
    found = _said(metadata, INPUTS)
    if found is None:
        return list(encoders)
    if type(found) is not list or not all(type(name) is str for name in found) or sorted(found) != sorted(encoders):
        todo = "write the file again, or remove the metadata"
        raise ConversionError(f"metadata {INPUTS}", f"{str(found)[:60]}, of encoders {sorted(encoders)[:5]}", todo)
    return found


def _said(metadata: Mapping[str, Any], key: str) -> Any:
    """The JSON of a key; None where there is none."""
    text = metadata.get(key)
    if text is None:
        return None
    if type(text) is bytes:  # as plain nir.read has it
        text = text.decode("utf-8", "replace")
    if type(text) is not str or len(text) > _LARGEST:
        raise ConversionError(f"metadata {key}", "no text, or a very long one", "write the file again")
    return parse_json(f"metadata {key}", text, "write the file again")


def outputs_of(metadata: Mapping[str, Any], sinks: Mapping[str, str]) -> Any:
    """The structure of outputs of a graph, whose ``sinks`` are the layers behind its Output nodes, by their names.

    A graph that says nothing returns its only output, or a dictionary of them by the names of the nodes.

    Raises
    ------
    ConversionError
        If the metadata say something else than the graph, or what is no structure.

    >>> outputs_of({}, {"result": "fc"}), outputs_of({}, {"a": "fc1", "b": "fc2"})
    ('fc', {'a': 'fc1', 'b': 'fc2'})
    """
    if OUTPUTS not in metadata:
        return dict(sinks) if len(sinks) > 1 else next(iter(sinks.values()))
    structure = from_json(_said(metadata, OUTPUTS))
    named = {output.layer for output in leaves(structure)}
    if named != set(sinks.values()):
        found = f"outputs {sorted(named)[:5]}, where the Output nodes have {sorted(sinks.values())[:5]}"
        raise ConversionError(f"metadata {OUTPUTS}", found, "write the file again, or remove the metadata")
    return structure
