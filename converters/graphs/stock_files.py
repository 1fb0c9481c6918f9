"""What a NIR graph without Ca-LIF nodes is, in words, and which command or function runs it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import nir

from converters.errors import ConversionError

__all__ = ["about_stock", "ways_of_stock"]

_LEAKY = (nir.LIF, nir.LI, nir.I)  # the file does not say how long a step is
_ENDS = (nir.Input, nir.Output)


def about_stock(graph: nir.NIRGraph) -> str:
    """What a graph without Ca-LIF nodes is made of.

    >>> import numpy as np
    >>> one = np.ones(1)
    >>> about_stock(nir.NIRGraph.from_list(nir.Linear(weight=np.eye(1)), nir.IF(r=one, v_threshold=one)))
    'a network of another tool, without Ca-LIF nodes: 1 IF, 1 Linear'
    """
    kinds = Counter(type(node).__name__ for node in graph.nodes.values() if type(node) not in _ENDS)
    nodes = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())) or "no node between input and output"
    target: Any = graph.metadata.get("calif_target")
    if target is not None:
        return f"a network that was lowered (target {target}, T = {graph.metadata.get('calif_window')}): {nodes}"
    return f"a network of another tool, without Ca-LIF nodes: {nodes}"


def ways_of_stock(graph: nir.NIRGraph, path: str = "FILE") -> str:
    """Which command or function runs it, or why none does."""
    from converters.graphs.stock_simulation import run_order, stock_neurons  # which run the file; this says only that

    if "calif_target" in graph.metadata:
        return f"give the network it was made from; calif interop NETWORK --stock {path} runs it"
    try:
        run_order(graph)
    except ConversionError as error:
        return f"nothing here runs it ({error})"
    if not stock_neurons(graph):
        return "nothing in it spikes: converters.simulate_stock computes what it sends"
    leaky = any(type(node) in _LEAKY for node in graph.nodes.values())
    ways = f"calif run {path} --window N{' --dt SECONDS' if leaky else ''} runs it as NIR defines it"
    if any(type(node) is nir.IF for node in graph.nodes.values()) and not leaky:
        ways += ", converters.swap_if gives it Ca-LIF neurons"
    return ways
