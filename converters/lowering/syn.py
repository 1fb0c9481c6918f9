"""Synapses of a lowered layer: chains of Affine or Conv2d nodes, the last of which fills the charge's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from converters.errors import ConversionError
from converters.lowering.metadata import numbered
from converters.lowering.rows import Rows, as_float32
from converters.network import Network, Stage
from converters.operations import Conv2d, Linear, Scale, Shape, Synapse

__all__ = ["Synapses", "network_shape", "require_spikes", "synapse_nodes"]


def network_shape(shape: Shape, maps: bool) -> Shape:
    """A layer's shape in the lowered graph: behind feature maps, a vector of n is a map ``(n, 1, 1)``."""
    if len(shape) == 2:
        raise ConversionError("layer", f"a layer of shape {shape}", "lowering takes vectors and feature maps")
    return (*shape, 1, 1) if maps and len(shape) == 1 else shape


def require_spikes(network: Network) -> None:
    """Stock nodes take spikes, of one Input; a charge that depends on the step within the window has no node."""
    if len(network.specs) > 1:
        found = f"{len(network.specs)} inputs ({', '.join(network.specs)})"
        todo = "stock executors feed one Input: run it by backends fast, snntorch or brian2, or convert it with one"
        raise ConversionError("network", found, todo)
    if network.encoder.coding != "isi":
        raise ConversionError(
            network.encoder_name,
            f"coding {network.encoder.coding!r}",
            "stock nodes take spikes: convert with coding isi",
        )


@dataclass
class Synapses:
    """Nodes and edges, and the ends that feed the layer."""

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


def synapse_nodes(
    prefix: str,
    stage: Stage,
    outputs: Mapping[str, str],
    shapes: Mapping[str, Shape],
    logical: Mapping[str, Shape],
    rows: Rows,
    scale: Any,
    constant: np.ndarray,
    *,
    exact: bool = True,
) -> Synapses:
    """Nodes from the sources' spikes to the rows of the layer's state.

    There is no Flatten among them, since importers disagree on where it starts: a dense layer on a feature map
    is a convolution with a kernel of the map's size. ``shapes`` are those of the nodes, where a vector of n behind a
    map is a map ``(n, 1, 1)``; ``logical`` those of the network. The charge is multiplied by ``scale``, one or one
    per channel; ``constant`` is added once. What float32 would round is an error if ``exact``.
    """
    result = Synapses()
    for j, synapse in enumerate(stage.synapses):
        if not synapse.linear:
            kind = type(next((op for op in synapse.ops if not op.linear), synapse.ops[0])).__name__
            raise ConversionError(
                stage.name,
                f"{kind}, an operation that remembers counts, which has no stock NIR node",
                "run the network on fast, snntorch or brian2, which have it as it is",
            )
        before, here = outputs[synapse.source], shapes[synapse.source]
        ops = _simplified(stage, synapse, logical[synapse.source], maps=len(here) == 3)
        for k, op in enumerate(ops):
            last = k == len(ops) - 1
            weight = op.weight.numpy().astype(np.float64)
            bias = np.zeros(weight.shape[0])
            if last:
                factor = np.broadcast_to(np.asarray(scale, dtype=np.float64), weight.shape[:1])
                weight = _into_rows(weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)), rows)
                bias = np.zeros(rows.total)
                if j == 0:
                    bias[rows.at["v"]] = constant
            name = f"{numbered(prefix, j, len(stage.synapses), least=2)}_{numbered('', k, len(ops))}_syn"
            result.nodes[name] = _node(name, op, weight, bias, here, exact)
            result.edges.append((before, name))
            before, here = name, op.output_shape(here)
        result.ends.append(before)
    return result


def _into_rows(weight: np.ndarray, rows: Rows) -> np.ndarray:
    full = np.zeros((rows.total, *weight.shape[1:]))
    full[rows.at["v"]] = weight
    return full


def _node(
    name: str, op: Conv2d | Linear, weight: np.ndarray, bias: np.ndarray, here: Shape, exact: bool
) -> nir.NIRNode:
    short, constant = weight.astype(np.float32), bias.astype(np.float32)
    if exact:
        short, constant = as_float32(name, weight), as_float32(name, bias)
    if type(op) is Linear:
        return nir.Affine(weight=short, bias=constant)
    assert type(op) is Conv2d
    return nir.Conv2d(
        input_shape=(int(here[1]), int(here[2])),
        weight=short,
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        groups=1,
        bias=constant,
    )


def _simplified(stage: Stage, synapse: Synapse, here: Shape, maps: bool) -> list[Conv2d | Linear]:
    """The chain in ungrouped convolutions, or in dense layers where there are no maps."""
    result: list[Conv2d | Linear] = []
    flattened: Shape | None = None  # the map that has become this vector
    ops = synapse.ops
    for op in ops if ops and not ops[-1].rewires else (*ops, Scale(1)):
        if op.rewires:
            flattened = here if len(here) == 3 else None
        else:
            try:
                result.append(op.stock(here, flattened=flattened, maps=maps))
            except ConversionError as error:
                raise ConversionError(stage.name, error.found, error.todo) from None
            flattened = None
        here = op.output_shape(here)
    return result
