"""The range observer looks at all of a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converters.frontends.level_quantiser import RangeObserver, in_memory_order, sample_step

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("column", [0, 1, 31])
def test_the_range_is_that_of_every_column(layout: Any, column: int) -> None:
    """Values in one column of each map alone, of a size at which every 512th value lies in column 0."""
    x = torch.zeros(128, 32, 32, 32)
    x[..., column] = 1.0
    observer = RangeObserver(dtype=torch.uint8, quant_min=0, quant_max=127)
    observer(x.contiguous(memory_format=layout))
    assert float(observer.max_val) == 1.0


@given(n=st.integers(1, 9), c=st.integers(1, 9), h=st.integers(1, 12), w=st.integers(1, 12), size=st.integers(1, 99))
def test_every_row_column_and_channel_has_its_share(n: int, c: int, h: int, w: int, size: int) -> None:
    place = torch.arange(n * c * h * w)
    step = sample_step(len(place), size)
    taken = place[::step]
    assert len(taken) >= min(len(place), 1)
    assert step >= max(1, len(place) // size)
    for unit in (w, h * w, c * h * w):  # where a value lies in its row, map, image
        if len(place) % unit == 0 and len(taken) >= 3 * unit:
            counts = torch.bincount(taken % unit, minlength=unit)
            assert counts.max() - counts.min() <= 1 + len(taken) // unit // 2, step


@pytest.mark.parametrize("layout", FORMATS)
def test_in_memory_order(layout: Any) -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).contiguous(memory_format=layout)
    flat = in_memory_order(x)
    assert flat.data_ptr() == x.data_ptr()  # no copy
    assert torch.equal(flat.sort().values, torch.arange(120.0))
    assert set(flat[:60].tolist()) == set(range(60))  # one image after the other
