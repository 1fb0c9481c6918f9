"""Graphs within graphs, spelt out: NIR lets a node be a graph with an Input and an Output of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import nir
import numpy as np

from converters.errors import ConversionError
from converters.graphs.naming import LONGEST, Names
from converters.graphs.order import in_order
from converters.graphs.shapes import infer_shapes
from converters.operations.node import CaLIFOperation

__all__ = ["DEEPEST", "flat", "without_repeats"]

DEEPEST = 8
"""Graphs in one another."""
_MOST = 1_000_000  # connections that may come of it: doors in a row multiply theirs


def flat(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The same network without graphs inside of it; the very graph, if there are none.

    A node ``lif`` of the graph ``block`` becomes ``block.lif``. What goes into ``block`` goes to what its Input feeds,
    and what comes out of it is what feeds its Output. Where a signal comes several times, a Scale says how often.

    Raises
    ------
    ConversionError
        For an inner graph that has not one Input and one Output, that holds itself, whose declared shapes are not
        those of what arrives there, or that passes a signal around without a node.

    Examples
    --------
    >>> one = np.ones(1)
    >>> inner = nir.NIRGraph.from_list(nir.Linear(weight=np.array([[0.5]])), nir.IF(r=one, v_threshold=one))
    >>> ends = {"input": nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}
    >>> g = flat(nir.NIRGraph({**ends, "block": inner}, [("input", "block"), ("block", "output")]))
    >>> sorted(g.nodes), sorted(g.edges)
    (['block.if', 'block.linear', 'input', 'output'],
     [('block.if', 'output'), ('block.linear', 'block.if'), ('input', 'block.linear')])
    """
    if not any(type(node) is nir.NIRGraph for node in graph.nodes.values()):
        return graph
    unpacked = _Unpacked()
    unpacked.put(graph)
    whole = nir.NIRGraph(unpacked.nodes, unpacked.edges, type_check=False)
    shapes = infer_shapes(whole)
    result = _without_doors(whole, unpacked.doors, shapes)
    result.metadata = graph.metadata
    return result


def without_repeats(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The same sums with every edge once, as NIR wants it; the very graph, if that is so.

    An edge that is there a second time goes through a Scale of ones.

    Raises
    ------
    ConversionError
        Where a repeated edge starts at a node whose shape is not known.
    """
    repeated = [edge for edge, count in Counter(map(tuple, graph.edges)).items() if count > 1]
    if not repeated:
        return graph
    shapes = infer_shapes(graph)
    names, nodes, edges = Names(graph.nodes), dict(graph.nodes), []
    seen: set[tuple[str, str]] = set()
    for a, b in graph.edges:
        if (a, b) in seen:
            if a not in shapes:
                raise ConversionError(f"edge {a} -> {b}", "an edge that is there twice", "put a Scale of ones into one")
            again = names.new(f"{b[: LONGEST - 20]}.again_scale")
            nodes[again] = nir.Scale(scale=np.ones(shapes[a]))
            edges += [(a, again), (again, b)]
        else:
            seen.add((a, b))
            edges.append((a, b))
    return nir.NIRGraph(nodes, edges, metadata=graph.metadata, type_check=False)


class _Unpacked:
    """Nodes and edges of a graph and of all graphs in it; ``doors`` are the inner Input and Output nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.doors: set[str] = set()
        self.names = Names()

    def put(self, graph: nir.NIRGraph, prefix: str = "", depth: int = 0) -> dict[str, str]:
        """Put a graph in; the new names of its nodes, by their own."""
        if depth > DEEPEST:
            raise ConversionError(prefix.rstrip("."), f"graphs more than {DEEPEST} deep in one another", "unpack some")
        here: dict[str, str] = {}
        inner = {name: node for name, node in graph.nodes.items() if type(node) is nir.NIRGraph}
        for name, node in graph.nodes.items():
            if name not in inner:
                here[name] = self.names.new(f"{prefix}{name}")
                self.nodes[here[name]] = node
        into, out_of = dict(here), dict(here)
        for name, child in inner.items():
            found = self.put(child, f"{prefix}{name}.", depth + 1)
            into[name] = self._door(f"{prefix}{name}", child, found, nir.Input)
            out_of[name] = self._door(f"{prefix}{name}", child, found, nir.Output)
        for name, node in graph.nodes.items():
            if type(node) is CaLIFOperation and node.order:  # it names its sources
                self.nodes[here[name]] = replace(node, sources=json.dumps([out_of.get(a, a) for a in node.order]))
        for a, b in graph.edges:
            for end in (a, b):
                if end not in graph.nodes:
                    raise ConversionError(f"edge {a} -> {b}", f"no node {end!r}", "edges must join existing nodes")
            self.edges.append((out_of[a], into[b]))
        return here

    def _door(self, where: str, graph: nir.NIRGraph, names: dict[str, str], kind: type) -> str:
        found = [name for name, node in graph.nodes.items() if type(node) is kind]
        if len(found) != 1:
            raise ConversionError(where, f"a graph with {len(found)} {kind.__name__} nodes", "give it exactly one")
        self.doors.add(names[found[0]])
        return names[found[0]]


def _without_doors(graph: nir.NIRGraph, doors: set[str], shapes: dict[str, tuple[int, ...]]) -> nir.NIRGraph:
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        before[b].append(a)
    behind: dict[str, Counter[str]] = {}  # a door: how often each real node comes through it
    count = 0

    def sources(of: Iterable[str]) -> Counter[str]:
        nonlocal count
        total: Counter[str] = Counter()
        for a in of:
            total.update(behind[a] if a in doors else {a: 1})
        count += len(total)
        if count > _MOST:
            raise ConversionError("graph", f"more than {_MOST} connections between its inner graphs", "simplify them")
        return total

    for door in _in_order(doors, before):
        behind[door] = sources(before[door])
    names = Names(graph.nodes)
    nodes = {name: node for name, node in graph.nodes.items() if name not in doors}
    edges = []
    for name in list(nodes):
        for a, times in sources(before[name]).items():
            if times == 1:
                edges.append((a, name))
                continue
            scale = names.new(f"{name}.times_scale")
            nodes[scale] = nir.Scale(scale=np.full(shapes[a], float(times)))
            edges += [(a, scale), (scale, name)]
    return nir.NIRGraph(nodes, edges, type_check=False)


def _in_order(doors: set[str], before: dict[str, list[str]]) -> list[str]:
    """Doors, each after those that lead to it."""
    order, stuck = in_order({door: [a for a in before[door] if a in doors] for door in sorted(doors)})
    if stuck is not None:
        raise ConversionError(stuck, "a cycle of edges without a node in it", "cut it")
    return order
