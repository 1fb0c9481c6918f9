"""``calif run`` on images of one's own: what it says of each, without labels and with them, and the report of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import converters
from converters.quantised import QuantGraph
from converters.testing.networks import images
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif
from tests.converters.reporting.test_report import Reader
from tests.converters.task_graphs import LEVELS, of, several

NET = "lenet5-mnist-8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits: as an array, with labels, and as pictures."""
    path = tmp_path_factory.mktemp("own")
    data = load("digits", "test").first(6)
    np.save(path / "x.npy", data.pixels.numpy())
    np.save(path / "y.npy", data.labels.numpy())
    (path / "pictures").mkdir()
    for k, x in enumerate(data.pixels):
        Image.fromarray((255 * x[0]).round().byte().numpy()).save(path / "pictures" / f"{k}.png")
    return path


def said() -> list[int]:
    q, _ = load_checkpoint(NET)
    return q.predict(load("digits", "test").first(6).pixels).tolist()


def answered(calif: Calif, *arguments: Any) -> dict[str, Any]:
    code, out, err = calif("run", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)["windows"][0]


def test_without_labels(calif: Calif, folder: Path) -> None:
    row = answered(calif, NET, "--images", folder / "x.npy")
    assert row["predictions"] == [{"image": str(k), "classifier.4": y} for k, y in enumerate(said())]
    assert (row["snn_accuracy"], row["quantised_accuracy"], row["count_mismatches"]) == (None, None, 0)
    code, out, _ = calif("run", NET, "--images", folder / "x.npy")
    assert code == 0
    assert "What lenet5 says at T = 8" in out
    lines = [line.split() for line in out.splitlines()]
    assert all([str(k), str(y)] in lines for k, y in enumerate(said()))


def test_with_labels(calif: Calif, folder: Path) -> None:
    row = answered(calif, NET, "--images", folder / "x.npy", "--labels", folder / "y.npy")
    assert row["snn_accuracy"] == np.mean(np.load(folder / "y.npy") == said())


def test_pictures_and_what_is_saved(calif: Calif, folder: Path, tmp_path: Path) -> None:
    row = answered(calif, NET, "--images", folder / "pictures", "--out", tmp_path / "said.npz")
    assert [r["image"] for r in row["predictions"]] == [f"{k}.png" for k in range(6)]
    assert [r["classifier.4"] for r in row["predictions"]] == said()
    with np.load(tmp_path / "said.npz") as kept:
        assert kept["classifier.4"].tolist() == said()
        assert kept["classifier.4.returned"].argmax(1).tolist() == said()
        assert kept["images"].tolist() == [f"{k}.png" for k in range(6)]
    (one,) = answered(calif, NET, "--images", folder / "pictures" / "3.png")["predictions"]
    assert one == {"image": "3.png", "classifier.4": said()[3]}


def written(q: QuantGraph, tmp_path: Path, n: int) -> tuple[Path, torch.Tensor]:
    converters.write(tmp_path / "net.nir", converters.to_nir(q, T=LEVELS))
    x = images(q, n)
    np.save(tmp_path / "x.npy", x.numpy())
    return tmp_path / "net.nir", x


def test_other_outputs(calif: Calif, tmp_path: Path) -> None:
    """Of several outputs each its own: a class, pixels of each class, numbers."""
    q = several()
    net, x = written(q, tmp_path, 3)
    values = q.execute(x)
    rows = answered(calif, net, "--images", tmp_path / "x.npy")["predictions"]
    for k, row in enumerate(rows):
        assert row["label"] == int(values["fc"][k].argmax())
        assert row["map"] == torch.bincount(values["pixels"][k].argmax(0).flatten(), minlength=3).tolist()
        assert row["numbers"] == int(q.returned(values)["numbers"][k].argmax())  # nobody says that it is none
    code, out, _ = calif("run", net, "--images", tmp_path / "x.npy")
    assert code == 0
    assert "map: pixels of each class" in out


def test_numbers_without_labels(calif: Calif, tmp_path: Path) -> None:
    q = of(several(), "numbers")
    net, x = written(q, tmp_path, 4)
    options = [net, "--images", tmp_path / "x.npy", "--values"]
    want = q.returned(q.execute(x))
    for row, value in zip(answered(calif, *options)["predictions"], want, strict=True):
        assert row["read"] == pytest.approx(value.tolist())
    code, out, _ = calif("run", *options)
    assert code == 0
    assert "mean absolute error" in out
    (tmp_path / "run.json").write_text(calif("run", *options, "--json")[1])
    assert calif("report", tmp_path / "run.json", "--nir", net)[0] == 0
    assert "values so far" in (tmp_path / "report.html").read_text()


def test_numbers_with_labels(calif: Calif, tmp_path: Path) -> None:
    q = of(several(), "numbers")
    net, x = written(q, tmp_path, 4)
    values = q.returned(q.execute(x))
    np.save(tmp_path / "y.npy", (values + 0.5).numpy())
    row = answered(calif, net, "--images", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
    assert row["outputs"][0]["spiking"]["mean_absolute"] == pytest.approx(0.5)
    assert row["snn_accuracy"] is None


def test_the_report_of_it(calif: Calif, folder: Path, tmp_path: Path) -> None:
    """The images are found again by the run's own words."""
    code, out, _ = calif("run", NET, "--images", folder / "pictures", "--json")
    (tmp_path / "run.json").write_text(out)
    code, out, err = calif("report", tmp_path / "run.json", "--checkpoint", NET, "--shown", 1, "--json")
    assert (code, err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert [row[2:4] for row in Reader(page).tables["windows-table"][1:]] == [["–", "–"]]
    assert "What it gets wrong" not in page
    assert "image 1</label>" in page


def test_simulators_are_compared_on_them(calif: Calif, folder: Path, tmp_path: Path) -> None:
    """And the report finds them again."""
    both = ("--backend", "fast", "--backend", "snntorch", "--json")
    spikes = []
    for where in ("x.npy", "pictures"):
        code, out, err = calif("cross-check", NET, "--images", folder / where, *both)
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert (found["dataset"], found["cross_check"]["images"]) == (str(folder / where), 6)
        spikes.append(found["checks"][0]["layers"]["snntorch"])
    assert spikes[0] == spikes[1]
    assert spikes[0][0]["positive"] == int(
        load_checkpoint(NET)[0].input.quantise(load("digits", "test").first(6).pixels).sum()
    )
    code, _, err = calif("cross-check", NET, "--images", folder / "x.npy", "--dataset", "digits")
    assert code == 2
    assert "--dataset: found digits, beside images in" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere.npy"], "--images: found 'nowhere.npy', neither a whole number nor a file"),
        (["--images", "0"], "--images: found 0; give a whole number of at least 1, or a file"),
        (["--images", "-3"], "--images: found -3; give a whole number of at least 1"),
        (["--images", "x.npy", "--dataset", "digits"], "--dataset: found digits, beside images in x.npy; give one"),
        (["--labels", "y.npy"], "--labels: found y.npy, without images of your own"),
        (["--images", "x.npy", "--out", "said.txt"], "--out: found said.txt; give a name that ends in .npz"),
        (["--images", "x.npy", "--out", "a.npz", "--window", "4", "--window", "8"], "--window: found 2 windows"),
        (["--images", "3", "--values"], "--values: found no images of your own; give it beside --images FILE alone"),
        (["--images", "x.npy", "--labels", "x.npy"], "labels: found numbers of shape (6, 1, 32, 32) for classifier.4"),
    ],
)  # fmt: skip
def test_mistakes(
    calif: Calif, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = calif("run", NET, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_images_in_the_place_of_a_network(calif: Calif, folder: Path) -> None:
    code, _, err = calif("run", folder / "x.npy")
    assert code == 2
    assert "x.npy: found images, and no network; name a network, and give --images" in err


def test_a_sweep_of_own_images(calif: Calif, folder: Path) -> None:
    """With labels it has accuracies, without none."""
    np.save(folder / "y.npy", np.arange(6) % 10)
    options = ("--window", 4, "--window", 8, "--json")
    for labels in ((), ("--labels", folder / "y.npy")):
        code, out, err = calif("sweep", NET, "--images", folder / "x.npy", *labels, *options)
        assert code == 0, err
        windows = json.loads(out)["windows"]
        assert [(w["T"], w["images"], w["count_mismatches"]) for w in windows] == [(4, 6, 0), (8, 6, 0)]
        assert [w["snn_accuracy"] is None for w in windows] == [not labels] * 2
    for bad, told in (
        (("--images", 3, "--labels", folder / "y.npy"), "without images of your own"),
        (("--images", folder / "x.npy", "--dataset", "digits"), "give one of them"),
        (("--images", folder / "x.npy", "--anytime"), "an accuracy needs them"),
        (("--images", folder / "none.npy"), "neither a whole number nor a file"),
    ):
        code, out, err = calif("sweep", NET, *bad)
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1


def test_own_images_in_other_simulators(calif: Calif, folder: Path) -> None:
    options = ("--route", "native", "--simulator", "snntorch", "--json")
    code, out, err = calif("interop", NET, "--images", folder / "x.npy", *options)
    assert code == 0, err
    found = json.loads(out)
    (row,) = found["rows"]
    assert (found["dataset"], row["images"], row["differing"]) == (str(folder / "x.npy"), 6, 0)
    assert row["spikes_compared"] > 0
    code, _, err = calif("interop", NET, "--images", folder / "x.npy", "--dataset", "digits", *options)
    assert code == 2
    assert "give one of them" in err
