"""Two processes against one: the same steps within float rounding, the same counts exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.errors import ConversionError
from converters.files.quantised_file import load_quantised
from converters.zoo.datasets import load
from converters.zoo.recipes import Recipe, recipe_for
from converters.zoo.training import train

ROOT = Path(__file__).resolve().parents[3]
JOB = """
import sys
import torch
from torch import nn
from converters.zoo.datasets import load
from converters.zoo.networks import NETWORKS
from converters.zoo.processes import team
from converters.zoo.recipes import Recipe
from converters.zoo.training import train

class Small(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(8 * (size // 4) ** 2, classes)
        self.relu = nn.ReLU()
    def forward(self, x):
        x = self.relu(self.b(self.a(x)))
        x = self.relu(self.d(self.c(x)) + x)
        return self.fc(self.pool(x).flatten(1))

NETWORKS["small"] = Small
batch, epochs, qat_epochs, optimiser, fast, out = sys.argv[1:]
team()
recipe = Recipe(
    epochs=int(epochs), qat_epochs=int(qat_epochs), batch=int(batch), lr=0.02, qat_lr=0.005, label_smoothing=0.1,
    flip=True, shift=1, optimiser=optimiser, fast=fast == "fast",
)
train("small", load("pictures", "train"), load("pictures", "test"), folder=out, name="small-pictures-127",
      recipe=recipe, seed=3)
"""


def processes(count: Any, *arguments: str, cwd: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, n in (("train", 19), ("test", 11)):
        for k in range(n):
            folder = tmp_path / "pictures" / split / "abc"[k % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, 4:12, k % 3] = 250
            Image.fromarray(pixels).save(folder / f"{k}.png")
    return tmp_path


def state(path: Path) -> Any:
    saved = torch.load(path, weights_only=True)
    return saved["model"], json.loads(saved["log"])


def two_runs(pictures: Path, *arguments: object) -> None:
    (pictures / "job.py").write_text(JOB)
    for count in (1, 2):
        processes(count, "job.py", *map(str, arguments), f"runs{count}", cwd=pictures)


def assert_close(pictures: Path, phase: str, tolerance: Any) -> Any:
    (one, log1), (two, log2) = (state(pictures / f"runs{c}" / f"{phase}.pt") for c in (1, 2))
    assert one.keys() == two.keys()
    for name, a in one.items():
        a, b = a.double(), two[name].double()
        far = float((a - b).abs().max()) if a.numel() else 0.0
        assert far <= tolerance * max(1.0, float(a.abs().max()) if a.numel() else 0.0), (name, far)
    assert [row["epoch"] for row in log1] == [row["epoch"] for row in log2]
    assert [row["loss"] for row in log1] == pytest.approx([row["loss"] for row in log2], rel=30 * tolerance)
    return one


# 19 images in batches of 8, 8 and 3, or 9, 9 and 1: uneven shares, and a share of nothing
@pytest.mark.parametrize(
    ("batch", "optimiser", "fast", "tolerance"),
    [
        pytest.param(8, "sgd", "exact", 1e-5, marks=pytest.mark.slow),
        (9, "sgd", "exact", 1e-5),
        pytest.param(9, "muon", "exact", 1e-2, marks=pytest.mark.slow),  # its Newton-Schulz iterations run in bfloat16
        pytest.param(8, "sgd", "fast", 1e-2, marks=pytest.mark.slow),  # bfloat16
    ],
)
def test_training_takes_the_steps_of_one_process(
    pictures: Path, batch: int, optimiser: str, fast: str, tolerance: float
) -> None:
    two_runs(pictures, batch, 3, 1, optimiser, fast)
    assert_close(pictures, "small-pictures.float", tolerance)
    if fast == "exact":  # in bfloat16 an observed range hops to the next of its candidates
        # a fake quantiser turns last bits into whole levels
        assert_close(pictures, "small-pictures-127.qat", max(tolerance, 1e-3))


def test_a_quantised_step_and_its_ranges(pictures: Path) -> None:
    """Quantised from scratch, one step: same weights before it, so same ranges, statistics and gradients."""
    two_runs(pictures, 19, 0, 1, "sgd", "exact")
    model = assert_close(pictures, "small-pictures-127.qat", 2e-6)
    assert any("scale" in name for name in model)
    assert any("running_var" in name for name in model)


def test_the_tempting_mistake(pictures: Path) -> None:
    """Each process by itself, batch norms included, takes other steps: what the sums over shares are there for."""
    data = load(str(pictures / "pictures"), "train")
    from converters.zoo.networks import build

    torch.manual_seed(0)
    net = build("resnet11h", 3, 3, 16).train()
    x = data[:8].pixels
    with torch.no_grad():
        whole = net(x)
        halves = torch.cat([net(x[:4]), net(x[4:])])
    assert float((whole - halves).abs().max()) > 1e-2


def test_command_line_and_evaluation(tmp_path: Path) -> None:
    """``calif train`` and ``calif run`` under torchrun: one answer, and the counts of one process."""
    calif = ["-m", "converters.cli"]
    options = ["--network", "lenet5", "--dataset", "digits", "--levels", "8", "--epochs", "1", "--qat-epochs", "1"]
    out = processes(2, *calif, "train", *options, "--out", "two", "--json", cwd=tmp_path)
    trained = json.loads(out)  # one object, from one of them
    path = tmp_path / "two" / "lenet5-digits-8.safetensors"
    q, test = load_quantised(path), load("digits", "test")
    right = float((q.predict(test.pixels) == test.labels).double().mean())
    assert trained["quantised_accuracy"] == right
    rows = []
    for count in (1, 2):
        out = processes(
            count, *calif, "run", "--checkpoint", str(path), "--images", "33", "--window", "8", "--json", cwd=tmp_path
        )
        (row,) = json.loads(out)["windows"]
        rows.append(row)
    # each process looks at an image of its own share
    assert [row.pop("images_checked") for row in rows] == [1, 2]
    assert rows[0] == rows[1]
    assert rows[0]["count_mismatches"] == 0
    assert rows[0]["counts_compared"] == 33 * 8084


def test_processes_end_in_peace(tmp_path: Path) -> None:
    """Without leaving the group, about one run in four aborted on its way out."""
    (tmp_path / "job.py").write_text("from converters.zoo.processes import team\nteam().total(1.0)\n")
    for _ in range(4):  # eight processes
        processes(2, "job.py", cwd=tmp_path)


def test_brevitas_needs_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from converters.zoo import training

    class Pair:
        count, rank, first = 2, 0, True

    monkeypatch.setattr(training, "team", Pair)
    data = load("digits", "train").first(4)
    with pytest.raises(ConversionError, match="--toolkit: found 'brevitas' with 2 processes; use pt2e"):
        train("lenet5", data, data, folder=tmp_path, name="x-y-7", recipe=Recipe(), toolkit="brevitas")


def test_the_papers_recipe(tmp_path: Path) -> None:
    recipe = recipe_for("cifar10", "paper")
    assert (recipe.epochs, recipe.qat_epochs >= 30, recipe.optimiser, recipe.nesterov) == (0, True, "sgd", False)
    data, test = load("digits", "train").first(96), load("digits", "test").first(60)
    from dataclasses import replace

    short = replace(recipe_for("digits", "paper"), qat_epochs=2)
    result = train("lenet5", data, test, folder=tmp_path, name="lenet5-digits-127", recipe=short)
    assert result.float_accuracy is None
    assert [row["phase"] for row in result.log] == ["qat", "qat"]
    assert not (tmp_path / "lenet5-digits.float.pt").exists()
    saved = torch.load(tmp_path / "lenet5-digits-127.qat.pt", weights_only=True)
    group = saved["optimiser"]["0"]["param_groups"][0]
    assert (group["momentum"], group["nesterov"]) == (0.9, False)
    with pytest.raises(ConversionError, match="--recipe: found 'magic'; use fast, long or paper"):
        recipe_for("digits", "magic")


def test_early_stop(tmp_path: Path) -> None:
    """With a rate of 0 nothing gets better: two looks more than the first, and it is over; resumed, it stays so."""
    data, test = load("digits", "train").first(64), load("digits", "test").first(40)
    recipe = Recipe(epochs=9, qat_epochs=1, batch=32, lr=0.0, qat_lr=0.0, weight_decay=0.0, patience=2)
    result = train("lenet5", data, test, folder=tmp_path, name="lenet5-digits-127", recipe=recipe)
    assert [row["phase"] for row in result.log] == ["float"] * 3 + ["qat"]
    again = train("lenet5", data, test, folder=tmp_path, name="lenet5-digits-127", recipe=recipe)
    assert again.log == result.log


def test_checkpoints_of_before_go_on(tmp_path: Path) -> None:
    """A checkpoint does not name the settings that came later and are at rest, so older ones still fit."""
    data = load("digits", "train").first(32)
    train("lenet5", data, data, folder=tmp_path, name="lenet5-digits-127", recipe=Recipe(epochs=1, qat_epochs=1))
    about = json.loads(torch.load(tmp_path / "lenet5-digits.float.pt", weights_only=True)["about"])
    assert not {"patience", "nesterov"} & set(about)
