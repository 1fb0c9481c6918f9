"""The baselines against their own authors' or other packages' neurons, in the same network, spike count for count."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import snntorch
import torch

import converters
from calif_plugins.encoding import isi_encode
from calif_plugins.parameters import TieRule
from converters.backends.baselines import BASELINES, run_baseline
from converters.errors import ConversionError
from converters.network import Network, float64
from converters.results import compare_counts
from tests.converters.sample_graphs import GRAPHS, depthwise, images, lenet

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")


def foreign_counts(network: Any, integers: torch.Tensor, make: Callable[..., Any]) -> Any:
    """Counts of a network whose neurons are ``make(stage)``: modules that take charge in units of the threshold."""
    nodes = {s.name: make(s) for s in network.stages}
    counts = {s.name: torch.zeros(len(integers), *s.shape, dtype=torch.float64) for s in network.stages}
    trains = torch.from_numpy(isi_encode(counts=integers.numpy(), window=network.window)).double()
    for now in trains:
        spikes = {network.encoder_name: now}
        for stage in network.stages:
            p = stage.parameters.for_shape(stage.shape)
            charge = (stage.charge(spikes) - float64(p.leak)) / float64(p.threshold)
            spikes[stage.name] = nodes[stage.name](charge).detach()
            counts[stage.name] += spikes[stage.name]
    return counts


class Leaky(torch.nn.Module):
    """snnTorch's neuron with beta 1; it fires strictly above the threshold, so the threshold is a hair lower."""

    def __init__(self, reset: Any) -> None:
        super().__init__()
        self.node = snntorch.Leaky(beta=1.0, threshold=1.0 - 2.0**-20, reset_mechanism=reset, init_hidden=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.node(x)


def stbif(stage: Any) -> Any:
    p = stage.parameters
    low, high = float(p.y_min.min()), float(p.y_max.max())
    return neuron.STBIFNode(torch.tensor(1.0), 16, pos_max=high, neg_min=low, step_mode="s").double()


FOREIGN = {
    "if_soft": [lambda s: Leaky("subtract"), lambda s: neuron.IFNode(1.0, v_reset=None, step_mode="s")],
    "if_hard": [lambda s: Leaky("zero"), lambda s: neuron.IFNode(1.0, v_reset=0.0, step_mode="s")],
    "qcfs": [lambda s: neuron.HalfThresholdIFNode(1.0, step_mode="s")],
    "stbif": [stbif],
}
CASES = [(n, k) for n, makes in FOREIGN.items() for k in range(len(makes))]


@pytest.mark.parametrize("window", [15, 40])
@pytest.mark.parametrize("graph", [lenet, depthwise])
@pytest.mark.parametrize(("name", "k"), CASES)
def test_against_other_packages(name: str, k: Any, graph: Any, window: int) -> None:
    network = Network.from_graph(converters.to_nir(graph(), T=window))
    integers = network.spec.quantise(images(graph(), 6))
    theirs = foreign_counts(network, integers, FOREIGN[name][k])
    ours = run_baseline(network, integers=integers, name=name, batch=4)
    compared = 0
    for stage in network.stages:
        # positive neurons everywhere in these packages; the layers of a signed range come after all others
        if stage.readout or (name != "stbif" and stage.parameters.y_min.min() < 0):
            continue
        assert torch.equal(ours.counts[stage.name].double(), theirs[stage.name]), stage.name
        compared += int(theirs[stage.name].sum())
    assert compared > 100  # they do spike


def event_driven(network: Any, integers: torch.Tensor) -> Any:
    """Equation 2 as it is written: one loop per neuron, rationals, the threshold looked at when a spike arrives."""
    (stage,) = network.stages
    weights = stage.synapses[0].ops[-1].weight.tolist()
    trains = isi_encode(counts=integers.numpy(), window=network.window)
    p = stage.parameters.for_shape(stage.shape)
    result = np.zeros((len(integers), len(weights)), dtype=np.int64)
    for n in range(len(integers)):
        for j, row in enumerate(weights):
            v, last = Fraction(0), 0
            threshold = Fraction(float(np.ravel(p.threshold)[j]))
            leak = Fraction(float(np.ravel(p.leak)[j]))
            for t in range(network.window):
                arrived = [w * int(s) for w, s in zip(row, trains[t, n], strict=True) if s and w]
                if arrived:
                    v += sum(arrived) - leak * (t + 1 - last)
                    last = t + 1
                    if v >= threshold:
                        v, result[n, j] = v - threshold, result[n, j] + 1
    return result


def test_the_lif_of_equation_2() -> None:
    from converters.operations import Linear
    from converters.quantised import GraphBuilder

    gen = torch.Generator().manual_seed(3)
    b = GraphBuilder()
    x = b.input((6,), scale=1 / 15, q_min=-15, q_max=15)
    w = torch.randint(-3, 4, (8, 6), generator=gen, dtype=torch.int8)
    w[0] = 0  # never an event, though its bias alone would reach the threshold
    bias = torch.linspace(60, -30, 8, dtype=torch.float64)
    y = b.layer("fc", [(x, Linear(w))], threshold=4.3, bias=bias, y_min=0, y_max=15, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=16))
    integers = torch.randint(-5, 6, (9, 6), generator=gen)
    ours = run_baseline(network, integers=integers, name="lif").counts["fc"].numpy()
    assert np.array_equal(ours, event_driven(network, integers))
    assert not ours[:, 0].any()
    clocked = run_baseline(network, integers=integers, name="if_soft").counts["fc"]
    assert clocked[:, 0].min() > 0  # which tells it from the clock-driven neuron


@pytest.mark.parametrize("tie", ["up", "even"])
@pytest.mark.parametrize("window", [15, 33])
def test_st_bif_until_quiet_rounds_half_up(window: int, tie: TieRule) -> None:
    """Its rest lies in [0, threshold): floor(z / Vth + 1/2). So it equals a quantiser that breaks ties upwards."""
    q = lenet(tie=tie)
    x = images(q, 40)
    r = run_baseline(converters.to_nir(q, T=window), x, name="stbif_quiet")
    wrong = sum(row.differing for row in compare_counts(r, q.execute(x)))
    assert (wrong == 0) == (tie == "up")
    assert int(r.extra_steps.max()) > 0


@pytest.mark.parametrize("name", BASELINES)
def test_what_every_run_says(name: str) -> None:
    q = GRAPHS["residual"]()
    network = Network.from_graph(converters.to_nir(q, T=20))
    x = images(q, 7)
    r = run_baseline(network, x, name=name, batch=3)
    assert (r.phase, r.window) == (name, 20)
    for layer, counts in r.counts.items():
        net = r.positive[layer] - r.negative[layer]
        assert torch.equal(net, counts.flatten(1).sum(1).long()), layer
    assert isinstance(r.latency, torch.Tensor)
    assert isinstance(r.extra_steps, torch.Tensor)
    assert torch.equal(r.latency, 20 + r.extra_steps)
    if name != "stbif_quiet":
        assert not r.extra_steps.any()
    last = network.stages[-1]
    assert torch.equal(r.counts["stem"].clamp_max(0), torch.zeros_like(r.counts["stem"]))  # positive only there
    assert r.counts[last.name].min() < 0  # the logits keep their sign
    assert (r.sops > 0).all()
    whole = run_baseline(network, x, name=name)
    assert torch.equal(whole.logits, r.logits)
    assert r.spikes_per_image == whole.spikes_per_image


def test_direct_input_counts_multiplications() -> None:
    q = lenet()
    x = images(q, 5)
    network = Network.from_graph(converters.to_nir(q, T=15, coding="direct"))
    r = run_baseline(network, x, name="if_soft")
    n = network.spec.quantise(x)
    fan = network.fan_out[network.encoder_name]
    assert r.macs is not None
    assert torch.equal(r.macs, ((n != 0) * fan).flatten(1).sum(1))
    assert network.encoder_name not in r.positive


def test_misuse() -> None:
    g = converters.to_nir(lenet(), T=15)
    with pytest.raises(ConversionError, match="baseline: found 'magic'; use one of if_hard, if_soft"):
        run_baseline(g, images(lenet(), 1), name="magic")
    with pytest.raises(ConversionError, match="give one of them"):
        run_baseline(g, name="lif")
    with pytest.raises(ConversionError, match="images"):
        run_baseline(g, torch.zeros(1, 3, 3), name="lif")
