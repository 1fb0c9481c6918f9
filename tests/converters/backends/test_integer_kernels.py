"""Convolutions on bytes and in floats, of any geometry, against sums that are spelled out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from converters.backends.integer_kernels import _Geometry, _trusted, convolution, int8_kernels
from converters.operations import Conv2d, Synapse
from tests.converters.random_networks import matrix

needs_bytes = pytest.mark.skipif(not int8_kernels(), reason="this processor has no integer kernels")
pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def cases(draw: DrawFn) -> Any:
    channels = draw(st.sampled_from([1, 1, 2, 3, 8, 17]))
    groups = draw(st.sampled_from([1, channels]))
    shape = (channels, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    kernel, stride, dilation = draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    for size, k, p, d in zip(shape[1:], kernel, padding, dilation, strict=True):
        assume(size + 2 * p >= d * (k - 1) + 1)
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (groups * draw(st.integers(1, 3)), channels // groups, *kernel), dtype=np.int8)
    x = rng.integers(0, 3, (draw(st.sampled_from([1, 2, 20])), *shape), dtype=np.uint8)
    return Conv2d(torch.from_numpy(weight), stride, padding, dilation, groups), x


def by_matrix(op: Conv2d, x: np.ndarray) -> torch.Tensor:
    """Channels last."""
    shape = tuple(x.shape[1:])
    sums = (x.reshape(len(x), -1).astype(np.int64) - 1) @ matrix(Synapse(("x",), (op,)), shape).T
    return torch.from_numpy(sums).reshape(len(x), *op.output_shape(shape)).permute(0, 2, 3, 1)


def check(op: Conv2d, x: np.ndarray) -> None:
    wanted = by_matrix(op, x)
    last = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    if int8_kernels():
        kernel = convolution(op, 1)  # its weights are packed once, for any number of images
        for images in (len(last), 1):
            assert torch.equal(kernel(last[:images]).long(), wanted[:images])
    for layout in (last.permute(0, 3, 1, 2), torch.from_numpy(x)):
        signed = layout.to(torch.float32) - 1
        assert torch.equal(op(signed).permute(0, 2, 3, 1).long(), wanted)


@given(case=cases())
@settings(deadline=None, database=None, max_examples=100)
def test_every_geometry(case: Any) -> None:
    check(*case)


@pytest.mark.slow
@given(case=cases())
@settings(deadline=None, database=None, max_examples=20_000)
def test_many_geometries(case: Any) -> None:
    check(*case)


@needs_bytes
@pytest.mark.parametrize(
    ("shape", "weights", "geometry", "trusted"),
    [((8, 32, 32, 3), (64, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1), True),
     ((8, 16, 16, 32), (32, 1, 3, 3), ((2, 2), (1, 1), (1, 1), 32), True),
     ((8, 28, 28, 1), (6, 1, 5, 5), ((1, 1), (0, 0), (1, 1), 1), True),
     ((3, 3, 1, 3), (1, 3, 1, 1), ((2, 3), (4, 2), (2, 2), 1), False),  # ends the process
     ((3, 1, 1, 16), (3, 16, 3, 2), ((2, 3), (2, 1), (2, 2), 1), False),  # wrong sums
     ((2, 5, 3, 8), (16, 1, 1, 2), ((1, 2), (0, 0), (1, 1), 8), False)],
)  # fmt: skip
def test_which_geometries_are_trusted(
    shape: tuple[int, int, int, int],
    weights: tuple[int, int, int, int],
    geometry: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int],
    trusted: bool,
) -> None:
    """The usual ones are; oneDNN's own kernels compute those, and no other."""
    assert _trusted(shape, weights, 1, _Geometry(*geometry)) == trusted
