"""Signal to noise by layer, against the same sums by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.calibration import QuantisationReport
from converters.errors import ConversionError
from tests.networks import LeNet5, pixels


def grid(x: Tensor, quantiser: Any) -> Tensor:
    """``x`` on a quantiser's levels, in float64."""
    scale, low, high = quantiser.scale.double(), quantiser.quant_min, quantiser.quant_max
    scale = scale[:, None] if quantiser.is_per_channel else scale
    return torch.round(x / scale).clamp(low, high) * scale


def decibels(wanted: Tensor, found: Tensor) -> float:
    return 10 * math.log10(float(wanted.square().sum() / (found - wanted).square().sum()))


def test_two_layers_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = pixels(30, (5,), seed=1).double()
    prepared = converters.quantise(model, x, 7, 4, bias_correction=False)
    nodes = [n for n in prepared.graph.nodes if n.op == "call_module"]
    found: list[Any] = [prepared.get_submodule(str(n.target)) for n in nodes]
    weights = [q for q in found if q.is_per_channel]
    input_, hidden, output = (q for q in found if not q.is_per_channel)
    (w1, b1, w2, b2) = (p.detach() for p in model.parameters())

    def first(x: Tensor, w: Tensor) -> Tensor:
        return torch.relu(x @ w.T + b1)

    q1, q2 = grid(w1, weights[0]), grid(w2, weights[1])
    h, hq = first(x, w1), grid(first(grid(x, input_), q1), hidden)
    y, yq = h @ w2.T + b2, grid(hq @ q2.T + b2, output)
    report = converters.quantisation_noise(model, prepared, x, batch=7)
    expected = {
        "input": (decibels(x, grid(x, input_)),) * 2,
        "_0": (decibels(h, hq), decibels(h, grid(first(x, q1), hidden))),
        "_2": (decibels(y, yq), decibels(y, grid(h @ q2.T + b2, output))),
    }
    for row in report.layers[:-1]:
        assert (row.snr, row.own_snr) == pytest.approx(expected[row.layer], abs=1e-3)
    assert report.layers[-1].layer == "output"
    assert report.layers[-1].snr == pytest.approx(expected["_2"][0], abs=1e-3)
    assert report.layers[-1].own_snr is None
    assert report.agreement == float((y.argmax(1) == yq.argmax(1)).double().mean())


def test_accuracy_is_that_of_both_networks() -> None:
    model, images = LeNet5(small=True).eval(), pixels(40, (1, 12, 12), seed=1)
    prepared = converters.quantise(model, images, 2, 2, quantise_output=False)
    labels = torch.arange(40) % 10
    report = converters.quantisation_noise(model, prepared, images, labels, batch=9)
    counted = [int((m(images).argmax(1) == labels).sum()) / 40 for m in (model, prepared)]
    assert [report.float_accuracy, report.quantised_accuracy] == counted
    assert report.lost == counted[0] - counted[1]
    assert report.layers[-1].own_snr is not None  # its last layer has no levels
    assert "points lost" in str(report)
    assert len(json.dumps(report.as_dict())) > 100
    assert model.training is False
    assert str(converters.quantisation_noise(model, prepared, images)).endswith("of 40 images")


def test_what_is_exact_says_so() -> None:
    """Weights and pixels that are levels."""
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    prepared = converters.quantise(model, x, 4, ranges="minmax", weights="minmax", quantise_output=False)
    report = converters.quantisation_noise(model, prepared, x)
    assert [row.snr for row in report.layers] == [math.inf, math.inf]
    assert report.as_dict()["layers"][0] == {"layer": "input", "snr": None, "own_snr": None}
    assert str(report).count("exact") == 3


def test_networks_trained_with_quantisation_have_a_report_too() -> None:
    model, images = LeNet5(small=True), pixels(20, (1, 12, 12), seed=1)
    prepared = converters.prepare_qat(model, images)
    prepared(images)
    assert isinstance(converters.quantisation_noise(model, prepared, images), QuantisationReport)


def test_what_does_not_fit_is_one_line() -> None:
    model, images = LeNet5(small=True), pixels(20, (1, 12, 12), seed=1)
    prepared = converters.quantise(model, images)
    with pytest.raises(ConversionError, match="prepared: found LeNet5; give what quantise or prepare_qat returned"):
        converters.quantisation_noise(model, model, images)
    with pytest.raises(ConversionError, match="prepared: found a network other than the float one; give the model"):
        converters.quantisation_noise(nn.Flatten(), prepared, images)
    for labels in (torch.zeros(19, dtype=torch.long), torch.zeros(20), [0] * 20):
        with pytest.raises(ConversionError, match=r"labels: found .*; give a whole number for each of the 20 images"):
            converters.quantisation_noise(model, prepared, images, labels)
