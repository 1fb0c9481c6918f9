"""A Ca-LIF graph as each importer reads it: the same network, spelt so that nothing is bent on the way in.

NIR leaves room, and importers fill it differently: does ``Flatten`` count the batch, is there a ``Linear`` node or only
``Affine``, what of groups, of padded pools, of ``Scale``. What differs is written here once, as rewrites from
stock nodes to stock nodes; the Ca-LIF nodes stay. The encoder goes: its spikes are fed.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any, NamedTuple

import nir
import numpy as np

from converters.errors import ConversionError
from converters.network import Network
from converters.nodes import CaLIF, SpikeEncoder

__all__ = ["DIALECTS", "spell"]


# simulator: what ``start_dim`` is there for a flatten of all axes but the batch. NIR has 0; where the batch counts, 1
DIALECTS: dict[str, int] = {"snntorch": 1, "norse": 1, "spikingjelly": 0, "sinabs": 0}


def spell(graph: nir.NIRGraph, simulator: str) -> tuple[nir.NIRGraph, dict[str, str]]:
    """The graph for one simulator's importer, and the new name of each Ca-LIF layer.

    Raises
    ------
    ConversionError
        For an unknown simulator, a graph that is no Ca-LIF network, or one whose input is a charge instead of spikes.

    Examples
    --------
    >>> import converters, torch
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> w = Linear(torch.tensor([[1, 2]]))
    >>> y = b.layer("fc", [(x, w)], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> spelt, layers = spell(converters.to_nir(b.build(y), T=4), "norse")
    >>> {name: type(node).__name__ for name, node in spelt.nodes.items()}, layers
    ({'image': 'Input', 'fc_s0_0_linear': 'Affine', 'fc': 'CaLIF', 'result': 'Output'}, {'fc': 'fc'})
    """
    if simulator not in DIALECTS:
        raise ConversionError("simulator", f"{simulator!r}", f"use one of {', '.join(DIALECTS)}")
    network = Network.from_graph(graph)  # validates
    if network.encoder.coding != "isi":
        raise ConversionError(network.encoder_name, "coding 'direct'", "simulators are fed spikes: use coding isi")
    names = _names(graph)
    nodes: dict[str, nir.NIRNode] = {}
    edges = list(graph.edges)
    for name, node in graph.nodes.items():
        branches = _REWRITES.get(type(node), lambda node, _: [node])(node, _Place(graph, name, DIALECTS[simulator]))
        before, after = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        if not branches:  # it only passes on what it gets
            edges = [e for e in edges if name not in e] + [(a, b) for a in before for b in after]
        for k, branch in enumerate(branches):
            here = name if k == 0 else _free(f"{name}_{k}", names)
            nodes[names[here]] = branch
            if k:  # side by side, and added up where they end
                edges += [(a, here) for a in before] + [(here, b) for b in after]
    if len(set(edges)) != len(edges):
        raise ConversionError("graph", "two equal connections between the same layers", "merge them into one weight")
    spelt = nir.NIRGraph(nodes, [(names[a], names[b]) for a, b in edges], metadata={}, type_check=False)
    return spelt, {name: names[name] for name, node in graph.nodes.items() if type(node) is CaLIF}


class _Place(NamedTuple):
    """Where a node stands: what a rewrite may need to know beside the node."""

    graph: nir.NIRGraph
    name: str
    flatten_from: int


def _names(graph: nir.NIRGraph) -> dict[str, str]:
    """Names that executors keep as they are: no dots, no keywords of Python."""
    result: dict[str, str] = {}
    for name in graph.nodes:
        _free(name, result)
    return result


def _free(name: str, taken: dict[str, str]) -> str:
    """Put a name that no other node has into ``taken``, under the name itself, which is returned."""
    new = name.replace(".", "_")
    while new in taken.values() or keyword.iskeyword(new):
        new += "_"
    taken[name] = new
    return name


def _affine(node: Any, _place: _Place) -> list[nir.NIRNode]:
    return [_dense(np.asarray(node.weight))]


def _dense(weight: np.ndarray) -> nir.NIRNode:
    return nir.Affine(weight=weight, bias=np.zeros(len(weight), dtype=weight.dtype))


def _flatten(node: Any, place: _Place) -> list[nir.NIRNode]:
    return [nir.Flatten(input_type=node.input_type, start_dim=place.flatten_from, end_dim=-1)]


def _conv(node: Any, _place: _Place) -> list[nir.NIRNode]:
    """Importers refuse groups, or take the input's channels for those of one group; some choke on NumPy's numbers."""
    groups = int(np.asarray(node.groups).reshape(-1)[0])
    out, per_group, *kernel = np.asarray(node.weight).shape
    full = np.zeros((out, per_group * groups, *kernel), dtype=node.weight.dtype)
    for g in range(groups):  # zeros where a group cuts the connection
        rows = slice(g * out // groups, (g + 1) * out // groups)
        full[rows, g * per_group : (g + 1) * per_group] = node.weight[rows]
    return [_conv2d(full, node.stride, node.padding, node.dilation, node.bias)]


def _conv2d(weight: np.ndarray, stride: Any, padding: Any, dilation: Any, bias: Any = None) -> nir.NIRNode:
    return nir.Conv2d(
        input_shape=None,
        weight=weight,
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=1,
        bias=np.zeros(weight.shape[0], dtype=weight.dtype) if bias is None else bias,
    )


def _pair(value: Any) -> tuple[int, int]:
    array = np.broadcast_to(np.asarray(value).reshape(-1), (2,))
    return int(array[0]), int(array[1])


def _scale(node: Any, _place: _Place) -> list[nir.NIRNode]:
    """No importer has it: a diagonal of weights does the same; two, where one float32 cannot hold the factor."""
    scale = np.asarray(node.scale, dtype=np.float64)
    factor, channels = scale.flat[0], scale.shape[0]  # uniform, as Network checks
    if factor == 1:
        return []
    high = np.float32(factor)
    diagonals = [np.eye(channels, dtype=np.float32) * part for part in (high, np.float32(factor - high)) if part]
    if scale.ndim == 1:
        return [_dense(w) for w in diagonals]
    return [_conv2d(w[:, :, None, None], (1, 1), (0, 0), (1, 1)) for w in diagonals]


def _pool(node: Any, place: _Place) -> list[nir.NIRNode]:
    """Importers pool by an average times its size, and drop the padding: exact for sizes of 2, 4, 8, ... alone."""
    kernel = _pair(node.kernel_size)
    size = kernel[0] * kernel[1]
    if size & (size - 1) == 0 and not np.asarray(node.padding).any():
        return [nir.SumPool2d(np.array(kernel), np.array(_pair(node.stride)), np.array((0, 0)))]
    channels = _channels(place.graph, place.name)
    weight = np.zeros((channels, channels, *kernel), dtype=np.float32)
    weight[range(channels), range(channels)] = 1
    return [_conv2d(weight, node.stride, node.padding, (1, 1))]


def _channels(graph: nir.NIRGraph, name: str) -> int:
    """Channels of what comes into a node."""
    before = next(a for a, b in graph.edges if b == name)
    node: Any = graph.nodes[before]
    if type(node) is nir.Conv2d:
        return int(node.weight.shape[0])
    if type(node) is nir.Scale:
        return int(np.asarray(node.scale).shape[0])
    if type(node) in (CaLIF, SpikeEncoder):
        return int(node.shape[0])
    return _channels(graph, before)


# a node to the nodes that stand for it side by side; none where it only passes on what it gets
_REWRITES: dict[type, Callable[[Any, _Place], list[nir.NIRNode]]] = {
    SpikeEncoder: lambda node, place: [],
    nir.Linear: _affine,
    nir.Flatten: _flatten,
    nir.Conv2d: _conv,
    nir.SumPool2d: _pool,
    nir.Scale: _scale,
}
