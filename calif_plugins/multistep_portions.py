"""Directly coded charges in equal portions, for kernels. Imported with Numba only.

Of a whole number ``c`` that arrives within ``T`` steps, step ``t`` brings ``floor((t + 1) c / T) - floor(t c / T)``.
``divide(whole, t, window, each, rest, left)`` prepares this for the int64 numbers ``whole`` from step ``t`` on, and
each call of ``portion(window, each, rest, left, charge)`` writes what the next step brings. ``each``, which holds
what a step brings, and ``rest``, int32, are quotients and remainders, ``left``, int32, is what has remained so far.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["divide", "portion"]

_WHOLE = 2**53  # up to which float64 has all whole numbers


@numba.njit(error_model="numpy")
def divide(whole, t, window, each, rest, left):
    for k in range(whole.shape[0]):
        c = whole[k]
        quotient = np.int64(np.floor(np.float64(c) / np.float64(window)))  # next to the right one, if not the one
        if abs(c) >= _WHOLE:
            quotient = c // window
        more = c - quotient * window
        quotient += np.int64(more >= window) - np.int64(more < 0)
        each[k] = quotient
        rest[k] = c - quotient * window
    if t:
        for k in range(whole.shape[0]):
            left[k] = (np.int64(t) * rest[k]) % window
    else:
        left[:] = 0


@numba.njit(error_model="numpy")
def portion(window, each, rest, left, charge):
    for k in range(charge.shape[0]):
        after = left[k] + rest[k]
        more = np.int32(after >= window)
        left[k] = after - more * np.int32(window)
        charge[k] = each[k] + more
