"""Ranges of activations and weights, against PyTorch's own fake quantisation of the values themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from converters.calibration.histogram import Histogram
from converters.calibration.ranges import activation_range, weight_ranges
from converters.errors import ConversionError

SIZES = st.lists(st.floats(0, 1e20, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 3.0, 1e-20]), max_size=30)


@given(st.lists(SIZES, max_size=5))
@example([[1.0], [2.0]])
@example([[1.0, 0.5], [1.0], [5.0]])
def test_a_histogram_in_parts_is_that_of_the_whole(parts: list[list[float]]) -> None:
    """The oracle counts each value in Python's own floats."""
    h = Histogram()
    for part in parts:
        h.add(torch.tensor(part, dtype=torch.float64))
    values = [x for part in parts for x in part]
    assert h.counts.sum() == len(values)
    assert h.top == max(values, default=0.0)
    assert h.top == 0 or h.top <= h.edge < 2.0001 * h.top
    for k in h.counts.nonzero()[:, 0].tolist():
        held = (
            [x for x in values if k <= x / h.edge * 4096 < k + 1 or (k == 4095 and x == h.edge)] if h.edge else values
        )
        assert len(held) == h.counts[k]


def squared_error(x: Tensor, high: float, levels: int, signed: bool) -> float:
    """PyTorch's."""
    low = -levels if signed else 0
    rounded = torch.fake_quantize_per_tensor_affine(x, high / levels, 0, low, levels)
    return float((rounded - x).double().square().sum())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("levels", [1, 3, 8, 31, 127, 1000, 32767])
@pytest.mark.parametrize("tail", [1.0, 3.0])
def test_no_range_has_a_smaller_error(levels: int, tail: float, signed: bool) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(levels))
    x = x.sign() * x.abs() ** tail
    x = x if signed else x.relu()
    sizes = Histogram()
    for part in x.abs().split(999):
        sizes.add(part)
    found = squared_error(x, activation_range(sizes, levels, "mse"), levels, signed)
    top = float(x.abs().max())
    least = min(squared_error(x, top * k / 500, levels, signed) for k in range(1, 501))
    assert found <= 1.02 * least
    assert activation_range(sizes, levels, "minmax") == pytest.approx(top)


@given(percentile=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_a_percentile_holds_that_share_and_hardly_more(percentile: float, seed: int) -> None:
    x = torch.rand(3000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sizes = Histogram()
    sizes.add(x)
    high = activation_range(sizes, 8, "percentile", percentile)
    exact = float(x.sort().values[math.ceil(percentile / 100 * 3000) - 1])
    assert exact - 1 / 2048 <= high <= exact + 1 / 2048


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_of_every_row_have_their_own_least_error(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    rows[2] = 0.0
    for row, high in zip(rows, weight_ranges(rows, largest, "mse").tolist(), strict=True):
        top = float(row.abs().max())
        if not top:
            assert high == 0
            continue
        least = min(squared_error(row, top * k / 500, largest, True) for k in range(150, 501))
        assert squared_error(row, high, largest, True) <= 1.25 * least
        assert squared_error(row, high, largest, True) <= squared_error(row, top, largest, True)
    assert torch.equal(weight_ranges(rows, largest, "minmax"), rows.abs().amax(1))


def test_what_is_asked_for_must_be_known() -> None:
    sizes = Histogram()
    sizes.add(torch.ones(3))
    with pytest.raises(ConversionError, match="ranges: found 'entropy'; use one of minmax, percentile, mse"):
        activation_range(sizes, 8, "entropy")
    with pytest.raises(ConversionError, match=r"percentile: found 0\.0; use a number"):
        activation_range(sizes, 8, "percentile", 0.0)
    with pytest.raises(ConversionError, match="weights: found 'max'; use minmax or mse"):
        weight_ranges(torch.ones(2, 2), 7, "max")
