"""Compiled kernels of the closed form: an integer accumulator to its count, and pools of counts. With Numba only.

``to_counts(acc, factor, offset, doubt, first, low, high, out)``: uint8 ``out = count - low`` for float32 ``acc``
of shape ``(P, R)``, whole numbers. The count is ``acc * factor + offset`` rounded and clipped to ``[low, high]``, which
float32 decides unless it is within ``doubt`` of a tie. Then ``first`` does, int64 ``(R, high - low)``: the smallest
integer that ends above level ``low + k``. So neither ties nor the last bit of a float matter.

``pool_to_counts(x, zero_point, kh, kw, sh, sw, ph, pw, factor, ...)`` takes uint8 counts ``(N, H, W, C)`` and sums
them over windows first; ``out`` is ``(N, oh, ow, C)``.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["pool_to_counts", "to_counts"]


@numba.njit(inline="always")
def _row(acc, factor, offset, doubt, first, low, high, out):
    half, one = np.float32(0.5), np.float32(1.0)
    bottom, top, tie = low - one, high + one, half - doubt
    doubtful = np.int32(0)
    for c in range(acc.shape[0]):  # comparisons, as min and max of floats mind NaN and are not vectorised
        x = acc[c] * factor[c] + offset[c]
        x = x if x > bottom else bottom
        x = x if x < top else top
        y = np.floor(x + half)
        doubtful |= np.int32(abs(x - y) >= tie)  # it is 1/2 at a tie
        y = y if y > low else low
        y = y if y < high else high
        out[c] = np.uint8(np.int32(y - low))
    if not doubtful:
        return
    for c in range(acc.shape[0]):
        x = acc[c] * factor[c] + offset[c]
        if low - one < x < high + one and abs(x - np.floor(x) - half) <= doubt:
            level = np.int64(np.floor(x)) - np.int64(low)
            level = min(max(level, 0), first.shape[1])
            if level < first.shape[1] and acc[c] >= first[c, level]:
                level += 1
            elif level > 0 and acc[c] < first[c, level - 1]:
                level -= 1
            out[c] = np.uint8(level)


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def to_counts(acc, factor, offset, doubt, first, low, high, out):
    for p in numba.prange(acc.shape[0]):
        _row(acc[p], factor, offset, doubt, first, low, high, out[p])


@numba.njit(parallel=True, cache=True, nogil=True, boundscheck=False)
def pool_to_counts(x, zero_point, kh, kw, sh, sw, ph, pw, factor, offset, doubt, first, low, high, out):
    _, height, width, channels = x.shape
    images, oh, ow, _ = out.shape
    for n in numba.prange(images):
        column = np.zeros((width + 2 * pw) * channels, dtype=np.int32)
        inside = column[pw * channels : (pw + width) * channels]
        acc = np.empty(ow * channels, dtype=np.float32)
        for r in range(oh):
            top = r * sh - ph
            inside[:] = 0  # sums over the lines first: whole lines at a time
            for i in range(max(top, 0), min(top + kh, height)):
                line = x[n, i].reshape(-1)
                for m in range(line.shape[0]):
                    inside[m] += np.int32(line[m]) - zero_point
            for o in range(ow):
                for c in range(channels):
                    total = np.int32(0)
                    for j in range(kw):
                        total += column[(o * sw + j) * channels + c]
                    acc[o * channels + c] = np.float32(total)
            _row(acc, factor, offset, doubt, first, low, high, out[n, r].reshape(-1))
