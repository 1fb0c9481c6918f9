"""Section 4.1, against a literal reading of its formulas."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calif_plugins.encoding import direct_charge, isi_encode, spike_counts


@given(st.integers(1, 256), st.data())
def test_the_nth_spike_comes_at_floor_n_times_the_interval(window: int, data: Any) -> None:
    n = data.draw(st.integers(-window, window))
    train = isi_encode(counts=[n], window=window).ravel()
    literal = np.zeros(window, dtype=int)
    for k in range(1, abs(n) + 1):
        literal[math.floor(k * Fraction(window, abs(n))) - 1] += 1 if n > 0 else -1
    assert train.tolist() == literal.tolist()
    assert train.sum() == n


@given(st.integers(1, 200), st.floats(0.05, 1), st.integers(0, 255))
def test_counts_are_the_formula(window: int, alpha: float, pixel: int) -> None:
    (n,) = spike_counts([float(pixel)], window, alpha=alpha, pixel_max=255)
    exact = Fraction(alpha) * window * pixel / 255
    assert abs(n - exact) < 1 + 1e-6
    assert n <= exact + Fraction(1, 10**6)


def test_an_interval_that_divides_loses_no_spike_to_a_float() -> None:
    assert spike_counts([0.29], 100).tolist() == [29]  # 0.29 * 100 is 28.999... in floats


@given(st.integers(1, 2000), st.sampled_from([np.float16, np.float32, np.float64]))
def test_whole_shares_are_whole_in_every_float(window: int, dtype: Any) -> None:
    """k / T as a pixel is k spikes, however many bits the pixel has, as long as they tell k from its neighbours."""
    window = min(window, 500 if dtype is np.float16 else 2000)
    k = np.arange(window + 1)
    assert spike_counts((k / window).astype(dtype), window).tolist() == k.tolist()


def test_signed_pixels_give_signed_spikes() -> None:
    train = isi_encode(np.array([-1.0, 0.5]), 4)
    assert train.sum(0).tolist() == [-4, 2]


@given(st.integers(-10_000, 10_000), st.integers(1, 300))
def test_direct_charge_adds_up_evenly(total: int, window: int) -> None:
    parts = [int(direct_charge(total, t, window)) for t in range(window)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_counts_of_any_integer_type() -> None:
    with pytest.raises(ValueError, match="found 128 for a window of 4"):
        isi_encode(counts=np.array([-128], dtype=np.int8), window=4)
    assert isi_encode(counts=np.array([-128], dtype=np.int8), window=128).sum() == -128
    assert isi_encode(counts=[2], window=4.0).sum() == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pixels": [2.0]}, "must lie within"),
        ({"pixels": [float("nan")]}, "finite"),
        ({"pixels": [0.5], "alpha": 0.0}, "alpha"),
        ({"pixels": [0.5], "alpha": 1.5}, "alpha"),
        ({"pixels": [0.5], "pixel_max": 0.0}, "pixel_max"),
        ({"counts": [5]}, "at most one spike per step"),
        ({"counts": [0.5]}, "expected integers"),
        ({}, "either pixels or counts"),
        ({"pixels": [0.5], "counts": [1]}, "either pixels or counts"),
        ({"pixels": [0.5], "window": 0}, "T >= 1"),
        ({"pixels": [0.5], "window": math.inf}, "T >= 1"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        isi_encode(**{"window": 4, **kwargs})
