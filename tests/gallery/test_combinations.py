"""Kinds of the gallery one behind the other, at random: what is prepared is converted, and counts are its integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.results import compare_counts
from tests.gallery.networks import Step, conv, norm

SHAPE = (4, 6, 6)


def _plain(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return partial(Step, lambda _, x: function(x))


def _residual() -> nn.Module:
    return Step(lambda n, x: x + n.a(x), a=conv(2, 4, 4))


def _gate() -> nn.Module:
    return Step(lambda n, x: x * torch.sigmoid(n.a(x.mean((2, 3), keepdim=True))), a=conv(2, 4, 4, 1))


def _shifted(layer: nn.LayerNorm | nn.GroupNorm) -> nn.Module:
    """With a bias: a norm of equal values is nothing but float noise without."""
    nn.init.uniform_(layer.bias, -1, 1)
    return layer


def _dense() -> nn.Module:
    return Step(lambda n, x: n.a(torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)), a=conv(2, 8, 4))


# each from maps of SHAPE to maps of SHAPE
STEPS: dict[str, Callable[[], nn.Module]] = {
    "conv": partial(conv, 2, 4, 4),
    "grouped": partial(conv, 2, 4, 4, groups=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1),
    "rows": lambda: nn.Linear(6, 6),
    "batch norm": lambda: norm(2, 4),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "leaky": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "prelu": lambda: nn.PReLU(4),
    "max pool": lambda: nn.MaxPool2d(3, 1, 1),
    "average pool": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "layer norm": lambda: _shifted(nn.LayerNorm(6)),
    "group norm": lambda: _shifted(nn.GroupNorm(2, 4)),
    "softmax": lambda: nn.Softmax(1),
    "dropout": nn.Dropout2d,
    "residual": _residual,
    "gate": _gate,
    "dense": _dense,
    "flip": _plain(lambda x: x.flip(2)),
    "shuffle": _plain(lambda x: F.channel_shuffle(x, 2)),
    "transpose": _plain(lambda x: x.transpose(2, 3)),
    "crop and pad": _plain(lambda x: F.pad(x[:, :, 1:, :5], (1, 0, 0, 1))),
    "coarse": _plain(lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2)),
    "smooth": _plain(lambda x: F.interpolate(x[:, :, :3], size=(6, 6), mode="bilinear")),
    "less": _plain(lambda x: x - 0.25),
    "from one": _plain(lambda x: 1 - x),
    "thrice": _plain(lambda x: x * 3),
    "square": _plain(lambda x: x * x),
    "largest": _plain(lambda x: torch.maximum(x, x.flip(1))),
    "swap": _plain(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "mean": _plain(lambda x: x - x.mean(1, keepdim=True)),
}


def converts(names: list[str], levels: int, bits: int, signed: bool) -> None:
    torch.manual_seed(len(names))
    net = nn.Sequential(*(STEPS[name]() for name in names), conv(2, 4, 2))
    generator = torch.Generator().manual_seed(levels)
    x = torch.rand(6, *SHAPE, generator=generator) * (2 if signed else 1) - (1 if signed else 0)
    prepared: Any = converters.prepare_qat(net, x, levels=levels, weight_bits=bits)
    prepared.train()(x)
    q = converters.from_pt2e(prepared)
    window = min(levels, 6)
    expected, graph = q.at_window(window).execute(x[:2]), converters.to_nir(q, window)
    for backend in ("fast", "closed_form"):
        result = converters.run(graph, x[:2], backend=backend, check=False)
        assert [row for row in compare_counts(result, expected) if row.differing] == [], backend


CHAINS = {
    "names": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    "levels": st.sampled_from([1, 3, 7, 15]),
    "bits": st.sampled_from([2, 3, 4, 8]),
    "signed": st.booleans(),
}


@settings(max_examples=8, deadline=None)
@given(**CHAINS)
def test_any_chain_converts(names: list[str], levels: int, bits: int, signed: bool) -> None:
    converts(names, levels, bits, signed)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(**CHAINS)
def test_many_chains_convert(names: list[str], levels: int, bits: int, signed: bool) -> None:
    converts(names, levels, bits, signed)
