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
from torch import fx

from converters.errors import ConversionError
from converters.graphs.flattening import flat, without_repeats
from converters.graphs.naming import Names
from converters.graphs.shapes import infer_shapes
from converters.network import Network
from converters.nodes import CaLIF, SpikeEncoder
from converters.operations import OPERATIONS
from converters.operations.node import CaLIFOperation
from converters.operations.weights import for_node

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
    if network.coding != "isi":
        raise ConversionError(next(iter(network.specs)), "coding 'direct'", "simulators are fed spikes: use coding isi")
    graph = without_repeats(flat(graph))
    wires, sent = _Wires(graph), infer_shapes(graph)
    arrives = {b: sent[a] for a, b in graph.edges}
    nodes: dict[str, nir.NIRNode] = {}
    names = Names(_RESERVED)
    new = {name: names.new(name.replace(".", "_")) for name in graph.nodes}
    for name, node in graph.nodes.items():
        place = _Place(arrives.get(name, ()), DIALECTS[simulator])
        branches = _REWRITES.get(type(node), lambda node, _: [node])(node, place)
        if not branches and not wires.cut(name):  # it only passes on what it gets, but beside an edge that does too
            branches = _diagonal(node.scale)
        for k, branch in enumerate(branches):
            twin = f"{name}/{k}" if k else name  # side by side, and added up where they end; no name of a file has a /
            if k:
                new[twin] = names.new(f"{new[name]}_{k}")
                wires.copy(name, twin)
            nodes[new[twin]] = branch
    spelt = nir.NIRGraph(nodes, [(new[a], new[b]) for a, b in wires.edges()], metadata={}, type_check=False)
    return spelt, {name: new[name] for name, node in graph.nodes.items() if type(node) is CaLIF}


class _Wires:
    """Edges that can be taken apart and doubled, in time that does not grow with the graph."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        self.before: dict[str, dict[str, None]] = {name: {} for name in graph.nodes}
        self.after: dict[str, dict[str, None]] = {name: {} for name in graph.nodes}
        for a, b in graph.edges:
            self.join(a, b)

    def join(self, a: str, b: str) -> None:
        self.before[b][a] = self.after[a][b] = None

    def cut(self, name: str) -> bool:
        """Let what comes before a node feed what comes after it; False, and nothing, where that edge is there."""
        before, after = self.before[name], self.after[name]
        if any(b in self.after[a] for a in before for b in after):
            return False
        del self.before[name], self.after[name]
        for a in before:
            del self.after[a][name]
        for b in after:
            del self.before[b][name]
        for a in before:
            for b in after:
                self.join(a, b)
        return True

    def copy(self, name: str, to: str) -> None:
        """Join another node where one is joined."""
        self.before[to], self.after[to] = {}, {}
        for a in self.before[name]:
            self.join(a, to)
        for b in self.after[name]:
            self.join(to, b)

    def edges(self) -> list[tuple[str, str]]:
        return [(a, b) for a, ends in self.after.items() for b in ends]


# executors make attributes of modules, and Python, of names
_RESERVED = {*dir(fx.GraphModule({}, fx.Graph())), *keyword.kwlist, *keyword.softkwlist}


class _Place(NamedTuple):
    """Where a node stands: what a rewrite may need to know beside the node."""

    shape: tuple[int, ...]
    flatten_from: int


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
    return [] if np.asarray(node.scale).flat[0] == 1 else _diagonal(node.scale)


def _diagonal(value: Any) -> list[nir.NIRNode]:
    """No importer has a Scale: a diagonal of weights does the same; two, where one float32 cannot hold the factor."""
    scale = np.asarray(value, dtype=np.float64)
    factor, channels = scale.flat[0], scale.shape[0]  # uniform, as Network checks
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
        return [type(node)(np.array(kernel), np.array(_pair(node.stride)), np.array((0, 0)))]
    channels = place.shape[0]
    weight = np.zeros((channels, channels, *kernel), dtype=np.float32)
    weight[range(channels), range(channels)] = 1
    return [_conv2d(weight, node.stride, node.padding, (1, 1))]


def _operation(node: Any, place: _Place) -> list[nir.NIRNode]:
    """A convolution or dense layer, where one does the same."""
    if node.order:
        return [node]
    try:
        found = node.build("operation").stock(place.shape, flattened=None, maps=False)
    except ConversionError:
        return [node]
    weight = for_node(found)
    return [_dense(weight) if weight.ndim == 2 else _conv2d(weight, found.stride, found.padding, found.dilation)]


# a node to the nodes that stand for it side by side; none where it only passes on what it gets
_REWRITES: dict[type, Callable[[Any, _Place], list[nir.NIRNode]]] = {
    SpikeEncoder: lambda node, place: [],
    nir.Linear: _affine,
    nir.Flatten: _flatten,
    nir.Conv2d: _conv,
    **{node: _pool for op in OPERATIONS.values() for node in op.node_types if "kernel_size" in node.__annotations__},
    nir.Scale: _scale,
    CaLIFOperation: _operation,
}
