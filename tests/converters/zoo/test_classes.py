"""One numbering of the classes: that of the training part, or of the network."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from converters.errors import ConversionError
from converters.files.quantised_file import load_with_notes
from converters.zoo.datasets import load
from converters.zoo.pictures import zipped
from tests.command_line import Calif

NAMES = ("ant", "bee", "cow", "dog", "eel")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(root: Path, part: str, names: tuple[str, ...], each: int = 2) -> None:
    """Pictures whose grey says their class."""
    for name in names:
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(each):
            grey = 40 * NAMES.index(name) + k
            Image.new("RGB", (32, 32), (grey, grey, grey)).save(folder / f"{k}.png")


def pack(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root).as_posix())
    return path


_SOME = st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(tuple)


@given(train=_SOME, test=_SOME)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_two_parts(tmp_path_factory: pytest.TempPathFactory, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Whatever classes the parts have: labels are those of the training part, or one line names what it lacks."""
    root = tmp_path_factory.mktemp("data") / "own"
    write(root, "train", train)
    write(root, "test", test)
    for read in (lambda: load(str(root), "test"), lambda: zipped(pack(root), "test")):
        unknown = sorted(set(test) - set(train))
        if unknown:
            with pytest.raises(ConversionError, match=f"found the class '{unknown[0]}'; train/ has {min(train)}"):
                read()
            continue
        data = read()
        assert data.names == tuple(sorted(train))
        assert data.classes == len(train)
        greys = [int(x.float().mean()) // 40 for x in data.stored]
        assert [NAMES[g] for g in greys] == [data.names[y] for y in data.labels]


def test_the_networks_own_numbering(tmp_path: Path) -> None:
    """Of a folder that has no training part, or another one by now."""
    root = tmp_path / "own"
    write(root, "test", ("cow", "ant"))
    with pytest.raises(ConversionError, match=r"own/train: found no folders of classes; it needs train/<class>/"):
        load(str(root), "test")
    data = load(str(root), "test", classes=("cow", "bee", "ant"))
    assert (data.classes, data.names, sorted(set(data.labels.tolist()))) == (3, ("cow", "bee", "ant"), [0, 2])
    write(root, "train", ("ant",))
    again = load(str(root), "test", classes=("cow", "bee", "ant"))
    assert torch.equal(again.labels, data.labels)
    with pytest.raises(ConversionError, match="found the class 'cow'; the network was trained on ant, bee"):
        load(str(root), "test", classes=("ant", "bee"))


def test_a_network_keeps_its_numbering(tmp_path: Path, calif: Calif) -> None:
    """Trained on three classes and tested on two of them, and on a folder with one more."""
    write(tmp_path / "own", "train", ("ant", "cow", "dog"), 8)
    write(tmp_path / "own", "test", ("cow", "dog"), 8)
    short = ["--epochs", "6", "--qat-epochs", "3", "--levels", "7", "--out", "out", "--json"]
    code, out, _ = calif("train", "--dataset", "own", *short)
    assert code == 0
    trained = json.loads(out)
    assert load_with_notes(trained["checkpoint"])[1]["classes"] == ["ant", "cow", "dog"]
    write(tmp_path / "other", "test", ("cow", "dog"), 8)  # no train/ here
    accuracies = []
    for name in ("own", "other"):
        code, out, err = calif("run", "--checkpoint", trained["checkpoint"], "--dataset", name, "--json")
        assert (code, err) == (0, "")
        accuracies.append(json.loads(out)["windows"][0]["quantised_accuracy"])
    assert accuracies == [trained["quantised_accuracy"]] * 2
    write(tmp_path / "other", "test", ("bee",))
    code, out, err = calif("run", "--checkpoint", trained["checkpoint"], "--dataset", "other")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "other/test: found the class 'bee'; the network was trained on ant, cow, dog: rename or remove it" in err


def test_what_is_no_class(tmp_path: Path) -> None:
    """Files beside the folders, hidden folders, files that are no pictures, empty classes, and links in circles."""
    root = tmp_path / "own"
    write(root, "train", ("ant", "cow"))
    for name in ("bee", ".ipynb_checkpoints"):
        (root / "train" / name).mkdir()
    (root / "train" / "readme.txt").touch()
    (root / "train" / "ant" / "Thumbs.db").touch()
    (root / "train" / "ant" / "deeper").mkdir()
    Image.new("RGB", (32, 32)).save(root / "train" / "ant" / "deeper" / "9.PNG")
    for k in range(3):
        (root / "train" / "ant" / f"again{k}").symlink_to(".", target_is_directory=True)
        (root / "train" / "cow" / f"again{k}").symlink_to(".", target_is_directory=True)
    data = load(str(root), "train")
    assert data.names == ("ant", "bee", "cow")
    assert np.bincount(data.labels.numpy(), minlength=3).tolist() == [3, 0, 2]
