"""A user's snnTorch model, stepped by the user's own loop, against its NIR graph on every backend."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.snntorch import CaLIF, reset, swap_neurons
from converters.errors import ConversionError
from converters.frontends.snntorch import from_snntorch
from converters.lowering.lattice import certify
from converters.measuring.cross_checking import cross_check
from converters.network import Network


def on_grid(model: nn.Module, bits: int = 6) -> nn.Module:
    """Parameters as multiples of 2^-bits, in float64: sums are exact whatever their order."""
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.round(p * 2**bits) / 2**bits)
    return model


def dense() -> tuple[nn.Module, tuple[int, ...]]:
    neuron: dict[str, Any] = {"init_hidden": True}
    net = nn.Sequential(
        nn.Linear(12, 20), CaLIF(threshold=0.75, y_min=-9, y_max=9, tie="up", **neuron), nn.Dropout(0.2),
        nn.Linear(20, 5), CaLIF(threshold=torch.linspace(0.5, 1.0, 5), leak=0.125, **neuron),
    )  # fmt: skip
    return net, (12,)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    neuron: dict[str, Any] = {"init_hidden": True}
    features = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), CaLIF(threshold=0.5, y_max=20, **neuron),
        nn.AvgPool2d(2), CaLIF(threshold=0.25, **neuron),
        nn.Conv2d(4, 4, 1), nn.AvgPool2d((1, 1)), nn.AvgPool2d(1), CaLIF(y_min=-9, **neuron),
    )  # fmt: skip
    net = nn.Sequential(
        features,
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), CaLIF(threshold=0.25, y_min=-20, y_max=20, **neuron),
        nn.AvgPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 3), CaLIF(threshold=0.5, y_min=-20, v_init=0.125, **neuron),
    )  # fmt: skip
    return net, (2, 7, 7)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("make", [dense, convolutional])
def test_the_users_own_loop(make: Any, signed: bool) -> None:
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


def test_through_a_file(tmp_path: Any) -> None:
    model, shape = convolutional()
    on_grid(model)
    graph = from_snntorch(model, shape, T=9, scale=0.125)
    converters.write(tmp_path / "own.nir", graph)
    x = torch.rand(2, *shape)
    a, b = converters.run(graph, x), converters.run(converters.read(tmp_path / "own.nir"), x)
    assert all(torch.equal(a.counts[k], b.counts[k]) for k in a.counts)


def test_trained_float_weights_are_kept_to_their_last_bit() -> None:
    model: Any = nn.Sequential(nn.Linear(7, 4), CaLIF(threshold=1.0, init_hidden=True))
    graph = from_snntorch(model, (7,), T=8)
    node = graph.nodes["_1"]
    unit = 1.0 / node.v_threshold[0]
    weight = torch.from_numpy(graph.nodes["_1.s0.0_linear"].weight).double() * unit
    assert (weight - model[0].weight).abs().max() <= model[0].weight.abs().max() * 2.0**-23
    assert torch.allclose(torch.from_numpy(-node.leak * unit), model[0].bias.double(), atol=1e-12)


def test_swapped_models_come_along() -> None:
    model = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.9, threshold=0.5, init_hidden=True))
    with pytest.raises(ConversionError, match=r"^1: found a Leaky; replace it with swap_neurons"):
        from_snntorch(model, (4,), T=5)
    report = swap_neurons(model)
    assert from_snntorch(report.model, (4,), T=5).nodes["_1"].v_threshold.min() > 0


def shared_neuron() -> nn.Module:
    neuron = CaLIF(init_hidden=True)
    return nn.Sequential(neuron, nn.Linear(4, 4), neuron)


ERRORS = [
    (lambda: nn.Sequential(nn.Linear(4, 3)), "0: found no Ca-LIF layer at the end"),
    (
        lambda: nn.Sequential(nn.MaxPool1d(2), CaLIF(init_hidden=True)),
        "0: found a MaxPool1d, which takes the maximum of each step, .*use an average pool; max pools of quantised",
    ),
    (lambda: nn.Sequential(nn.Softmax(1), CaLIF(init_hidden=True)), "0: found a Softmax; use Linear, convolutions"),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ConstantPad1d(1, 0.5), CaLIF(init_hidden=True)),
        "1: found a padding with another value than 0; pad with zeros",
    ),
    (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 1), nn.ZeroPad2d(1), CaLIF(init_hidden=True)),
        "2: found a bias that differs from place to place; give the layer bias=False",
    ),
    (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Upsample(scale_factor=2, mode="bilinear"), CaLIF()),
        "1: found an operation that does more than to move values",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), CaLIF(init_hidden=True)),
        "1: found a layer behind a bias",
    ),
    (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 1), nn.AvgPool2d(2, divisor_override=1), CaLIF(init_hidden=True)
        ),
        "2: found a layer behind a bias",
    ),
    (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 1), nn.AvgPool2d(2, padding=1), CaLIF(init_hidden=True)
        ),
        "2: found a layer behind a bias",
    ),
    (lambda: nn.Sequential(nn.Linear(5, 3), CaLIF(init_hidden=True)), "0: found an input of shape"),
    (
        lambda: nn.Sequential(nn.Linear(4, 2), CaLIF(y_max=torch.tensor([3.0, 4.0]), init_hidden=True)),
        "1: found a calcium range per ch",
    ),
    (lambda: nn.GRU(4, 3), "model: found a GRU"),
    (
        lambda: nn.Sequential(nn.Linear(4, 2), CaLIF()),
        "1: found a CaLIF that keeps no state between steps; set its init_hidden to True",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 2), CaLIF(window=4, init_hidden=True)),
        "1: found a neuron that rounds after 4 steps; the window is 5",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 3), snntorch.Synaptic(alpha=0.9, beta=0.9)),
        "1: found a Synaptic; it has a synaptic current that decays; .*: put calif_plugins.snntorch.CaLIF there",
    ),
    (lambda: shared_neuron(), "2: found the same neuron as 0, so that both share one state; give each place its own"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_errors_name_the_module(make: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=f"^{message}"):
        from_snntorch(make(), (4,), T=5)


def test_a_row_of_thresholds_behind_maps_is_refused() -> None:
    """snnTorch's threshold (C,) is the last axis', which after a swap no convolution may have."""
    neuron = snntorch.Leaky(beta=1.0, threshold=torch.tensor([1.0, 2.0]), init_hidden=True)
    model = swap_neurons(nn.Sequential(nn.Conv2d(1, 2, 1), neuron)).model
    with pytest.raises(
        ConversionError, match=r"^1: found a row of thresholds behind maps; give them shape \(C, 1, 1\)"
    ):
        from_snntorch(model, (1, 2, 2), T=4)


# --- ranks, moves, biases in front of pools -----------------------------------------------------------

NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "one axis": (lambda: [nn.Conv1d(2, 3, 3, padding=1), CaLIF, nn.AvgPool1d(2), nn.Conv1d(3, 2, 2), CaLIF], (2, 8)),
    "three axes": (
        lambda: [nn.Conv3d(1, 2, 2), CaLIF, nn.AvgPool3d(3), nn.Flatten(), nn.Linear(2, 3), CaLIF], (1, 4, 4, 4)),
    "transposed": (
        lambda: [nn.ConvTranspose2d(1, 4, 3, 2, 1, 1), CaLIF, nn.ConvTranspose2d(4, 2, 2, groups=2), CaLIF], (1, 3, 3)),
    "a pool in front of a bias' neuron": (
        lambda: [nn.Conv2d(1, 3, 3), nn.AvgPool2d(2), CaLIF, nn.Flatten(), nn.Linear(12, 3), CaLIF], (1, 6, 6)),
    "a global pool and a flatten behind a bias": (
        lambda: [nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), CaLIF, nn.Linear(3, 2), CaLIF], (1, 6, 6)),
    "a shuffle": (lambda: [nn.Conv2d(1, 4, 1, bias=False), nn.PixelShuffle(2), CaLIF], (1, 3, 3)),
    "a flatten behind a bias": (lambda: [nn.Conv2d(1, 3, 3), nn.Flatten(), CaLIF], (1, 4, 4)),
    "reflected": (
        lambda: [nn.Conv2d(1, 2, 3, padding="same", padding_mode="reflect"), nn.Upsample(scale_factor=2), CaLIF],
        (1, 4, 4)),
    "an even kernel": (
        lambda: [nn.Conv2d(1, 2, 2, padding="same"), CaLIF, nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3), CaLIF], (1, 4, 4)),
    "tokens": (lambda: [nn.Linear(4, 3, bias=False), CaLIF, nn.Flatten(), nn.Linear(6, 2), CaLIF], (2, 4)),
    "a part of the axes": (lambda: [nn.Flatten(2), nn.Conv1d(2, 2, 3), CaLIF], (2, 2, 3)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_ranks_and_moves(name: str) -> None:
    """Its spike trains are compared with the graph's, layer by layer, as it is converted; the counts here once more."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    layers = [m(threshold=0.7, y_min=-6, y_max=9, init_hidden=True) if m is CaLIF else m for m in make()]
    model = nn.Sequential(*layers)
    graph = from_snntorch(model, shape, T=8, scale=0.25, signed=True)
    assert " 0 near-ties" in graph.metadata["calif_checked"]
    x = torch.rand(3, *shape) * 4 - 2
    spikes = converters.run(graph, x, backend="snntorch", phase="none").counts
    for backend in ("fast", "closed_form"):
        found = converters.run(graph, x, backend=backend).counts
        reference = converters.run(graph, x, backend="snntorch").counts
        assert all(torch.equal(found[k], reference[k]) for k in found), backend
    assert all(int(v.abs().sum()) > 0 for v in spikes.values())


# --- modules by occurrence ----------------------------------------------------------------------------


def test_a_layer_at_two_places_acts_twice() -> None:
    fc = nn.Linear(2, 2, bias=False)
    fc.weight.data = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    model = nn.Sequential(fc, CaLIF(init_hidden=True), fc, CaLIF(init_hidden=True))
    graph = from_snntorch(model, (2,), T=8)
    assert converters.run(graph, integers=torch.tensor([[3, 4]])).counts["_3"].tolist() == [[7, 4]]


@st.composite
def repeated(draw: st.DrawFn) -> nn.Module:
    """Trees of Sequentials in which layers and whole branches come again."""
    torch.manual_seed(draw(st.integers(0, 99)))
    layers = [on_grid(nn.Linear(3, 3, bias=draw(st.booleans())), 3) for _ in range(2)]

    def neuron() -> CaLIF:
        return CaLIF(threshold=draw(st.integers(1, 8)) / 4, y_min=-9, y_max=9, init_hidden=True)

    parts: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        synapses: nn.Module = draw(st.sampled_from(layers))
        if draw(st.booleans()):
            synapses = nn.Sequential(nn.Identity(), nn.Sequential(synapses))
        if len(parts) > 0 and draw(st.booleans()):
            synapses = draw(st.sampled_from([p for p in parts if type(p) is not CaLIF]))
        parts += [synapses, neuron()]
    return nn.Sequential(*parts).double()


@settings(max_examples=25, deadline=None)
@given(repeated(), st.integers(0, 2**16))
def test_random_trees_with_repeats(model: nn.Module, seed: int) -> None:
    """The user's own loop is the oracle, once more without the comparison that the front-end makes."""
    counts = torch.randint(-6, 7, (2, 3), generator=torch.Generator().manual_seed(seed))
    trains = torch.from_numpy(isi_encode(counts=counts.numpy(), window=6).copy()).double()
    graph = from_snntorch(model, (3,), T=6, signed=True, check=False)
    assert " 0 near-ties" in from_snntorch(model, (3,), T=6, signed=True).metadata["calif_checked"]
    reset(model)
    with torch.no_grad():
        mine = torch.stack([model(step) for step in trains])
    r = converters.run(graph, integers=counts, phase="none", record="spikes")
    assert r.spikes is not None
    assert torch.equal(r.spikes[r.output_name].double(), mine)


# --- pool areas -----------------------------------------------------------------------------------------


def test_the_area_of_a_pool_is_an_integer() -> None:
    model = nn.Sequential(nn.AvgPool2d(7), CaLIF(threshold=2.0, init_hidden=True))
    graph = from_snntorch(model, (1, 7, 7), T=3)
    assert graph.nodes["_1"].v_threshold.tolist() == [98.0]
    image = torch.full((1, 1, 7, 7), 3)  # 147: exactly one and a half, which rounds to even
    assert converters.run(graph, integers=image).counts["_1"].item() == 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=2),
    st.integers(1, 2**10),
    st.sampled_from(["even", "up"]),
    st.integers(0, 40),
    st.booleans(),
)
def test_random_pools_in_rationals(
    kernels: list[tuple[int, int]], numerator: int, tie: Any, wanted: int, weighted: bool
) -> None:
    """Whatever the areas, the count is the exact quotient's; ties, which are aimed at, by the rule."""
    height, width = (int(np.prod([k[a] for k in kernels])) for a in (0, 1))
    threshold = Fraction(numerator, 64)
    layers: list[nn.Module] = [nn.AvgPool2d(k) for k in kernels]
    weight = Fraction(1)
    if weighted:
        conv = nn.Conv2d(1, 1, 1, bias=False)
        conv.weight.data.fill_(0.75)
        weight = Fraction(3, 4)
        layers.insert(0, conv)
    model = nn.Sequential(*layers, CaLIF(threshold=float(threshold), tie=tie, init_hidden=True))
    total = int(Fraction(2 * wanted + 1, 2) * threshold * height * width / weight)  # at a tie, or just below
    counts = torch.zeros(height * width, dtype=torch.int64)
    counts += total // counts.numel()
    counts[: total % counts.numel()] += 1
    window = max(int(counts.max()), 1)
    graph = from_snntorch(model, (1, height, width), T=window, check=window <= 16)
    quotient = total * weight / (height * width) / threshold
    below = quotient.numerator // quotient.denominator
    half = quotient - below == Fraction(1, 2)
    right = below + (quotient - below > Fraction(1, 2) or (half and (tie == "up" or below % 2 == 1)))
    r = converters.run(graph, integers=counts.view(1, 1, height, width))
    assert r.counts[r.output_name].item() == right


def test_weights_next_below_a_power_of_two_keep_all_their_bits() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), CaLIF(init_hidden=True))
    model[0].weight.data.fill_(1 - 2.0**-23)
    graph = from_snntorch(model, (1,), T=2)
    assert graph.nodes["_1.s0.0_linear"].weight.item() / graph.nodes["_1"].v_threshold.item() == 1 - 2.0**-23


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("image", "input"), ("result", "output"), ("1", "_1"), ("a-b", "a_b"), ("ü", "_")])
def test_every_layer_keeps_a_name_of_its_own(names: tuple[str, str], tmp_path: Any) -> None:
    model = nn.Sequential()
    for k, name in enumerate(names):
        fc = nn.Linear(2, 2, bias=False)
        fc.weight.data = torch.eye(2) * (k + 2)
        model.add_module(f"{name}0", fc)
        model.add_module(name, CaLIF(init_hidden=True))
    graph = from_snntorch(model, (2,), T=8)
    converters.write(tmp_path / "names.nir", graph)
    r = converters.run(converters.read(tmp_path / "names.nir"), integers=torch.tensor([[1, 1]]))
    assert len(r.counts) == 2
    assert r.counts[r.output_name].tolist() == [[6, 6]]


def test_paths_that_look_like_synapses() -> None:
    inner = nn.Sequential()
    inner.add_module("s0", nn.Sequential())
    inner.s0.add_module("0_linear", CaLIF(init_hidden=True))
    model = nn.Sequential()
    model.add_module("a", inner)
    model.add_module("fc", on_grid(nn.Linear(2, 2, bias=False)))
    model.add_module("a.s0".replace(".", "_"), CaLIF(init_hidden=True))
    assert len(Network.from_graph(from_snntorch(model, (2,), T=3)).stages) == 2


def test_counts_without_an_end(tmp_path: Path) -> None:
    """Neurons of snnTorch have no range: what looks at every count says so, and a report wants a quantised network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), CaLIF(threshold=2.0**-22, init_hidden=True))
    g = from_snntorch(net, (16,), T=64, check=False)
    with pytest.raises(ConversionError, match=r"counts that each of 8 neurons can reach.*; give them a range: y_min"):
        certify(Network.from_graph(g))
    with pytest.raises(ConversionError, match=r"^q: found a NIRGraph; give the quantised network"):
        converters.make_report(g, torch.rand(2, 16), None, tmp_path / "page.html")
