"""NIR files of other tools, with stock neurons: run as NIR defines them, or refused with the reason.

NIR fixes equations, not a simulation. What is left open is decided here, and said: one explicit Euler step of
length ``dt`` per time step; all nodes act within the same step, in graph order; then a neuron above its threshold
(strictly, as NIR has it) fires and is set to ``v_reset``. A file does not hold its ``dt``. For IF nodes alone it
follows from ``r dt = 1``, which both conventions of exporters mean: one unit of input adds one to the membrane.
A LIF node needs to be told. Pools that average divide nothing: the sums go on as they are, with their divisor beside
them, to the next threshold; so whole numbers stay whole, and a sum that is a threshold is one.

What tools do with a file can differ from this: SpikingJelly and Sinabs fire on ``>=`` (``strict=False``),
Sinabs subtracts the threshold instead of resetting, snnTorch's importer reads an IF as a leaky neuron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import nir
import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.graphs.flattening import flat
from converters.graphs.order import in_order
from converters.graphs.shapes import infer_shapes
from converters.graphs.stock_nodes import MAKE, REASONS, SPIKING, Node, Place

__all__ = ["StockResult", "run_order", "simulate_stock", "stock_neurons"]


@dataclass(eq=False)
class StockResult:
    """What a stock network did.

    Attributes
    ----------
    outputs : float64 tensor ``(steps, N, *output shape)``
        What arrived at the Output node.
    spikes : dict of float64 tensors ``(steps, N, *shape)``
        Of every IF, LIF and Threshold node.
    dt : float
        Seconds per step that was used.
    """

    outputs: Tensor
    spikes: dict[str, Tensor]
    dt: float


def stock_neurons(graph: nir.NIRGraph) -> list[str]:
    """Names of the stock nodes that spike."""
    return [name for name, node in flat(graph).nodes.items() if type(node) in SPIKING]


def simulate_stock(graph: nir.NIRGraph, inputs: Tensor, *, dt: float | None = None, strict: bool = True) -> StockResult:
    """Run a feed-forward NIR graph of stock nodes.

    Parameters
    ----------
    graph : nir.NIRGraph
        Of ``Affine``, ``Linear``, ``Conv2d``, ``Flatten``, ``Scale``, ``IF``, ``LIF``, ``LI``, ``I`` and ``Threshold``
        nodes, pools that add or average, and of graphs of these, with one Input and one Output.
    inputs : tensor ``(steps, N, *input shape)``
        Input at each step: spikes, or currents.
    dt : float, optional
        Seconds per step; can be left out where only IF nodes have time in them.
    strict : bool
        Fire above the threshold, as NIR defines it; or, with False, at the threshold too.

    Raises
    ------
    ConversionError
        Naming the node whose meaning is not clear, or whose shape is not what arrives, with the reason and the way out.

    Examples
    --------
    >>> one = np.ones(1)
    >>> g = nir.NIRGraph.from_list(nir.Linear(weight=np.array([[0.5]])), nir.IF(r=one, v_threshold=one))
    >>> simulate_stock(g, torch.ones(7, 1, 1)).outputs.flatten().tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    graph = flat(graph)
    names, before = run_order(graph)
    shapes = infer_shapes(graph)
    dt = _step(graph) if dt is None else float(dt)
    if not (np.isfinite(dt) and dt > 0):
        raise ConversionError("dt", f"{dt}", "give seconds per step, above 0")
    source, sink = names[0], names[-1]
    if tuple(inputs.shape[2:]) != shapes[source]:
        wanted = ", ".join(str(n) for n in shapes[source])
        raise ConversionError("inputs", f"shape {tuple(inputs.shape)}", f"give (steps, N, {wanted})")
    nodes: dict[str, Node] = {}
    divisors = {source: 1}  # of what a node sends: a value is the number sent, over this
    for name in names[1:]:
        divisors[name] = here = _common(divisors, before[name])
        if name != sink:
            nodes[name], divisors[name] = MAKE[type(graph.nodes[name])](
                Place(name, graph.nodes[name], dt, strict, inputs.device, here)
            )
    trains: dict[str, list[Tensor]] = {name: [] for name in (*stock_neurons(graph), sink)}
    factors = {name: [_common(divisors, before[name]) // divisors[a] for a in before[name]] for name in names[1:]}
    for x in inputs.to(torch.float64):
        values = {source: x}
        for name in names[1:]:
            parts = [values[a] * k if k > 1 else values[a] for a, k in zip(before[name], factors[name], strict=True)]
            total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
            if name != sink:
                try:
                    total = nodes[name](total)
                except RuntimeError as error:
                    raise ConversionError(
                        name, f"an input of shape {tuple(total.shape[1:])} ({error})", "fix the graph"
                    ) from None
            elif divisors[name] > 1:
                total = total / divisors[name]
            values[name] = total
            if name in trains:
                trains[name].append(total)
    stacked = {name: torch.stack(train) for name, train in trains.items()}
    return StockResult(stacked.pop(sink), stacked, dt)


def _common(divisors: dict[str, int], names: list[str]) -> int:
    return math.lcm(*(divisors[a] for a in names))


def run_order(graph: nir.NIRGraph) -> tuple[list[str], dict[str, list[str]]]:
    """Names in an order to run in, Input first and Output last; and what feeds each. Errors as of simulate_stock."""
    for name, node in graph.nodes.items():
        if type(node) not in MAKE and type(node) not in (nir.Input, nir.Output):
            raise ConversionError(
                name, f"a {type(node).__name__} node", REASONS.get(type(node), "no meaning is known for it here")
            )
    ends = [[n for n, node in graph.nodes.items() if type(node) is kind] for kind in (nir.Input, nir.Output)]
    if [len(e) for e in ends] != [1, 1]:
        raise ConversionError(
            "graph", f"{len(ends[0])} inputs and {len(ends[1])} outputs", "give a graph with one of each"
        )
    (source,), (sink,) = ends
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        before[b].append(a)
    lost = next((name for name, sources in before.items() if not sources and name != source), None)
    if lost is not None:
        raise ConversionError(lost, "no input", "connect every node to the Input")
    ends_of = {a for a, _ in graph.edges}
    if before[source] or sink in ends_of:
        where = source if before[source] else sink
        raise ConversionError(where, "an edge into the Input, or out of the Output", "remove it")
    names, stuck = in_order(before)
    if stuck is not None:
        raise ConversionError(stuck, "a cycle of edges", "NIR does not say what delay a feedback edge has; cut it")
    return [*(name for name in names if name != sink), sink], before


def _step(graph: nir.NIRGraph) -> float:
    """The time step that the nodes imply."""
    for name, node in graph.nodes.items():
        if type(node) in (nir.LIF, nir.LI, nir.I):
            raise ConversionError(
                name,
                f"a {type(node).__name__} node, whose time step no file says",
                "give dt: snnTorch and SpikingJelly export for 1e-4, Norse for 1e-3",
            )
    found = {float(r) for node in graph.nodes.values() if type(node) is nir.IF for r in np.unique(node.r)}
    if len(found) > 1 or min(found, default=1.0) <= 0:
        raise ConversionError("IF nodes", f"resistances {sorted(found)[:5]}", "give dt: no single step makes r dt = 1")
    return 1 / found.pop() if found else 1.0
