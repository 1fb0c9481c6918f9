"""``calif quantise`` and ``calif convert --torchvision``: a float network and some pictures, one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import datasets, models

import converters
from converters.commands.torchvision_networks import torchvision_network
from converters.errors import ConversionError
from converters.files.quantised_file import save_quantised
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from converters.zoo.networks import build
from converters.zoo.picture_folder import PictureFolder
from converters.zoo.training_file import Checkpoint, write_checkpoint
from tests.command_line import Calif
from tests.converters.zoo.picture_sets import picture

NAMES = ("ant", "bee")


@pytest.fixture
def network(tmp_path: Path) -> tuple[Path, nn.Module]:
    """The file of a float network for the digits, with random weights."""
    torch.manual_seed(0)
    model = build("lenet5").eval()
    about = {"network": "lenet5", "shape": [1, 32, 32], "classes": 10}
    write_checkpoint(tmp_path / "lenet5-digits.float.pt", Checkpoint(about, model.state_dict(), {}, []))
    return tmp_path / "lenet5-digits.float.pt", model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ImageNet, two pictures each, of other sizes."""
    for c, name in enumerate(NAMES):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(2):
            picture(10 * c + k, 300 + 20 * k, 280).save(tmp_path / "pictures" / name / f"{k}.png")
    return tmp_path / "pictures"


def test_a_network_of_calif_train(calif: Calif, network: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, model = network
    out = tmp_path / "q.safetensors"
    code, text, err = calif(
        "quantise", path, "--levels", 40, "--images", 100, "--calibration-images", 60, "--out", out, "--json"
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(text)
    test = load("digits", "test").first(100)
    q, notes = load_checkpoint(str(out))
    assert found["float_accuracy"] == float((model(test.pixels).argmax(1) == test.labels).double().mean())
    right = float((q.predict(test.pixels) == test.labels).double().mean())
    assert found["quantised_accuracy"] == pytest.approx(right, abs=0.011)  # one near-tie of float32
    assert found["report"]["images"] == 100
    assert [row["layer"] for row in found["report"]["layers"]][:2] == ["input", "features.0"]
    assert (notes["network"], notes["dataset"], notes["levels"], q.levels) == ("lenet5", "digits", 40, 40)
    assert calif("run", "--checkpoint", out, "--images", 2, "--json")[0] == 0


def test_levels_by_layer(
    calif: Calif, network: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = network
    levels = ("--levels", 7, "--levels", "features.0=20", "--levels", "classifier=3")
    arguments = ("--images", 20, "--calibration-images", 20, "--input-levels", 9)
    assert calif("quantise", path, *levels, *arguments)[0] == 0
    out = Path("lenet5-digits-7+classifier=3+features.0=20.safetensors")
    q, notes = load_checkpoint(str(out))
    assert [layer.y_max for layer in q.layers] == [20, 7, 7, 7, 3, 3, 0]
    assert (q.levels, q.input.levels, notes["levels"]) == (20, 9, 20)
    assert notes["levels_by_layer"] == {"": 7, "features.0": 20, "classifier": 3}
    code, text, _ = calif("run", "--checkpoint", out, "--images", 4, "--json")
    (row,) = json.loads(text)["windows"]
    assert (code, row["T"], row["count_mismatches"]) == (0, 20, 0)
    code, text, err = calif("quantise", path, "--levels", 7, "--levels", "features.9=3", *arguments)
    assert (code, text, len(err.splitlines())) == (2, "", 1)
    assert "levels of 'features.9': found a path in which no layer with levels lies; layers are features.0" in err


def test_for_people_it_is_a_table(calif: Calif, network: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, _ = network
    arguments = ("--levels", 7, "--images", 20, "--calibration-images", 20, "--reconstruct", 20, "--ranges", "minmax")
    code, text, _ = calif("quantise", path, *arguments, "--out", tmp_path / "q.safetensors")
    assert code == 0
    assert "signal to noise, dB" in text
    assert "points lost" in text
    q, _ = load_checkpoint(str(tmp_path / "q.safetensors"))
    assert not q.output.spiking  # with few levels, logits are read from the membrane


def test_what_does_not_fit_is_one_line(calif: Calif, network: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, model = network
    other = path.rename(tmp_path / "mine.pt")
    write_checkpoint(
        tmp_path / "q.pt", Checkpoint({"network": "lenet5", "levels": 7}, model.state_dict(), {}, [])
    )  # fmt: skip
    q, notes = load_checkpoint("lenet5-mnist-8")
    save_quantised(tmp_path / "q.safetensors", q, notes=notes)
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    converters.write(tmp_path / "q.nir", converters.to_nir(q, T=8))
    already = "a network that is quantised already; calif convert and run take it as it is; for other levels, give the"
    wrong: list[tuple[list[Any], str]] = [
        (["lenet5-mnist-8"], f"lenet5-mnist-8: found {already} .float.pt that it came from"),
        ([tmp_path / "q.safetensors"], f"q.safetensors: found {already} .float.pt that it came from"),
        ([tmp_path / "w.safetensors"], "w.safetensors: found a .safetensors file, no checkpoint of calif train; give"),
        ([tmp_path / "q.nir"], "q.nir: found a .nir file; calif run takes it as it is; for other levels"),
        ([other], "--dataset: found none; say what the network was trained on"),
        ([tmp_path / "q.pt"], "found a quantised run; give the .float.pt that it started from"),
        ([tmp_path / "none.pt"], "none.pt"),
        (
            [other, "--dataset", "digits", "--ranges", "best"],
            "ranges: found 'best'; use one of minmax, percentile, mse",
        ),
        ([other, "--dataset", "nonsense"], "dataset: found 'nonsense'"),
    ]
    for arguments, message in wrong:
        code, text, err = calif("quantise", *arguments, "--out", tmp_path / "x.safetensors")
        assert (code, text, len(err.splitlines())) == (2, "", 1)
        assert message in err


def test_a_classifier_of_torchvision(calif: Calif, pictures: Path, tmp_path: Path) -> None:
    arguments = ("--torchvision", "squeezenet1_1", "--weights", "none", "--levels", 15, "--side", 40)
    code, text, err = calif("convert", *arguments, "--out", tmp_path / "x.nir", "--calibrate", pictures, "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert found["files"][0]["T"] == 15
    assert found["report"]["images"] == found["calibration_images"] == 4
    assert found["report"]["float_accuracy"] in (0, 0.25, 0.5, 0.75, 1)  # its folders bear names of ImageNet's classes
    assert "resize_size [46], crop_size [40]" in found["transform"]
    graph = converters.read(tmp_path / "x.nir")
    assert converters.run(graph, torch.zeros(1, 3, 40, 40), backend="closed_form").counts


def test_folders_that_are_no_classes_are_named(calif: Calif, pictures: Path, tmp_path: Path) -> None:
    """Names of the archive's, as ImageNet is unpacked; and its pictures as they are given to the network."""
    other = pictures.rename(tmp_path / "other")
    (other / "ant").rename(other / "n02219486")
    arguments = ("--torchvision", "squeezenet1_1", "--weights", "none", "--levels", 7, "--side", 40)
    code, text, err = calif("convert", *arguments, "--calibrate", other, "--out", tmp_path / "x.nir")
    assert (code, "points lost" in text, err.count("\n")) == (0, False, 1)
    assert f"{other}: found folders that are no classes of squeezenet1_1 (bee, n02219486); name them so" in err
    picture(3, 40, 40).save(tmp_path / "small.png")
    code, _, err = calif("run", tmp_path / "x.nir", "--images", tmp_path / "small.png", "--backend", "closed_form")
    assert (code, err.count("\n")) == (0, 1)
    assert "small.png: found bytes, as 0 to 1, for a network whose input has both signs; give what the network's" in err


@pytest.mark.slow
def test_resnet18_count_for_count(calif: Calif, pictures: Path, tmp_path: Path) -> None:
    """With pictures to report on, in no folders of classes, and weights that are fitted."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for k in range(3):
        picture(k, 256, 256).save(flat / f"{k}.jpg")
    arguments = ("--torchvision", "resnet18", "--weights", "none", "--levels", 16, "--reconstruct", 4)
    code, text, _ = calif("convert", *arguments, "--calibrate", pictures, "--images", flat, "--out", tmp_path / "x.nir")
    assert code == 0
    assert "of 3 images" in text
    assert "accuracy" not in text
    graph = converters.read(tmp_path / "x.nir")
    transform = torchvision_network("resnet18", "none").transform
    images = torch.stack([transform(Image.open(flat / f"{k}.jpg")) for k in range(2)])
    a, b = (converters.run(graph, images, backend=backend).counts for backend in ("closed_form", "fast"))
    assert all(torch.equal(a[name].long(), b[name].long()) for name in b)


def test_weights_of_a_file_are_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.squeezenet1_1(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = torchvision_network("squeezenet1_1", str(tmp_path / "w.pth"))
    assert (found.classes, found.categories) == (7, [])
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.model(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--torchvision", "resnet18", "--checkpoint", "x"),
            "input: found --torchvision and another network; give one",
        ),
        (("--torchvision", "resnet18"), "--calibrate: found none; name a folder of pictures"),
        (("--torchvision", "resnet99", "--calibrate", "{pictures}"), "'resnet99'; use a classifier of it, such as res"),
        (("--torchvision", "alexnet", "--calibrate", "{pictures}/nothing", "--weights", "none"), "no such folder"),
        (("--torchvision", "resnet18", "--calibrate", "{tmp}", "--weights", "{tmp}/junk"), "is no state_dict"),
        (("--torchvision", "resnet18", "--calibrate", "{tmp}", "--weights", "{tmp}/absent"), "absent"),
        (("--torchvision", "squeezenet1_1", "--calibrate", "{tmp}", "--weights", "{tmp}/other"), "of another network"),
        (
            ("--torchvision", "squeezenet1_1", "--calibrate", "{tmp}/empty", "--weights", "none"),
            "no pictures; put",
        ),
    ],
)
def test_what_torchvision_has_not_is_one_line(
    calif: Calif, pictures: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "other")
    given = [text.format(pictures=pictures, tmp=tmp_path) for text in arguments]
    code, text, err = calif("convert", *given, "--out", tmp_path / "x.nir")
    assert (code, text, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "x.nir").exists()


def test_no_download_is_one_line(calif: Calif, pictures: Path, monkeypatch: Any, tmp_path: Path) -> None:
    """A proxy that nobody listens at is a machine without a network."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code, text, err = calif("convert", "--torchvision", "squeezenet1_1", "--calibrate", pictures)
    assert (code, text, len(err.splitlines())) == (2, "", 1)
    assert "--weights: found DEFAULT, and no download (" in err
    assert "give a file of them, such as squeezenet1_1-b8a52dc0.pth; or none, for random ones" in err


def test_a_folder_is_torchvisions_own(pictures: Path) -> None:
    """Pictures and labels, against ``torchvision.datasets.ImageFolder``."""
    transform = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    ours = PictureFolder(pictures, transform, batch=3)
    theirs = datasets.ImageFolder(str(pictures), transform)
    for _ in range(2):  # it can be gone through again
        assert torch.equal(torch.cat(list(ours)), torch.stack([x for x, _ in theirs]))
    assert ours.classes == theirs.classes == list(NAMES)
    labels = ours.labels([], 2)
    assert labels is not None
    assert labels.tolist() == [k for _, k in theirs.samples]
    categories = ["cat", "bee", "dog", "ant"]
    named = ours.labels(categories, 4)
    assert named is not None
    assert [categories[k] for k in named] == ["ant", "ant", "bee", "bee"]
    assert ours.labels(["cat", "dog"], 1000) is None
    assert len(PictureFolder(pictures, transform, most=3)) == 3
    (pictures / "ant" / "0.png").rename(pictures / "loose.png")
    assert PictureFolder(pictures, transform).classes == []  # a folder whose pictures are not all in a class


def test_a_damaged_picture_is_named(pictures: Path) -> None:
    (pictures / "ant" / "0.png").write_bytes(b"junk")
    with pytest.raises(ConversionError, match=r"0\.png"):
        list(PictureFolder(pictures, lambda image: torch.from_numpy(np.asarray(image))))
