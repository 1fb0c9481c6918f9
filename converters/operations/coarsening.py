"""Ranges of counts in a shorter window, where every scale is larger."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["coarsened_range", "shrunk"]


def shrunk(q: int, factor: Fraction) -> int:
    """``q`` times ``factor``, rounded half up.

    >>> shrunk(5, Fraction(1, 2)), shrunk(7, Fraction(3, 15)), shrunk(0, Fraction(1, 3))
    (3, 1, 0)
    """
    return math.floor(q * factor + Fraction(1, 2))


def coarsened_range(low: int, high: int, factor: Fraction) -> tuple[int, int]:
    """The range ``[low, high]``, which contains 0, times ``factor``; where it has levels, one at least remains.

    >>> coarsened_range(-7, 7, Fraction(1, 2)), coarsened_range(0, 3, Fraction(1, 15))
    ((-4, 4), (0, 1))
    """
    least, most = -shrunk(-low, factor), shrunk(high, factor)
    if least == most:  # a layer without a level would be read from its membrane
        least, most = max(-1, low), min(1, high)
    return least, most
