"""IF networks of other tools, by way of NIR, with Ca-LIF neurons in place of the IF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF
from converters.errors import ConversionError
from converters.frontends.checking import left_alone
from converters.frontends.snntorch_check import Step, compare_trains, probe_counts
from converters.frontends.snntorch_graph import graph_of
from converters.graphs.naming import Names
from converters.graphs.stock_simulation import simulate_stock
from converters.network import Network
from converters.operations.pooling import STOCK_POOLS, stock_pool

__all__ = ["swap_if"]

_CHUNK = 64


def swap_if(
    graph: nir.NIRGraph,
    T: int,
    *,
    scale: float | None = None,
    levels: int | None = None,
    signed: bool = False,
    y_max: int | None = None,
    tie: str = "even",
    check: bool | Tensor = True,
) -> nir.NIRGraph:
    """A chain of stock nodes with its IF neurons replaced by Ca-LIF, ready for every backend.

    What changes: the reset subtracts the threshold instead of going to 0, so no charge is lost; a neuron fires at its
    threshold, not only above; it takes back a spike too many by a negative one, down to a count of 0; it rounds
    after the window. So counts become ``clip(round(z / Vth), 0, y_max)`` of the charge ``z`` that came in, whatever
    the order of the spikes. Weights, biases and thresholds stay.

    Parameters
    ----------
    graph : nir.NIRGraph
        One path of ``Affine``, ``Linear``, ``Conv2d``, pool, ``Flatten`` and ``IF`` nodes, with an IF at its end.
    T : int
        Window in steps.
    scale, levels, signed
        How pixels become spikes (see :func:`converters.from_snntorch`).
    y_max : int, optional
        Ceiling of a neuron's count; ``T`` by default.
    tie : {"even", "up"}
    check : bool or float tensor ``(N, *input shape)``
        Run the given graph for one window (:func:`converters.simulate_stock`) and compare, layer by layer, what arrives
        at each neuron, and its spikes up to the first one: from there on the two neurons are meant to differ. On eight
        random and extreme images, or on your own; False leaves it out.

    Returns
    -------
    nir.NIRGraph
        Of CaLIF nodes, named after the IF nodes that they replace. Its metadata, ``calif_checked``, says what was
        compared.

    Raises
    ------
    ConversionError
        For branches, for LIF nodes (their decay is not a constant leak), for a reset to another potential than 0, for
        thresholds that vary within a channel; or naming the first layer that is not the given one.

    Examples
    --------
    >>> one = np.ones(2)
    >>> g = nir.NIRGraph.from_list(nir.Linear(weight=np.eye(2)), nir.IF(r=one, v_threshold=3 * one))
    >>> [type(n).__name__ for n in swap_if(g, T=8).nodes.values()]
    ['Input', 'SpikeEncoder', 'Linear', 'CaLIF', 'Output']
    """
    path = _path(graph)
    shape = tuple(int(n) for n in graph.nodes[path[0]].input_type["input"])
    here: tuple[int, ...] = shape
    layers: list[tuple[str, nn.Module]] = []
    for name in path[1:-1]:
        node = graph.nodes[name]
        if type(node) is nir.IF:
            p = {"threshold": _threshold(name, node, here), "y_max": float(T if y_max is None else y_max)}
            module: nn.Module = CaLIF(**p, tie=tie, init_hidden=True)
        elif type(node) in _MODULES:
            module = _MODULES[type(node)](name, node, here)
            try:
                here = tuple(module(torch.zeros(1, *here, dtype=torch.float64)).shape[1:])
            except (RuntimeError, IndexError) as error:
                raise ConversionError(name, f"an input of shape {here} ({error})", "fix the graph") from None
        else:
            raise ConversionError(name, f"a {type(node).__name__} node", _REASONS.get(type(node), _ONLY))
        layers.append((name, module))
    swapped = graph_of(layers, shape, T, scale=scale, levels=levels, signed=signed)
    network = Network.from_graph(swapped)
    wanted = probe_counts(network.spec, check)
    if wanted is None:
        return swapped
    equal = ties = 0
    with left_alone(torch.device("cpu")), torch.no_grad():
        for counts in wanted[0].split(_CHUNK):
            a, b = compare_trains(network, _run(graph, path, network, counts), first_only=True)
            equal, ties = equal + a, ties + b
    swapped.metadata["calif_checked"] = (
        f"IF neurons on {len(wanted[0])} images ({wanted[1]}), up to their first spikes: "
        f"{equal - ties:,} equal, {ties:,} near-ties"
    )
    return swapped


def _run(graph: nir.NIRGraph, path: list[str], network: Network, counts: Tensor) -> Iterator[Step]:
    """The given graph, as NIR defines it, and what arrives at its neurons when they get its spikes."""
    train = torch.from_numpy(isi_encode(counts=counts.numpy(), window=network.window)).double()
    given = simulate_stock(graph, train).spikes  # by the given names, one of which may be another layer's new one
    spikes, drive = {network.encoder_name: train}, {}
    before, start = train, 1
    neurons = [name for name in path if type(graph.nodes[name]) is nir.IF]
    for name, stage in zip(neurons, network.stages, strict=True):
        end = path.index(name)
        charge = simulate_stock(_between(graph, path[start:end], tuple(before.shape[2:]), stage.shape), before).outputs
        drive[stage.name] = charge / torch.from_numpy(
            np.broadcast_to(graph.nodes[name].v_threshold, stage.shape).copy()
        )
        before, start = given[name], end + 1
        spikes[stage.name] = before
    for t in range(network.window):
        yield Step({k: v[t] for k, v in spikes.items()}, {k: v[t] for k, v in drive.items()})


def _between(graph: nir.NIRGraph, names: list[str], shape: tuple[int, ...], out: tuple[int, ...]) -> nir.NIRGraph:
    """The synapses between two neurons, as a graph of their own."""
    free = Names(names)
    source, sink = free.take("input"), free.take("output")
    nodes: dict[str, nir.NIRNode] = {source: nir.Input(input_type={"input": np.array(shape)})}
    nodes |= {name: graph.nodes[name] for name in names}
    nodes[sink] = nir.Output(output_type={"output": np.array(out)})
    return nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes)), metadata={}, type_check=False)


def _path(graph: nir.NIRGraph) -> list[str]:
    """The one path from Input to Output."""
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        after[a].append(b)
        before[b].append(a)
    starts = [n for n, node in graph.nodes.items() if type(node) is nir.Input]
    if len(starts) != 1:
        raise ConversionError("graph", f"{len(starts)} inputs", "give a graph with one")
    path = starts
    while type(graph.nodes[path[-1]]) is not nir.Output:
        here = path[-1]
        if len(after[here]) != 1 or len(before[after[here][0]]) != 1:
            raise ConversionError(here, "a branch, a join or a feedback", "swap works on one path of nodes")
        path.append(after[here][0])
    return path


def _threshold(name: str, node: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Per channel, in units of the input: one unit adds ``r dt``, and that is 1 (see stock_simulation)."""
    r = np.unique(node.r)
    if len(r) != 1 or r[0] <= 0:
        raise ConversionError(name, f"resistances {r[:5]}", "fold them into the weights")
    if np.any(node.v_reset):
        raise ConversionError(name, "a reset to another potential than 0", "Ca-LIF subtracts its threshold")
    value = np.asarray(node.v_threshold, dtype=np.float64)
    try:
        full = np.broadcast_to(value, shape).reshape(shape[0], -1)
    except ValueError:
        raise ConversionError(name, f"thresholds of shape {value.shape}", f"the layer has shape {shape}") from None
    if (full != full[:, :1]).any() or (full <= 0).any():
        raise ConversionError(name, "thresholds that vary within a channel, or are not positive", "use one per channel")
    return torch.from_numpy(full[:, 0].copy())


def _linear(_name: str, node: Any, _shape: tuple[int, ...]) -> nn.Module:
    bias = node.bias if type(node) is nir.Affine else None
    return _filled(nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=bias is not None), node.weight, bias)


def _conv(name: str, node: Any, _shape: tuple[int, ...]) -> nn.Module:
    if isinstance(node.padding, str):
        raise ConversionError(name, f"padding {node.padding!r}", "give it in numbers")
    groups = int(np.asarray(node.groups).reshape(-1)[0])
    out, per_group, *kernel = node.weight.shape
    sizes = (_pair(node.stride), _pair(node.padding), _pair(node.dilation))
    return _filled(nn.Conv2d(per_group * groups, out, tuple(kernel), *sizes, groups), node.weight, node.bias)


def _filled(module: Any, weight: Any, bias: Any) -> nn.Module:
    module.weight.data = torch.from_numpy(np.array(weight, dtype=np.float64))
    if bias is not None:
        module.bias.data = torch.from_numpy(np.array(bias, dtype=np.float64))
    return module


def _pool(_name: str, node: Any, shape: tuple[int, ...]) -> nn.Module:
    pool, c = stock_pool(node), shape[0]
    if pool.divisor == math.prod(pool.kernel):
        return pool.module()
    conv = nn.Conv2d(c, c, pool.kernel, pool.stride, pool.padding, groups=c, bias=False)
    return _filled(conv, np.ones((c, 1, *pool.kernel)), None)


def _flatten(name: str, node: Any, shape: tuple[int, ...]) -> nn.Module:
    if int(node.start_dim) != 0 or int(node.end_dim) not in (-1, len(shape) - 1):
        raise ConversionError(name, f"a flatten from {node.start_dim} to {node.end_dim}", "flatten all axes")
    return nn.Flatten()


def _pair(value: Any) -> tuple[int, int]:
    array = np.broadcast_to(np.asarray(value).reshape(-1), (2,))
    return int(array[0]), int(array[1])


_MODULES: dict[type, Callable[[str, Any, tuple[int, ...]], nn.Module]] = {
    nir.Affine: _linear,
    nir.Linear: _linear,
    nir.Conv2d: _conv,
    **dict.fromkeys(STOCK_POOLS, _pool),
    nir.Flatten: _flatten,
}
_ONLY = f"swap works on {', '.join(kind.__name__ for kind in _MODULES)} and IF nodes"
_REASONS: dict[type, str] = {
    nir.LIF: "its membrane decays, where a Ca-LIF neuron leaks a constant: use IF, or run the file as it is",
}
