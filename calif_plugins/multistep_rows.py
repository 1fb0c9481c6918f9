"""Rows of neurons through one step of the rule, compiled: in float64, or in int32 where that is proven the same.

``rows(charge, at, apart, n, p, state, parameters, clock, b, out, active)`` runs ``n`` rows, from ``p`` on, through step
``b`` of a block. Their charges begin at ``at``, the next row's ``apart`` further on. ``out`` and ``active`` take spikes
and how many they are (see ``multistep_kernels``). ``clock`` is ``(t, window, half_from, even)``: the
number of the block's first step; the leak acts before ``window``, thresholds are half from ``half_from``; the tie rule.

*Wide*: ``state = (v, y, fired)``, float64, float64 and int32 ``(P, R)``; ``parameters = (threshold, leak, y_min,
y_max)``, float64 ``(R,)``. Any parameters, any phase.

*Narrow*: twice as many neurons per instruction. ``state = (v, count)``, int32 ``(P, R)``: the membrane in units of
``2**-shift``, and ``65536 * fired + y``. Threshold, leak and initial membrane are rounded to that unit, so the
membrane is off by less than ``close`` units, which counts all roundings of a window. A comparison that clears the
threshold by that much is therefore the exact one. The few others are decided in float64 from the exact membrane, which
the state determines: ``v`` is ``charge * 2**shift`` less whole numbers of rounded leaks and thresholds, and these
numbers, ``t`` and ``y``, are known. Only within the window, before thresholds are half. ``parameters = (threshold,
leak, y_min, y_max, v_init, shift, close, threshold, leak, v_init)``: int32 ``(R,)`` in units, but ``y_min`` and
``y_max`` times 65536, and numbers as all up to ``close``; then float64 ``(R,)``, exact. Arrays go by their addresses:
compiled Python counts references to every array of a tuple for every row, which costs more than the neurons.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from calif_plugins.multistep_vectors import narrow_row, pointer

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


@numba.njit(nogil=True)
def _decide(at, width, state, parameters, leaks, out, o):
    """Redo what was close to its threshold in a row, in exact arithmetic. Returns how many fire more."""
    _, _, y_min, y_max, _, shift, close, _, _, _ = parameters
    v = numba.carray(pointer(state[0] + 4 * at), (width,), np.int32)
    count = numba.carray(pointer(state[1] + 4 * at), (width,), np.int32)
    threshold = numba.carray(pointer(parameters[0]), (width,), np.int32)
    leak = numba.carray(pointer(parameters[1]), (width,), np.int32)
    v_init = numba.carray(pointer(parameters[4]), (width,), np.int32)
    exact_threshold = numba.carray(pointer(parameters[7]), (width,), np.float64)
    exact_leak = numba.carray(pointer(parameters[8]), (width,), np.float64)
    exact_init = numba.carray(pointer(parameters[9]), (width,), np.float64)
    spikes = out.reshape(-1)[o : o + width]
    more = np.int32(0)
    for c in range(width):
        s = np.int32(spikes[c]) - np.int32(1)
        now = np.int64(v[c]) + s * np.int64(threshold[c])
        if not -close <= abs(now) - threshold[c] < close:
            continue
        before = count[c] - np.int32(s * (1 + 65536 * s))  # 65537 for a spike up, 65535 down
        y = np.int64(np.int32(np.int32(before << np.int32(16)) >> np.int32(16)))
        units = now - v_init[c] + leaks * np.int64(leak[c]) + y * np.int64(threshold[c])
        exact = np.float64(units >> shift) + exact_init[c] - leaks * exact_leak[c] - y * exact_threshold[c]
        up = exact >= exact_threshold[c] and y < y_max >> 16
        down = exact <= -exact_threshold[c] and y > y_min >> 16
        new = np.int32(up) - np.int32(down)
        v[c] = np.int32(now - new * np.int64(threshold[c]))
        count[c] = before + np.int32(new * (1 + 65536 * new))
        spikes[c] = np.uint8(new + 1)
        more += abs(new) - abs(s)
    return more


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
                found = narrow_row(charge, begin, width, state, here, parameters, out, o + r * width)
                if found >= 2**24:
                    found += _decide(here, width, state, parameters, leaks, out, o + r * width) - 2**24
                active[b, p + r] = found

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
