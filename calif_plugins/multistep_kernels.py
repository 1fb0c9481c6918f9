"""The compiled kernels of the fast simulator: many steps of the rule in one pass. Imported with Numba only.

``scan(charge, state, parameters, clock, out, active)``

* ``charge``, flat ``(B, P, R)``: what arrives in ``B`` steps at ``P`` rows of ``R`` neurons each, integers in any
  type. A row holds the channels of one place, or of several: then parameters repeat;
* ``state``, changed in place, ``parameters`` and ``clock``: see :mod:`calif_plugins.multistep_rows`;
* ``out`` uint8 ``(B, P, R)``; ``active`` int32 ``(B + 1, P)``: how many fired there. Its first row is given: how many
  did so in the step before.

``quiet_scan(state, ...)`` is ``scan`` where nothing arrives. ``sum_scan(xs, factors, state, ...)`` sums up spikes of
several sources, flat uint8 ``(B, P, R)`` each, times a whole number of each.

``pool_scan(x, kh, kw, sh, sw, ph, pw, oh, ow, state, ...)`` computes the charge itself, as the sum over windows
of spikes ``x``, uint8 ``(B, N, H, W, C)``; rows are those of the image: ``P = N * oh``, ``R = ow * C``.

``event_scan(x, channels, place, line, lines, sums, most, kh, size, tall, wide, top, side, state, ...)`` too, spike by
spike, as :mod:`calif_plugins.multistep_events` adds them up: ``x`` is flat, ``channels`` bytes for each of
``len(place)`` places, per image and step. The image of charges, of the type of ``sums``, has ``tall`` lines of
``wide``. Row ``r`` of the neurons begins at its line ``top + r``, position ``side``: margins take what falls outside.
Rows as for pools; a dense layer has one, and its input one place.

``pool_event_scan(x, target, state, ...)`` is this for windows that do not overlap: a spike of neuron ``m`` of the
source adds 1 to neuron ``target[m]`` of its image, or to none, if that is negative.

``isi(counts, t, window, out)`` writes the encoder's spikes + 1 (section 4.1), uint8 ``(B, n)``, of int32 counts
``(n,)``, for ``B`` steps from ``t``, and returns how many there are.

``portions(whole, t, window, out)`` writes ``floor((t + 1) c / T) - floor(t c / T)`` of whole numbers ``c``, int64
``(n,)``, for ``B`` steps from ``t``, int32 or int64 ``(B, n)``: what a directly coded input brings.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled
from calif_plugins.multistep_events import add_events, add_pooled, source_of
from calif_plugins.multistep_rows import rows

__all__ = [
    "event_scan",
    "isi",
    "pool_event_scan",
    "pool_scan",
    "portions",
    "quiet_scan",
    "scan",
    "sum_scan",
]


@compiled
def scan(charge, state, parameters, clock, out, active):
    steps, places, width = out.shape
    for p in numba.prange(places):
        for b in range(steps):
            rows(charge, (b * places + p) * width, 0, 1, p, state, parameters, clock, b, out, active)


@compiled
def quiet_scan(state, parameters, clock, out, active):
    steps, places, width = out.shape
    t, window, half_from, _even = clock
    for p in numba.prange(places):
        charge = np.zeros(width, dtype=np.int32)
        for b in range(steps):
            if t + b > max(window, half_from) and not active[b, p]:  # silent it stays
                out[b:, p], active[b + 1 :, p] = 1, 0
                break
            rows(charge, 0, 0, 1, p, state, parameters, clock, b, out, active)


@numba.njit(inline="always")
def _add_spikes(charge, x, factor):
    for c in range(charge.shape[0]):
        charge[c] += (np.int32(x[c]) - np.int32(1)) * factor


@compiled
def sum_scan(xs, factors, state, parameters, clock, out, active):
    steps, places, width = out.shape
    for p in numba.prange(places):
        charge = np.empty(width, dtype=np.int32)
        for b in range(steps):
            at = (b * places + p) * width
            charge[:] = 0
            for k in range(len(xs)):
                _add_spikes(charge, xs[k][at : at + width], np.int32(factors[k]))
            rows(charge, 0, 0, 1, p, state, parameters, clock, b, out, active)


@compiled
def pool_scan(x, kh, kw, sh, sw, ph, pw, oh, ow, state, parameters, clock, out, active):
    steps, _images, height, width, channels = x.shape
    for p in numba.prange(out.shape[1]):
        n, top = p // oh, (p % oh) * sh - ph
        charge = np.empty(ow * channels, dtype=np.int16)
        for b in range(steps):
            charge[:] = 0
            for i in range(max(top, 0), min(top + kh, height)):
                line = x[b, n, i].reshape(-1)
                for o in range(ow):
                    for j in range(max(o * sw - pw, 0), min(o * sw - pw + kw, width)):
                        for c in range(channels):
                            charge[o * channels + c] += np.int16(line[j * channels + c]) - np.int16(1)
            rows(charge, 0, 0, 1, p, state, parameters, clock, b, out, active)


@compiled
def event_scan(
    x, channels, place, line, lines, sums, most, kh, size, tall, wide, top, side, state, parameters, clock, out, active
):  # fmt: skip
    steps, source = out.shape[0], source_of(channels, len(place))
    images = x.shape[0] // (steps * source[1])
    tall_out, margin = out.shape[1] // images, top * wide + side
    t, window, half_from, _even = clock
    for n in numba.prange(images):
        first, end = n * tall_out, (n + 1) * tall_out
        charge = np.zeros(tall * wide + size, dtype=sums.dtype)
        total = np.zeros(charge.shape[0] if most else 0, dtype=np.int32)
        still, stale = t > max(window, half_from) and not active[0, first:end].any(), False
        for b in range(steps):
            begin = (b * images + n) * source[1]
            heard = add_events(x, begin, source, place, line, lines, most, kh, size, wide, charge, total)
            if still and not heard:  # after the window, who was silent stays so until something arrives
                out[b, first:end], active[b + 1, first:end] = 1, 0
                continue
            if stale and not heard:
                charge[:], total[:] = 0, 0
            stale = heard
            if most:
                rows(total, margin, wide, tall_out, first, state, parameters, clock, b, out, active)
            else:
                rows(charge, margin, wide, tall_out, first, state, parameters, clock, b, out, active)
            still = t + b >= max(window, half_from) and not active[b + 1, first:end].any()


@compiled
def pool_event_scan(x, target, state, parameters, clock, out, active):
    steps, _, width = out.shape
    features = target.shape[0]
    images = x.shape[0] // (steps * features)
    tall_out = out.shape[1] // images
    t, window, half_from, _even = clock
    for n in numba.prange(images):
        first, end = n * tall_out, (n + 1) * tall_out
        charge = np.zeros(tall_out * width, dtype=np.int16)
        still, stale = t > max(window, half_from) and not active[0, first:end].any(), False
        for b in range(steps):
            heard = add_pooled(x, (b * images + n) * features, features, target, charge)
            if still and not heard:
                out[b, first:end], active[b + 1, first:end] = 1, 0
                continue
            if stale and not heard:
                charge[:] = 0
            stale = heard
            rows(charge, 0, width, tall_out, first, state, parameters, clock, b, out, active)
            still = t + b >= max(window, half_from) and not active[b + 1, first:end].any()


_INPUTS = 256  # that a thread encodes at a time


@compiled
def isi(counts, t, window, out):
    steps = max(0, min(out.shape[0], window - t))
    out[steps:] = 1
    total = 0
    for part in numba.prange((counts.shape[0] + _INPUTS - 1) // _INPUTS):
        here = slice(part * _INPUTS, min((part + 1) * _INPUTS, counts.shape[0]))
        signed = counts[here]
        size, sign, left = np.abs(signed), np.sign(signed), np.empty_like(signed)
        for k in range(signed.shape[0]):  # ceil(step * n / T) = (step * n + left) / T
            left[k] = np.int32((-(t + 1) * np.int64(size[k])) % window)
        sent = np.int32(0)
        for b in range(steps):
            row = out[b, here]
            for k in range(signed.shape[0]):
                after = left[k] - size[k]
                fires = np.int32(after < 0)
                left[k] = after + fires * np.int32(window)
                row[k] = np.uint8(1 + fires * sign[k])
                sent += fires * (sign[k] != 0)
        total += sent
    return total


@compiled
def portions(whole, t, window, out):
    steps = max(0, min(out.shape[0], window - t))
    out[steps:] = 0
    for part in numba.prange((whole.shape[0] + _INPUTS - 1) // _INPUTS):
        here = slice(part * _INPUTS, min((part + 1) * _INPUTS, whole.shape[0]))
        each = np.floor_divide(whole[here], window)
        rest = (whole[here] - each * window).astype(np.int32)
        left = np.empty_like(rest)
        for k in range(rest.shape[0]):
            left[k] = np.int32((np.int64(t) * rest[k]) % window)
        for b in range(steps):
            row = out[b, here]
            for k in range(rest.shape[0]):
                after = left[k] + rest[k]
                more = np.int32(after >= window)
                left[k] = after - more * np.int32(window)
                row[k] = each[k] + more
