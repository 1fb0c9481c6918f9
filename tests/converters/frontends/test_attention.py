"""Attention by the front-end of PT2E: PyTorch's own, heads and masks of all kinds, images along any axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters import QuantGraph
from converters.errors import ConversionError
from converters.frontends.layouts import Layout, laid_out
from converters.operations import MatMul, Operation, Softmax
from converters.results import compare_counts
from tests.converters.frontends.test_placement import quantisers

LEVELS = 15


class Scores(nn.Module):
    """Attention of tokens among themselves: ``F.scaled_dot_product_attention`` of the heads of one linear layer."""

    def __init__(self, heads: int, size: int, seed: int, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads, self.options = heads, options
        self.qkv, self.out = nn.Linear(6, 3 * heads * size), nn.Linear(heads * size, 3)
        nn.init.normal_(self.qkv.weight, 0, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, **self.options)
        return torch.as_tensor(self.out(y.transpose(1, 2).flatten(2)))


def tokens(n: int, length: int, seed: int, features: int = 6) -> Tensor:
    return torch.randn(n, length, features, generator=torch.Generator().manual_seed(seed))


def converted(net: nn.Module, x: Tensor, levels: int = LEVELS) -> QuantGraph:
    prepared = converters.prepare_qat(net, x, levels=levels).train()
    prepared(x)
    return converters.from_pt2e(prepared)


def layer_of(q: QuantGraph, kind: type[Operation]) -> str:
    (found,) = (k.name for k in q.layers for s in k.synapses if any(isinstance(op, kind) for op in s.ops))
    return found


@settings(deadline=None, max_examples=4)
@given(
    heads=st.integers(1, 3),
    size=st.integers(1, 4),
    length=st.integers(2, 5),
    kind=st.sampled_from(["none", "causal", "bool", "added", "per head"]),
    seed=st.integers(0, 1000),
)
def test_weights_are_pytorchs_in_float64(heads: int, size: int, length: int, kind: str, seed: int) -> None:
    """On the integers of query and key the weights are PyTorch's own softmax of their products, to half a level."""
    g = torch.Generator().manual_seed(seed)
    allowed = torch.rand(length, length, generator=g) < 0.6
    allowed |= torch.eye(length, dtype=torch.bool)
    bias = torch.randn(length, length, generator=g).masked_fill(~allowed, -math.inf)
    own = torch.randn(heads, length, length, generator=g).masked_fill(~allowed, -1e9)
    kinds: dict[str, dict[str, Any]] = {
        "none": {}, "causal": {"is_causal": True}, "bool": {"attn_mask": allowed}, "added": {"attn_mask": bias},
        "per head": {"attn_mask": own, "scale": 0.6},
    }  # fmt: skip
    options = kinds[kind]
    x = tokens(3, length, seed)
    q = converted(Scores(heads, size, seed, **options), x)
    values = q.execute(x)
    layers = {layer.name: layer for layer in q.layers}
    soft = layers[layer_of(q, Softmax)]
    scores = next(k for k in q.layers if any(type(op) is MatMul for s in k.synapses for op in s.ops))
    query, key = (values[n].double() * layers[n].scale for n in scores.synapses[0].sources)
    key = key if scores.synapses[0].ops[0].transposed else key.mT
    added = {"added": bias, "per head": own}.get(kind, torch.zeros(1)).double()
    exact = query @ key.mT * options.get("scale", size**-0.5) + added.masked_fill(added < -99, 0)
    seen = values[scores.name].double().reshape(len(x), heads, length, length) * scores.scale
    limits = scores.y_min * scores.scale, scores.y_max * scores.scale
    assert float((seen - exact.clamp(*limits)).abs().max()) <= scores.scale * 0.5 + 1e-6
    dropped = {"causal": ~torch.ones(length, length).tril().bool(), "bool": ~allowed}.get(kind, added < -99)
    wanted = torch.softmax(seen.masked_fill(dropped, -math.inf), -1)
    found = values[soft.name].double() * soft.scale
    assert bool((found.masked_select(dropped.expand_as(found)) == 0).all())
    assert float((found - wanted.clamp(max=soft.y_max * soft.scale)).abs().max()) <= soft.scale * 0.5 + 1e-6
    graph = converters.to_nir(q, 8)
    expected = q.at_window(8).execute(x)
    for backend in ("closed_form", "fast"):
        rows = compare_counts(converters.run(graph, x, backend=backend, check=False), expected)
        assert [row for row in rows if row.differing] == []


def test_a_scale_is_no_layer_and_a_bias_none() -> None:
    """One quantiser for scores: the factor is in their scale, the bias in their leak, the mask in the softmax."""
    mask = torch.linspace(-1, 1, 25).view(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    net = Scores(2, 4, 0, attn_mask=mask, scale=0.3)
    prepared = converters.prepare_qat(net, tokens(4, 5, 0), levels=LEVELS)
    signs = "".join("-" if f.quant_min < 0 else "+" for f in quantisers(prepared)[1:])
    assert signs == "--+--"  # query, key and value; scores; weights; what they weigh; the output


def spelled(act: Callable[[Tensor], Tensor]) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.out(act(self.a(x))))

    return Net()


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda y: F.scaled_dot_product_attention(y, y, y, attn_mask=y @ y.mT > 0), "a mask that depends on the input"),
        (lambda y: F.scaled_dot_product_attention(y, y, y, attn_mask=torch.full((5, 5), -math.inf)), "is masked"),
        (lambda y: y.masked_fill(torch.eye(5, 6).bool(), -math.inf), "operation masked_fill"),
        (lambda y: torch.where(y > 0, y, -y), "operation where|operation gt"),
        (lambda y: y.transpose(0, 1).softmax(1).transpose(0, 1), "images"),
        (lambda y: torch.einsum("nld,nld,nld->nld", y, y, y), "operation einsum"),
    ],
)
def test_what_is_refused(act: Callable[[Tensor], Tensor], match: str) -> None:
    with pytest.raises(ConversionError, match=match):
        converters.prepare_qat(spelled(act), tokens(4, 5, 0))


def grid(x: Tensor) -> Tensor:
    """A mask that is written to in place, and read in between."""
    made = x.new_zeros(5, 6)
    made[1:3, :2] = 0.5
    y = x + made
    made[2:, 1:].fill_(-0.25)
    return y * made


def test_constants_that_forward_writes_are_what_they_were_when_read() -> None:
    x = tokens(4, 5, 0)
    net = spelled(grid)
    prepared = converters.prepare_qat(net, x, levels=LEVELS)
    assert set(prepared.state_dict()) >= set(net.state_dict())
    assert not [k for k in prepared.state_dict() if k.startswith(("made", "constant"))]
    prepared(x)
    q = converters.from_pt2e(prepared)
    assert q.checked is not None
    assert q.checked.integers > 100


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    axis=st.integers(0, 3),
    before=st.integers(1, 3),
    after=st.integers(1, 3),
    images=st.integers(1, 4),
)
def test_layouts_are_there_and_back(sizes: list[int], axis: int, before: int, after: int, images: int) -> None:
    """Every element stays with its image, and comes back to its place."""
    axis = min(axis, len(sizes))
    layout = Layout(axis, before, after)
    shape = [*sizes[:axis], before * images * after, *sizes[axis:]]
    x = torch.arange(math.prod(shape)).reshape(shape)
    first = layout.first(x, images)
    assert torch.equal(layout.back(first), x)
    number = torch.arange(before * images * after) // after % images
    mine = number.reshape(-1, *[1] * (len(sizes) - axis)).expand(shape)
    for k in range(images):
        assert torch.equal(first[k].reshape(-1).sort().values, x[mine == k])
    if images == 2:
        found = Layout.of(mine)
        assert found is not None
        assert torch.equal(found.first(x, 2), first.reshape(found.first(x, 2).shape))


def test_where_a_function_puts_images() -> None:
    layout, inside = laid_out("heads", (3, 4), Layout(), lambda t: t.transpose(0, 1).reshape(3, -1, 2).transpose(0, 1))
    assert layout == Layout(axis=0, before=1, after=2)
    assert inside(torch.zeros(2, 3, 4)).shape == (2, 2, 3, 2)
    with pytest.raises(ConversionError, match="mixes images"):
        laid_out("flip", (3, 4), Layout(), lambda t: t.flip(0))
