"""Data sets read from small files in the exact formats that their publishers use."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.errors import ConversionError
from converters.zoo.datasets import load


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but what the test writes, and no way to the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CALIF_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    """The format of yann.lecun.com: two zeros, type 8 (unsigned byte), number of axes, sizes, data."""
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root: Path, packed: bool) -> Any:
    rng = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    written = {}
    for prefix, n in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        written[prefix] = images, labels
        for name, data in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            if packed:
                (raw / f"{name}.gz").write_bytes(gzip.compress(idx(data)))
            else:
                (raw / name).write_bytes(idx(data))
    return written


@pytest.mark.parametrize("packed", [True, False])
def test_mnist(home: Path, packed: bool) -> None:
    written = write_mnist(home / "data", packed)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        data = load("mnist", split, root=home / "data")
        images, labels = written[prefix]
        assert data.pixels.shape == (len(labels), 1, 32, 32)
        assert data.classes == 10
        assert torch.equal(data.labels, torch.from_numpy(labels).long())
        assert torch.equal(data.pixels[:, 0, 2:30, 2:30], torch.from_numpy(images).float() / 255)
        assert not data.pixels[:, :, :2].any()


def test_mnist_in_the_environments_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(home / "elsewhere", True)
    monkeypatch.setenv("CALIF_DATA", str(home / "elsewhere"))
    assert len(load("mnist", "test")) == 3


@pytest.mark.parametrize(
    ("packed", "spoil"),
    [
        (False, lambda b: b[:-1]),
        (False, lambda b: b[:6]),
        (False, lambda b: b + b"\0"),
        (False, lambda b: b"<html>no such page</html>"),
        (False, lambda b: b"\0\0\x0a" + b[3:]),  # a type that there is not
        (False, lambda b: b""),
        (True, lambda b: gzip.compress(b)[:-10]),
        (True, lambda b: gzip.compress(b[:-1])),
        (True, lambda b: gzip.compress(b)[:10] + b"\xff" * 40 + gzip.compress(b)[50:]),
        (True, lambda b: b"<html>no such page</html>"),
        (True, lambda b: b""),
    ],
)
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_damaged_mnist(home: Path, packed: bool, spoil: Callable[..., Any], kind: str) -> None:
    written = write_mnist(home / "data", packed)
    path = home / "data" / "MNIST" / "raw" / f"t10k-{kind}-ubyte{'.gz' if packed else ''}"
    path.write_bytes(spoil(idx(written["t10k"][kind.startswith("labels")])))
    with pytest.raises(ConversionError, match=r"damaged file \(.+\); download it again") as caught:
        load("mnist", "test", root=home / "data")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "sizes"),
    [
        ((3, 28, 28), (5,), ("3 x 28 x 28", "5")),
        ((3, 28, 28), (2,), ("3 x 28 x 28", "2")),
        ((3,), (3,), ("3", "3")),
        ((3, 28, 28), (3, 28, 28), ("3 x 28 x 28", "3 x 28 x 28")),
    ],
)
def test_mnist_of_files_that_do_not_belong_together(
    home: Path, images: tuple[int, ...], labels: tuple[int, ...], sizes: tuple[str, str]
) -> None:
    write_mnist(home / "data", False)
    raw = home / "data" / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros(images, dtype=np.uint8)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(labels, dtype=np.uint8)))
    with pytest.raises(ConversionError) as caught:
        load("mnist", "test", root=home / "data")
    found = "found {} images in t10k-images-idx3-ubyte, {} labels in t10k-labels-idx1-ubyte; download both again"
    assert str(caught.value) == f"{raw}: {found.format(*sizes)}"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("cifar10", "the unpacked cifar-10-python.tar.gz"),
        ("cifar100", "the unpacked cifar-100-python.tar.gz"),
        ("caltech101", "the unpacked 101_ObjectCategories"),
        ("tinyimagenet", "the unpacked tiny-imagenet-200.zip"),
    ],
)
def test_absent_data_says_what_to_put_where(home: Path, name: str, files: str) -> None:
    (home / "empty").mkdir()
    with pytest.raises(ConversionError) as caught:
        load(name, "train", root=home / "empty")
    assert files in str(caught.value)
    assert str(home / "empty") in str(caught.value)
    assert "--data-root or CALIF_DATA" in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "cifar100", "caltech101", "tinyimagenet"])
@pytest.mark.parametrize("spelt", ["mistyped", "mistyped/deeper", "file"])
def test_a_root_that_is_not_there(home: Path, name: str, spelt: str) -> None:
    (home / "file").touch()
    with pytest.raises(ConversionError) as caught:
        load(name, "train", root=home / spelt)
    assert str(caught.value) == (
        f"{home / spelt}: found no such folder; name the one that has the data sets, or make it for a download"
    )
    assert [p.name for p in home.iterdir()] == ["file"]


def test_cifar10_as_published(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(1)
    folder = home / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows, labels = {}, {}
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for name in names:
        rows[name] = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        labels[name] = rng.integers(0, 10, 2).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": rows[name], "labels": labels[name]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with pytest.raises(ConversionError, match=r"damaged files .* unpack cifar-10-python.tar.gz again"):
        load("cifar10", "test", root=home / "data")  # their checksums are not those of the published files
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    data = load("cifar10", "test", root=home / "data")
    assert torch.equal(data.pixels, torch.from_numpy(rows["test_batch"].reshape(2, 3, 32, 32)).float() / 255)
    train = load("cifar10", "train", root=home / "data")
    assert train.labels.tolist() == [x for name in names[:-1] for x in labels[name]]


def picture(k: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(k).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def zipped(home: Path) -> Path:
    """The folder of a ``cifar10.zip`` with two images of two classes in each split."""
    root = home / "data"
    root.mkdir()
    with zipfile.ZipFile(root / "cifar10.zip", "w") as archive:
        for split in ("train", "test"):
            for c, name in enumerate(("airplane", "bird")):
                for k in range(2):
                    with archive.open(f"{split}/{name}/{k:04}.png", "w") as f:
                        picture(10 * c + k).save(f, "png")
    return root


def test_cifar10_zip_is_decoded_once(home: Path, zipped: Path) -> None:
    root = zipped
    data = load("cifar10", "test", root=root)
    assert sorted(data.labels.tolist()) == [0, 0, 1, 1]
    written = {}
    for c in (0, 1):
        for k in range(2):
            pixels = torch.from_numpy(np.asarray(picture(10 * c + k)).copy()).permute(2, 0, 1).float() / 255
            written[pixels.numpy().tobytes()] = c
    assert [written.pop(p.numpy().tobytes()) for p in data.pixels] == data.labels.tolist()  # each once, in any order
    (kept,) = (home / "cache" / "calif").glob("cifar10-test-*.npz")
    before = kept.stat().st_mtime_ns
    again = load("cifar10", "test", root=root)
    assert torch.equal(again.pixels, data.pixels)
    assert kept.stat().st_mtime_ns == before


def flipped(b: bytes) -> bytes:
    """One byte in the middle is another."""
    return b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 255]) + b[len(b) // 2 + 1 :]


def other_method(b: bytes) -> bytes:
    """Every entry of the central directory names a way of packing that there is not."""
    return b"PK\1\2".join(p if k == 0 else p[:6] + b"\x63\0" + p[8:] for k, p in enumerate(b.split(b"PK\1\2")))


SPOILT = {"empty": lambda b: b"", "junk": lambda b: b"junk" * 99, "truncated": lambda b: b[: len(b) // 2]}
SPOILT |= {"flipped": flipped, "other method": other_method}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_damaged_zip(zipped: Path, spoil: Callable[..., Any]) -> None:
    path = zipped / "cifar10.zip"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConversionError, match=r"cifar10.zip: found a damaged file \(.+\); download it again"):
        [load("cifar10", split, root=zipped) for split in ("train", "test")]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_cache_is_written_anew(home: Path, zipped: Path, spoil: Callable[..., Any]) -> None:
    data = load("cifar10", "test", root=zipped)
    (kept,) = (home / "cache" / "calif").glob("cifar10-test-*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(spoil(whole))
    again = load("cifar10", "test", root=zipped)
    assert torch.equal(again.stored, data.stored)
    assert torch.equal(again.labels, data.labels)
    with np.load(kept) as healed:
        assert np.array_equal(healed["pixels"], data.stored)
    with kept.open("wb") as f:
        np.savez(f, pixels=data.stored.numpy())  # without labels
    assert torch.equal(load("cifar10", "test", root=zipped).labels, data.labels)


def test_image_folder(home: Path) -> None:
    for split, n in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            folder = home / "own" / split / name
            folder.mkdir(parents=True)
            for k in range(n):
                picture(k, 16).save(folder / f"{k}.png")
    data = load(str(home / "own"), "train")
    assert data.pixels.shape == (6, 3, 16, 16)
    assert sorted(data.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert data.labels.tolist() != sorted(data.labels.tolist())  # the first n are no single class
    written = [torch.from_numpy(np.asarray(picture(k, 16)).copy()).permute(2, 0, 1).float() / 255 for k in range(3)]
    found = [next(k for k in range(3) if torch.equal(p, written[k])) for p in data.pixels]
    assert sorted(zip(found, data.labels.tolist(), strict=True)) == [(k, c) for k in range(3) for c in (0, 1)]
    assert data.classes == 2
    picture(9, 20).save(home / "own" / "test" / "cat" / "odd.png")
    with pytest.raises(ConversionError, match="images of 2 sizes; resize"):
        load(str(home / "own"), "test")


def test_errors(home: Path) -> None:
    with pytest.raises(ConversionError, match="dataset: found 'nonsense'; use one of digits, mnist"):
        load("nonsense", "train")
    with pytest.raises(ConversionError, match="split: found 'validation'"):
        load("digits", "validation")
    (home / "bare").mkdir()
    with pytest.raises(ConversionError, match="it needs train/<class>/ and test/<class>/"):
        load(str(home / "bare"), "train")


def test_digits_are_whole_and_apart() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert len(train) + len(test) == 1797
    assert train.pixels.min() == 0
    assert train.pixels.max() == 1
    both = torch.cat([train.pixels, test.pixels]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(both)  # so no test image is a training image
    assert len(test.first(5)) == 5
