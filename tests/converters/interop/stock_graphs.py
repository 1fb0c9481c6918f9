"""Small graphs of stock NIR nodes, for the tests of everything that reads or runs them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np


def neuron(n: int | tuple[int, ...] = 1, threshold: float = 1.0, r: float = 1.0) -> nir.IF:
    return nir.IF(r=np.full(n, r), v_threshold=np.full(n, threshold))


def dense(*rows: list[float]) -> nir.Linear:
    return nir.Linear(weight=np.array(rows))


def graph(
    nodes: dict[str, Any], *edges: str, shape: tuple[int, ...] = (1,), out: tuple[int, ...] = (1,)
) -> nir.NIRGraph:
    """Nodes beside ``input`` and ``output``, and edges such as ``"a > b > c"``."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(out))}
    pairs: list[tuple[str, str]] = []
    for path in edges:
        names = [name.strip() for name in path.split(">")]
        pairs += pairwise(names)
    return nir.NIRGraph({**ends, **nodes}, pairs, type_check=False)


def pooled(kernel: int, threshold: float, *, average: bool = False) -> nir.NIRGraph:
    """One map through a pool of its own size into one IF neuron."""
    kind = nir.AvgPool2d if average else nir.SumPool2d
    size, nothing = np.array([kernel, kernel]), np.array([0, 0])
    nodes = {"pool": kind(size, size, nothing), "if": neuron((1, 1, 1), threshold)}
    return graph(nodes, "input > pool > if > output", shape=(1, kernel, kernel), out=(1, 1, 1))
