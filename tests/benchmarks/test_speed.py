"""What a slowdown would show in: ``make bench`` times these, ``make test`` runs each of them once.

The oracle of each is the plainest other way to the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import converters
from calif_plugins import reference
from calif_plugins.encoding import isi_encode
from calif_plugins.multistep import CaLIFMultiStep
from calif_plugins.parameters import CaLIFParameters
from calif_plugins.snntorch import CaLIF, calif_step
from converters.network import Network
from converters.operations import Conv2d
from converters.quantised import GraphBuilder
from converters.values import Value
from converters.zoo.named import load_checkpoint
from tests.networks import pixels


@pytest.fixture(scope="module")
def lenet() -> Any:
    q, _ = load_checkpoint("lenet5-mnist-8")
    return q, Network.from_graph(converters.to_nir(q, T=8)), pixels(4, (1, 32, 32))


def charges(steps: int, n: int) -> torch.Tensor:
    return torch.randint(-20, 40, (steps, n, 64, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.float64)


def test_reference_step(benchmark: BenchmarkFixture) -> None:
    p = CaLIFParameters(threshold=10.0, y_min=0, y_max=127)
    v, y, charge = np.zeros((4, 64, 8, 8)), np.zeros((4, 64, 8, 8)), charges(1, 4)[0].numpy()
    after, count, spikes = benchmark(reference.step, v, y, charge, p)
    assert (after == charge - 10 * spikes).all()
    assert (count == (charge >= 10)).all()


def test_snntorch_step(benchmark: BenchmarkFixture) -> None:
    charge = charges(1, 4)[0]
    v, y = torch.zeros_like(charge), torch.zeros_like(charge)
    limits = [torch.tensor(k, dtype=torch.float64) for k in (10.0, 0.0, 0.0, 127.0)]
    after, count, spikes = benchmark(calif_step, v, y, charge, *limits)
    assert torch.equal(count, (charge >= 10).to(count.dtype))
    assert torch.equal(after, charge - 10 * spikes)


def test_many_steps(benchmark: BenchmarkFixture) -> None:
    p, charge = CaLIFParameters(threshold=10.0, y_min=0, y_max=127), charges(16, 4)

    def run() -> Any:
        return CaLIFMultiStep(p, window=16)(charge)

    spikes = benchmark(run)
    v = y = np.zeros(charge.shape[1:])
    for now, s in zip(charge.numpy(), spikes.numpy(), strict=True):
        v, y, expected = reference.step(v, y, now, p)
        assert (s == expected).all()


@pytest.mark.parametrize("how", ["steps", "block"])
def test_training(benchmark: BenchmarkFixture, how: str) -> None:
    """Forwards and backwards through 16 steps."""
    block = how == "block"
    neuron = CaLIF(10.0, y_max=127, init_hidden=True, multistep=block)
    charge = charges(16, 2).float().requires_grad_()

    def train() -> torch.Tensor:
        neuron.reset()
        s = neuron(charge) if block else torch.stack([neuron(now) for now in charge])
        (slope,) = torch.autograd.grad(s.mean(), charge)
        return slope

    slope = benchmark(train)
    neuron.reset()
    neuron.multistep = neuron.compiled = False
    (plain,) = torch.autograd.grad(torch.stack([neuron(now) for now in charge]).mean(), charge)
    torch.testing.assert_close(slope, plain)


def test_encode(benchmark: BenchmarkFixture) -> None:
    counts = np.random.default_rng(0).integers(-127, 128, (16, 3, 32, 32))
    assert (benchmark(lambda: isi_encode(counts=counts, window=128)).sum(0, dtype=int) == counts).all()


def test_convert(benchmark: BenchmarkFixture, lenet: Any) -> None:
    q, network, _ = lenet
    graph = benchmark(converters.to_nir, q, T=8)
    assert [s.name for s in Network.from_graph(graph).stages] == [s.name for s in network.stages]


def test_write_and_read(benchmark: BenchmarkFixture, lenet: Any, tmp_path: Path) -> None:
    graph = converters.to_nir(lenet[0], T=8)

    def there_and_back() -> Any:
        converters.write(tmp_path / "net.nir", graph)
        return converters.read(tmp_path / "net.nir")

    found = benchmark(there_and_back)
    one, two = Network.from_graph(found), Network.from_graph(graph)
    for a, b in zip(one.stages, two.stages, strict=True):
        assert (a.parameters.threshold == b.parameters.threshold).all()


@pytest.mark.parametrize(("backend", "options"), [("fast", {}), ("closed_form", {})])
def test_run(benchmark: BenchmarkFixture, lenet: Any, backend: str, options: Any) -> None:
    q, network, x = lenet
    r = benchmark(lambda: converters.run(network, x, backend=backend, **options))
    expected = q.at_window(8).execute(x)
    assert all(torch.equal(v.to(torch.int64), expected[k]) for k, v in r.counts.items())


@pytest.mark.parametrize("batch", [1, 16])
def test_short_window(benchmark: BenchmarkFixture, batch: int) -> None:
    """Eight steps and the rounding phase, where what every run costs weighs most."""
    q, _ = load_checkpoint("lenet5-mnist-8")
    network, x = Network.from_graph(converters.to_nir(q, T=8)), pixels(batch, (1, 32, 32))
    r = benchmark(lambda: converters.run(network, x, backend="fast"))
    expected = q.at_window(8).execute(x)
    assert all(torch.equal(v.to(torch.int64), expected[k]) for k, v in r.counts.items())


def test_residual_block(benchmark: BenchmarkFixture) -> None:
    """Two convolutions, the first with a stride, and their shortcut, from directly coded input."""
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()

    def conv(value: Value, name: str, inp: int, k: int, stride: int, low: int) -> Value:
        w = torch.randint(-127, 128, (32, inp, k, k), generator=gen, dtype=torch.int8)
        op = Conv2d(w, (stride, stride), (k // 2, k // 2))
        return b.layer(name, [(value, op)], threshold=9000.0, y_min=low, y_max=8, scale=1.0)

    x = b.input((16, 16, 16), scale=1.0, q_min=0, q_max=255)
    second = conv(conv(x, "first", 16, 3, 2, 0), "second", 32, 3, 1, -8)
    shortcut = conv(x, "shortcut", 16, 1, 2, -8)
    q = b.build(b.requantise("sum", [(second, 1.0), (shortcut, 1.0)], y_min=0, y_max=8, scale=1.0))
    network = Network.from_graph(converters.to_nir(q, T=8, coding="direct"))
    integers = torch.randint(0, 256, (8, 16, 16, 16), generator=gen)
    r = benchmark(lambda: converters.run(network, integers=integers, backend="fast"))
    expected = q.at_window(8, "direct").execute(integers=integers)
    assert all(torch.equal(v.to(torch.int64), expected[k]) for k, v in r.counts.items())
    assert bool(r.counts["sum"].any())
