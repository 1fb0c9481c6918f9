"""The tables of a layer's channels: where the steps of one function are, in the integers of each of them.

The steps of the function itself are found once for each set of its parameters
(:mod:`~converters.operations.level_tables`); channels that have the same unit and offset have the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from converters.errors import ConversionError
from converters.operations.activations import activation
from converters.operations.level_tables import Rounded, Steps, first_integers_at, patched, steps

__all__ = ["channel_tables"]

_NOISE = 1e-9  # of a level: what is no turn of a function


def channel_tables(
    function: str, parameters: tuple[tuple[float, ...], ...], units: tuple[float, ...], offsets: tuple[float, ...],
    scale: float, y_min: int, y_max: int, limit: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Breakpoints ``(C, K)`` and values ``(C, K + 1)``; arguments are fields of a ``Levels``."""
    act = activation(function)
    channels = max(len(units), len(offsets), *(len(p) for p in parameters), 1)

    def spread(v: Sequence[float]) -> np.ndarray:
        return np.broadcast_to(np.array(v, dtype=np.float64), channels)

    unit, offset = spread(units), spread(offsets)
    given = np.array([spread(p) for p in parameters]).reshape(len(parameters), channels)
    distinct, row_of = np.unique(given, axis=1, return_inverse=True)  # functions that differ by their parameters
    row_of = row_of.reshape(-1) if len(parameters) else np.zeros(channels, dtype=np.int64)
    rows = distinct.shape[1] if len(parameters) else 1

    def real(x: np.ndarray, row: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            y = act(torch.from_numpy(x), *(torch.from_numpy(p[row]) for p in distinct))
        return np.asarray(y.numpy())

    def rounded(x: np.ndarray, row: np.ndarray) -> np.ndarray:
        y = real(x, row)
        if np.isnan(y).any():
            raise ConversionError("Levels", f"{function} with a value that is no number", "keep it where it has one")
        return np.clip(np.rint(y / scale), y_min, y_max).astype(np.int64)

    span = np.abs(unit) * limit
    found = steps(
        lambda x, row: np.clip(real(x, row), (y_min - 1) * scale, (y_max + 1) * scale),
        rounded, float((offset - span).min()), float((offset + span).max()), rows, _NOISE * scale,
    )  # fmt: skip
    alike, which = np.unique(np.stack([unit, offset, row_of, np.sign(unit)]), axis=1, return_inverse=True)
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for row, sign in {(int(r), int(s)) for r, s in alike[2:].T}:
        (mine,) = np.nonzero((alike[2] == row) & (alike[3] == sign))
        own = _Channels(alike[0, mine], alike[1, mine], limit, partial(_rounded_row, rounded, row))
        made.update(zip(mine.tolist(), own.tables(found[row], sign), strict=True))
    most = max(len(b) for b, _ in made.values())
    tables = [made[int(c)] for c in which.reshape(-1)]
    breakpoints, values = np.full((channels, most), limit + 1), np.empty((channels, most + 1), dtype=np.int64)
    for c, (b, v) in enumerate(tables):
        breakpoints[c, : len(b)] = b
        values[c, : len(v)], values[c, len(v) :] = v, v[-1]
    return _trimmed(breakpoints, values, limit)


def _rounded_row(rounded: Rounded, row: int, x: np.ndarray) -> np.ndarray:
    """The levels of reals, by the function with the parameters of one row."""
    return rounded(x, np.full(x.shape, row))


@dataclass(frozen=True, eq=False)
class _Channels:
    """Channels of one function, ``(C,)``, whose units have one sign; ``level`` gives the levels of reals."""

    unit: np.ndarray
    offset: np.ndarray
    limit: int
    level: Callable[[np.ndarray], np.ndarray]

    def level_at(self, z: np.ndarray) -> np.ndarray:
        """The levels of integers ``(C, ...)``, by the function."""
        return self.level(self.unit[:, None] * z + self.offset[:, None])

    def tables(self, row: Steps, sign: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Breakpoints and values of each, from the steps of the function in real units."""
        if sign == 0:  # cut off: the offset alone
            level = self.level_at(np.zeros((len(self.unit), 1)))
            return [(np.zeros(0, dtype=np.int64), v) for v in level]
        # x falls as z grows: where it is below a step is one behind where -z is the last to be at or above it
        z = first_integers_at(row.at, sign * self.unit[:, None], self.offset[:, None], self.limit)
        values = row.levels[::sign]
        breakpoints = self._corrected(z if sign > 0 else (1 - z)[:, ::-1], values)
        return self._patched(breakpoints, values, row.turns)

    def _corrected(self, breakpoints: np.ndarray, values: np.ndarray) -> np.ndarray:
        """At a tie neighbouring floats may differ in the last bit of the function: the integers themselves decide."""
        after, rising = values[1:], values[1:] > values[:-1]

        def reached(z: np.ndarray) -> np.ndarray:
            level = self.level_at(z)
            return np.where(rising, level >= after, level <= after)

        inside = (breakpoints > -self.limit) & (breakpoints <= self.limit)
        earlier = inside & reached(breakpoints - 1)
        later = inside & ~earlier & ~reached(breakpoints)
        return np.maximum.accumulate(breakpoints - earlier + later, axis=1)

    def _patched(
        self, breakpoints: np.ndarray, values: np.ndarray, turns: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """With the function's own levels at the integers next to where it turns."""
        found = [(b, values) for b in breakpoints]
        if not len(turns):
            return found
        with np.errstate(over="ignore"):
            middle = np.rint((turns - self.offset[:, None]) / self.unit[:, None])
        z = np.sort(np.concatenate([middle - 1, middle, middle + 1], axis=1), axis=1)
        z = np.clip(z, -self.limit, self.limit).astype(np.int64)
        levels = self.level_at(z)
        table = values[(breakpoints[:, None, :] <= z[:, :, None]).sum(-1)]
        for c in np.flatnonzero((table != levels).any(1)):
            here, first = np.unique(z[c], return_index=True)
            found[c] = patched(breakpoints[c], values, here, levels[c, first])
        return found


def _trimmed(breakpoints: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Without the steps that no integer within the limit takes; one row where all are alike."""
    start = int((breakpoints <= -limit).all(0).sum())
    stop = breakpoints.shape[1] - int((breakpoints > limit).all(0).sum())
    breakpoints, values = breakpoints[:, start : max(start, stop)], values[:, start : max(start, stop) + 1]
    if len(values) > 1 and (breakpoints == breakpoints[:1]).all() and (values == values[:1]).all():
        breakpoints, values = breakpoints[:1], values[:1]
    return np.ascontiguousarray(breakpoints), np.ascontiguousarray(values)
