"""Training gives the same bits inside of whatever its caller has switched on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from converters.experiments.kept import of_network
from converters.zoo.images import Images
from converters.zoo.recipes import Recipe
from converters.zoo.surroundings import own_settings
from converters.zoo.training import TrainResult, _Run, train


def run(folder: Path) -> TrainResult:
    pixels = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    data = Images(pixels, torch.arange(8) % 10, 10)
    recipe = Recipe(epochs=1, qat_epochs=1, batch=4)
    return train("lenet5", data, data, folder=folder, name="lenet5-x-7", recipe=recipe, levels=7)


def test_inference_mode_another_default_type_and_autocast(tmp_path: Path) -> None:
    plain = run(tmp_path / "a")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            other = run(tmp_path / "b")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.log == plain.log
    assert of_network(other.graph) == of_network(plain.graph)


@pytest.mark.parametrize("around", [nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)])
def test_every_step_in_bfloat16_sees_its_own_weights(tmp_path: Path, around: AbstractContextManager[object]) -> None:
    """Autocast keeps casts of weights until its outermost context ends: a step must not see those of the one before."""
    data = Images(torch.rand(8, 1, 4, 4), torch.arange(8) % 3, 3)
    layer = nn.Linear(16, 3)
    model = nn.Sequential(nn.Flatten(), layer)
    recipe = Recipe(batch=4, fast=True)
    run = _Run("float", tmp_path / "x.float.pt", {"network": "x"}, recipe, data, data, 0, None)
    losses = []
    with around, own_settings():
        assert not torch.is_autocast_enabled("cpu")
        for k in range(3):
            nn.init.constant_(layer.weight, 0.0)
            nn.init.constant_(layer.bias, 0.0)
            with torch.no_grad():
                layer.bias[0] = float(k)
            x = data.pixels
            losses.append(float(run._loss(model, x, data.labels, len(data)).detach()))
            expected = nn.functional.cross_entropy(model(x), data.labels)
            assert losses[-1] == pytest.approx(float(expected.detach()), abs=0.02)
    assert len(set(losses)) == 3
