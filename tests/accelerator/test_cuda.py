"""On an NVIDIA GPU: every number that the CPU has. Skipped without one; ``make test`` needs none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from calif_plugins.scan import Clock, scan
from calif_plugins.snntorch import CaLIF, reset, settle
from calif_plugins.surrogates import Slope
from converters.frontends.pt2e import freeze_observers
from converters.network import Network
from converters.testing import Case, conformance
from converters.testing.networks import NETWORKS, images, network
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from converters.zoo.recorded import Gradients
from tests.calif_plugins.test_scan import SLOPES, Double
from tests.command_line import Calif

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


# --- backends -------------------------------------------------------------------------------------


def every(name: str, **options: Any) -> list[Any]:
    cases = conformance(name, device="cuda", **options)
    return [pytest.param(case, id=f"{name}-{case.name}-{options or ''}") for case in cases]


@pytest.mark.parametrize("case", [*every("snntorch"), *every("closed_form")])
def test_backend(case: Case) -> None:
    assert case.run() > 0


OPTIONS: list[dict[str, Any]] = [{"dtype": "int8"}, {"dtype": "float16"}, {"dtype": "float64"}, {"steps": 1}]


@pytest.mark.parametrize("case", [c for k, own in enumerate(OPTIONS) for c in every("snntorch", **own)[k::7]])
def test_options(case: Case) -> None:
    assert case.run() > 0


def test_images_that_are_there_already() -> None:
    q = NETWORKS["residual"]()
    x = images(q, 5)
    r = converters.run(converters.to_nir(q, T=7), x.cuda())
    assert r.backend == "snntorch"
    assert r.checked == 1
    executed = q.at_window(7).execute(x)
    for name, counts in r.counts.items():
        assert counts.device.type == "cuda"
        assert torch.equal(counts.cpu().long(), executed[name])


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_quantised_network_itself(name: str) -> None:
    q = NETWORKS[name]()
    x = images(q, 5)
    there = tuple(i.cuda() for i in x) if isinstance(x, tuple) else x.cuda()
    expected, found = q.execute(x), q.execute(there)
    assert all(torch.equal(found[k].cpu(), v) for k, v in expected.items())


@pytest.mark.parametrize("name", ["lenet5-mnist-8", "resnet11h-cifar10-8", "lenet5-cifar10-127"])
def test_trained_networks(name: str) -> None:
    """Every count, and on a few images every spike, against the CPU's own simulator."""
    q, notes = load_checkpoint(name)
    net = Network.from_graph(converters.to_nir(q, T=int(notes["levels"]), coding="auto"))
    if net.spec.shape == (1, 32, 32):
        x = load("digits", "test").pixels[:64]
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(64, *net.spec.shape, generator=generator) * net.spec.scale * net.spec.q_max
    expected = q.at_window(net.window, net.coding).execute(x)
    for backend in ("snntorch", "closed_form"):
        r = converters.run(net, x, backend=backend, device="cuda", check=False)
        for layer, counts in r.counts.items():
            assert torch.equal(counts.cpu().long(), expected[layer]), (backend, layer)
    a = converters.run(net, x[:4], backend="snntorch", device="cuda", record="spikes")
    b = converters.run(net, x[:4], backend="fast", record="spikes")
    assert a.spikes is not None
    assert b.spikes is not None
    assert all(torch.equal(a.spikes[k].cpu(), v) for k, v in b.spikes.items())
    for field in ("extra_steps", "sops", "logits"):
        assert torch.equal(getattr(a, field).cpu(), getattr(b, field)), field


# --- the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("slope", SLOPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_plain_steps_on_the_cpu(seed: int, slope: Slope, dtype: torch.dtype) -> None:
    """Bit for bit, but for an ``exp`` and the sum over neurons that is a threshold's gradient."""
    g = torch.Generator().manual_seed(seed)
    image = [(3,), (3, 2, 4), (5, 700), (64, 33, 33)][seed]  # the last in blocks of 256, not all of them full
    clock, tie, wide = Clock(*[(3, 3), (9, 9), (0, 0), (2, 4)][seed]), ("even", "up")[seed % 2], seed > 0
    x = (torch.randint(-24, 25, (5, 2, *image), generator=g) / 8).to(dtype)  # ties are common

    def number(low: float, high: float) -> Tensor:
        size = (image[0],) if wide else ()
        return (low + (high - low) * (torch.randint(0, 9, size, generator=g) / 8)).to(dtype)

    limits = [number(0.5, 2), number(-0.25, 0.25), -torch.ones((), dtype=dtype), number(1, 3).floor()]
    start = (torch.randint(-8, 9, (2, *image), generator=g) / 8).to(dtype)
    count = torch.randint(-1, 2, (2, *image), generator=g).to(dtype)
    weights = torch.randn(3, *x.shape, generator=g, dtype=dtype)
    found: list[list[Tensor]] = []
    for device in ("cuda", "cpu"):
        a, v, y = (t.clone().to(device).requires_grad_() for t in (x, start, count))
        own: Any = [t.clone().to(device) for t in limits]
        own[0].requires_grad_()
        w = weights.to(device)
        v_end, y_end, s = scan(
            v, y, a, *own, clock=clock, tie=tie, surrogate=lambda u: Double.apply(u, slope),  # type: ignore[arg-type]
            compiled=device == "cuda",
        )  # fmt: skip
        assert (type(s.grad_fn).__name__ == "_ScanBackward") == (device == "cuda")
        # one weight for each value: where several meet in one, a GPU adds them up in another order
        ((s * w[0]).sum() + (v_end * w[1, 0]).sum() + (y_end * w[2, 0]).sum()).backward()
        found.append([t.detach().cpu() for t in (v_end, y_end, s, a.grad, v.grad, y.grad, own[0].grad)])
    ours, plain = found
    exact = 3 if slope.kind == 2 else 6
    for k, (p, q) in enumerate(zip(ours, plain, strict=True)):
        if k < exact or k == 5:
            assert torch.equal(p, q), f"{k}: {int((p != q).sum())} of {p.numel()} differ, by {(p - q).abs().max()}"
        else:
            scale = 1e-3 if dtype is torch.float32 else 1e-9
            torch.testing.assert_close(p, q, rtol=scale, atol=scale * float(q.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("multistep", [False, True])
def test_networks_of_half_precision(dtype: torch.dtype, multistep: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(5, 4, 3, 600, generator=g).to(dtype) for _ in range(2))
    found = []
    for device in ("cuda", "cpu"):
        neuron = CaLIF(
            torch.tensor([0.3, 0.5, 0.7]), leak=0.05, y_min=-2, y_max=3, init_hidden=True, window=3,
            multistep=multistep, compiled=device == "cuda", spike_grad=lambda u: Double.apply(u, SLOPES[0]),
        ).to(device, dtype)  # fmt: skip
        a = x.to(device).requires_grad_()
        s = neuron(a) if multistep else torch.stack([neuron(now) for now in a])
        (s * weights.to(device)).sum().backward()
        assert a.grad is not None
        found.append([t.detach().cpu() for t in (s, neuron.v, neuron.y, a.grad)])
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_many_neurons_and_their_rounding_phase() -> None:
    """More than a million, in the widest blocks; windows, and a phase that goes on until all are quiet."""
    x = torch.randn(6, 3, 8, 220, 220, generator=torch.Generator().manual_seed(0))
    threshold = torch.linspace(0.4, 1.1, 8)
    counts = []
    for device in ("cuda", "cpu"):
        neuron = CaLIF(threshold, leak=0.1, y_min=-4, y_max=4, init_hidden=True, multistep=True).to(device)
        with torch.no_grad():
            neuron(x.to(device))
            settle(neuron, torch.zeros(2, *x.shape[1:], device=device))
        counts.append((neuron.v.cpu(), neuron.y.cpu()))
    assert torch.equal(counts[0][0], counts[1][0])
    assert torch.equal(counts[0][1], counts[1][1])


def test_training() -> None:
    """Weights after a few updates in float64: of blocks on the GPU, and of plain steps on the CPU."""
    x = (torch.rand(6, 8, 5, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    labels = torch.arange(8) % 3
    after = []
    for device in ("cuda", "cpu"):
        torch.manual_seed(0)
        own: Any = {"init_hidden": True, "multistep": True, "learn_threshold": True, "compiled": device == "cuda"}
        own["spike_grad"] = lambda u: Double.apply(u, SLOPES[0])
        net = nn.Sequential(nn.Linear(5, 9), CaLIF(0.3, **own), nn.Linear(9, 3), CaLIF(0.2, y_min=-6, **own))
        net = net.double().to(device)
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            reset(net)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x.to(device)).sum(0), labels.to(device)).backward()
            optimiser.step()
        after.append([p.detach().cpu() for p in net.parameters()])
    for p, q in zip(*after, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_recorded_step_of_training(quantised: bool) -> None:
    """Replayed as a CUDA graph: losses, weights and ranges of steps that are launched kernel by kernel, and new ones
    after the ranges are frozen. One batch is smaller."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x, labels = torch.rand(12, 16, 1, 8, 8), torch.randint(0, 3, (12, 16))
    model: nn.Module = converters.prepare_qat(net, x[0], levels=15) if quantised else net
    after: list[list[Tensor]] = []
    for recorded in (False, True):
        own = copy.deepcopy(model).cuda().train()

        def loss(x: Tensor, labels: Tensor, whole: int, own: nn.Module = own) -> Tensor:
            return nn.functional.cross_entropy(own(x), labels)

        optimiser = torch.optim.SGD(own.parameters(), 0.05, momentum=0.9)
        losses = []
        for phase in range(2):
            step = Gradients(loss, own.parameters(), recorded)
            for k in range(12):
                n = 7 if k == 8 else 16
                losses.append(step(x[k, :n].cuda(), labels[k, :n].cuda(), n).cpu().clone())
                optimiser.step()
            assert (step._graph is not None) == recorded
            if quantised and phase == 0:
                freeze_observers(own)
        state = {k: v.cpu() for k, v in own.state_dict().items() if v.is_floating_point()}
        after.append([torch.stack(losses), *state.values()])
    for p, q in zip(*after, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


# --- the command line, and networks as modules ----------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "closed_form"])
def test_run(calif: Calif, backend: str) -> None:
    arguments = ("--checkpoint", "lenet5-mnist-8", "--dataset", "digits", "--images", 50, "--json")
    code, out, err = calif("run", *arguments, "--device", "cuda", "--backend", backend)
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["windows"]
    assert row["backend"] == ("snntorch" if backend == "auto" else backend)
    assert row["count_mismatches"] == row["simulation_mismatches"] == 0
    assert row["counts_compared"] == 50 * 8084


def test_bench(calif: Calif, tmp_path: Path) -> None:
    rows = ("--only", "float_passes_T", "--only", "calif_loop", "--only", "calif_fast")
    arguments = ("--network", "lenet5-mnist-8", "--window", 8, "--batch", 16, "--repeats", 2, "--json")
    code, out, err = calif("bench", *arguments, *rows, "--device", "cuda")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [r["name"] for r in found["rows"]] == ["float_passes_T", "calif_loop"]
    assert [r["failed"].split(";")[0] for r in found["failed"]] == ["backend: found 'fast', which does not run on cuda"]
    assert found["machine"]["on"] == torch.cuda.get_device_name()


def test_a_module_that_is_moved() -> None:
    """``to_snntorch(g).cuda()``: what it sends is what it sends on the CPU."""
    q = NETWORKS["residual"]()
    net = network(q, 6, "isi")
    module = converters.to_snntorch(net)
    x = module.encode(images(q, 3))
    assert isinstance(x, Tensor)
    with torch.no_grad():
        expected, rounding, read = module(x), module.settle(), module.read_out()
        module.reset()
        there = module.cuda()
        assert torch.equal(there(x.cuda()).cpu(), expected)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(there.settle(), rounding, strict=True))
        assert torch.equal(there.read_out().cpu(), read)
