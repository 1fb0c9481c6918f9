"""An input with more levels than the window has steps: coded directly, and exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import converters
from converters.errors import ConversionError
from converters.frontends.pt2e import from_pt2e, prepare_qat
from tests.networks import NETWORKS, make, pixels, short_training


def network(name: str, levels: int, input_levels: int) -> tuple[converters.QuantGraph, torch.Tensor]:
    _, shape, signed = NETWORKS[name]
    x = pixels(16, shape, signed)
    model = prepare_qat(make(name), x, levels=levels, input_levels=input_levels, signed_input=signed)
    short_training(model, name)
    return from_pt2e(model), x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("levels", [1, 4, 8])
def test_spikes_equal_integers_in_a_window_of_the_layers_levels(name: str, levels: int) -> None:
    q, x = network(name, levels, 127)
    assert q.input.q_max == 127
    assert q.neuron_levels == levels
    assert q.levels == 127
    integers = q.execute(x[:4])
    assert int(integers[q.input.name].abs().max()) > levels  # or this test would show nothing
    g = converters.to_nir(q, coding="direct")
    for options in ({}, {"backend": "snntorch"}, {"backend": "closed_form"}):
        r = converters.run(g, x[:4], **options)
        assert r.window == levels
        for name_of, counts in r.counts.items():
            if name_of != q.input.name:
                assert torch.equal(counts.long(), integers[name_of]), (name_of, options)
        assert torch.equal(r.predictions, q.predict(x[:4]))


def test_brian2_spike_for_spike() -> None:
    q, x = network("lenet5", 3, 40)
    assert converters.cross_check(converters.to_nir(q, coding="direct"), x[:2], backends=("snntorch", "brian2")).equal


def test_shorter_and_longer_windows() -> None:
    q, x = network("lenet5", 4, 60)
    assert q.coding_for() == q.coding_for(4) == q.coding_for(59) == "direct"
    assert q.coding_for(3) == q.coding_for(60) == "isi"
    for window, coding in ((2, "direct"), (7, "direct"), (60, "isi"), (13, "isi")):
        expected = q.at_window(window, coding).execute(x[:3])
        r = converters.run(converters.to_nir(q, T=window, coding=coding), x[:3])
        assert all(torch.equal(c.long(), expected[k]) for k, c in r.counts.items() if k != "input")
    assert q.at_window(7, "direct") is q
    assert q.at_window(13) is not q
    assert converters.to_nir(q, coding="auto").nodes["input"].window == 4
    assert converters.to_nir(q, T=60, coding="auto").nodes["input"].coding == "isi"


def test_a_residual_from_the_input_keeps_the_layers_levels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(x) + x)

    torch.manual_seed(0)
    x = torch.rand(4, 2, 5, 5)
    model = prepare_qat(Net(), x, levels=6, input_levels=100)
    model(x)
    q = from_pt2e(model)
    assert q.levels == q.neuron_levels == 6


@pytest.mark.parametrize("wrong", [0, 1.5, 40000])
def test_bad_levels(wrong: Any) -> None:
    with pytest.raises(ConversionError, match=r"input_levels: found"):
        prepare_qat(make("lenet5"), pixels(4, NETWORKS["lenet5"][1]), input_levels=wrong)
