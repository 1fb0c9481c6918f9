"""Rows of neurons through one step of the rule, compiled: in float64, or in int32 where that is proven the same.

``rows(charge, at, apart, n, p, state, parameters, clock, b, out, active)`` runs ``n`` rows, from ``p`` on, through step
``b`` of a block. Their charges begin at ``at``, the next row's ``apart`` further on. ``out[b]`` and ``active[b + 1]``
take spikes and how many they are (see ``multistep_kernels``). ``clock`` is ``(t, window, half_from, even)``: the
number of the block's first step; the leak acts before ``window``, thresholds are half from ``half_from``; the tie rule.
After both a row that was silent in the step before, ``active[b]``, stays so until something arrives (theorem, part 3),
and is left as it is.

*Wide*: ``state = (v, y, fired)``, float64, float64 and int32 ``(P, R)``; ``parameters = (threshold, leak, y_min,
y_max)``, float64 ``(R,)``. Any parameters, any phase.

*Narrow*: :mod:`calif_plugins.multistep_narrow`. For fewer than 2^15 steps.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from calif_plugins.multistep_narrow import half_row, narrow_row
from calif_plugins.multistep_vectors import all_zero

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


@numba.njit(inline="always")
def _narrow_or_silent(charge, begin, width, state, here, parameters, leaks, leaking, half, tie, still, out, o):
    """A row of narrow neurons through a step, how many fired; ``still``: none, unless something arrives.

    Other arguments as :mod:`calif_plugins.multistep_narrow` takes them.
    """
    if still and all_zero(charge, begin, width):
        out.reshape(-1)[o : o + width] = 1
        return np.int32(0)
    if half:
        return half_row(charge, begin, width, state, here, parameters, leaks, leaking, tie, out, o)
    return narrow_row(charge, begin, width, state, here, parameters, leaks, leaking, np.int32(0), out, o)


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
            t, window, half_from, even = clock
            width, leaks = out.shape[2], np.int64(min(t + b + 1, window))
            leaking, tie = np.int32(t + b < window), np.int32(2 if even else 1)
            settled = t + b > max(window, half_from)
            half = t + b >= half_from
            o = (b * out.shape[1] + p) * width
            for r in range(n):
                active[b + 1, p + r] = _narrow_or_silent(
                    charge, at + r * apart, width, state, (p + r) * width, parameters, leaks, leaking, half, tie,
                    settled and not active[b, p + r], out, o + r * width,
                )  # fmt: skip

        return narrow

    def wide(charge, at, apart, n, p, state, parameters, clock, b, out, active):
        v, y, fired = state
        threshold, leak, y_min, y_max = parameters
        t, window, half_from, even = clock
        settled = t + b > max(window, half_from)
        for r in range(n):
            begin = at + r * apart
            if settled and not active[b, p + r] and all_zero(charge, begin, out.shape[2]):
                out[b, p + r] = 1
                active[b + 1, p + r] = 0
                continue
            active[b + 1, p + r] = _wide(
                charge[begin : begin + out.shape[2]], v[p + r], y[p + r], fired[p + r], threshold, leak, y_min, y_max,
                t + b < window, t + b >= half_from, even, out[b, p + r],
            )  # fmt: skip

    return wide
