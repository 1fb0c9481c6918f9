"""Killed before any file operation and begun again, all ends as an unbroken run does: every file, bit for bit."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from converters.cli import main
from converters.experiments import session
from converters.zoo.images import Images
from converters.zoo.recipes import Recipe
from converters.zoo.training import _Run
from tests.hostile.kills import contents, ends_alike, killed_before


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


def pictures(root: Path) -> None:
    """Tiny-ImageNet's layout, since its pictures are decoded into the cache: of 32 x 32 pixels, and two classes."""
    folder, rng, labels = root / "tiny-imagenet-200", np.random.default_rng(0), ""
    (folder / "val" / "images").mkdir(parents=True)
    for name in "ab":
        (folder / "train" / name / "images").mkdir(parents=True)
        for k in range(8):
            place = f"train/{name}/images/{k}" if k < 6 else f"val/images/{name}{k}"
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{place}.JPEG")
            labels += f"{name}{k}.JPEG\t{name}\t0\t0\t31\t31\n" if k >= 6 else ""
    (folder / "wnids.txt").write_text("a\nb\n")
    (folder / "val" / "val_annotations.txt").write_text(labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    pictures(root)
    return root


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of one epoch came to."""
    folder = tmp_path_factory.mktemp("checkpoint")
    killed_before(None, [], partial(calif, [*TRAIN[:-4], "--epochs", "1"], data, None, folder))
    return folder / "out" / "lenet5-tinyimagenet-7.safetensors"


def calif(arguments: Sequence[str], data: Path, checkpoint: Path | None, folder: Path) -> None:
    """A command line whose files, those of the cache too, and whose words are in ``folder``."""
    folder.mkdir(exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as stopped:
        main([a.format(folder=folder, data=data, checkpoint=checkpoint) for a in arguments])
    assert not stopped.value.code
    (folder / "said").write_text(said.getvalue().replace(str(folder), "here"))


IMAGES = ("--data-root", "{data}")
TRAIN = ("train", "--dataset", "tinyimagenet", *IMAGES, "--levels", "7", "--out", "{folder}/out",
         "--epochs", "2", "--qat-epochs", "2")  # fmt: skip
RUN = ("run", "--checkpoint", "{checkpoint}", *IMAGES, "--json")
CONVERT = ("convert", "--checkpoint", "{checkpoint}", "--out", "{folder}/n.nir")
REPRODUCE = ("reproduce", "ablation", "fig2", "--checkpoint", "{checkpoint}", *IMAGES, "--network", "lenet5",
             "--dataset", "tinyimagenet", "--images", "2", "--window", "3", "--out", "{folder}/out")  # fmt: skip
OUT = {"out/lenet5-tinyimagenet-7.safetensors", "said"}
OUT |= {f"out/lenet5-tinyimagenet{name}.{kind}" for name in (".float", "-7.qat") for kind in ("pt", "jsonl")}


def toolkit_of(name: str) -> list[str]:
    if name == "brevitas":
        pytest.importorskip("brevitas")
    return [*TRAIN, "--toolkit", name]


ALL = pytest.param(None, marks=pytest.mark.slow)  # before every operation there is, not some files' taking their names


def ends(tmp_path: Path, work: Callable[[Path], object], renames: list[int] | None) -> int:
    """At how many points it was killed; each time it ended as an unbroken run."""
    if renames is None:
        return len(list(ends_alike(tmp_path, work)))
    assert list(ends_alike(tmp_path, work, renames, events=["os.rename"])) == renames
    return len(renames)


# before files take their names: a log of the quantised phase, and the quantised network itself
@pytest.mark.parametrize(
    ("toolkit", "renames"),
    [("pt2e", [10]), ("brevitas", [7]), *(pytest.param(t, None, marks=pytest.mark.slow) for t in ("pt2e", "brevitas"))],
)
def test_training(tmp_path: Path, data: Path, toolkit: str, renames: list[int] | None) -> None:
    if toolkit == "brevitas":
        pytest.importorskip("brevitas")
    points = ends(tmp_path, partial(calif, [*TRAIN, "--toolkit", toolkit], data, None), renames)
    assert points > 100 or renames
    assert {name for name in files(tmp_path / "whole") if not name.startswith("cache/calif/tinyimagenet-t")} == OUT


@pytest.mark.parametrize("renames", [[0], ALL])
@pytest.mark.parametrize("command", [RUN, CONVERT], ids=lambda c: c[0])
def test_running_and_converting(
    tmp_path: Path, data: Path, checkpoint: Path, command: tuple[str, ...], renames: list[int] | None
) -> None:
    points = ends(tmp_path, partial(calif, command, data, checkpoint), renames)
    assert points > 10 or renames
    assert len(files(tmp_path / "whole")) == 2  # the images or the network, and what was said


@pytest.mark.parametrize("renames", [[1, 12], ALL])
def test_reproducing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, checkpoint: Path, renames: list[int] | None
) -> None:
    """Between two rows, and before a figure takes its name."""
    import matplotlib.font_manager  # whose own cache is found or made now  # noqa: F401

    monkeypatch.setattr(session, "names", list)  # of the checkpoints that ship none, which take seconds to load
    points = ends(tmp_path, partial(calif, REPRODUCE, data, checkpoint), renames)
    assert points > 100 or renames
    found = files(tmp_path / "whole")
    assert {f"out/{name}" for name in ("fig2.json", "fig2.png", "ablation.json", "ablation.md")} < found
    assert sum(name.startswith("cache/calif/rows/") for name in found) == 10


def files(folder: Path) -> set[str]:
    return {name.split("/", 1)[1] for name in contents(folder)}
