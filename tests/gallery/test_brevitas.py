"""Small networks of Brevitas' layers, trained for two steps: their spikes count the integers of its own forward."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from converters import QuantGraph
from converters.frontends.brevitas import from_brevitas
from tests.gallery.brevitas_attention import ATTENTION
from tests.gallery.brevitas_networks import NETWORKS
from tests.gallery.checks import counts_are_integers, signed_images

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]

BACKENDS = ("closed_form", "fast", "snntorch")
BRIAN2 = ("transposed 2d", "QuantSigmoid", "max pool", "a product")
_SOME_BY_DEFAULT = [
    pytest.param(name, marks=[] if k % 5 == 0 else [pytest.mark.slow]) for k, name in enumerate(NETWORKS)
]

_ATTENTION_BY_DEFAULT = (
    "attention", "attention, causal, quantised scores", "attention with bias tokens", "an encoder",
    "scaled dot product, causal",
)  # fmt: skip
_MOST_BY_DEFAULT = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ATTENTION and name not in _ATTENTION_BY_DEFAULT else [])
    for name in NETWORKS
]


@cache
def trained(name: str) -> nn.Module:
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.make().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for seed in (1, 2):
        optimiser.zero_grad()
        out: Any = model(signed_images(network.shape, 6, seed))
        getattr(out, "value", out).square().mean().backward()
        optimiser.step()
    return model.eval()


@cache
def converted(name: str) -> QuantGraph:
    return from_brevitas(trained(name), signed_images(NETWORKS[name].shape, 4, 3))


@pytest.mark.parametrize("name", _MOST_BY_DEFAULT)
def test_counts_are_brevitas_integers(name: str) -> None:
    """As it is converted, every layer is compared with Brevitas' own values on images that force it."""
    q = converted(name)
    assert q.checked is not None
    assert q.checked.integers > 100
    assert q.checked.near_ties <= 1 + q.checked.integers // 500
    counts_are_integers(q, signed_images(NETWORKS[name].shape, 3, 4), BACKENDS)


@pytest.mark.parametrize("name", _SOME_BY_DEFAULT)
def test_in_float64_no_integer_differs(name: str) -> None:
    """The whole network at once, from the input on: what it returns is what Brevitas returns."""
    model = copy.deepcopy(trained(name)).double()
    x = signed_images(NETWORKS[name].shape, 8, 5).double()
    q = from_brevitas(model, x[:2])
    with torch.no_grad():
        out: Any = model(x)
    theirs = getattr(out, "value", out)
    ours = q.returned(q.execute(x))
    assert ours.shape == theirs.shape
    assert theirs.std() > 0
    assert float((ours - theirs).abs().max()) < 1e-9


@pytest.mark.parametrize("name", BRIAN2)
def test_counts_in_brian2(name: str) -> None:
    counts_are_integers(converted(name), signed_images(NETWORKS[name].shape, 2, 4)[:1], ("brian2",))


def test_there_is_one_for_each_kind() -> None:
    assert len(NETWORKS) >= 40
