"""Additions of branches whose scales differ, with weights of a few bits.

Such a layer has one identity synapse per branch, whose integer weight stands for the branch's scale: 30 bits, which no
float32 simulator and no chip holds. But its branches are counts of a few levels, so it is a function on a finite grid:
weights are short enough if, with them, every combination of counts still lies on the right side of every level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from converters.network import Network, Stage

__all__ = ["Shorter", "shorter"]

_MOST = 24  # bits of a weight that are tried
_GRID = 4_000_000  # combinations of counts that are tried


@dataclass(frozen=True, eq=False)
class Shorter:
    """Short weights, and what the lattice must satisfy with them.

    Attributes
    ----------
    weights : tuple of int, one for each synapse
    unit : float
        The old charge that one new charge stands for, about.
    first, last : int64 arrays ``(C, levels)``
        Smallest sum that ends above each level, and largest that does not.
    charge : tuple of int64 arrays ``(C,)``
        Lowest and highest sum.
    """

    weights: tuple[int, ...]
    unit: float
    first: np.ndarray
    last: np.ndarray
    charge: tuple[np.ndarray, np.ndarray]


def shorter(stage: Stage, network: Network, first: np.ndarray) -> Iterator[Shorter]:
    """Ever longer weights for a layer of identity synapses; none for other layers, or where they are short already.

    Whether a lattice goes with them is for the caller to see.

    ``first``: the smallest sum, with the weights it has, that ends above each level, int64 ``(C, levels)``.
    """
    if stage.readout:
        return
    weights = []
    for synapse in stage.synapses:
        factors = [op.factor for op in synapse.ops]
        if any(f is None for f in factors):
            return
        weights.append(math.prod(f for f in factors if f is not None))
    largest = max(abs(w) for w in weights)
    if largest <= 1:
        return
    ranges = {s.name: (int(np.min(s.parameters.y_min)), int(np.max(s.parameters.y_max))) for s in network.stages}
    ranges |= {name: (spec.q_min, spec.q_max) for name, spec in network.specs.items()}
    counts = [np.arange(ranges[s.source][0], ranges[s.source][1] + 1) for s in stage.synapses]
    if np.prod([float(len(n)) for n in counts]) > _GRID:
        return
    rows, channel = np.unique(first, axis=0, return_inverse=True)
    old = _sums(weights, counts)
    order = np.argsort(old, kind="stable")
    # how many combinations end at or below each level
    below = np.searchsorted(old[order], rows)
    for bits in range(_MOST + 1):
        short = tuple(round(w * 2**bits / largest) for w in weights)
        new = _sums(short, counts)[order]
        low, high = int(new.min()), int(new.max())
        so_far = np.concatenate([[low - 1], np.maximum.accumulate(new)])
        to_come = np.concatenate([np.minimum.accumulate(new[::-1])[::-1], [high + 1]])
        last, start = so_far[below], to_come[below]
        if (last < start).all():
            span = np.full(len(first), low), np.full(len(first), high)
            flat = channel.reshape(-1)
            yield Shorter(short, largest / 2**bits, start[flat], last[flat], span)


def _sums(weights: list[int] | tuple[int, ...], counts: list[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.zeros(1, dtype=np.int64)
    for w, n in zip(weights, counts, strict=True):
        total = (total[:, None] + np.int64(w) * n[None, :]).reshape(-1)
    return total
