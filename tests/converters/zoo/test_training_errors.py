"""What ``train`` refuses before it begins: a file to start from, images and seeds that it cannot use."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import converters
from converters.cli import main
from converters.errors import ConversionError
from converters.zoo.images import Images
from converters.zoo.named import find_checkpoint, load_checkpoint
from converters.zoo.networks import build
from converters.zoo.recipes import Recipe
from converters.zoo.training import _check_shape, _mix, train
from converters.zoo.training_file import read_checkpoint_of
from tests.converters.zoo.picture_sets import picture

NONE = Recipe(epochs=0, qat_epochs=0, batch=4)
ABOUT = {"network": "lenet5", "shape": [3, 32, 32], "classes": 3}


def images(height: int = 32, width: int = 32) -> Any:
    pixels = torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(4) % 3, 3)


def refused(tmp_path: Path, data: Any, test: Any = None, network: str = "lenet5", **options: Any) -> Any:
    """The one message; nothing has been written."""
    folder = tmp_path / "out"
    with pytest.raises(ConversionError) as caught:
        train(network, data, test or data, folder=folder, name=f"{network}-x-7", recipe=NONE, **options)
    assert not folder.exists() or not list(folder.iterdir())
    return str(caught.value)


def checkpoint(path: Path, **entries: Any) -> None:
    text = {"about": json.dumps(ABOUT), "log": "[]", "before": "[]"}
    torch.save({"model": {}, "optimiser": {}, **text, **entries}, path)


@pytest.mark.parametrize("key", ["about", "log", "before"])
@pytest.mark.parametrize("entry", ["", "{", "3", "null", b"x", None, 7, torch.zeros(2)])
def test_a_checkpoint_whose_text_is_no_json(tmp_path: Path, key: str, entry: Any) -> None:
    path = tmp_path / "x.float.pt"
    checkpoint(path)
    found = read_checkpoint_of(path, ABOUT, None, "a checkpoint", "")
    assert (found.about, found.whole_log) == (ABOUT, [])
    checkpoint(path, **{key: entry})
    for options in ({"start": path}, {"teachers": [path]}):
        found = refused(tmp_path, images(), **options)
        if type(entry) is bytes:  # not even built
            assert found.startswith(f"{path}: found a file that is no checkpoint of calif train (_codecs encode in it)")
        else:
            assert (
                found == f"{path}: found a file that is no checkpoint of calif train; weights of your own go into your "
                "module, and from there through converters.quantise or prepare_qat"
            )


@pytest.mark.parametrize("value", [torch.zeros(2), torch.tensor(1), [1], "text", None, {"a": 1}])
def test_another_file_of_torch(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "x.float.pt"
    torch.save(value, path)
    assert "found a file that is no checkpoint of calif train" in refused(tmp_path, images(), start=path)


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x80\x02.", b"\x80\x02e.", b"\x80\x02}q\x00h\x01.", b"\x80\x02Nb."])
def test_a_checkpoint_of_junk(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "x.float.pt"
    path.write_bytes(junk)
    said = refused(tmp_path, images(), start=path)
    assert re.match(
        f"{path}: found (an empty file|a file of another kind|a pickle), no checkpoint of calif train; ", said
    )
    assert "delete" not in said, "it may be anybody's"


def test_a_checkpoint_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.float.pt"
    checkpoint(path, more=torch.zeros(100))
    path.write_bytes(path.read_bytes()[:-90])
    assert f"{path}: found a damaged checkpoint (" in refused(tmp_path, images(), start=path)


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def _write(kind: str, path: Path) -> None:
    weights = {"weight": torch.zeros(3, 2)}
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "quantised":
        shutil.copy(find_checkpoint("lenet5-mnist-8"), path)
    elif kind == "nir":
        converters.write(path.with_suffix(".nir"), converters.to_nir(load_checkpoint("lenet5-mnist-8")[0], T=8))
        path.with_suffix(".nir").rename(path)
    elif kind == "onnx":
        converters.to_onnx(load_checkpoint("lenet5-mnist-8")[0], path.with_suffix(".onnx"))
        path.with_suffix(".onnx").rename(path)
    elif kind == "export":
        torch.export.save(torch.export.export(Small(), (torch.zeros(1, 2),)), path.with_suffix(".pt2"))
        path.with_suffix(".pt2").rename(path)
    elif kind == "module":
        torch.save(nn.Linear(2, 3), path)
    elif kind == "state":
        torch.save(weights, path)
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "picture":
        Image.new("L", (8, 8)).save(path, format="png")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "text")


OWN = "weights of your own go into your module, and from there through converters.quantise or prepare_qat"
GIVE = "give a .float.pt, .average.pt or .qat.pt of calif train"
FILES = {
    "safetensors": f"a .safetensors file, no checkpoint of calif train; {GIVE}; {OWN}",
    "quantised": f"a .safetensors file, no checkpoint of calif train; {GIVE}; {OWN}",
    "nir": f"a .nir file (HDF5), no checkpoint of calif train; {GIVE}",
    "onnx": f"an ONNX model, no checkpoint of calif train; {GIVE}",
    "export": "a program of torch.export, no checkpoint of calif train; give torch.export.load(...).module() to "
    "converters.quantise",
    "module": f"a file that is no checkpoint of calif train (torch.nn.modules.linear Linear in it); {OWN}",
    "state": f"a file that is no checkpoint of calif train; {OWN}",
    "array": f"an array of NumPy, no checkpoint of calif train; {GIVE}",
    "picture": f"a picture, no checkpoint of calif train; {GIVE}",
    "zip": f"a zip file, no checkpoint of calif train; {GIVE}",
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path, kind: str) -> None:
    """By what is in them: the name is that of a checkpoint."""
    path = tmp_path / "x.float.pt"
    _write(kind, path)
    for options in ({"start": path}, {"teachers": [path]}):
        assert refused(tmp_path, images(), **options) == f"{path}: found {FILES[kind]}"


@pytest.mark.parametrize("name", ["absent.float.pt", "folder"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    for options in ({"start": path}, {"teachers": [path]}):
        found = refused(tmp_path, images(), **options)
        what = "a folder" if name == "folder" else "no such file"
        assert found == f"{path}: found {what}; give a .float.pt, .average.pt or .qat.pt of calif train"


@pytest.mark.parametrize(
    ("network", "data", "test", "size"),
    [
        ("lenet5", (20, 33), (20, 33), "20 x 33"),
        ("vgg9", (33, 20), (33, 20), "33 x 20"),
        ("lenet5", (8, 8), (8, 8), "8 x 8"),
        ("lenet5", (32, 32), (28, 28), "28 x 28"),
    ],
)
def test_images_that_do_not_fit_the_network(
    tmp_path: Path, network: str, data: tuple[int, int], test: tuple[int, int], size: str
) -> None:
    found = refused(tmp_path, images(*data), images(*test), network)
    assert found == (
        f"images: found {size} pixels, which {network} does not take; "
        "resize those for training and for tests to one square size"
    )


def test_the_command_refuses_them_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for k in range(4):
        folder = tmp_path / "wide" / ("train" if k < 2 else "test") / "ab"[k % 2]
        folder.mkdir(parents=True)
        picture(k, 33, 20).save(folder / "0.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--dataset", "wide", "--epochs", "1", "--qat-epochs", "1"])
    out, err = capfd.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert "20 x 33 pixels, which lenet5 does not take" in err


@pytest.mark.parametrize(("network", "shape"), [("mobilenet20", (3, 20, 33)), ("resnet11h", (3, 31, 32))])
def test_a_network_that_takes_them_still_does(network: str, shape: tuple[int, int, int]) -> None:
    """Global pools and rounded strides take other shapes; the look changes neither it nor the random numbers."""
    model = build(network, 3, 3, shape[-1])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    _check_shape(model, network, shape)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("seed", [2**42, -(2**42), 2**64, 10**30])
def test_seeds_that_torch_cannot_hold(tmp_path: Path, seed: int) -> None:
    found = refused(tmp_path, images(), seed=seed)
    assert found == f"--seed: found {seed}; use a whole number between -2**42 and 2**42"


@pytest.mark.parametrize("seed", [2**42 - 1, 1 - 2**42])
def test_the_largest_seeds(seed: int) -> None:
    for phase in ("float", "average", "qat"):
        torch.manual_seed(_mix(seed, phase, 100_000))  # as every epoch does


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "device: found cuda, which cannot be used here" in refused(tmp_path, images(), device="cuda")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--device", "cuda", "--out", str(tmp_path / "run")])
    found = capsys.readouterr().err.strip().splitlines()
    assert len(found) == 1
    assert "--device: found cuda" in found[0]
    assert not (tmp_path / "run").exists()
