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

``event_scan(x, channels, place, line, lines, kh, size, tall, wide, top, side, state, ...)`` too, spike by spike. ``x``:
flat, ``channels`` bytes for each of ``len(place)`` places, per image and step. A spike of channel ``c`` at place ``q``
adds ``kh`` lines of ``size`` weights (a multiple of 32 integers, those of ``lines`` from ``line[q] + c * kh * size``
on; none, if ``line[q]`` is negative) to an image of charges, ``tall`` lines of ``wide``: the first of them from
``place[q]`` on, each further one a line of the image higher. Row ``r`` of the neurons begins at line ``top + r``,
position ``side``: margins take what falls outside. Rows as for pools; a dense layer has one, and its input one place.

``crowd(x, height, width, channels, kh, kw)``: the largest number of spikes that any window of ``kh x kw`` places sees
in any image and step of ``x``, flat: so many weights at most make up a charge.

``pool_event_scan(x, channels, place, state, ...)`` is this for windows that do not overlap: a spike of channel ``c`` at
place ``q`` adds 1 to neuron ``place[q] + c`` of its image, or to none, if ``place[q]`` is negative.

``isi(counts, t, window, out)`` writes the encoder's spikes + 1 (section 4.1), uint8 ``(B, n)``, of int32 counts
``(n,)``, for ``B`` steps from ``t``, and returns how many there are.

``portions(whole, t, window, out)`` writes ``floor((t + 1) c / T) - floor(t c / T)`` of whole numbers ``c``, int64
``(n,)``, for ``B`` steps from ``t``, int32 or int64 ``(B, n)``: what a directly coded input brings.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled
from calif_plugins.multistep_rows import rows
from calif_plugins.multistep_vectors import LANES, add_lanes, fired64, first_bit, how_many, subtract_lanes

__all__ = [
    "crowd",
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


@numba.njit(inline="always")
def _fired(x, at, end):
    """Which of the next 64 bytes are spikes, as bits; none from ``end`` on."""
    if at + 64 <= x.shape[0]:
        mask = fired64(x, at)
        return mask if at + 64 <= end else mask & ((np.uint64(1) << np.uint64(end - at)) - np.uint64(1))
    mask = np.uint64(0)  # nothing is read beyond the array
    for k in range(end - at):
        mask |= np.uint64(x[at + k] != 1) << np.uint64(k)
    return mask


@numba.njit(inline="always")
def _inverse(channels):
    """``(m * factor) >> shift`` is ``m // channels`` for ``0 <= m < 2**31``: several times as fast as to divide."""
    shift = np.int64(31)
    while (np.int64(1) << (shift - 31)) < channels:
        shift += 1
    return ((np.int64(1) << shift) + channels - 1) // channels, shift


@compiled
def event_scan(x, channels, place, line, lines, kh, size, tall, wide, top, side, state, parameters, clock, out, active):
    steps, features = out.shape[0], place.shape[0] * channels
    factor, shift = _inverse(channels)
    images = x.shape[0] // (steps * features)
    tall_out = out.shape[1] // images
    t, window, half_from, _even = clock
    for n in numba.prange(images):
        first, end = n * tall_out, (n + 1) * tall_out
        charge = np.zeros(tall * wide + size, dtype=lines.dtype)
        heard, still = False, t > max(window, half_from) and not active[0, first:end].any()
        for b in range(steps):
            if heard:
                charge[:] = 0
            heard = False
            start = (b * images + n) * features
            for k in range(0, features, 64):
                mask = _fired(x, start + k, start + features)
                while mask:
                    m = k + first_bit(mask)
                    mask &= mask - np.uint64(1)
                    q = (m * factor) >> shift
                    if line[q] < 0:
                        continue
                    heard = True
                    at, w = np.intp(place[q]), np.intp(line[q]) + (m - q * channels) * kh * size
                    up = x[start + m] == 2
                    for _ in range(kh):
                        for part in range(0, size, LANES):
                            if up:
                                add_lanes(charge, at + part, lines, w + part)
                            else:
                                subtract_lanes(charge, at + part, lines, w + part)
                        at, w = at - wide, w + size
            if still and not heard:  # after the window, who was silent stays so until something arrives
                out[b, first:end], active[b + 1, first:end] = 1, 0
                continue
            rows(charge, top * wide + side, wide, tall_out, first, state, parameters, clock, b, out, active)
            still = t + b >= max(window, half_from) and not active[b + 1, first:end].any()


@compiled
def pool_event_scan(x, channels, place, state, parameters, clock, out, active):
    steps, _, width = out.shape
    features = place.shape[0] * channels
    factor, shift = _inverse(channels)
    images = x.shape[0] // (steps * features)
    tall_out = out.shape[1] // images
    t, window, half_from, _even = clock
    for n in numba.prange(images):
        first, end = n * tall_out, (n + 1) * tall_out
        charge = np.zeros(tall_out * width, dtype=np.int16)
        heard, still = False, t > max(window, half_from) and not active[0, first:end].any()
        for b in range(steps):
            if heard:
                charge[:] = 0
            heard = False
            start = (b * images + n) * features
            for k in range(0, features, 64):
                mask = _fired(x, start + k, start + features)
                while mask:
                    m = k + first_bit(mask)
                    mask &= mask - np.uint64(1)
                    q = (m * factor) >> shift
                    if place[q] < 0:
                        continue
                    heard = True
                    charge[place[q] + m - q * channels] += np.int16(x[start + m]) - np.int16(1)
            if still and not heard:
                out[b, first:end], active[b + 1, first:end] = 1, 0
                continue
            rows(charge, 0, width, tall_out, first, state, parameters, clock, b, out, active)
            still = t + b >= max(window, half_from) and not active[b + 1, first:end].any()


@compiled
def crowd(x, height, width, channels, kh, kw):
    size = height * width * channels
    images = x.shape[0] // size
    found = np.zeros(images, dtype=np.int64)
    for n in numba.prange(images):
        lines = np.zeros((kh, width), dtype=np.int64)  # the last kh lines: spikes at each place
        most = np.int64(0)
        for i in range(height + kh - 1):  # windows reach over the edge
            line = lines[i % kh]
            line[:] = 0
            if i < height:
                for j in range(width):
                    at = n * size + (i * width + j) * channels
                    for c in range(0, channels, 64):
                        line[j] += how_many(_fired(x, at + c, at + channels))
            here = np.int64(0)
            for j in range(width + kw - 1):
                for r in range(kh):
                    here += lines[r, j] if j < width else 0
                    here -= lines[r, j - kw] if j >= kw else 0
                most = max(most, here)
        found[n] = most
    return found.max() if images else 0


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
