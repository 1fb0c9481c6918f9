"""Training gives the same bits inside of whatever its caller has switched on."""

from __future__ import annotations

from pathlib import Path

import torch

from converters.experiments.kept import of_network
from converters.zoo.images import Images
from converters.zoo.recipes import Recipe
from converters.zoo.training import TrainResult, train


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
