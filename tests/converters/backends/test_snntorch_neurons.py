"""Backend ``snntorch`` steps snnTorch neurons and no others; and they train, from a shipped network and back to one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import snntorch
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

import converters
from calif_plugins.snntorch import CaLIF
from converters.backends.snntorch_network import SpikingNetwork
from converters.testing.networks import NETWORKS, images, network
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint


def watch() -> tuple[Counter[nn.Module], dict[nn.Module, int], RemovableHandle]:
    """Counts of calls of every module's forward pass, and of spikes that each snnTorch neuron layer returned."""
    calls: Counter[nn.Module] = Counter()
    fired: dict[nn.Module, int] = {}

    def seen(module: nn.Module, _: Any, out: Any) -> None:
        calls[module] += 1
        if isinstance(module, snntorch.SpikingNeuron):
            fired[module] = fired.get(module, 0) + int(out.abs().sum())

    return calls, fired, nn.modules.module.register_module_forward_hook(seen)


@pytest.mark.parametrize("phase", ["settle", "paper", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_neurons_are_snntorchs(name: str, phase: str) -> None:
    """A layer each, stepped once in each step that the run took; what they emit is what the result says."""
    q = NETWORKS[name]()
    net = network(q, 5, "isi")
    calls, fired, hook = watch()
    with hook:
        r = converters.run(net, images(q, 3), backend="snntorch", phase=phase, record="spikes", check=False)
    neurons = {m: n for m, n in calls.items() if isinstance(m, snntorch.SpikingNeuron)}
    assert {type(m) for m in neurons} == {CaLIF}
    assert len(neurons) == len(net.stages)
    assert r.spikes is not None
    assert r.extra_steps is not None
    steps = len(r.spikes[net.output.name]) + (phase == "settle")  # the silent one that ends the rounding phase
    assert set(neurons.values()) == {steps}
    assert sorted(fired.values()) == sorted(int(r.spikes[s.name].abs().sum()) for s in net.stages)
    assert sum(fired.values()) > 0


def test_without_its_neurons_nothing_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule has one way in: a neuron that is silenced leaves its layer, and all behind it, without a spike."""
    q = NETWORKS["pooled"]()
    net = network(q, 5, "isi")
    forward = CaLIF.forward
    monkeypatch.setattr(CaLIF, "forward", lambda self, *x: torch.zeros_like(forward(self, *x)))
    r = converters.run(net, images(q, 3), backend="snntorch", record="spikes", check=False)
    assert r.spikes is not None
    assert [bool(r.spikes[s.name].any()) for s in net.stages] == [False] * 3
    assert bool(r.spikes[net.encoder_name].any())


def test_fine_tuned_on_other_images_and_back() -> None:
    """LeNet-5 of MNIST learns the scikit-learn digits with its own neurons, and is a converted network again."""
    q, _ = load_checkpoint("lenet5-mnist-8")
    net = converters.to_snntorch(converters.to_nir(q))
    train, test = load("digits", "train"), load("digits", "test").first(120)

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        net.reset()
        net(net.encode(pixels))
        net.settle()
        return net.read_out()

    def accuracy() -> float:
        with torch.no_grad():
            return float((logits(test.pixels).argmax(1) == test.labels).double().mean())

    before = accuracy()
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    assert len(weights) == 5
    start = [w.detach().clone() for w in weights]
    optimiser = torch.optim.Adam(weights, lr=0.3)
    for rows in torch.randperm(len(train)).split(24)[:12]:
        loss = nn.functional.cross_entropy(logits(train.pixels[rows]), train.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = accuracy()
    assert before < 0.85 < after
    assert all(bool((a != b).any()) for a, b in zip(start, weights, strict=True))

    spec = net.network.spec
    graph = converters.from_snntorch(net.sequential(), spec.shape, 8, scale=spec.scale, levels=spec.q_max)
    r = converters.run(graph, test.pixels)
    with torch.no_grad():
        assert torch.equal(logits(test.pixels).argmax(1), r.predictions)
    differ = {k: int((counts != net.layer(net_name(net, k)).neurons.y).sum()) for k, counts in r.counts.items()}
    assert len(differ) == 6
    assert sum(differ.values()) <= 10  # of 969,600: float32 sums of trained weights against exact ones


def net_name(net: SpikingNetwork, child: str) -> str:
    """The layer that is called ``child`` in the module."""
    return next(name for name, safe in net.children_of.items() if safe == child)


def test_a_reset_network_is_as_new() -> None:
    """Its neurons stand at the first step of a window, whatever they did before: they may be used by themselves."""
    q = NETWORKS["dense"]()
    net = converters.to_snntorch(network(q, 5, "isi"))
    x = net.encode(images(q, 2))
    with torch.no_grad():
        row = net.sequential()
        expected = torch.stack([row(step) for step in x])
        net.reset()
        net(x)
        net.settle()
        row = net.sequential()
        assert torch.equal(torch.stack([row(step) for step in x]), expected)
    assert bool(expected.any())
