"""Muon on convolutions: the step that its definition says, whatever the memory format, and resumable."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from converters.errors import ConversionError
from converters.zoo.optimisers import Optimisers


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 4)
    )


def step(net: nn.Module, optimiser: Optimisers, seed: int) -> None:
    x = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    net(x).square().sum().backward()
    optimiser.step()


def test_the_hidden_convolution_moves_by_an_orthogonal_matrix() -> None:
    net = model()
    optimiser = Optimisers(net, "muon", lr=0.1, weight_decay=0.0)
    optimiser.set_rate(0.1)
    before = net[3].weight.detach().clone()
    step(net, optimiser, 0)
    moved = (net[3].weight.detach() - before * (1 - 0.02 * 0.025)).reshape(16, -1)
    singular = torch.linalg.svdvals(moved.double())
    # five Newton-Schulz iterations bring singular values to between about 0.7 and 1.2 of the rate, not nearer
    assert bool((singular > 0.5 * 0.02).all())
    assert bool((singular < 1.35 * 0.02).all())


def test_what_sees_pixels_biases_and_dense_layers_are_sgds() -> None:
    net = model()
    optimiser = Optimisers(net, "muon", lr=0.1, weight_decay=0.0)
    assert [p is net[3].weight for p in optimiser.hidden] == [True]
    twin = copy.deepcopy(net)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    step(net, optimiser, 0)
    twin(torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    plain.step()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) == (name != "3.weight"), name


def test_dense_layers_but_for_the_last_are_muons_where_asked_for() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 4))
    optimiser = Optimisers(net, "muon-dense", lr=0.1, weight_decay=0.0)
    assert [p is net[2].weight for p in optimiser.hidden] == [True]
    before = net[2].weight.detach().clone()
    net(torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimiser.set_rate(0.1)
    optimiser.step()
    moved = net[2].weight.detach() - before * (1 - 0.02 * 0.025)
    singular = torch.linalg.svdvals(moved.double())
    assert bool((singular > 0.5 * 0.02).all())
    assert bool((singular < 1.35 * 0.02).all())


@pytest.mark.parametrize("kind", ["sgd", "muon"])
def test_memory_format_changes_nothing_but_rounding(kind: str) -> None:
    torch.manual_seed(1)
    plain = model()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert not last[3].weight.is_contiguous()
    for net in (plain, last):
        optimiser = Optimisers(net, kind, lr=0.01, weight_decay=5e-4)
        for k in range(3):
            step(net, optimiser, k)
    # Muon works in bfloat16: a step of 0.002 per matrix, to two digits
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-4)


@pytest.mark.parametrize("kind", ["sgd", "muon", "muon-dense"])
def test_resumed_as_if_never_stopped(kind: str) -> None:
    through = model()
    stopped = copy.deepcopy(through)
    one = Optimisers(through, kind, lr=0.01, weight_decay=5e-4)
    for k in range(4):
        step(through, one, k)
    first = Optimisers(stopped, kind, lr=0.01, weight_decay=5e-4)
    for k in range(2):
        step(stopped, first, k)
    resumed = model()
    resumed.load_state_dict(stopped.state_dict())
    second = Optimisers(resumed, kind, lr=0.01, weight_decay=5e-4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for k in range(2, 4):
        step(resumed, second, k)
    for p, q in zip(through.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_unknown_optimiser() -> None:
    with pytest.raises(ConversionError, match="use one of sgd, muon"):
        Optimisers(model(), "adam", lr=0.1, weight_decay=0.0)
