"""Nodes of a graph in an order in which each comes after all that feed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

__all__ = ["in_order"]


def in_order(before: Mapping[str, Sequence[str]]) -> tuple[list[str], str | None]:
    """The nodes in order, as far as there is one, and a node of a cycle where there is none.

    ``before`` holds the sources of every node, once for each edge. Of nodes that are free to come next, those that
    became so first do. Takes time in proportion to the edges, however long or branched the paths are.

    Examples
    --------
    >>> in_order({"c": ["a", "b"], "b": ["a"], "a": []})
    (['a', 'b', 'c'], None)
    >>> in_order({"a": [], "b": ["a", "c"], "c": ["b"], "d": ["c"]})
    (['a'], 'b')
    """
    after: dict[str, list[str]] = {name: [] for name in before}
    waiting = {name: len(sources) for name, sources in before.items()}
    for name, sources in before.items():
        for a in sources:
            after[a].append(name)
    ready = deque(name for name, n in waiting.items() if not n)
    order = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for b in after[name]:
            waiting[b] -= 1
            if not waiting[b]:
                ready.append(b)
    if len(order) == len(before):
        return order, None
    name = next(n for n, count in waiting.items() if count)
    seen: set[str] = set()
    while name not in seen:  # whoever waits, waits for one that waits
        seen.add(name)
        name = next(a for a in before[name] if waiting[a])
    return order, name
