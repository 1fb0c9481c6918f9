"""The compiled kernels of the fast simulator: many steps of the rule in one pass. Imported with Numba only.

``scan(charge, v, y, fired, threshold, leak, y_min, y_max, t, window, half_from, even, out, active)``

* ``charge`` float ``(B, P, R)``: what arrives in ``B`` steps at ``P`` rows of ``R`` neurons each. A row holds the
  channels of one place, or of several: then parameters repeat.
* ``v``, ``y`` float64 and ``fired`` int32 ``(P, R)``: state, changed in place;
* ``threshold, leak, y_min, y_max`` float64 ``(R,)``;
* ``t``: number of the first step; the leak acts before ``window``, thresholds are half from ``half_from``;
* ``even``: the tie rule; ``out`` uint8 ``(B, P, R)``; ``active`` int32 ``(B, P)``: how many fired there.

``pool_scan(x, kh, kw, sh, sw, ph, pw, oh, ow, v, ...)`` computes the charge itself, as the sum over windows
of spikes ``x``, uint8 ``(B, N, H, W, C)``; rows are those of the image: ``P = N * oh``, ``R = ow * C``.

``event_scan(x, features, place, line, lines, kh, size, tall, wide, top, side, v, ...)`` too, spike by spike. ``x``:
flat, ``features`` bytes per image and step. A spike of input ``m`` adds ``kh`` lines of ``size`` weights (a multiple
of 32 integers, those of ``lines`` from ``line[m]`` on) to an image of charges, ``tall`` lines of ``wide``: the first
of them from ``place[m]`` on, each further one a line of the image higher. Row ``r`` of the neurons begins at line
``top + r``, position ``side``: margins take what falls outside. Rows as for pools; a dense layer has one.

``isi(counts, t, window, out)`` writes the encoder's spikes + 1 (section 4.1), uint8 ``(B, n)``, of int32 counts
``(n,)``, for ``B`` steps from ``t``, and returns how many there are.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.multistep_vectors import LANES, add_lanes, fired64, first_bit, subtract_lanes

__all__ = ["event_scan", "isi", "pool_scan", "scan"]


@numba.njit(inline="always")
def _row(row, v, y, fired, threshold, leak, y_min, y_max, leaking, half, even, out):
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


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def scan(charge, v, y, fired, threshold, leak, y_min, y_max, t, window, half_from, even, out, active):
    for p in numba.prange(v.shape[0]):
        for b in range(charge.shape[0]):
            active[b, p] = _row(
                charge[b, p], v[p], y[p], fired[p], threshold, leak, y_min, y_max,
                t + b < window, t + b >= half_from, even, out[b, p],
            )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def pool_scan(
    x, kh, kw, sh, sw, ph, pw, oh, ow, v, y, fired, threshold, leak, y_min, y_max, t, window, half_from, even,
    out, active,
):  # fmt: skip
    steps, _images, height, width, channels = x.shape
    for p in numba.prange(v.shape[0]):
        n, top = p // oh, (p % oh) * sh - ph
        row = np.empty(ow * channels, dtype=np.int16)
        for b in range(steps):
            row[:] = 0
            for i in range(max(top, 0), min(top + kh, height)):
                line = x[b, n, i].reshape(-1)
                for o in range(ow):
                    for j in range(max(o * sw - pw, 0), min(o * sw - pw + kw, width)):
                        for c in range(channels):
                            row[o * channels + c] += np.int16(line[j * channels + c]) - np.int16(1)
            active[b, p] = _row(
                row, v[p], y[p], fired[p], threshold, leak, y_min, y_max,
                t + b < window, t + b >= half_from, even, out[b, p],
            )  # fmt: skip


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


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def event_scan(
    x, features, place, line, lines, kh, size, tall, wide, top, side, v, y, fired, threshold, leak, y_min, y_max,
    t, window, half_from, even, out, active,
):  # fmt: skip
    steps = out.shape[0]
    images = x.shape[0] // (steps * features)
    rows = v.shape[0] // images
    width = v.shape[1]
    for n in numba.prange(images):
        charge = np.empty(tall * wide + size, dtype=lines.dtype)
        for b in range(steps):
            charge[:] = 0
            start = (b * images + n) * features
            for k in range(0, features, 64):
                mask = _fired(x, start + k, start + features)
                while mask:
                    m = k + first_bit(mask)
                    mask &= mask - np.uint64(1)
                    at, w = np.intp(place[m]), np.intp(line[m])
                    up = x[start + m] == 2
                    for _ in range(kh):
                        for part in range(0, size, LANES):
                            if up:
                                add_lanes(charge, at + part, lines, w + part)
                            else:
                                subtract_lanes(charge, at + part, lines, w + part)
                        at, w = at - wide, w + size
            for r in range(rows):
                p, begin = n * rows + r, (top + r) * wide + side
                active[b, p] = _row(
                    charge[begin : begin + width], v[p], y[p], fired[p], threshold, leak, y_min, y_max,
                    t + b < window, t + b >= half_from, even, out[b, p],
                )  # fmt: skip


_INPUTS = 256  # that a thread encodes at a time


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
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
