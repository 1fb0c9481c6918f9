"""Weights fitted to the float network's results: the sums of each step by hand, and what networks gain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import converters
from converters.calibration.least_squares import Moments, fitted, rounded
from converters.calibration.patches import in_groups, patches, places, results
from converters.errors import ConversionError
from tests.networks import Concat, Depthwise, LeNet5, Residual, pixels

_a = torch.ops.aten
CONVOLUTIONS = {1: (_a.conv1d, F.conv1d), 2: (_a.conv2d, F.conv2d), 3: (_a.conv3d, F.conv3d)}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60, deadline=None)
@given(data=st.data(), rank=st.integers(1, 3), groups=st.integers(1, 3), most=st.sampled_from([7, 10**6]))
def test_results_are_weighted_sums_of_patches(data: Any, rank: int, groups: int, most: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    stride, dilation = (data.draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank)) for _ in range(2))
    padding: Any = data.draw(st.sampled_from(["same", "valid", [0] * rank, [1] * rank, [1]]))
    if padding == "same":
        stride = [1] * rank
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2 * groups, *[6] * rank, generator=generator, dtype=torch.float64)
    w = torch.randn(3 * groups, 2, *sizes, generator=generator, dtype=torch.float64)
    packet, function = CONVOLUTIONS[rank]
    graph = fx.Graph()
    overload = packet.padding if isinstance(padding, str) else packet.default
    node = graph.call_function(
        overload, (graph.placeholder("x"), graph.placeholder("w"), None, stride, padding, dilation, groups)
    )
    y = function(x, w, None, stride, padding, dilation, groups)
    at = places(node, y, most)
    found = patches(node, x, w, at) @ in_groups(node, w).mT
    assert torch.allclose(found, results(node, y, at))
    assert found.shape == (groups, min(most, y[:, 0].numel()), 3)


def moments(x: Tensor, y: Tensor) -> Moments:
    return Moments((x.T @ x)[None], (y.T @ x)[None])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_enough_data_are_fitted_and_noise_is_not(noise: float) -> None:
    """The oracle is LAPACK's least squares, and the error on data that nothing was fitted to."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    true, start = draw(2, 20), draw(2, 20)
    x = draw(3000, 20)
    y = x @ true.T + noise * draw(3000, 2)
    halves = moments(x[0::2], y[0::2]), moments(x[1::2], y[1::2])
    exact = torch.linalg.lstsq(x, y).solution.T
    found = fitted(start[None], halves)[0]
    assert (found - exact).norm() < 0.02 * (start - exact).norm()

    x, y = x[:24], true @ x[:24].T  # as few as there are weights: of pure noise
    y = 30 * draw(24, 2)
    halves = moments(x[0::2], y[0::2]), moments(x[1::2], y[1::2])
    found = fitted(true[None], halves)[0]
    overfitted = torch.linalg.lstsq(x, y).solution.T
    assert (found - true).norm() < 0.1 * (overfitted - true).norm()


def test_rounded_errors_make_up_for_one_another() -> None:
    """Never better than the best of all integers, never worse than the nearest, and on the whole by far better."""
    generator = torch.Generator().manual_seed(0)
    every = torch.tensor(list(itertools.product(range(-3, 4), repeat=3)), dtype=torch.float64)
    sums = [0.0, 0.0, 0.0]
    for _ in range(50):
        mixing = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        xx = mixing @ mixing.T + 0.01 * torch.eye(3, dtype=torch.float64)
        w = torch.rand(1, 5, 3, generator=generator, dtype=torch.float64) * 5 - 2.5

        def errors(integers: Tensor, w: Tensor = w, xx: Tensor = xx) -> Tensor:
            return (((integers - w[0]) @ xx) * (integers - w[0])).sum(-1)

        found = rounded(w, torch.ones(1, 5, dtype=torch.float64), 3, xx[None])[0]
        assert set(found.flatten().tolist()) <= set(range(-3, 4))
        best = torch.stack([errors(row.expand(5, 3)) for row in every]).amin(0)
        nearest = errors(w[0].round().clamp(-3, 3))
        assert bool((best - 1e-9 <= errors(found)).all())
        assert bool((errors(found) <= nearest + 1e-9).all())
        sums = [s + float(e.sum()) for s, e in zip(sums, (best, errors(found), nearest), strict=True)]
    assert sums[1] - sums[0] < 0.5 * (sums[2] - sums[0])


def smooth(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Images whose pixels are like their neighbours'."""
    coarse = torch.rand(n, shape[0], 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=shape[1:], mode="bilinear")


NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "a residual net": (Residual, (2, 8, 8)),
    "depthwise convolutions": (Depthwise, (3, 16, 16)),
    "a concatenation": (Concat, (1, 12, 12)),
    "linear layers": (LeNet5, (1, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_few_bits_lose_less(name: str) -> None:
    """On images that nothing was fitted to; and what comes out converts."""
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = kind().train()
    for k in range(3):
        model(smooth(16, shape, k))
    model.eval()
    images, fresh = smooth(96, shape, 10), smooth(64, shape, 11)
    errors = []
    for count in (0, 96):
        prepared = converters.quantise(
            model, images, 31, 3, quantise_output=False, reconstruct=count, batch=25, check=False
        )
        errors.append(float((prepared(fresh) - model(fresh)).detach().square().mean()))
        assert converters.from_pt2e(prepared).checked is not None
    assert errors[1] < errors[0]


def test_one_layer_loses_a_fifth_less() -> None:
    """Its 3-bit weights, on inputs that are like one another."""
    torch.manual_seed(0)
    model = nn.Linear(16, 8)
    x = torch.rand(500, 4) @ torch.rand(4, 16) / 2
    before, after = (
        converters.quantise(model, x, 1000, 3, quantise_output=False, reconstruct=n)(x).detach() for n in (0, 500)
    )
    wanted = model(x).detach()
    assert (after - wanted).square().mean() < 0.8 * (before - wanted).square().mean()


class Odd(nn.Module):
    """Layers that keep their weights: tied ones, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.tied, self.up = nn.Conv2d(2, 2, 3, padding=1), nn.ConvTranspose2d(2, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.tied(F.relu(self.tied(x)))))


def test_what_cannot_be_fitted_stays() -> None:
    model = Odd()
    prepared = converters.quantise(model, pixels(16, (2, 6, 6), seed=1), 15, 4, reconstruct=16)
    for name in ("tied", "up"):
        assert torch.equal(prepared.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.weight"))
    assert converters.from_pt2e(prepared).checked is not None


def test_one_image_is_refused() -> None:
    with pytest.raises(ConversionError, match="reconstruct: found one image; give more, or leave the weights"):
        converters.quantise(nn.Linear(4, 2), torch.rand(1, 4), reconstruct=5)
    with pytest.raises(ConversionError, match="reconstruct: found -1; use the number of images, or 0"):
        converters.quantise(nn.Linear(4, 2), torch.rand(9, 4), reconstruct=-1)
