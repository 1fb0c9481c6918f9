"""A user's snnTorch model, stepped by the user's own loop, against its NIR graph on every backend."""

from __future__ import annotations

import pytest
import snntorch
import torch
from torch import nn

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF, reset, swap_neurons
from converters.cross_checking import cross_check
from converters.errors import ConversionError
from converters.frontends.snntorch import from_snntorch


def on_grid(model: nn.Module, bits: int = 6) -> nn.Module:
    """Parameters as multiples of 2^-bits, in float64: sums are exact whatever their order."""
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.round(p * 2**bits) / 2**bits)
    return model


def dense() -> tuple[nn.Module, tuple[int, ...]]:
    neuron = {"init_hidden": True}
    net = nn.Sequential(
        nn.Linear(12, 20), CaLIF(threshold=0.75, y_min=-9, y_max=9, tie="up", **neuron), nn.Dropout(0.2),
        nn.Linear(20, 5), CaLIF(threshold=torch.linspace(0.5, 1.0, 5), leak=0.125, **neuron),
    )  # fmt: skip
    return net, (12,)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    neuron = {"init_hidden": True}
    features = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), CaLIF(threshold=0.5, y_max=20, **neuron),
        nn.AvgPool2d(2), CaLIF(threshold=0.25, **neuron),
    )  # fmt: skip
    net = nn.Sequential(
        features,
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), CaLIF(threshold=0.25, y_min=-20, y_max=20, **neuron),
        nn.AvgPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 3), CaLIF(threshold=0.5, y_min=-20, v_init=0.125, **neuron),
    )  # fmt: skip
    return net, (2, 7, 7)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("make", [dense, convolutional])
def test_the_users_own_loop(make, signed):
    model, shape = make()
    on_grid(model).eval()
    window = 16
    gen = torch.Generator().manual_seed(3)
    counts = torch.randint(-window if signed else 0, window + 1, (3, *shape), generator=gen)
    trains = torch.from_numpy(isi_encode(counts=counts.numpy(), window=window)).double()
    reset(model)
    with torch.no_grad():
        mine = torch.stack([model(step) for step in trains])
    graph = from_snntorch(model, shape, T=window, signed=signed)
    r = converters.run(graph, integers=counts, phase="none", record="spikes")
    assert r.spikes is not None
    assert torch.equal(r.spikes[r.output_name].double(), mine)
    assert sum(int(n.sum()) for n in r.negative.values()) > 0
    assert cross_check(graph, integers=counts).equal  # and in Brian2, the rounding phase too


def test_through_a_file(tmp_path):
    model, shape = convolutional()
    on_grid(model)
    graph = from_snntorch(model, shape, T=9, scale=0.125)
    converters.write(tmp_path / "own.nir", graph)
    x = torch.rand(2, *shape)
    a, b = converters.run(graph, x), converters.run(converters.read(tmp_path / "own.nir"), x)
    assert all(torch.equal(a.counts[k], b.counts[k]) for k in a.counts)


def test_trained_float_weights_are_kept_to_their_last_bit():
    model = nn.Sequential(nn.Linear(7, 4), CaLIF(threshold=1.0, init_hidden=True))
    graph = from_snntorch(model, (7,), T=8)
    node = graph.nodes["_1"]
    unit = 1.0 / node.v_threshold[0]
    weight = torch.from_numpy(graph.nodes["_1.s0.0_linear"].weight).double() * unit
    assert (weight - model[0].weight).abs().max() <= model[0].weight.abs().max() * 2.0**-23
    assert torch.allclose(torch.from_numpy(-node.leak * unit), model[0].bias.double(), atol=1e-12)


def test_swapped_models_come_along():
    model = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.9, threshold=0.5, init_hidden=True))
    with pytest.raises(ConversionError, match=r"^1: found a Leaky; replace it with swap_neurons"):
        from_snntorch(model, (4,), T=5)
    report = swap_neurons(model)
    assert from_snntorch(report.model, (4,), T=5).nodes["_1"].v_threshold.min() > 0


ERRORS = [
    (lambda: nn.Sequential(nn.Linear(4, 3)), "0: found no Ca-LIF layer at the end"),
    (lambda: nn.Sequential(nn.MaxPool2d(2), CaLIF(init_hidden=True)), "0: found a MaxPool2d; use Linear"),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), CaLIF(init_hidden=True)),
        "1: found a layer behind a bias",
    ),
    (lambda: nn.Sequential(nn.Linear(5, 3), CaLIF(init_hidden=True)), "1: found an input of shape"),
    (lambda: nn.Sequential(nn.Linear(4, 2), CaLIF(y_max=torch.tensor([3.0, 4.0]))), "1: found a calcium range per ch"),
    (lambda: nn.GRU(4, 3), "model: found a GRU"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_errors_name_the_module(make, message):
    with pytest.raises(ConversionError, match=f"^{message}"):
        from_snntorch(make(), (4,), T=5)
