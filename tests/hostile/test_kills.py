"""Killed before any file operation and begun again, all ends as an unbroken run does: every file, bit for bit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from converters.cli import main
from converters.experiments.kept import Kept
from converters.zoo.images import Images
from converters.zoo.recipes import Recipe
from converters.zoo.training import _Run, train
from tests.hostile.kills import ends_alike

RECIPE = Recipe(epochs=2, qat_epochs=2, batch=4, shift=1)


def images(n: int) -> Images:
    pixels = torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(n))
    return Images(pixels, torch.arange(n) % 10, 10)


def phase(folder: Path, name: str = "qat") -> None:
    """One phase of a small network with batch norm, dropout and a mean of weights; it writes what all phases do."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 5, 4), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(98, 10)
    )
    recipe = Recipe(batch=4, shift=1, qat_average=True)
    run = _Run(name, folder / "x.pt", {"network": "x"}, recipe, images(48), images(4), 0, None)
    run(model, 2, 0.1)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_phase(tmp_path: Path, step: int) -> None:
    points = list(ends_alike(tmp_path, phase, step=step))
    assert len(points) > 30 // step
    rows = (tmp_path / "whole" / "x.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]


def whole_training(toolkit: str, folder: Path) -> None:
    train("lenet5", images(12), images(4), folder=folder, name="lenet5-x-7", recipe=RECIPE, levels=7, toolkit=toolkit)


@pytest.mark.parametrize("toolkit", ["pt2e", "brevitas"])
def test_training_at_some_points(tmp_path: Path, toolkit: str) -> None:
    """Before the quantised phase's second checkpoint takes its name: it goes on from the first."""
    if toolkit == "brevitas":
        pytest.importorskip("brevitas")
    assert list(ends_alike(tmp_path, partial(whole_training, toolkit), [6], events=["os.rename"])) == [6]


@pytest.mark.slow
@pytest.mark.parametrize("toolkit", ["pt2e", "brevitas"])
def test_training_at_all_points(tmp_path: Path, toolkit: str) -> None:
    if toolkit == "brevitas":
        pytest.importorskip("brevitas")
    assert len(list(ends_alike(tmp_path, partial(whole_training, toolkit)))) > 80


def calif(arguments: list[str], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as stopped:
        main([a.format(folder=folder) for a in arguments])
    assert not stopped.value.code


def test_convert(tmp_path: Path) -> None:
    command = ["convert", "--checkpoint", "lenet5-mnist-8", "--out", "{folder}/n.nir"]
    assert len(list(ends_alike(tmp_path, partial(calif, command), step=5))) > 1


def rows(folder: Path) -> None:
    kept = Kept(folder)
    for t in (1, 2):
        kept("network", "images", {"T": t}, partial(dict, T=t, accuracy=0.5))


def test_rows_of_reproduce(tmp_path: Path) -> None:
    assert len(list(ends_alike(tmp_path, rows, step=2))) > 5
