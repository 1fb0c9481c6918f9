"""What a lowered file says of itself, and how its names are made: one place for all targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import nir
import numpy as np

from converters.errors import ConversionError
from converters.network import Network
from converters.operations import Shape

__all__ = ["layer_nodes", "numbered", "output_nodes", "precision_bits", "stock_metadata"]

_AS_THEY_ARE = "".join(chr(c) for c in range(32, 127) if chr(c) not in ",%")  # a comma parts the names of layers


def numbered(letter: str, k: int, count: int, least: int = 1) -> str:
    """A name for the k-th of ``count`` that sorts in their order, since files come back sorted by name.

    >>> numbered("l", 7, 12, least=3), numbered("l", 7, 12000, least=3)
    ('l007', 'l00007')
    """
    return f"{letter}{k:0{max(least, len(str(count - 1)))}d}"


def output_nodes(
    network: Network,
    outputs: Mapping[str, str],
    shapes: Mapping[str, Shape],
    nodes: dict[str, nir.NIRNode],
    edges: list[tuple[str, str]],
) -> None:
    """Put an Output node behind every layer that is read: ``output``, or ``output_`` and its layer's number.

    ``outputs`` and ``shapes`` are the nodes that emit each layer's spikes, and what they emit, by the layer's name.
    """
    read = network.output_stages
    for k, stage in enumerate(network.stages):
        if stage in read:
            name = "output" if len(read) == 1 else numbered("output_", k, len(network.stages))
            nodes[name] = nir.Output(output_type={"output": np.array(shapes[stage.name])})
            edges.append((outputs[stage.name], name))


def stock_metadata(target: str, network: Network, precision: int, outputs: Mapping[str, str]) -> dict[str, Any]:
    """The ``metadata`` of a lowered graph; ``outputs`` are the nodes that emit each layer's spikes, by its name."""
    layers = [s.name for s in network.stages]
    return {
        "calif_target": target,
        "calif_window": network.window,
        "calif_precision": precision,
        "calif_layers": ",".join(quote(name, safe=_AS_THEY_ARE) for name in layers),
        "calif_nodes": ",".join(outputs[name] for name in layers),
    }


def layer_nodes(stock: nir.NIRGraph) -> dict[str, str]:
    """The node whose output is a layer's signed spike, by the layer's name, from a lowered graph's metadata.

    Raises
    ------
    ConversionError
        If the graph has no such metadata, or it names a node that is not there.
    """
    found = stock.metadata
    layers, nodes = found.get("calif_layers"), found.get("calif_nodes")
    if not isinstance(layers, str) or not isinstance(nodes, str) or layers.count(",") != nodes.count(","):
        raise ConversionError("graph", "no metadata of a lowered network", "write it with converters.lower")
    result = dict(zip(map(unquote, layers.split(",")), nodes.split(","), strict=True))
    missing = next((node for node in result.values() if node not in stock.nodes), None)
    if missing is not None or len(result) <= layers.count(","):
        raise ConversionError("graph", "metadata of another network", "write it with converters.lower")
    return result


def precision_bits(stock: nir.NIRGraph) -> int:
    """Bits of the floats that hold the graph exactly: 32 or 64."""
    found = stock.metadata.get("calif_precision", 32)
    try:
        bits = int(found)
    except (TypeError, ValueError, OverflowError):
        bits = 0
    if bits not in (32, 64):
        raise ConversionError("graph", f"calif_precision {str(found)[:40]!r}", "it is 32 or 64: write the file again")
    return bits
