"""Synapses of a lowered layer: chains of Affine or Conv2d nodes, the last of which fills the charge's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import torch

from converters.errors import ConversionError
from converters.lowering.rows import Rows, as_float32
from converters.network import Network, Stage
from converters.synapses import Conv2d, Flatten, Linear, Op, Scale, Shape, SumPool2d

__all__ = ["Synapses", "network_shape", "require_spikes", "synapse_nodes"]


def network_shape(shape: Shape, maps: bool) -> Shape:
    """A layer's shape in the lowered graph: behind feature maps, a vector of n is a map ``(n, 1, 1)``."""
    if len(shape) == 2:
        raise ConversionError("layer", f"a layer of shape {shape}", "lowering takes vectors and feature maps")
    return (*shape, 1, 1) if maps and len(shape) == 1 else shape


def require_spikes(network: Network) -> None:
    """Stock nodes take spikes; a charge that depends on the step within the window has no node."""
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
        before, here = outputs[synapse.source], shapes[synapse.source]
        ops = _simplified(synapse.ops, logical[synapse.source], maps=len(here) == 3)
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
            name = f"{prefix}{j:02d}_{k}_syn"
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


def _simplified(ops: tuple[Op, ...], here: Shape, maps: bool) -> list[Conv2d | Linear]:
    """The chain in ungrouped convolutions, or in dense matrices where there are no maps."""
    result: list[Conv2d | Linear] = []
    flat: Shape | None = None  # of the map that a Flatten has turned into this vector
    for op in ops if ops and type(ops[-1]) is not Flatten else (*ops, Scale(1)):
        if type(op) is Flatten:
            flat = here if len(here) == 3 else None
        elif type(op) is Conv2d:
            result.append(_ungrouped(op))
        elif type(op) is SumPool2d:
            result.append(_pool(op, here[0]))
        else:
            weight = op.weight if type(op) is Linear else torch.eye(here[0], dtype=torch.int64) * _factor(op)
            if flat is not None:
                result.append(Conv2d(weight.reshape(-1, *flat)))
            else:
                result.append(Conv2d(weight[:, :, None, None]) if maps else Linear(weight))
            flat = None
        here = op.output_shape(here)
    return result


def _factor(op: Op) -> int:
    assert type(op) is Scale
    return op.weight


def _ungrouped(op: Conv2d) -> Conv2d:
    """Most importers take the weight's second axis for the number of input channels, whatever the groups."""
    if op.groups == 1:
        return op
    out, each, *kernel = op.weight.shape
    full = torch.zeros(out, each * op.groups, *kernel, dtype=op.weight.dtype)
    for k, part in enumerate(op.weight.chunk(op.groups)):
        size = out // op.groups
        full[k * size : (k + 1) * size, k * each : (k + 1) * each] = part
    return Conv2d(full, op.stride, op.padding, op.dilation)


def _pool(op: SumPool2d, channels: int) -> Conv2d:
    weight = torch.eye(channels, dtype=torch.int64)[:, :, None, None].expand(-1, -1, *op.kernel).contiguous()
    return Conv2d(weight, op.stride, op.padding)
