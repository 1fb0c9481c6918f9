"""What a run goes on from: its own checkpoint, whole, on the same images, and alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters.errors import ConversionError
from converters.files.locking import locked
from converters.zoo.images import Images
from converters.zoo.networks import build
from converters.zoo.optimisers import Optimisers
from converters.zoo.recipes import Recipe
from converters.zoo.training import _Run
from converters.zoo.training_file import Checkpoint, read_checkpoint, write_checkpoint
from converters.zoo.training_state import (
    beyond_state_dict,
    optimiser_state,
    put_back_model,
    put_back_optimiser,
)
from tests.command_line import Calif

RECIPE = Recipe(batch=4)


def images(n: int = 12, seed: int = 0) -> Images:
    pixels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.arange(n) % 3, 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def phase(folder: Path, epochs: int = 2, **about: Any) -> list[dict[str, Any]]:
    about = {"network": "x", "data": "d", **about}
    return _Run("float", folder / "x.float.pt", about, RECIPE, images(), images(4), 0, None)(network(), epochs, 0.1)


def test_a_log_that_is_gone_is_written_again(tmp_path: Path) -> None:
    log = phase(tmp_path)
    path = tmp_path / "x.float.jsonl"
    text = path.read_text()
    assert [json.loads(row) for row in text.splitlines()] == log
    for spoil in (path.unlink, lambda: path.write_text(text.splitlines()[0] + "\n"), lambda: path.write_text("")):
        spoil()
        assert phase(tmp_path) == log
        assert path.read_text() == text


def test_other_images_are_another_run(tmp_path: Path) -> None:
    phase(tmp_path)
    with pytest.raises(ConversionError, match=r"a checkpoint with other images or labels; use another --out"):
        phase(tmp_path, data="e")


def test_a_checkpoint_of_an_earlier_version_does_not_say_its_images(tmp_path: Path) -> None:
    """It goes on all the same, and says them from then on."""
    phase(tmp_path, 1)
    path = tmp_path / "x.float.pt"
    state = torch.load(path, weights_only=True)
    about = json.loads(state["about"])
    del about["data"]
    torch.save({**state, "about": json.dumps(about)}, path)
    assert [row["epoch"] for row in phase(tmp_path, 2)] == [1, 2]
    assert read_checkpoint(path).about["data"] == "d"


def test_digests_are_of_pixels_labels_and_filter() -> None:
    a = images()
    same = images()
    others = [
        images(seed=1),
        images(11),
        Images(a.stored, a.labels.flip(0), 3),
        Images(a.stored.double(), a.labels, 3),
        Images(a.stored.view(12, 1, 4, 16), a.labels, 3),
        Images(a.stored, a.labels, 3, torch.abs),
        Images(a.stored.flip(3), a.labels, 3),
    ]
    assert a.digest() == same.digest()
    assert len({a.digest(), *(x.digest() for x in others)}) == 1 + len(others)
    assert Images(a.stored.flip(3).flip(3), a.labels, 3).digest() == a.digest()


def test_two_folders_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calif: Calif) -> None:
    """A run on ``y/data`` is not the one on ``x/data``, whose checkpoints are there."""
    from tests.converters.zoo.picture_sets import picture

    for k, name in enumerate("xy"):
        for part in ("train", "test"):
            for c in "ab":
                folder = tmp_path / name / "data" / part / c
                folder.mkdir(parents=True)
                picture(10 * k + ord(c), 32, 32).save(folder / "0.png")
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1", "--qat-epochs", "1", "--levels", "7", "--out", "out"]
    assert calif("train", "--dataset", "x/data", *short)[0] == 0
    before = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    code, out, err = calif("train", "--dataset", "y/data", *short)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "lenet5-data.float.pt: found a checkpoint with other images or labels; use another --out" in err
    assert {p.name: p.read_bytes() for p in Path("out").iterdir()} == before
    assert sorted(before) == [
        "lenet5-data-7.qat.jsonl",
        "lenet5-data-7.qat.pt",
        "lenet5-data-7.safetensors",
        "lenet5-data.float.jsonl",
        "lenet5-data.float.pt",
    ]


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "x.float.pt", ""):
        with pytest.raises(
            ConversionError, match=r"another process \(\d+\) at work on it; wait for it, or use another"
        ):
            phase(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [".x.float.pt.lock"]
    phase(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.float.jsonl", "x.float.pt"]


def steps(model: nn.Module, optimiser: Optimisers, numbers: range) -> list[float]:
    losses = []
    model.train()
    for k in numbers:
        torch.manual_seed(k)
        x = torch.rand(2, 1, 32, 32)
        loss = model(x).square().mean()
        model.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("first", "collected"), [(3, 6), (5, 6), (6, 6), (7, 6)])
def test_brevitas_wherever_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, collected: int
) -> None:
    """While its quantisers collect statistics, at the step at which these become parameters, and afterwards."""
    pytest.importorskip("brevitas")
    from converters.zoo.brevitas_layers import with_brevitas

    def fresh() -> tuple[nn.Module, Optimisers]:
        torch.manual_seed(0)
        model = with_brevitas(build("lenet5", 1, 10, 32), levels=7)
        return model, optimiser(model)

    def optimiser(model: nn.Module) -> Optimisers:
        for m in model.modules():
            if hasattr(m, "collect_stats_steps"):
                setattr(m, "collect_stats_steps", collected)  # noqa: B010  mypy takes it for a tensor
        return Optimisers(model, "sgd", lr=0.05, weight_decay=1e-4)

    through, its = fresh()
    steps(through, its, range(first))
    path = tmp_path / "x.qat.pt"
    state = through.state_dict()
    found = Checkpoint({"network": "x"}, state, optimiser_state(its, None), [], beyond=beyond_state_dict(through))
    write_checkpoint(path, found)
    rest = steps(through, its, range(first, 10))
    again, _ = fresh()
    steps(again, _, range(2))  # of another state before it is put back
    again, _ = fresh()
    found = read_checkpoint(path)
    put_back_model(path, found, again, False)
    its = optimiser(again)
    put_back_optimiser(path, found, its, None)
    assert steps(again, its, range(first, 10)) == rest
    state = through.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_a_brevitas_checkpoint_of_an_earlier_version(tmp_path: Path) -> None:
    pytest.importorskip("brevitas")
    from converters.zoo.brevitas_layers import with_brevitas

    model = with_brevitas(build("lenet5", 1, 10, 32), levels=7)
    model(torch.rand(2, 1, 32, 32))
    old = Checkpoint({"network": "x"}, model.state_dict(), {}, [])
    with pytest.raises(ConversionError, match="without what the quantisers have counted; delete it and train again"):
        put_back_model(tmp_path / "x", old, model, finished=False)
    put_back_model(tmp_path / "x", old, model, finished=True)


@pytest.mark.slow
def test_levels_by_layer_are_trained_resumed_and_compared(calif: Calif, tmp_path: Path) -> None:
    levels = ("--levels", 7, "--levels", "features.3=15")
    short = ("--network", "lenet5", *levels, "--epochs", 1, "--qat-epochs", 1, "--out", tmp_path)
    first, again = (calif("train", *short, "--json") for _ in range(2))
    assert first[0] == again[0] == 0
    a, b = (json.loads(found[1]) for found in (first, again))
    assert a == b
    assert (a["levels"], a["levels_by_layer"]) == (15, {"": 7, "features.3": 15})
    assert "--levels 7 --levels features.3=15" in a["command"]
    run = Path(a["checkpoint"]).with_suffix(".qat.pt")
    code, text, _ = calif("run", run, "--images", 2, "--json")
    assert (code, json.loads(text)["windows"][0]["T"], json.loads(text)["levels"]) == (0, 15, 15)
    code, _, _ = calif("parity", run, "--images", 4, "--json")
    assert code == 0
