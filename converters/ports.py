"""How a ``.nir`` graph says what is returned, in its metadata: names of nodes alone would lose structure and order.

The key ``calif_outputs`` of the graph's ``metadata`` is a JSON text, the structure of
:func:`converters.outputs.to_json`, whose layers are CaLIF nodes. It is there only where the network does not simply
return one layer's output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from converters.errors import ConversionError
from converters.outputs import Output, from_json, leaves, to_json
from converters.reading import parse_json

__all__ = ["OUTPUTS", "outputs_of", "ports_metadata"]

OUTPUTS = "calif_outputs"
_LARGEST = 2**20  # characters


def ports_metadata(outputs: Any) -> dict[str, str]:
    """What a graph's metadata says of a structure of outputs: nothing of a single one without functions behind it."""
    if type(outputs) is Output and not outputs.tail:
        return {}
    return {OUTPUTS: json.dumps(to_json(outputs))}


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
    text = metadata.get(OUTPUTS)
    if text is None:
        return dict(sinks) if len(sinks) > 1 else next(iter(sinks.values()))
    if type(text) is bytes:  # as plain nir.read has it
        text = text.decode("utf-8", "replace")
    if type(text) is not str or len(text) > _LARGEST:
        raise ConversionError(f"metadata {OUTPUTS}", "no text, or a very long one", "write the file again")
    structure = from_json(parse_json(f"metadata {OUTPUTS}", text, "write the file again"))
    named = {output.layer for output in leaves(structure)}
    if named != set(sinks.values()):
        found = f"outputs {sorted(named)[:5]}, where the Output nodes have {sorted(sinks.values())[:5]}"
        raise ConversionError(f"metadata {OUTPUTS}", found, "write the file again, or remove the metadata")
    return structure
