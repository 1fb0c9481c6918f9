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

``event_scan(x, weight, lines, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow, v, ...)`` too, spike by spike: ``weight``
float32 ``(C_in, kh, kw, C_out)``; ``lines``, for stride and dilation 1, the same with the columns from right to
left, as ``(C_in, kh, L)``, filled up with zeros to a multiple of 32. Rows as for pools.

``isi(counts, t, window, out)`` writes the encoder's spikes + 1 (section 4.1), uint8 ``(B, n)``, of int32 counts
``(n,)``, for ``B`` steps from ``t``, and returns how many there are.
"""

from __future__ import annotations

import numba
import numpy as np

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


@numba.njit(cache=True)
def _line(width, channels):
    """A line of the image, channels last: its size, how often eight fit, and each byte's column and channel."""
    size = width * channels
    column, channel = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
    for m in range(size):  # tables: divisions would cost more than the spike
        column[m], channel[m] = m // channels, m % channels
    return size, size // 8, column, channel


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def pool_scan(
    x, kh, kw, sh, sw, ph, pw, oh, ow, v, y, fired, threshold, leak, y_min, y_max, t, window, half_from, even,
    out, active,
):  # fmt: skip
    steps, _images, height, width, channels = x.shape
    first = np.empty(ow * channels, dtype=np.int32)  # where each output's window begins, in a line with its margins
    for m in range(ow * channels):
        first[m] = (m // channels) * sw * channels + m % channels
    for p in numba.prange(v.shape[0]):
        n, top = p // oh, (p % oh) * sh - ph
        row = np.empty(ow * channels, dtype=np.float32)
        column = np.zeros((width + 2 * pw) * channels, dtype=np.float32)
        inside = column[pw * channels : (pw + width) * channels]
        for b in range(steps):
            inside[:] = 0  # sums over the lines first: whole lines at a time
            for i in range(max(top, 0), min(top + kh, height)):
                line = x[b, n, i].reshape(-1)
                for m in range(line.shape[0]):
                    inside[m] += np.float32(line[m]) - np.float32(1.0)
            for m in range(row.shape[0]):
                total = np.float32(0.0)
                for j in range(kw):
                    total += column[first[m] + j * channels]
                row[m] = total
            active[b, p] = _row(
                row, v[p], y[p], fired[p], threshold, leak, y_min, y_max,
                t + b < window, t + b >= half_from, even, out[b, p],
            )  # fmt: skip


@numba.njit(inline="always")
def _scatter(charge, weight, lines, sign, c, iy, ix, kh, kw, sh, sw, dh, dw):
    """Add one spike's weights to every neuron that it reaches; ``charge`` has a margin, so nothing is cut off."""
    targets = weight.shape[3]
    if sh == 1 and sw == 1 and dh == 1 and dw == 1:  # neighbours in the kernel are neighbours in the row
        for i in range(kh):
            line, w = charge[iy + kh - 1 - i], lines[c, i]
            start = ix * targets
            place = line[start : start + w.shape[0]]
            for o in range(w.shape[0]):
                place[o] += sign * w[o]
        return
    for i in range(kh):
        y = iy + (kh - 1 - i) * dh
        if y % sh:
            continue
        for j in range(kw):
            x = ix + (kw - 1 - j) * dw
            if x % sw:
                continue
            place, w1 = charge[y // sh, (x // sw) * targets :], weight[c, i, j]
            for o in range(targets):
                place[o] += sign * w1[o]


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def event_scan(
    x, weight, lines, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow, v, y, fired, threshold, leak, y_min, y_max, t,
    window, half_from, even, out, active,
):  # fmt: skip
    steps, images, height, width, channels = x.shape
    size, words, of_column, of_channel = _line(width, channels)
    silent = np.uint64(0x0101010101010101)
    targets = weight.shape[3]
    # coordinates shifted so that the furthest reach of the first input is a whole number of strides from 0
    up, left = -((ph - (kh - 1) * dh) // sh) * sh, -((pw - (kw - 1) * dw) // sw) * sw
    top, side = up + ph - (kh - 1) * dh, left + pw - (kw - 1) * dw
    tall = (height - 1 + top + (kh - 1) * dh) // sh + 1
    wide = (width - 1 + side + (kw - 1) * dw) // sw + 1
    first_row, first = up // sh, (left // sw) * targets
    tall, wide = max(tall, first_row + oh), max(wide, left // sw + ow)
    for n in numba.prange(images):
        charge = np.empty((tall, wide * targets + lines.shape[2]), dtype=np.float32)
        for b in range(steps):
            charge[:] = 0
            for iy in range(height):
                spikes = x[b, n, iy].reshape(-1)
                eights = spikes[: words * 8].view(np.uint64)
                for k in range(words + 1):  # eight silent inputs at a glance; the last turn is what is left over
                    if k < words and eights[k] == silent:
                        continue
                    for m in range(8 * k, min(8 * k + 8, size)):
                        s = spikes[m]
                        if s != 1:
                            sign = np.float32(1.0) if s == 2 else np.float32(-1.0)
                            _scatter(
                                charge, weight, lines, sign, of_channel[m], iy + top, of_column[m] + side,
                                kh, kw, sh, sw, dh, dw,
                            )  # fmt: skip
            for r in range(oh):
                p = n * oh + r
                row = charge[first_row + r, first : first + ow * targets]
                active[b, p] = _row(
                    row, v[p], y[p], fired[p], threshold, leak, y_min, y_max,
                    t + b < window, t + b >= half_from, even, out[b, p],
                )  # fmt: skip


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def isi(counts, t, window, out):
    largest = 0
    for k in range(counts.shape[0]):
        largest = max(largest, abs(counts[k]))
    total = 0
    for b in numba.prange(out.shape[0]):
        step, row, here = t + b + 1, out[b], 0
        fires = np.zeros(largest + 1, dtype=np.uint8)  # by count: divisions once per count, not once per input
        if step <= window:
            for n in range(largest + 1):
                fires[n] = ((step + 1) * n + window - 1) // window - (step * n + window - 1) // window
        for k in range(counts.shape[0]):
            s = fires[abs(counts[k])]
            row[k] = np.uint8(1 + s) if counts[k] > 0 else np.uint8(1 - s)
            here += s
        total += here
    return total
