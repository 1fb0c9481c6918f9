"""Rows of neurons through one step of the rule, compiled: in float64, or in int32 where that is proven the same.

``rows(charge, at, apart, n, p, state, parameters, clock, b, out, active)`` runs ``n`` rows, from ``p`` on, through step
``b`` of a block. Their charges begin at ``at``, the next row's ``apart`` further on. ``out`` and ``active`` take spikes
and how many they are (see ``multistep_kernels``). ``clock`` is ``(t, window, half_from, even)``: the
number of the block's first step; the leak acts before ``window``, thresholds are half from ``half_from``; the tie rule.

*Wide*: ``state = (v, y, fired)``, float64, float64 and int32 ``(P, R)``; ``parameters = (threshold, leak, y_min,
y_max)``, float64 ``(R,)``. Any parameters, any phase.

*Narrow*: :mod:`calif_plugins.multistep_narrow`. Only within the window, before thresholds are half.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from calif_plugins.multistep_narrow import narrow_row

__all__ = ["rows"]


@numba.njit(inline="always")
def _wide(row, v, y, fired, threshold, leak, y_min, y_max, leaking, half, even, out):
    total = np.int32(0)
    if not half:
        for c in range(row.shape[0]):
            now = v[c] + row[c] - (leak[c] if leaking else 0.0)
            up = (now >= threshold[c]) & (y[c] < y_max[c])
            down = (now <= -threshold[c]) & (y[c] > y_min[c])
            s = np.int32(up) - np.int32(down)
            v[c] = now - s * threshold[c]
            y[c] += s
            fired[c] += abs(s)
            out[c] = np.uint8(s + 1)
            total += abs(s)
    else:
        for c in range(row.shape[0]):
            now = v[c] + row[c] - (leak[c] if leaking else 0.0)
            twice = 2 * now
            # a tie fires towards 0 when the count is odd ("even"), or always upwards ("up")
            odd = (y[c] - 2 * np.floor(0.5 * y[c])) == 1.0
            tie_up = (twice == threshold[c]) & (odd | (not even))
            tie_down = (twice == -threshold[c]) & odd & even
            up = ((twice > threshold[c]) | tie_up) & (y[c] < y_max[c])
            down = ((twice < -threshold[c]) | tie_down) & (y[c] > y_min[c])
            s = np.int32(up) - np.int32(down)
            v[c] = now - s * threshold[c]
            y[c] += s
            fired[c] += abs(s)
            out[c] = np.uint8(s + 1)
            total += abs(s)
    return total


def rows(
    charge: Any, at: int, apart: int, n: int, p: int, state: Any, parameters: Any, clock: Any, b: int, out: Any,
    active: Any,
) -> None:  # fmt: skip
    """See the module. Called from compiled code only."""
    raise NotImplementedError


@overload(rows)
def _rows(charge, at, apart, n, p, state, parameters, clock, b, out, active):
    if len(state) == 2:

        def narrow(charge, at, apart, n, p, state, parameters, clock, b, out, active):
            width, leaks = out.shape[2], np.int64(clock[0] + b + 1)
            o = (b * out.shape[1] + p) * width
            for r in range(n):
                here, begin = (p + r) * width, at + r * apart
                active[b, p + r] = narrow_row(
                    charge, begin, width, state, here, parameters, leaks, out, o + r * width
                )  # fmt: skip

        return narrow

    def wide(charge, at, apart, n, p, state, parameters, clock, b, out, active):
        v, y, fired = state
        threshold, leak, y_min, y_max = parameters
        t, window, half_from, even = clock
        for r in range(n):
            begin = at + r * apart
            active[b, p + r] = _wide(
                charge[begin : begin + out.shape[2]], v[p + r], y[p + r], fired[p + r], threshold, leak, y_min, y_max,
                t + b < window, t + b >= half_from, even, out[b, p + r],
            )  # fmt: skip

    return wide
