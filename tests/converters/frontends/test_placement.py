"""Where the PT2E quantiser puts its quantisers, and what vanishes in evaluation."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import StochasticDepth

import converters
from converters.frontends.aten import drop_images
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_module import PreparedModel
from tests.networks import pixels

X = pixels(4, (3, 6, 6), signed=True, seed=3)


class Net(nn.Module):
    """A function of two convolutions."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **more: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        for name, layer in more.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def quantisers(model: PreparedModel) -> list[LevelQuantiser]:
    """Those of activations, in graph order, each as often as it stands in the graph."""
    found = [model.get_submodule(str(n.target)) for n in model.graph.nodes if n.op == "call_module"]
    return [q for q in found if isinstance(q, LevelQuantiser) and not q.is_per_channel]


def signs(body: Callable[[Any, Tensor], Any]) -> str:
    """``-`` for each quantiser behind the input's that has negative levels, ``+`` for the others."""
    behind = quantisers(converters.prepare_qat(Net(body), X, check=False))[1:]
    return "".join("-" if q.quant_min < 0 else "+" for q in behind)


PLACES: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a layer": (lambda n, x: n.a(x), "-"),
    "with its batch norm and ReLU": (lambda n, x: F.relu(n.norm(n.a(x))), "+"),
    "with its batch norm and SiLU": (lambda n, x: F.silu(n.norm(n.a(x))), "-"),
    "with its sigmoid": (lambda n, x: torch.sigmoid(n.a(x)), "+"),
    "with constants": (lambda n, x: F.relu(0.5 * n.a(x) + 1), "+"),
    "with a batch norm behind its ReLU": (lambda n, x: n.norm(F.relu(n.a(x))), "-"),
    "with constants behind its ReLU": (lambda n, x: F.relu6(n.a(x) + 3) / 6, "+"),
    "with a batch norm on both sides": (lambda n, x: n.norm(0.5 * F.silu(n.norm(n.a(x))) + 1), "-"),
    "a batch norm behind a max pool": (lambda n, x: n.norm(F.max_pool2d(F.relu(n.a(x)), 2)), "+-"),
    "a batch norm behind a sum's ReLU": (lambda n, x: n.norm(F.relu(n.a(x) + n.b(x))), "--+-"),
    "constants of each place": (lambda n, x: F.relu(n.a(x)) * torch.arange(6), "+-"),
    "constants of each place in front": (lambda n, x: n.norm(F.relu(n.a(x) + torch.arange(6))), "+-"),
    "a slope per channel behind constants of each place": (
        lambda n, x: F.prelu(n.a(x) + torch.arange(6), torch.tensor([0.1, 0.2, 0.3, 0.4])), "--"
    ),
    "tanh of what is not negative": (lambda n, x: torch.tanh(F.max_pool2d(F.relu(n.a(x)), 2)), "++"),
    "moves and maxima": (lambda n, x: F.max_pool2d(n.a(x), 2).flip(2).flatten(1), "-"),
    "a ReLU behind a pool": (lambda n, x: F.relu(F.avg_pool2d(n.a(x), 2)), "--+"),
    "a sum and its ReLU": (lambda n, x: F.relu(F.relu(n.a(x)) + F.relu(n.b(x))), "+++"),
    "a concatenation of both signs": (lambda n, x: torch.cat([F.relu(n.a(x)), n.b(x)], 1), "--"),
    "a concatenation, moved": (lambda n, x: torch.cat([F.relu(n.a(x)), F.relu(n.b(x)).flip(2)], 3).mean(3), "+++"),
    "a gate": (lambda n, x: F.relu(n.a(x)) * torch.sigmoid(n.b(x)), "+++"),
    "x sigmoid(x)": (lambda n, x: (lambda y: y * torch.sigmoid(y))(n.a(x)), "-+-"),
    "a square": (lambda n, x: (lambda y: y * y)(n.a(x)), "+"),
    "a softmax": (lambda n, x: F.max_pool2d(n.a(x).softmax(1), 2), "-+"),
    "a softmax behind the network": (lambda n, x: n.a(x).softmax(1), "-"),
    "a norm and its ReLU": (lambda n, x: F.relu(F.layer_norm(n.a(x), [6])), "-+"),
    "used twice": (lambda n, x: (lambda y: F.relu(y) + y)(n.a(x)), "---"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_as_few_as_exactness_needs(name: str) -> None:
    body, expected = PLACES[name]
    assert signs(body) == expected


def test_operands_that_meet_share_one_quantiser() -> None:
    model = converters.prepare_qat(Net(lambda n, x: torch.maximum(n.a(x), F.max_pool2d(n.b(x), 3, 1, 1))), X)
    _, first, second = quantisers(model)
    assert first is second


def test_weights_that_stand_twice_have_one_quantiser() -> None:
    net = Net(lambda n, x: n.twice(F.relu(n.twice(x))), twice=nn.Conv2d(3, 3, 1))
    modules = [m for m in converters.prepare_qat(net, X).modules() if isinstance(m, LevelQuantiser)]
    assert sum(m.is_per_channel for m in modules) == 1


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_is_torchvisions_and_vanishes(mode: str) -> None:
    depth = StochasticDepth(0.4, mode).train()
    torch.manual_seed(5)
    theirs = depth(X)
    torch.manual_seed(5)
    ours = drop_images(X, 0.4, True, mode == "batch")
    assert torch.allclose(ours, theirs)
    assert drop_images(X, 0.4, False) is not theirs
    assert torch.equal(drop_images(X, 0.4, False), X)

    model = converters.prepare_qat(Net(lambda n, x: x + n.drop(n.c(x)), c=nn.Conv2d(3, 3, 1), drop=depth), X).train()
    model(X)
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))
    assert converters.from_pt2e(model).checked is not None


def test_an_auxiliary_head_is_left_out() -> None:
    def body(net: Any, x: Tensor) -> Any:
        y = F.relu(net.a(x))
        main = net.main(y)
        return (main, net.aux(F.dropout(y, 0.5, net.training))) if net.training else main

    net = Net(body, main=nn.Conv2d(4, 2, 1), aux=nn.Conv2d(4, 5, 1))
    model = converters.prepare_qat(net, X)
    assert model.training
    assert model(X).shape == (4, 2, 6, 6)
    assert not [name for name, _ in model.named_parameters() if name.startswith("aux")]
    q = converters.from_pt2e(model)
    assert [layer.name for layer in q.layers] == ["a", "main"]


def test_a_spectral_norm_keeps_its_vectors() -> None:
    net = Net(lambda n, x: n.s(x), s=parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)))
    model = converters.prepare_qat(net, X).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if k.endswith(("_u", "_v"))}
    assert len(before) == 2
    model(X)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_a_prepared_model_with_functions_of_its_own_is_pickled() -> None:
    net = Net(lambda n, x: n.drop(F.local_response_norm(F.softsign(n.a(x)), 3)), drop=StochasticDepth(0.4, "row"))
    model = converters.prepare_qat(net, X).train()
    model(X)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again.eval()(X), model.eval()(X))
    assert converters.from_pt2e(again).checked is not None
