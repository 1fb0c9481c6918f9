"""Compiled kernels of the closed form: an integer accumulator to its count, and pools of counts. With Numba only.

``to_counts(acc, rounding, out)``: uint8 ``out = count - low`` for float32 ``acc``, whole numbers, flat ``(P, R)``;
``rounding`` is ``(factor, offset, doubt, first, low, high)``, of ``R`` neurons. The count is ``acc * factor + offset``
rounded and clipped to ``[low, high]``, which float32 decides unless it is within ``doubt`` of a tie. Then ``first``
does, int64 ``(R, high - low)``: the smallest integer that ends above level ``low + k``. So neither ties nor the last
bit of a float matter.

``pool_to_counts(x, shape, pool, rounding, out)`` takes uint8 counts, flat ``(N, H, W, C)``, and sums them over windows
first; ``out`` is flat ``(N, oh, ow, C)``. ``shape`` is ``(N, H, W, C, oh, ow)`` and ``pool`` ``(zero point, kh, kw, sh,
sw, ph, pw)``.

``to_pooled_counts(acc, rounding, counts, shape, pool, pool_rounding, out)`` is a convolution's rounding of ``acc`` to
``counts``, and the pool after it, image by image while they are in the cache.

Arrays are flat: ``reshape`` of a row would cost more than its neurons.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.compiling import compiled

__all__ = ["pool_to_counts", "to_counts", "to_pooled_counts"]


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


@compiled
def to_counts(acc, rounding, out):
    factor, offset, doubt, first, low, high = rounding
    width = factor.shape[0]
    for p in numba.prange(acc.shape[0] // width):
        at, end = p * width, (p + 1) * width
        _row(acc[at:end], factor, offset, doubt, first, low, high, out[at:end])


@numba.njit(inline="always")
def _pool(x, shape, pool, factor, offset, doubt, first, low, high, out):
    _, height, width, channels, oh, ow = shape
    zero_point, kh, kw, sh, sw, ph, pw = pool
    column = np.zeros((width + 2 * pw) * channels, dtype=np.int32)
    total, acc = np.empty_like(column), np.empty(ow * channels, dtype=np.float32)
    line, margin, end = width * channels, pw * channels, (width + 2 * pw - kw + 1) * channels
    inside = column[margin : margin + line]
    for r in range(oh):
        top = r * sh - ph
        inside[:] = 0  # sums over the lines first: whole lines at a time
        for i in range(max(top, 0), min(top + kh, height)):
            counts = x[i * line : (i + 1) * line]
            for m in range(line):
                inside[m] += np.int32(counts[m]) - zero_point
        total[:end] = column[:end]  # then over columns, at every place: cheaper than to step
        for j in range(1, kw):
            moved = column[j * channels : j * channels + end]
            for m in range(end):
                total[m] += moved[m]
        for o in range(ow):
            for c in range(channels):
                acc[o * channels + c] = np.float32(total[o * sw * channels + c])
        _row(acc, factor, offset, doubt, first, low, high, out[r * ow * channels : (r + 1) * ow * channels])


@compiled
def pool_to_counts(x, shape, pool, rounding, out):
    factor, offset, doubt, first, low, high = rounding
    size, pooled = shape[1] * shape[2] * shape[3], shape[3] * shape[4] * shape[5]
    for n in numba.prange(shape[0]):
        _pool(
            x[n * size : (n + 1) * size], shape, pool, factor, offset, doubt, first, low, high,
            out[n * pooled : (n + 1) * pooled],
        )  # fmt: skip


@compiled
def to_pooled_counts(acc, rounding, counts, shape, pool, pool_rounding, out):
    factor, offset, doubt, first, low, high = rounding
    factor2, offset2, doubt2, first2, low2, high2 = pool_rounding
    row, size, pooled = factor.shape[0], shape[1] * shape[2] * shape[3], shape[3] * shape[4] * shape[5]
    for n in numba.prange(shape[0]):
        for at in range(n * size, (n + 1) * size, row):
            _row(acc[at : at + row], factor, offset, doubt, first, low, high, counts[at : at + row])
        _pool(
            counts[n * size : (n + 1) * size], shape, pool, factor2, offset2, doubt2, first2, low2, high2,
            out[n * pooled : (n + 1) * pooled],
        )  # fmt: skip
