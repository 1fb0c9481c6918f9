"""The float network that ``calif bench`` times is the one that was trained; others' networks have every branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import converters
from converters.benchmark.float_networks import FloatNetwork, Weights
from converters.benchmark.simulators import RIVALS, missing
from converters.errors import ConversionError
from converters.network import Network
from converters.quantised import QuantGraph
from tests.converters.sample_graphs import GRAPHS, images


class Residual(nn.Module):
    """Batch norm, a shortcut with stride, a maximum and an average over windows, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.main = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.short = nn.Conv2d(8, 12, 1, 2)
        self.head = nn.Linear(12 + 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        y = torch.relu(self.main(x) + self.short(x))
        both = torch.cat([y.mean((2, 3)), x.mean((2, 3))], dim=1)
        return self.head(both)


class Gated(nn.Module):
    """Activations that are no ReLU, a product of branches, norms and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 1, groups=4), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.groups = nn.GroupNorm(2, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.groups(x * self.gate(x))
        return self.head(torch.softmax(self.norm(x.mean((2, 3))), 1))


def converted(model: nn.Module, x: Tensor, T: int) -> tuple[Network, nn.Module]:
    torch.manual_seed(0)
    m = converters.prepare_qat(model.train(), x[:2], levels=127)
    with torch.no_grad():
        for _ in range(3):
            m(x)
    m.eval()
    return Network.from_graph(converters.to_nir(converters.from_pt2e(m), T=T)), m


class Functions(TorchDispatchMode):
    """The names of all that PyTorch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_relu_takes_no_memory() -> None:
    """What everything is compared with must not be slower than it has to be; what it is given stays as it is."""
    torch.manual_seed(0)
    x = torch.rand(8, 2, 12, 12)
    network, _ = converted(Residual(), x, 127)
    net, before, seen = FloatNetwork(network), x.clone(), Functions()
    with torch.no_grad(), seen:
        net(x)
    assert seen.names.count("relu_") == 2
    assert "relu" not in seen.names
    assert torch.equal(x, before)


@pytest.mark.parametrize("make", [Residual, Gated])
def test_the_float_network_is_the_trained_one(make: Any) -> None:
    torch.manual_seed(1)
    x = torch.rand(8, 2, 9, 9) * torch.linspace(0.1, 1, 8).reshape(8, 1, 1, 1)
    network, m = converted(make(), x, T=127)
    net = FloatNetwork(network)
    with torch.no_grad():
        wanted, found = m(x), net(x)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05  # levels and 8-bit weights; 1 if a factor is lost
    spread = wanted - wanted.mean(0)
    assert float((found - wanted).norm() / spread.norm()) < 0.7  # nor is it the bias alone


@pytest.mark.parametrize("name", [n for n in RIVALS if not n.startswith("calif")])
@pytest.mark.parametrize("graph", ["residual", "concat"])
def test_every_simulator_runs_graphs(name: str, graph: str) -> None:
    if missing(name):
        pytest.skip(f"{missing(name)} is not installed")
    q = GRAPHS[graph]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    step = RIVALS[name][1](network, network.accept(images(q, 3), None))
    with torch.no_grad():
        first, second = step(), step()
    assert first.shape[0] == 3
    assert first.numel() == 15
    assert bool(first.any())
    assert torch.equal(first, second)  # it begins anew every time


def integrate_and_fire(network: Network, integers: Tensor) -> dict[str, Tensor]:
    """Neurons that fire at 1, and subtract it, on charges in float64 from the converted network's own operations."""
    from calif_plugins.encoding import isi_encode

    trains = isi_encode(counts=integers.numpy(), window=network.window)
    v: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for now in trains:
        values = {network.encoder_name: torch.from_numpy(now).double()}
        for s in network.stages:
            view = (1, -1, *[1] * (len(s.shape) - 1))
            threshold, leak = (
                torch.from_numpy(k.astype(float)).reshape(-1).expand(s.shape[0]).reshape(view)
                for k in (s.parameters.threshold, s.parameters.leak)
            )
            v[s.name] = v.get(s.name, torch.zeros(())) + (s.charge(values) - leak) / threshold
            values[s.name] = (v[s.name] >= 1).double()
            v[s.name] = v[s.name] - values[s.name]
            counts[s.name] = counts.get(s.name, torch.zeros(())) + values[s.name]
    return counts


@pytest.mark.parametrize("graph", ["lenet", "residual", "depthwise", "concat"])
@pytest.mark.parametrize("name", ["spikingjelly_single", "spikingjelly_multi"])
def test_others_get_the_charges_of_the_network(name: str, graph: str) -> None:
    """Their neuron is known, so their counts are: every synapse, weight and leak has come along."""
    if missing(name):
        pytest.skip("spikingjelly is not installed")
    q: QuantGraph = GRAPHS[graph]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    integers = network.accept(images(q, 4), None)
    with torch.no_grad():
        found = RIVALS[name][1](network, integers)()
    wanted = integrate_and_fire(network, integers)[network.output.name]
    assert bool(wanted.any())
    assert int((found.flatten(1) != wanted.flatten(1)).sum()) <= 1  # float32 at a threshold


def test_what_remembers_counts_is_refused() -> None:
    torch.manual_seed(0)
    network, _ = converted(Gated(), torch.rand(4, 2, 9, 9), T=7)
    with pytest.raises(ConversionError, match="found a Levels; other simulators have no such neuron"):
        Weights(network, network.stages[0], real=False)
