"""CIFAR-100, Caltech-101 and Tiny-ImageNet: read as published, and the whole road from files to spikes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from calif_plugins.encoding import dog_filter
from converters.cli import main
from converters.errors import ConversionError
from converters.zoo import pictures
from converters.zoo.datasets import load
from tests.converters.zoo.picture_sets import write_caltech101, write_cifar100, write_tiny_imagenet


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CALIF_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def as_bytes(path: Path, size: Any = None) -> Any:
    image = Image.open(path).convert("RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def test_cifar100_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    written = write_cifar100(tmp_path)
    with pytest.raises(ConversionError, match=r"damaged files .* unpack cifar-100-python.tar.gz again"):
        load("cifar100", "test", root=tmp_path)  # their checksums are not those of the published files
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    for split, (rows, fine) in written.items():
        data = load("cifar100", split, root=tmp_path)
        assert data.labels.tolist() == fine
        assert data.classes == 100
        assert data.stored.dtype == torch.uint8
        assert torch.equal(data.pixels, torch.from_numpy(rows.reshape(-1, 3, 32, 32)).float() / 255)


@pytest.mark.parametrize("shape", [(2, 3, 20, 17), (9, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dog_filter_against_scipy(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.random.default_rng(0).random(shape).astype(dtype)
    axes = (-2, -1)
    theirs = [gaussian_filter(x, s, axes=axes, radius=3, mode="mirror") for s in (1.0, 2.0)]
    point = np.zeros((7, 7))
    point[3, 3] = 1
    kernel = [gaussian_filter(point, s, radius=3, mode="constant") for s in (1.0, 2.0)]
    kernel = kernel[0] - kernel[1]
    ours = dog_filter(x)
    assert ours.dtype == dtype
    assert np.allclose(ours, (theirs[0] - theirs[1]) / kernel[kernel > 0].sum(), atol=1e-6)
    assert np.abs(dog_filter(np.full(shape, 0.7, dtype))).max() < 1e-6  # nothing where nothing changes
    worst = (kernel > 0).astype(dtype)  # the image that a neuron in its middle likes most
    assert dog_filter(np.pad(worst, 6))[9, 9] == pytest.approx(1.0, abs=1e-5)


def test_dog_filter_misuse() -> None:
    with pytest.raises(ValueError, match="0 < inner < outer"):
        dog_filter(np.zeros((9, 9)), inner=2.0, outer=1.0)
    with pytest.raises(ValueError, match="above 3; found"):
        dog_filter(np.zeros((9, 3)))
    with pytest.raises(ValueError, match="expected floats"):
        dog_filter(np.zeros((9, 9), dtype=np.int64))


def test_caltech101(tmp_path: Path) -> None:
    from torchvision.datasets import Caltech101

    folder = write_caltech101(tmp_path)
    both = {split: load("caltech101", split, root=tmp_path) for split in ("train", "test")}
    assert (len(both["train"]), len(both["test"])) == (22, 6)  # 28 images in the proportion of 6,162 to 1,695
    theirs = Caltech101(str(tmp_path))
    assert both["test"].classes == len(theirs.categories) == 3
    names = theirs.categories
    files = {}
    for image, label in ((i, y) for i, y in theirs):
        image = image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)
        files[np.asarray(image).transpose(2, 0, 1).tobytes()] = label
    assert len(files) == 28
    for data in both.values():  # every file once, in one of them, under torchvision's label
        assert data.shape == (3, 128, 128)
        assert [files.pop(x.numpy().tobytes()) for x in data.stored] == data.labels.tolist()
    assert not files
    assert sorted(p.name for p in folder.iterdir() if p.name in names) == names
    test = both["test"]
    assert test.signed
    expected = dog_filter(test.stored.numpy().astype(np.float32) / 255)
    assert np.allclose(test[2:4].pixels.numpy(), expected[2:4], atol=1e-6)
    assert test.pixels.min() < -0.05
    assert test.pixels.max() > 0.05
    again = load("caltech101", "test", root=tmp_path)  # from the cache
    assert torch.equal(again.stored, test.stored)
    assert torch.equal(again.labels, test.labels)


def test_the_papers_split_of_the_whole_collection() -> None:
    """The class sizes of the published collection: 8,677 images in 101 classes."""
    rng = np.random.default_rng(0)
    counts = np.full(101, 40)
    extra = rng.multinomial(8677 - 101 * 40, rng.dirichlet(np.full(101, 0.3)))
    counts = counts + extra
    assert counts.sum() == 8677
    test = pictures._shares(counts, pictures.CALTECH_TEST)
    train = pictures._shares(counts - test, pictures.CALTECH_TRAIN)
    assert (test.sum(), train.sum()) == (1695, 6162)
    assert (test + train <= counts).all()
    assert np.abs(test - counts * 1695 / 8677).max() < 1
    assert test.min() >= 7


def test_tiny_imagenet(tmp_path: Path) -> None:
    folder, wnids = write_tiny_imagenet(tmp_path)
    train, test = (load("tinyimagenet", split, root=tmp_path) for split in ("train", "test"))
    assert (len(train), len(test), test.classes) == (9, 4, 3)
    written = {}
    for c, w in enumerate(wnids):
        for path in (folder / "train" / w / "images").iterdir():
            written[as_bytes(path).numpy().tobytes()] = c
    assert [written.pop(x.numpy().tobytes()) for x in train.stored] == train.labels.tolist()
    for k in range(4):
        (place,) = [
            j for j in range(4) if torch.equal(test.stored[j], as_bytes(folder / "val" / "images" / f"val_{k}.JPEG"))
        ]
        assert wnids[int(test.labels[place])] == wnids[(k + 1) % 3]
    assert not test.signed
    assert test.pixels.shape == (4, 3, 64, 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "wnids.txt").unlink(), "wnids.txt: found no such file; unpack tiny-imagenet-200.zip again"),
        (lambda f: (f / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn1\n"), "labels that make no sense"),
        (lambda f: (f / "val" / "images" / "val_1.JPEG").unlink(), "val_1.JPEG: found no such file"),
        (lambda f: (f / "val" / "images" / "val_1.JPEG").write_bytes(b"\xff\xd8junk"), "a damaged picture"),
    ],
)
def test_damaged_tiny_imagenet(tmp_path: Path, spoil: Callable[..., Any], message: str) -> None:
    folder, _ = write_tiny_imagenet(tmp_path)
    spoil(folder)
    with pytest.raises(ConversionError) as caught:
        load("tinyimagenet", "test", root=tmp_path)
    assert message in str(caught.value)


def test_empty_caltech(tmp_path: Path) -> None:
    (tmp_path / "caltech101" / "101_ObjectCategories").mkdir(parents=True)
    with pytest.raises(ConversionError, match=r"no classes with \.jpg files"):
        load("caltech101", "test", root=tmp_path)


@pytest.mark.parametrize(
    ("dataset", "write", "signed"),
    [("caltech101", write_caltech101, True), ("tinyimagenet", write_tiny_imagenet, False)],
)
def test_the_whole_road(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, write: Callable[..., Any], signed: bool
) -> None:
    """Files, one short epoch of each kind, conversion, spikes that equal integers."""
    write(tmp_path / "data")
    common = ["--data-root", str(tmp_path / "data"), "--json"]

    def calif(*arguments: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *common])
        assert not stopped.value.code
        return json.loads(capsys.readouterr().out)

    trained = calif(
        "train", "--network", "lenet5", "--dataset", dataset, "--levels", "8", "--epochs", "1", "--qat-epochs", "1"
    )
    result = calif("run", "--checkpoint", trained["checkpoint"], "--window", "8", "--images", "3")
    (row,) = result["windows"]
    assert result["dataset"] == dataset
    assert row["counts_compared"] > 3 * 10_000
    assert row["count_mismatches"] == 0
    assert row["prediction_agreement"] == 1.0
    from converters.files.quantised_file import load_quantised

    q = load_quantised(trained["checkpoint"])
    assert (q.input.q_min < 0) == signed
    integers = q.input.quantise(load(dataset, "test", root=tmp_path / "data").pixels)
    assert bool((integers < 0).any()) == signed  # so signed spikes
    assert row["spikes_per_image"] > 0
