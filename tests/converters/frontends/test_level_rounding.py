"""Rounding to levels in training, against torch's own kernel: the same numbers, the same gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.level_rounding import round_to_levels
from converters.frontends.quantizer import CaLIFQuantizer

RANGES = st.sampled_from([(0, 1), (0, 15), (-15, 15), (0, 127), (-127, 127), (0, 255), (-32767, 32767)])


def both(x: Tensor, scale: float, low: int, high: int) -> list[tuple[Tensor, Tensor]]:
    """Values and gradients, of this package and of torch."""
    found = []
    weights = torch.linspace(-1, 1, x.numel()).reshape(x.shape).to(x.dtype)
    zero = torch.zeros(1, dtype=torch.int32)
    for quantise in (
        lambda x: round_to_levels(x, scale, low, high),
        lambda x: torch.fake_quantize_per_tensor_affine(x, torch.tensor([scale]), zero, low, high),
    ):
        given = x.clone().requires_grad_()
        y = quantise(given)
        y.backward(weights)
        assert given.grad is not None
        found.append((y.detach(), given.grad))
    return found


@given(
    scale=st.floats(2**-20, 2**10, width=32),
    ends=RANGES,
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_same_numbers_and_gradients_as_torch(
    scale: float, ends: tuple[int, int], seed: int, dtype: torch.dtype
) -> None:
    low, high = ends
    values = torch.randn(200, generator=torch.Generator().manual_seed(seed)) * high * scale
    ties = (torch.arange(-6, 7) + 0.5) * scale
    edges = torch.tensor([low, high, low - 0.5, high + 0.5, 0.0]) * scale
    ours, theirs = both(torch.cat([values, ties, edges]).to(dtype), scale, low, high)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.dtype == their.dtype
        assert torch.equal(mine, their)


@pytest.mark.parametrize("signed", [False, True])
def test_a_quantiser_trains_as_torchao_s_own_does(signed: bool) -> None:
    from torchao.quantization.pt2e import FakeQuantize

    specs = CaLIFQuantizer(levels=15, signed_input=False)
    spec = specs.activation(15, signed)
    made = spec.observer_or_fake_quant_ctr
    options = {"quant_min": spec.quant_min, "quant_max": spec.quant_max, "qscheme": spec.qscheme, "dtype": spec.dtype}
    one, two = (made(**options) for _ in range(2))
    assert type(one) is LevelQuantiser
    torch.manual_seed(0)
    for _ in range(4):
        x = torch.randn(6, 5)
        assert torch.equal(one(x), FakeQuantize.forward(two, x))
        assert torch.equal(one.scale, two.scale)
        assert torch.equal(one.zero_point, two.zero_point)
