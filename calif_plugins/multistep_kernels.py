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

``gather_scan(x, parts, channels, field, lines, most, state, ...)`` too, from the spikes that each neuron hears, as
:mod:`calif_plugins.multistep_gather` adds them up: ``x`` is flat, ``channels`` bytes for each place, per image and
step. Rows as for pools; a dense layer has one, and its input one place. An image's rows are shared out to ``parts``.

``pool_event_scan(x, target, state, ...)`` is for windows that do not overlap: a spike of neuron ``m`` of the source
adds 1 to neuron ``target[m]`` of its image, or to none, if that is negative.

``isi(counts, t, window, out)`` writes the encoder's spikes + 1 (section 4.1), uint8 ``(B, n)``, of int32 counts
``(n,)``, for ``B`` steps from ``t``, and returns how many there are.

``portions(whole, t, window, out)`` writes ``floor((t + 1) c / T) - floor(t c / T)`` of whole numbers ``c``, int64
``(n,)``, for ``B`` steps from ``t``, int32 or int64 ``(B, n)``: what a directly coded input brings.
``direct_scan(whole, state, ...)`` runs a layer to which nothing else comes, in portions of 32 bits.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled
from calif_plugins.multistep_events import add_pooled
from calif_plugins.multistep_gather import gather_row, list_spikes
from calif_plugins.multistep_portions import divide, portion
from calif_plugins.multistep_rows import rows

__all__ = [
    "direct_scan",
    "gather_scan",
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
def gather_scan(x, parts, channels, field, lines, most, state, parameters, clock, out, active):
    height, width, kh, _, sh, _, ph, _, _, _, step, size = field
    steps, places = out.shape[0], height * width
    images = x.shape[0] // (steps * places * channels)
    tall = out.shape[1] // images
    t, window, half_from, _even = clock
    for k in numba.prange(images * parts):
        n, part = k // parts, k % parts
        r0, r1 = part * tall // parts, (part + 1) * tall // parts
        q0 = min(max(r0 * sh - ph, 0), height) * width
        q1 = max(min((r1 - 1) * sh - ph + kh, height) * width, q0)
        charge = np.empty(out.shape[2] + 31, dtype=np.int32)
        spikes = np.empty(2 * places * channels, dtype=np.int32)
        first = np.empty(2 * (places + 1), dtype=np.int32)
        for b in range(steps):
            list_spikes(x, (b * images + n) * places * channels, channels, q0, q1, width, step, size, spikes, first)
            for r in range(r0, r1):
                p = n * tall + r
                if not gather_row(r, charge, field, lines, most, spikes, first):
                    if t + b > max(window, half_from) and not active[b, p]:  # silent it stays
                        out[b, p], active[b + 1, p] = 1, 0
                        continue
                    charge[:] = 0
                rows(charge, 0, 0, 1, p, state, parameters, clock, b, out, active)


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
        size = here.stop - here.start
        each, rest, left = (
            np.empty(size, dtype=np.int64),
            np.empty(size, dtype=np.int32),
            np.empty(size, dtype=np.int32),
        )
        divide(whole[here], t, window, each, rest, left)
        for b in range(steps):
            portion(window, each, rest, left, out[b, here])


@compiled
def direct_scan(whole, state, parameters, clock, out, active):
    steps, places, width = out.shape
    t, window, _half_from, _even = clock
    for p in numba.prange(places):
        charge, each = np.zeros(width, dtype=np.int32), np.empty(width, dtype=np.int32)
        rest, left = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.int32)
        divide(whole[p * width : (p + 1) * width], t, window, each, rest, left)
        for b in range(steps):
            if t + b < window:
                portion(window, each, rest, left, charge)
            else:
                charge[:] = 0
            rows(charge, 0, 0, 1, p, state, parameters, clock, b, out, active)
