"""Compiled passes over a layer's neurons at the end of the window and of a run. Imported with Numba only.

``widen(v, count, parameters, t, state)`` writes ``state = (v, y, fired)`` of :mod:`calif_plugins.multistep_rows` for
the narrow state of :mod:`calif_plugins.multistep_narrow` after ``t`` steps, all ``(P, R)``; ``parameters`` are the
narrow ones. The membrane in int32 determines the charge that arrived, and that the exact membrane.

``emitted(fired, y, fan_out, totals)``: positive spikes, negative spikes and synaptic operations of each image, added
to ``totals``, int64 ``(N, 3)``; ``fired`` int32 and ``y`` float64 ``(N, M)``, ``fan_out`` int64 ``(M,)``.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from calif_plugins.compiling import compiled

__all__ = ["emitted", "widen"]


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


@compiled
def emitted(fired: Any, y: Any, fan_out: Any, totals: Any) -> None:
    for n in numba.prange(fired.shape[0]):
        spikes, net, operations = np.int64(0), np.int64(0), np.int64(0)
        for m in range(fired.shape[1]):
            spikes += fired[n, m]
            net += np.int64(y[n, m])
            operations += fired[n, m] * fan_out[m]
        totals[n, 0] += (spikes + net) // 2
        totals[n, 1] += (spikes - net) // 2
        totals[n, 2] += operations
