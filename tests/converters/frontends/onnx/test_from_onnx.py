"""Networks quantised by onnxruntime, against onnxruntime and against every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import converters
from tests.converters.frontends.onnx.models import exported, quantised


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10),
    )  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(8, 1, 32, 32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_lenet_is_read_and_runs_count_for_count(images: Tensor, symmetric: bool, per_channel: bool) -> None:
    model = quantised(exported(lenet(), images), images, symmetric=symmetric, per_channel=per_channel)
    q = converters.from_onnx(model, images)
    assert q.checked is not None
    assert q.checked.model == "onnxruntime"
    assert q.checked.layers == len(q.layers) + 1
    assert q.checked.near_ties < q.checked.integers / 1000
    r = converters.run(converters.to_nir(q, T=16), images[:2], backend="fast")
    integers = q.at_window(16).execute(images[:2])
    assert all(torch.equal(counts.long(), integers[name]) for name, counts in r.counts.items())
