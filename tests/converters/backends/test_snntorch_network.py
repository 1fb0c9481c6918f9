"""The converted network as a module: the same spikes as the reference, to keep, to look into and to train on."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor

import converters
from calif_plugins.snntorch import CaLIF
from converters.backends.snntorch_network import SpikingNetwork
from converters.errors import ConversionError
from converters.network import Network
from converters.operations import Linear
from converters.quantised import GraphBuilder, QuantGraph
from converters.testing import by_reference
from tests.converters.sample_graphs import GRAPHS, images


def integers(q: QuantGraph, n: int = 3) -> Tensor:
    return q.input.quantise(images(q, n))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_spike_is_the_references(name: str) -> None:
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=7))
    counts = q.at_window(7).input.quantise(images(q, 2))
    net = converters.to_snntorch(network)
    expected = by_reference(network, counts).trains
    rest = len(expected["input"]) - 7
    steps: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for x in itertools.chain(net.encode(integers=counts), [torch.zeros(2, *q.input.shape)] * rest):
            steps.append(net.step(x))
    fired = 0
    for stage in network.stages:
        got = torch.stack([s[stage.name] for s in steps]).double()
        assert torch.equal(got, expected[stage.name].double()), stage.name
        fired += int(got.abs().sum())
    assert fired > 100


@pytest.mark.parametrize("coding", ["isi", "direct"])
@pytest.mark.parametrize("name", GRAPHS)
def test_counts_equal_the_integers(name: str, coding: str) -> None:
    q = GRAPHS[name]()
    net = converters.to_snntorch(converters.to_nir(q, coding=coding))
    counts = integers(q)
    expected = q.execute(integers=counts)
    for _ in range(2):  # the second time from a reset network
        with torch.no_grad():
            net(net.encode(integers=counts))
            net.settle()
        for layer in q.layers:
            if layer.spiking:
                assert torch.equal(net.layer(layer.name).neurons.y.long(), expected[layer.name]), layer.name
        assert torch.allclose(net.read_out(), q.logits(expected), rtol=0, atol=1e-9)
        net.reset()


def test_one_step_and_a_block_of_steps_are_the_same() -> None:
    q = GRAPHS["lenet"]()
    net = converters.to_snntorch(converters.to_nir(q, T=6))
    spikes = net.encode(integers=q.at_window(6).input.quantise(images(q, 2)))
    with torch.no_grad():
        block = net(spikes)
        net.reset()
        assert torch.equal(torch.stack([net(x) for x in spikes]), block)
    with pytest.raises(ConversionError, match=r"input: found shape \(2, 8, 8\); give \(N, 1, 8, 8\)"):
        net(spikes[0, :, 0])
    with pytest.raises(ConversionError, match="settle: found step 0 of 6"):
        converters.to_snntorch(converters.to_nir(q, T=6)).settle()


def test_it_is_a_module() -> None:
    """Layers by name, dots apart; weights in the state dict; copies and other types of weights run alike."""
    q = GRAPHS["residual"]()
    net = converters.to_snntorch(converters.to_nir(q))
    assert net.children_of["main.conv"] == "main_conv"
    assert type(net.layer("main.conv").from_stem) is torch.nn.Conv2d
    assert torch.equal(
        net.state_dict()["main_conv.from_stem.weight"].long(), q.layers[1].synapses[0].ops[0].stored.long()
    )
    with pytest.raises(ConversionError, match="main_conv: found no layer of this name"):
        net.layer("main_conv")
    counts = integers(q)
    expected = q.execute(integers=counts)["fc"]
    for other in (copy.deepcopy(net), converters.to_snntorch(converters.to_nir(q), dtype="float64"), net.double()):
        with torch.no_grad():
            other(other.encode(integers=counts))
            other.settle()
        assert torch.equal(other.layer("fc").neurons.y.long(), expected)


def test_names_that_would_meet() -> None:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=4)
    common: dict[str, Any] = {"threshold": 2.0, "y_min": 0, "y_max": 4, "scale": 1.0}
    a = b.layer("fc.1", [(x, Linear(torch.tensor([[1, 2], [2, 1]])))], **common)
    a = b.layer("fc_1", [(a, Linear(torch.tensor([[1, -1], [2, 0]])))], **common)
    a = b.layer("forward", [(a, Linear(torch.tensor([[1, 1]]))), (x, Linear(torch.tensor([[1, -1]])))], **common)
    q = b.build(a)
    net = converters.to_snntorch(converters.to_nir(q))
    assert net.children_of == {"fc.1": "fc_1", "fc_1": "fc_1_2", "forward": "forward_2"}
    counts = torch.tensor([[3, 1], [0, 4]])
    with torch.no_grad():
        net(net.encode(integers=counts))
        net.settle()
    assert torch.equal(net.layer("forward").neurons.y.long(), q.execute(integers=counts)["forward"])


def test_it_is_printed_as_the_network_it_is() -> None:
    net = converters.to_snntorch(converters.to_nir(GRAPHS["lenet"](), T=9))
    lines = str(net).splitlines()
    assert lines[1] == "  input of shape (1, 8, 8), coding isi, T = 9"
    assert lines[3] == "    (from_input): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), bias=False)"
    assert lines[4].startswith("    (neurons): CaLIF(threshold=")
    neurons = [m for m in net.modules() if isinstance(m, snntorch.SpikingNeuron)]
    assert [type(m) for m in neurons] == [CaLIF] * 4


def test_modules_of_a_sequential_are_printed_by_their_numbers_too() -> None:
    """Their names in files and results begin with an underscore, since names there are identifiers."""
    b = GraphBuilder()
    x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    w = Linear(torch.tensor([[1, 2], [3, 4]]))
    h = b.layer("_3.0", [(x, w)], threshold=3.0, bias=0.0, y_min=0, y_max=4, scale=1.0)
    y = b.layer("_out", [(h, w)], threshold=3.0, bias=0.0, y_min=0, y_max=4, scale=1.0)
    lines = str(converters.to_snntorch(converters.to_nir(b.build(y), T=4))).splitlines()
    assert lines[2:4] == ["  (_3_0): SpikingLayer(", "    module 3.0 of the model"]
    assert sum("of the model" in line for line in lines) == 1


def test_only_chains_are_one_row() -> None:
    net = converters.to_snntorch(converters.to_nir(GRAPHS["residual"]()))
    with pytest.raises(ConversionError, match=r"shortcut: found edges from stem; only chains of layers are one row"):
        net.sequential()
    direct = converters.to_snntorch(converters.to_nir(GRAPHS["lenet"](), coding="direct"))
    with pytest.raises(ConversionError, match="coding isi"):
        direct.sequential()


def test_shares_of_a_direct_input_have_gradients() -> None:
    net: SpikingNetwork = converters.to_snntorch(converters.to_nir(GRAPHS["lenet"](), T=5, coding="direct"))
    net(net.encode(images(GRAPHS["lenet"](), 2))).sum().backward()
    gradient = next(net.parameters()).grad
    assert gradient is not None
    assert bool(gradient.any())


def test_other_images_want_a_reset() -> None:
    """Neurons of another batch would begin anew while the network's clock goes on."""
    q = GRAPHS["lenet"]()
    net = converters.to_snntorch(converters.to_nir(q, T=5))
    with torch.no_grad():
        net(net.encode(images(q, 1)))
        with pytest.raises(
            ConversionError, match=r"input: found input at step 5, after the window .* call reset\(\) before"
        ):
            net(net.encode(images(q, 3)))
        net.reset()
        net(net.encode(images(q, 1))[:2])
        with pytest.raises(ConversionError, match=r"input: found 3 images after 2 steps of 1; call reset\(\) before"):
            net(net.encode(images(q, 3))[:3])
        net.reset()
        net(net.encode(images(q, 3)))
