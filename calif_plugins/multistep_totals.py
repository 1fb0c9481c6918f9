"""Compiled passes over a layer's neurons at the end of the window and of a run. Imported with Numba only.

``widen(v, count, parameters, t, state)`` writes ``state = (v, y, fired)`` of :mod:`calif_plugins.multistep_rows` for
the narrow state of :mod:`calif_plugins.multistep_narrow` after ``t`` steps, all ``(P, R)``; ``parameters`` are the
narrow ones. The membrane in int32 determines the charge that arrived, and that the exact membrane.

``summed(count, fan_out, totals)``: of a narrow state's ``count``, ``(N, P, C)``, positive spikes, negative spikes and
synaptic operations of each image: ``totals``, int64 ``(3, N)``. ``fan_out``: int64, ``(P, C)``, or ``(P, 1)`` where
all channels have the same. ``wide_summed(fired, y, fan_out, totals)`` is this of a wide state's arrays, ``(N, P, C)``.
``counted(count, counts)`` writes the net counts channels first, int32 ``(N, C, P)``, some places at a time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from calif_plugins.compiling import compiled

__all__ = ["counted", "summed", "wide_summed", "widen"]

_TILE = 32


@compiled
def widen(v: Any, count: Any, parameters: Any, t: int, state: Any) -> None:
    units, leak_units, _low, _high, init_units, shift, _close, threshold, leak, v_init = parameters
    wide, net, fired = state
    for p in numba.prange(v.shape[0]):
        for c in range(v.shape[1]):
            y = np.int32(np.int32(count[p, c] << np.int32(16)) >> np.int32(16))
            charge = np.int64(v[p, c]) - init_units[c] + t * np.int64(leak_units[c]) + y * np.int64(units[c])
            wide[p, c] = np.float64(charge >> shift) + v_init[c] - t * leak[c] - y * threshold[c]
            net[p, c] = y
            fired[p, c] = np.int32(count[p, c] - y) >> np.int32(16)


@numba.njit(inline="always")
def _net(word: Any) -> Any:
    return np.int32(np.int32(word << np.int32(16)) >> np.int32(16))


@compiled
def counted(count: Any, counts: Any) -> None:
    images, places, channels = count.shape
    tiles = (places + _TILE - 1) // _TILE
    for k in numba.prange(images * tiles):
        n, first = k // tiles, k % tiles * _TILE
        for c in range(channels):
            for p in range(first, min(first + _TILE, places)):
                counts[n, c, p] = _net(count[n, p, c])


@compiled
def summed(count: Any, fan_out: Any, totals: Any) -> None:
    alike = fan_out.shape[1] == 1
    for n in numba.prange(len(count)):
        spikes, total, operations = np.int64(0), np.int64(0), np.int64(0)
        for p in range(count.shape[1]):
            row = count[n, p]
            here = np.int64(0)
            for c in range(row.shape[0]):
                y = _net(row[c])
                fired = np.int64(np.int32(row[c] - y) >> np.int32(16))
                here += fired
                total += y
                if not alike:
                    operations += fired * fan_out[p, c]
            spikes += here
            if alike:
                operations += here * fan_out[p, 0]
        totals[0, n] = (spikes + total) // 2
        totals[1, n] = (spikes - total) // 2
        totals[2, n] = operations


@compiled
def wide_summed(fired: Any, y: Any, fan_out: Any, totals: Any) -> None:
    last = fan_out.shape[1] - 1
    for n in numba.prange(len(fired)):
        spikes, total, operations = np.int64(0), np.int64(0), np.int64(0)
        for p in range(fired.shape[1]):
            for c in range(fired.shape[2]):
                spikes += fired[n, p, c]
                total += np.int64(y[n, p, c])
                operations += fired[n, p, c] * fan_out[p, min(c, last)]
        totals[0, n] = (spikes + total) // 2
        totals[1, n] = (spikes - total) // 2
        totals[2, n] = operations
