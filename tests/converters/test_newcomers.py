"""What people who try their own networks for the first time meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import converters
from converters.results import compare_counts


class Twice(nn.Module):
    """One layer at two places: its weights are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - self.a(x.flip(1))


class Dropped(nn.Module):
    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.drop = StochasticDepth(p, mode)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return h + self.drop(self.b(h))


class Larger(nn.Module):
    def __init__(self, factor: float, mode: str, corners: bool) -> None:
        super().__init__()
        self.factor, self.mode, self.corners = factor, mode, corners

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode, align_corners=self.corners)


def converted(net: nn.Module, x: Tensor, **options: Any) -> tuple[converters.QuantGraph, nn.Module]:
    m = converters.prepare_qat(net, x, levels=15)
    m(x)
    return converters.from_pt2e(m.eval(), **options), m


def test_a_network_that_uses_a_layer_twice_is_a_file(tmp_path: Path) -> None:
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    q, _ = converted(Twice(), x)
    converters.save_quantised(tmp_path / "q.safetensors", q)
    again = converters.load_quantised(tmp_path / "q.safetensors")
    for name, values in q.execute(x).items():
        assert torch.equal(again.execute(x)[name], values)


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_stochastic_depth_of_any_chance(p: float, mode: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 6, 6)
    q, _ = converted(Dropped(p, mode), x)
    result = converters.run(converters.to_nir(q), x)
    assert not any(row.differing for row in compare_counts(result, q.execute(x)))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([1.5, 2.0, 0.75, 1.3]), st.sampled_from(["bilinear", "bicubic"]), st.booleans(),
    st.integers(5, 9), st.integers(5, 9),
)  # fmt: skip
def test_an_interpolation_at_the_end_keeps_its_factor(f: float, mode: str, corners: bool, high: int, wide: int) -> None:
    x = torch.rand(3, 2, high, wide, generator=torch.Generator().manual_seed(high * wide))
    q, m = converted(Larger(f, mode, corners), x, check=False)
    ours = converters.run(converters.to_nir(q), x).outputs
    assert isinstance(ours, Tensor)
    step = max(layer.scale for layer in (q.input, *q.layers))
    assert float((ours - m(x)).abs().max()) <= 1.001 * step


@pytest.mark.parametrize(
    "call",
    [
        lambda q, g, path: converters.to_nir(g),
        lambda q, g, path: converters.to_nir(nn.Linear(2, 2)),
        lambda q, g, path: converters.write(g, path),
        lambda q, g, path: converters.save_quantised(q, path),
    ],
    ids=["to_nir of a graph", "to_nir of a module", "write the other way round", "save the other way round"],
)
def test_arguments_of_another_kind(call: Any, tmp_path: Path) -> None:
    q, _ = converted(Twice(), torch.rand(4, 5))
    with pytest.raises(converters.ConversionError, match="give a "):
        call(q, converters.to_nir(q), tmp_path / "x")
    assert not list(tmp_path.iterdir())
