"""snnTorch's own helpers on Ca-LIF neurons: resets, truncated backpropagation, losses, probes, the exporter."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import snntorch as snn
import snntorch.functional as SF
import torch
from snntorch import spikegen, utils
from snntorch.functional import probe
from torch import nn

from calif_plugins.snntorch import CaLIF, reset, swap_neurons

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from snntorch import backprop


def trains(net: nn.Module, value: float, steps: int = 3) -> list[float]:
    return [net(torch.tensor([[value]])).item() for _ in range(steps)]


def test_utils_reset_between_epochs() -> None:
    net = swap_neurons(nn.Sequential(nn.Identity(), snn.Leaky(beta=1.0, threshold=1.0, init_hidden=True))).model
    epochs = []
    for _ in range(2):
        utils.reset(net)
        epochs.append(trains(net, 0.6))
    assert epochs == [[0.0, 1.0, 0.0]] * 2


def straight(x: torch.Tensor) -> torch.Tensor:
    return (x > 0).to(x.dtype)


@pytest.mark.parametrize("how", ["made", "deepcopy", "torch.save"])
def test_utils_reset_reaches_copies_and_starts_from_v_init(how: str) -> None:
    net: nn.Module = nn.Sequential(CaLIF(v_init=0.5, window=2, init_hidden=True))
    if how == "deepcopy":
        net = copy.deepcopy(net)
    if how == "torch.save":
        net[0].spike_grad = straight  # a closure of snnTorch's cannot be pickled
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        net = torch.load(file, weights_only=False)
    first = trains(net, 0.25, 4)
    assert net[0].steps == 4
    utils.reset(net)
    assert net[0].steps == 0
    assert net[0].v.numel() == 0
    assert trains(net, 0.25, 4) == first


def test_v_init_per_channel() -> None:
    neuron = CaLIF(v_init=torch.tensor([0.0, 0.5]), init_hidden=True)
    assert [neuron(torch.full((1, 2, 1), 0.25)).flatten().tolist() for _ in range(2)] == [[0.0, 0.0], [0.0, 1.0]]
    assert neuron.v.flatten().tolist() == [0.5, 0.0]
    net = nn.Sequential(neuron)
    for again in (reset, utils.reset):
        again(net)
        assert neuron(torch.full((1, 2, 1), 0.5)).flatten().tolist() == [0.0, 1.0]


def test_the_membrane_by_snntorchs_name() -> None:
    neuron = CaLIF(init_hidden=True)
    neuron(torch.tensor([[0.5]]))
    assert neuron.mem is neuron.v
    with pytest.raises(ValueError, match=r"^mem: set `v` and `y`"):
        neuron.mem = torch.ones(1, 1)
    neuron.mem = torch.zeros(1, 1)
    assert neuron.v.numel() == 0


def classifier() -> nn.Module:
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "init_hidden": True}
    return swap_neurons(
        nn.Sequential(nn.Linear(4, 8), snn.Leaky(**leaky), nn.Linear(8, 2), snn.Leaky(output=True, **leaky))
    ).model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    gen = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (32,), generator=gen)
    x = torch.rand(32, 4, generator=gen) * 0.5
    x[torch.arange(32), labels * 2] += 1.0
    return list(zip(x.split(16), labels.split(16), strict=True)) * 10


@pytest.mark.parametrize("loss", [SF.mse_count_loss(), SF.ce_rate_loss(), SF.ce_max_membrane_loss()])
@pytest.mark.parametrize("road", ["BPTT", "RTRL", "TBPTT"])
def test_backprop_of_snntorch(road: Any, loss: Any) -> None:
    net = classifier()
    data = batches()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    options = {"num_steps": 6, "time_var": False} | ({"K": 2} if road == "TBPTT" else {})
    losses = [getattr(backprop, road)(net, data, optimiser, loss, **options).item() for _ in range(3)]
    assert losses[-1] < losses[0]
    if road != "BPTT":  # cut off from the last truncation, counts too
        assert not net[1].v.requires_grad
    net(data[0][0])
    assert net[1].v.requires_grad


def test_truncation_cuts_counts_as_well() -> None:
    neuron = CaLIF(learn_threshold=True, init_hidden=True)
    neuron(torch.ones(1, 1))
    assert neuron.y.requires_grad
    snn.Lapicque.detach_hidden()
    neuron(torch.ones(1, 1)).sum().backward()  # would fail on a freed graph
    snn.Lapicque.detach_hidden()
    with torch.no_grad():
        neuron(torch.ones(1, 1))
    assert not neuron.y.requires_grad


@pytest.mark.parametrize(
    "loss",
    [
        SF.ce_rate_loss(),
        SF.ce_count_loss(),
        SF.ce_count_loss(population_code=True, num_classes=2),
        SF.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2),
        SF.mse_temporal_loss(),
        SF.ce_temporal_loss(),
        SF.mse_membrane_loss(on_target=1, off_target=0),
        SF.ce_max_membrane_loss(),
    ],
    ids=lambda loss: loss.__name__,
)
def test_losses_of_snntorch(loss: Any) -> None:
    net = classifier()
    x, labels = batches()[0]
    utils.reset(net)
    spk, mem = zip(*(net(x) for _ in range(8)), strict=True)
    value = loss(torch.stack(mem if "membrane" in loss.__name__ else spk), labels) + SF.l1_rate_sparsity()(
        torch.stack(spk)
    )
    value.backward()
    assert torch.isfinite(value)
    assert net[0].weight.grad is not None
    assert 0 <= SF.accuracy_rate(torch.stack(spk), labels) <= 1


def test_first_spike_times_are_those_of_positive_spikes() -> None:
    """Signed spikes do not disturb the temporal losses: with ``y_min=0`` the first spike is positive."""
    gen = torch.Generator().manual_seed(0)
    neuron = CaLIF(init_hidden=True)
    x = torch.randn(20, 50, 1, generator=gen)
    spikes = torch.stack([neuron(step) for step in x])
    assert (spikes < 0).any()
    times = SF.SpikeTime(target_is_time=True)(spikes, torch.zeros(50, 1))[0]
    for k in range(50):
        fired = (spikes[:, k, 0] != 0).nonzero()
        assert times[k, 0] == (fired[0] if len(fired) else 19)


@pytest.mark.parametrize("kind", ["rate", "latency", "delta"])
def test_spikegen_feeds_it(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(10, 4)
    if kind == "delta":
        spikes = spikegen.delta(x, threshold=0.2, off_spike=True)
    else:
        spikes = getattr(spikegen, kind)(x[0], num_steps=10)
    neuron = CaLIF(threshold=2.0, y_min=-5, init_hidden=True)
    for step in spikes:
        neuron(step[None])
    assert torch.equal(2 * neuron.y + neuron.v, spikes.sum(0)[None])


def test_probes_find_it() -> None:
    net = classifier()
    with_spikes = probe.OutputMonitor(net[:2], instance=snn.Lapicque)
    membranes = probe.AttributeMonitor("mem", False, net[:2], instance=CaLIF)
    for _ in range(3):
        net(torch.ones(1, 4))
    assert len(with_spikes.records) == len(membranes.records) == 3
    assert torch.equal(membranes.records[-1], net[1].v)


def test_the_exporter_of_snntorch_does_not_take_it_for_a_leaky(capsys: Any) -> None:
    """It would write a LIF of another decay, reset and sign; the road into NIR is ``converters.from_snntorch``."""
    pytest.importorskip("nirtorch", reason="nirtorch is not installed")
    from snntorch.export_nir import _extract_snntorch_module

    assert _extract_snntorch_module(CaLIF(init_hidden=True)) is None
    assert "module not implemented: CaLIF" in capsys.readouterr().out


def test_a_neuron_without_values_is_in_nobodys_way() -> None:
    """snnTorch resets all neurons that are alive, whosever they are."""
    there = CaLIF(threshold=1.0, init_hidden=True).to("meta")
    there(torch.zeros(1, 2, device="meta"))
    net = classifier()
    net(batches()[0][0])
    utils.reset(net)
    assert there.v.device.type == "meta"
