"""Charges spike by spike, for kernels: what each spike of a step brings is added up. Imported with Numba only.

``add_events(x, begin, source, place, line, lines, most, kh, size, wide, charge, total)`` has the charges of one image
and step. Its spikes + 1 are the bytes of ``x`` from ``begin`` on, ``channels`` for each of ``len(place)`` places;
``source`` is :func:`source_of` these two numbers. A spike of channel ``c`` at place ``q`` adds ``kh`` lines of ``size``
weights (a multiple of 32 integers, those of ``lines`` from ``line[q] + c * kh * size`` on; none, if ``line[q]`` is
negative) to ``charge``, an image whose lines are ``wide``: the first of them from ``place[q]`` on, each further one a
line of the image higher. It returns whether anything was added; if not, ``charge`` and ``total`` are as they were.

``charge`` may be of 16 bits where a sum needs more: of any ``most`` spikes it holds the sums, and after as many it is
added to ``total``, of 32 bits, and begins anew. With ``most = 0`` it holds all sums, and ``total`` is not touched.

``add_pooled(x, begin, features, target, charge)`` is this for windows that do not overlap: a spike of neuron ``m`` adds
1 to ``charge[target[m]]``, or to nothing, if that is negative.

``add_windows(x, begin, wide, window, channels, rows, width, charge)`` adds up all neurons, spikes or not, of windows
side by side, ``window = (height, width)``, without margins: lines of ``wide`` bytes to ``rows`` of ``width`` charges.
Behind these ``charge`` has room for a line and 96 numbers more, and ``x`` has 31 bytes more than the lines.
"""

from __future__ import annotations

import numba
import numpy as np

from calif_plugins.multistep_vectors import (
    LANES,
    add_lanes,
    equal64,
    first_bit,
    fold_lanes,
    subtract_lanes,
)

__all__ = ["add_events", "add_pooled", "add_windows", "bits_of", "source_of"]


@numba.njit(inline="always")
def bits_of(x, at, end, byte, differ):
    """Which of the next 64 bytes are ``byte``, or with ``differ`` are not, as bits; none from ``end`` on."""
    if at + 64 <= x.shape[0]:
        mask = ~equal64(x, at, byte) if differ else equal64(x, at, byte)
        return mask if at + 64 <= end else mask & ((np.uint64(1) << np.uint64(end - at)) - np.uint64(1))
    mask = np.uint64(0)  # nothing is read beyond the array
    for k in range(end - at):
        mask |= np.uint64((x[at + k] == byte) != differ) << np.uint64(k)
    return mask


@numba.njit(inline="always")
def _fired(x, at, end):
    """Which of the next 64 bytes are spikes."""
    return bits_of(x, at, end, np.uint8(1), True)


@numba.njit
def source_of(channels, places):
    """``(channels, features, factor, shift)``: ``(m * factor) >> shift`` is ``m // channels`` for ``0 <= m < 2**31``,
    several times as fast as to divide."""
    shift = np.int64(31)
    while (np.int64(1) << (shift - 31)) < channels:
        shift += 1
    return np.int64(channels), np.int64(channels * places), ((np.int64(1) << shift) + channels - 1) // channels, shift


@numba.njit(inline="always")
def _flush(charge, total):
    for k in range(charge.shape[0]):
        total[k] += np.int32(charge[k])
    charge[:] = 0


@numba.njit
def add_events(x, begin, source, place, line, lines, most, kh, size, wide, charge, total):
    channels, features, factor, shift = source
    heard, left = False, most
    for k in range(0, features, 64):
        mask = _fired(x, begin + k, begin + features)
        while mask:
            m = k + first_bit(mask)
            mask &= mask - np.uint64(1)
            q = (m * factor) >> shift
            if line[q] < 0:
                continue
            if not heard:
                heard = True
                charge[:] = 0
                if most:
                    total[:] = 0
            if most:
                if not left:
                    _flush(charge, total)
                    left = most
                left -= 1
            at, w = np.intp(place[q]), np.intp(line[q]) + (m - q * channels) * kh * size
            up = x[begin + m] == 2
            for _ in range(kh):
                for part in range(0, size, LANES):
                    if up:
                        add_lanes(charge, at + part, lines, w + part)
                    else:
                        subtract_lanes(charge, at + part, lines, w + part)
                at, w = at - wide, w + size
    if heard and most:
        _flush(charge, total)
    return heard


@numba.njit
def add_pooled(x, begin, features, target, charge):
    heard = False
    for k in range(0, features, 64):
        mask = _fired(x, begin + k, begin + features)
        while mask:
            m = k + first_bit(mask)
            mask &= mask - np.uint64(1)
            if target[m] < 0:
                continue
            if not heard:
                heard = True
                charge[:] = 0
            charge[target[m]] += np.int16(x[begin + m]) - np.int16(1)
    return heard


@numba.njit
def add_windows(x, begin, wide, window, channels, rows, width, charge):
    high, across = window
    line = charge[rows * width + LANES :]
    for r in range(rows):
        at = begin + r * high * wide
        for part in range(0, wide, LANES):
            fold_lanes(line, part, x, at + part, high, wide, high)
        for j in range(0, width, channels):  # what is too much the next one writes over
            for part in range(0, channels, LANES):
                fold_lanes(charge, r * width + j + part, line, j * across + part, across, channels, 0)
