"""Ranges of a shorter window are whole numbers made of whole numbers: rationals are the oracle."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from converters.operations import Linear
from converters.quantised import GraphBuilder


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(1, 400), st.integers(0, 400), st.integers(0, 400))
@example(22, 15, 11, 0)  # 15 / 2 is 8, and 11 (15 / 22) a little less in floats
def test_ranges_shrink_as_rationals_do(levels: int, window: int, low: int, high: int) -> None:
    b = GraphBuilder()
    x = b.input((1,), scale=1.0, q_min=0, q_max=levels)
    low, high, window = min(low, levels), max(1, min(high, levels)), min(window, levels)
    y = b.layer("fc", [(x, Linear(torch.tensor([[1]])))], threshold=1.0, y_min=-low, y_max=high, scale=1.0)
    short = b.build(y).at_window(window)

    def right(q: int) -> int:
        return math.floor(Fraction(q * window, levels) + Fraction(1, 2))

    wanted = (-right(low), right(high))
    if wanted == (0, 0):  # a level is left
        wanted = (-min(low, 1), 1)
    assert (short.layers[0].y_min, short.layers[0].y_max) == wanted
    assert (short.input.q_min, short.input.q_max) == (0, max(1, right(levels)))
