"""Matrix products with a constant on either side: layers with weights, as gMLP and mixers have them among tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.operations import MatMul
from converters.results import compare_counts

LEVELS = 15


class Mixed(nn.Module):
    """``w @ x`` or ``x @ w`` between two linear layers."""

    def __init__(self, shape: tuple[int, ...], left: bool, heads: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.heads = left, heads
        self.first, self.last = nn.Linear(4, 2 * heads), nn.LazyLinear(3)
        self.w = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.heads > 1:
            y = y.unflatten(-1, (self.heads, 2)).transpose(1, 2)
        y = self.w @ y if self.left else y @ self.w
        return torch.as_tensor(self.last(y))


@settings(deadline=None, max_examples=8)
@given(
    left=st.booleans(), ones=st.integers(0, 2), size=st.integers(1, 4), length=st.integers(2, 4),
    heads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_they_are_layers_with_weights(left: bool, ones: int, size: int, length: int, heads: int) -> None:
    """What PyTorch's own forward of the quantised model gives in float64, level by level; and every spike."""
    ones = min(ones, 1 + (heads > 1))
    matrix = (size, length) if left else (2, size)
    net = Mixed((*[1] * ones, *matrix), left, heads)
    x = torch.randn(5, length, 4, generator=torch.Generator().manual_seed(size))
    net(x)
    m = converters.prepare_qat(net, x, levels=LEVELS)
    m(x).square().sum().backward()
    assert any(p.grad is not None and p.shape == net.w.shape and bool(p.grad.any()) for p in m.parameters())
    twin = m.double().eval()
    q = converters.from_pt2e(twin)
    assert not any(type(op) is MatMul for layer in q.layers for s in layer.synapses for op in s.ops)
    values, last = q.execute(x), q.layers[-1]
    assert torch.equal((twin(x.double()) / last.scale).round(), values[last.name].double())
    rows = compare_counts(converters.run(converters.to_nir(q, LEVELS), x), values)
    assert [row for row in rows if row.differing] == []


def test_a_matrix_for_each_head_is_refused_by_name() -> None:
    net = Mixed((3, 4, 4), True, 3)
    x = torch.randn(4, 4, 4)
    net(x)
    with pytest.raises(ConversionError, match="a constant of shape"):
        converters.prepare_qat(net, x, levels=LEVELS)
