"""Biases make up for the mean error: of every kind of layer, and of nothing that others use."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.calibration.biases import correct_biases
from converters.calibration.images import Calibration
from converters.calibration.walking import set_range
from tests.networks import pixels

LAST: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (6,)),
    "linear on the last axis": (nn.Linear(6, 4), (3, 6)),
    "linear and batch norm": (nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)), (6,)),
    "convolution": (nn.Conv2d(2, 4, 3, groups=2), (2, 5, 5)),
    "convolution and batch norm": (nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 5, 5)),
    "with a bias as well": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), (2, 5, 5)),
    "of one dimension": (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 7)),
    "transposed": (nn.ConvTranspose2d(2, 4, 3), (2, 5, 5)),
}


def network(last: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A layer that is rounded and clipped, and then the one in question."""
    torch.manual_seed(0)
    first: nn.Module = nn.Linear(shape[-1], shape[-1])
    if len(shape) > 1 and shape[0] == 2:
        first = {2: nn.Conv1d, 3: nn.Conv2d}[len(shape)](2, 2, 1)
    model = nn.Sequential(first, nn.ReLU(), copy.deepcopy(last)).train()
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # those at the top of this file had no seed
    for _ in range(3):
        model(pixels(16, shape, seed=5))
    return model.eval()


def means(y: Tensor, axis: int) -> Tensor:
    return y.detach().movedim(axis, 0).flatten(1).mean(1)


@pytest.mark.parametrize("name", LAST)
def test_the_means_are_the_float_networks(name: str) -> None:
    last, shape = LAST[name]
    model, images = network(last, shape), pixels(40, shape, seed=1)
    axis = -1 if isinstance(last, nn.Linear) else 1
    wanted = means(model(images), axis)
    errors = []
    for corrected in (False, True):
        prepared = converters.quantise(
            model, images, 5, 3, quantise_output=False, bias_correction=corrected, batch=40, check=False
        )
        errors.append(float((means(prepared(images), axis) - wanted).abs().max()))
        assert converters.from_pt2e(prepared).checked is not None
    assert errors[0] > 2e-5
    assert errors[1] < errors[0] / 20


def test_batches_are_averaged() -> None:
    """Of one layer, whose input does not move, the mean over all images is exact in batches too."""
    model, images = nn.Linear(6, 4), pixels(50, (6,), seed=1)
    prepared = converters.quantise(model, images, 5, 3, quantise_output=False, batch=8)
    assert torch.allclose(prepared(images).mean(0), model(images).mean(0), atol=1e-5)


class Tied(nn.Module):
    """One layer at two places: its bias cannot make up for both."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


def test_what_others_use_stays() -> None:
    model = Tied()
    prepared = converters.quantise(model, pixels(20, (6,), seed=1), 5, 3)
    assert torch.equal(prepared.get_parameter("layer.bias"), model.layer.bias)


def test_behind_a_relu_what_nobody_sees_does_not_count() -> None:
    """``relu(1 - x)`` of inputs that are clipped at 1: what is clipped is 0 in both networks, however far below."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    model[0].weight.data, model[0].bias.data = torch.tensor([[-1.0]]), torch.tensor([1.0])
    images = torch.tensor([[0.5], [0.8], [1.0], [10.0]])
    reference = converters.quantise(model, images, 10, ranges="minmax", weights="minmax", bias_correction=False)
    prepared = copy.deepcopy(reference)
    node = next(n for n in prepared.graph.nodes if n.op == "call_module" and n.args[0].op == "placeholder")
    quantiser: Any = prepared.get_submodule(str(node.target))
    set_range(quantiser, torch.tensor(1.0))
    correct_biases(prepared, reference, Calibration(model, images))
    assert prepared.get_parameter("0.bias").item() == pytest.approx(1.0, abs=1e-6)
    prepared.get_parameter("0.bias").data += 0.2
    correct_biases(prepared, reference, Calibration(model, images))
    assert prepared.get_parameter("0.bias").item() < 1.1
