"""Compiled passes that move spikes about and count them. Imported with Numba only.

``moved(x, index, out)``: bytes ``s + 1`` of ``(M, n)``, each row into another order: ``out[:, k] = x[:, index[k]]``,
``(M, m)``, or 1, which is no spike, where ``index``, int32 ``(m,)``, is -1.

``counted_up(x, zero, total, out)``: what has arrived until each of ``B`` steps. ``x``, ``(B, m)``, has bytes
``s + zero`` or charges, whole numbers in any type; ``total``, ``(m,)``, is what had arrived before, and is brought up
to date; ``out``, ``(B, m)``, is written. The last two are floats that hold the sums.
"""

from __future__ import annotations

from typing import Any

import numba

from calif_plugins.compiling import compiled

__all__ = ["counted_up", "moved"]

_PART = 1024  # sources that are counted at a time: they stay in the cache


@compiled
def moved(x: Any, index: Any, out: Any) -> None:
    for row in numba.prange(x.shape[0]):
        for k in range(index.shape[0]):
            out[row, k] = x[row, index[k]] if index[k] >= 0 else 1


@compiled
def counted_up(x: Any, zero: int, total: Any, out: Any) -> None:
    for part in numba.prange((total.shape[0] + _PART - 1) // _PART):
        here = slice(part * _PART, min((part + 1) * _PART, total.shape[0]))
        sums = total[here]
        for b in range(x.shape[0]):
            row, to = x[b, here], out[b, here]
            for k in range(row.shape[0]):
                sums[k] += row[k] - zero
                to[k] = sums[k]
