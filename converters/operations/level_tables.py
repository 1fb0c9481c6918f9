"""Where a rounded function of a real number steps from one level to the next, by bisection in float64.

A function is sampled on a grid that is fine around 0; between samples where it turns, its extreme is looked for, so
that it is monotone between neighbours of the grid that results; and there every level that lies between two neighbours
is bisected down to the first float that reaches it. Several rows of parameters are looked at together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Rounded", "Steps", "first_integers_at", "patched", "steps"]

Rounded = Callable[[np.ndarray, np.ndarray], np.ndarray]  # reals and their rows to levels; or to what is rounded

_PER_DECADE = 200
_SMALLEST = 1e-4  # up to here from 0 a function is taken to be monotone
_EVEN = 2049  # more samples, evenly spaced over the whole range
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Steps:
    """One row: the first reals at which the level is another one, ascending, and the levels before and after each.

    ``turns`` are where the function turns, to about a float's precision; right there it may touch another level, as
    ``abs`` touches a tie at 0.
    """

    at: np.ndarray
    levels: np.ndarray
    turns: np.ndarray


def steps(real: Rounded, rounded: Rounded, low: float, high: float, rows: int, tolerance: float) -> list[Steps]:
    """The steps of ``rows`` functions between ``low`` and ``high``.

    Parameters
    ----------
    real, rounded : callable
        ``(x, row)``, arrays of one length, to the function's values, and to its levels, int64.
    tolerance : float
        What differs by less is no turn, but noise of the function's own arithmetic.
    """
    x = np.tile(_grid(low, high), rows)
    row = np.repeat(np.arange(rows), len(x) // rows)
    more, their_row = _extremes(real, x, row, tolerance)
    x, row = np.concatenate([x, more]), np.concatenate([row, their_row])
    order = np.lexsort((x, row))
    x, row = x[order], row[order]
    level = rounded(x, row)
    where = np.flatnonzero((level[1:] != level[:-1]) & (row[1:] == row[:-1]))
    between = np.abs(level[where + 1] - level[where])
    k = np.repeat(where, between)  # one task for each level in between
    rising = level[k + 1] > level[k]
    nth = np.arange(len(k)) - np.repeat(np.cumsum(between) - between, between) + 1
    target = level[k] + np.where(rising, nth, -nth)
    at = _bisect(lambda x: np.where(rising, rounded(x, row[k]) >= target, rounded(x, row[k]) <= target), x[k], x[k + 1])
    found = []
    for r in range(rows):
        mine = row[k] == r
        first = level[np.searchsorted(row, r)]
        found.append(Steps(at[mine], np.concatenate([[first], target[mine]]), more[their_row == r]))
    return found


def first_integers_at(at: np.ndarray, unit: np.ndarray | float, offset: np.ndarray | float, limit: int) -> np.ndarray:
    """The first integers from ``-limit`` to ``limit + 1`` with ``unit z + offset >= at`` in float64, ``unit > 0``.

    All broadcast.

    >>> first_integers_at(np.array([-1.0, 0.0, 0.3]), 0.1, 0.0, 5)
    array([-5,  0,  3])
    """
    with np.errstate(over="ignore"):  # of a unit that is next to nothing
        z = np.clip(np.ceil((at - offset) / unit), -limit, limit + 1)
    for _ in range(3):  # the division rounds; the product decides
        z = np.where((z > -limit) & (unit * (z - 1) + offset >= at), z - 1, z)
        z = np.where((z <= limit) & (unit * z + offset < at), z + 1, z)
    return z.astype(np.int64)


def patched(
    breakpoints: np.ndarray, levels: np.ndarray, z: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One row of a table, where the function's levels at the integers ``z`` are what was ``found`` there.

    >>> patched(np.array([5]), np.array([1, 2]), np.array([2, 3, 5]), np.array([1, 0, 2]))
    (array([3, 4, 5]), array([1, 0, 1, 2]))
    """
    wrong = levels[np.searchsorted(breakpoints, z, side="right")] != found
    for here, level in zip(z[wrong], found[wrong], strict=True):
        start, stop = np.searchsorted(breakpoints, here), np.searchsorted(breakpoints, here + 1, side="right")
        breakpoints = np.concatenate([breakpoints[:start], [here, here + 1], breakpoints[stop:]])
        levels = np.concatenate([levels[: start + 1], [level], levels[stop:]])
    return breakpoints, levels


def _grid(low: float, high: float) -> np.ndarray:
    size = max(abs(low), abs(high), 2 * _SMALLEST)
    count = int(_PER_DECADE * np.log10(size / _SMALLEST)) + 2
    side = np.geomspace(_SMALLEST, size, count)
    x = np.unique(np.concatenate([-side, [0.0, low, high], side, np.linspace(low, high, _EVEN)]))
    return x[(x >= low) & (x <= high)]


def _extremes(real: Rounded, x: np.ndarray, row: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Where functions turn between samples: one real for each turn, and its row."""
    y = real(x, row)
    change = np.diff(y)
    change[(np.abs(change) <= tolerance) | (row[1:] != row[:-1])] = 0
    moving = np.flatnonzero(change)
    turns = (np.sign(change[moving[1:]]) != np.sign(change[moving[:-1]])) & (row[moving[1:]] == row[moving[:-1]])
    a, b, row = x[moving[:-1][turns]], x[moving[1:][turns] + 1], row[moving[:-1][turns]]
    sign = -np.sign(change[moving[:-1][turns]])  # of what is to be made as small as can be
    for _ in range(80):
        one, two = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        left = sign * real(one, row) <= sign * real(two, row)
        a, b = np.where(left, a, one), np.where(left, two, b)
    return (a + b) / 2, row


def _bisect(reached: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The first floats at which ``reached`` holds, which does at ``high`` and not at ``low``."""
    a, b = _ordered(low), _ordered(high)
    while len(a) and bool((b - a > 1).any()):
        middle = a + (b - a) // 2
        yes = reached(_float(middle))
        a, b = np.where(yes, a, middle), np.where(yes, middle, b)
    return _float(b)


def _ordered(x: np.ndarray) -> np.ndarray:
    """Floats as integers in the same order, neighbours as neighbours; halved differences stay within int64."""
    bits = (x + 0.0).view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _float(key: np.ndarray) -> np.ndarray:
    return np.where(key < 0, np.int64(-(2**63)) - key, key).view(np.float64)
