"""Steps of the rule forwards, and their gradients backwards, in one compiled pass each: for training on the CPU.

Arrays are flat. ``x``, ``s``, ``before`` and ``gates`` hold ``T`` steps of all neurons; ``v``, ``y`` and the gradients
``gv``, ``gy`` and ``gth`` hold one value for each neuron. ``limits`` are threshold, leak, ``y_min`` and ``y_max``, each
one value or one for each channel; neuron ``k`` has channel ``k // inner % channels``. From step ``half`` on thresholds
are half, from step ``dry`` on the leak does not act. Imported with Numba only.

``forwards(x, v, y, limits, inner, clock, v_end, y_end, s, before, gates)`` runs
:func:`calif_plugins.torch_step.calif_step`, and writes the state after it and the spikes. With ``keep`` it writes what
the gradient needs, too: the membrane before its reset, and bits that say whether the gate was open upwards (1) and
downwards (2).

``backwards(gs, gv, gy, before, gates, s, limits, inner, clock, surrogate, gx, gth)`` goes through time from the end.
With ``u = V / Vth``, which half a threshold doubles, a spike's gradient is ``g = gs + gy - Vth gv``, and

    gv <- gv + g (h(u - 1) rise + h(-u - 1) fall) du/dV,    gx = gv

where ``h`` is the slope of the surrogate (Neftci et al. 2019).

Each inner loop writes one array: with more, the compiler would have to show that none overlaps, and gives up.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled, compiled_serially

__all__ = ["backwards", "forwards", "serial_backwards", "serial_forwards"]

_BLOCK = 1024  # neurons that are taken through all steps together: what they need stays in the first cache


@numba.njit(inline="always")
def _own(limit, first, last, inner):
    """Its values for neurons ``first`` to ``last``, one by one."""
    own = np.empty(last - first, dtype=limit.dtype)
    if limit.shape[0] == 1:
        own[:] = limit[0]
        return own
    k = first
    while k < last:
        end = min(last, (k // inner + 1) * inner)
        own[k - first : end - first] = limit[(k // inner) % limit.shape[0]]
        k = end
    return own


@numba.njit(inline="always")
def _fire(now, y, threshold, low, high, s):
    """Spikes at whole thresholds."""
    one, zero = s.dtype.type(1), s.dtype.type(0)
    for i in range(s.shape[0]):
        up, down = (now[i] >= threshold[i]) & (y[i] < high[i]), (now[i] <= -threshold[i]) & (y[i] > low[i])
        s[i] = (one if up else zero) - (one if down else zero)


@numba.njit(inline="always")
def _settle(now, y, threshold, low, high, even, s):
    """Spikes at half thresholds, and what a tie does."""
    one, zero, two = s.dtype.type(1), s.dtype.type(0), s.dtype.type(2)
    for i in range(s.shape[0]):
        twice = two * now[i]
        odd = y[i] - two * np.floor(y[i] / two) == one
        up = (twice > threshold[i]) | ((twice == threshold[i]) & (odd | (not even)))
        down = (twice < -threshold[i]) | ((twice == -threshold[i]) & odd & even)
        s[i] = (one if up & (y[i] < high[i]) else zero) - (one if down & (y[i] > low[i]) else zero)


@numba.njit(inline="always")
def _block(x, v, y, limits, inner, clock, v_end, y_end, s, before, gates, first, last):
    half, dry, even, keep = clock
    size, steps, n = v.shape[0], x.shape[0] // v.shape[0], last - first
    threshold, leak = _own(limits[0], first, last, inner), _own(limits[1], first, last, inner)
    low, high = _own(limits[2], first, last, inner), _own(limits[3], first, last, inner)
    v_now, y_now, now = v_end[first:last], y_end[first:last], np.empty(n, dtype=v.dtype)
    v_now[:] = v[first:last]
    y_now[:] = y[first:last]
    up, down = np.uint8(1), np.uint8(2)
    for t in range(steps):
        at = t * size + first
        x_now, s_now = x[at : at + n], s[at : at + n]
        if keep:
            now = before[at : at + n]
            gate = gates[at : at + n]
            for i in range(n):
                gate[i] = (up if y_now[i] < high[i] else np.uint8(0)) | (down if y_now[i] > low[i] else np.uint8(0))
        if t < dry:
            for i in range(n):
                now[i] = v_now[i] + x_now[i] - leak[i]
        else:
            for i in range(n):
                now[i] = v_now[i] + x_now[i]
        if t < half:
            _fire(now, y_now, threshold, low, high, s_now)
        else:
            _settle(now, y_now, threshold, low, high, even, s_now)
        for i in range(n):
            v_now[i] = now[i] - s_now[i] * threshold[i]
        for i in range(n):
            y_now[i] += s_now[i]


def _forwards(x, v, y, limits, inner, clock, v_end, y_end, s, before, gates):
    blocks = (v.shape[0] + _BLOCK - 1) // _BLOCK
    for b in numba.prange(blocks):
        first, last = b * _BLOCK, min((b + 1) * _BLOCK, v.shape[0])
        _block(x, v, y, limits, inner, clock, v_end, y_end, s, before, gates, first, last)


@numba.njit(inline="always")
def _slopes(kind, height, width, u, rise, fall, d):
    """Of the surrogate at both thresholds, where the gates are open; see :class:`calif_plugins.surrogates.Slope`."""
    one = d.dtype.type(1)  # an integer would make float64 of float32
    if kind == 0:
        for i in range(d.shape[0]):
            a, b = width * (u[i] - one), width * (u[i] + one)
            a, b = one + a * a, one + b * b
            d[i] = height * (rise[i] / a + fall[i] / b)
    elif kind == 1:
        for i in range(d.shape[0]):
            a, b = one + width * abs(u[i] - one), one + width * abs(u[i] + one)
            a, b = a * a, b * b
            d[i] = height * (rise[i] / a + fall[i] / b)
    else:
        for i in range(d.shape[0]):
            a, b = np.exp(-width * abs(u[i] - one)), np.exp(-width * abs(u[i] + one))
            d[i] = rise[i] * (height * a / ((one + a) * (one + a))) + fall[i] * (height * b / ((one + b) * (one + b)))


@numba.njit(inline="always")
def _block_back(gs, gv, gy, before, gates, s, limits, inner, clock, surrogate, gx, gth, first, last):
    half, kind, height, width, learned = clock[0], surrogate[0], surrogate[1], surrogate[2], surrogate[3]
    size, steps, n = gv.shape[0], gx.shape[0] // gv.shape[0], last - first
    one, two, zero = gv.dtype.type(1), gv.dtype.type(2), gv.dtype.type(0)
    threshold = _own(limits[0], first, last, inner)
    inverse = one / threshold
    gv_now, gy_now = gv[first:last], gy[first:last]
    u, d = np.empty(n, dtype=gv.dtype), np.empty(n, dtype=gv.dtype)
    rise, fall = np.empty(n, dtype=gv.dtype), np.empty(n, dtype=gv.dtype)
    for back in range(steps):
        t = steps - 1 - back
        at = t * size + first
        gs_now, gx_now, before_now = gs[at : at + n], gx[at : at + n], before[at : at + n]
        times = one if t < half else two
        for i in range(n):
            u[i] = times * before_now[i] * inverse[i]
        gate = gates[at : at + n]
        for i in range(n):
            rise[i] = one if gate[i] & np.uint8(1) else zero
        for i in range(n):
            fall[i] = one if gate[i] & np.uint8(2) else zero
        _slopes(kind, height, width, u, rise, fall, d)
        for i in range(n):
            d[i] *= gs_now[i] + gy_now[i] - threshold[i] * gv_now[i]
        if learned:
            gth_now, s_now = gth[first:last], s[at : at + n]
            for i in range(n):
                gth_now[i] -= s_now[i] * gv_now[i] + d[i] * u[i] * inverse[i]
        for i in range(n):
            gv_now[i] += times * d[i] * inverse[i]
        gx_now[:] = gv_now


def _backwards(gs, gv, gy, before, gates, s, limits, inner, clock, surrogate, gx, gth):
    blocks = (gv.shape[0] + _BLOCK - 1) // _BLOCK
    for b in numba.prange(blocks):
        first, last = b * _BLOCK, min((b + 1) * _BLOCK, gv.shape[0])
        _block_back(gs, gv, gy, before, gates, s, limits, inner, clock, surrogate, gx, gth, first, last)


forwards, serial_forwards = compiled(_forwards), compiled_serially(_forwards)
backwards, serial_backwards = compiled(_backwards), compiled_serially(_backwards)
