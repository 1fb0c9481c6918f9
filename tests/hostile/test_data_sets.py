"""Files of data sets that are pipes, devices, or grow as they are unpacked."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import pytest

from converters.errors import ConversionError
from converters.zoo.datasets import load

NAMES = {
    "mnist": "MNIST/raw/t10k-images-idx3-ubyte",
    "cifar10": "cifar-10-batches-py/test_batch",
    "cifar100": "cifar-100-python/test",
    "tinyimagenet": "tiny-imagenet-200/wnids.txt",
    "caltech101": "caltech101/101_ObjectCategories/ants/1.jpg",
}
PACKED = {"mnist": "MNIST/raw/t10k-images-idx3-ubyte.gz", "cifar10": "cifar10.zip", "cifar100": "cifar100.zip"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize(("dataset", "name"), [*NAMES.items(), *PACKED.items()])
def test_what_is_no_file(tmp_path: Path, dataset: str, name: str, device: bool) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    (path.parent / "t10k-labels-idx1-ubyte").touch()
    with pytest.raises(ConversionError, match="something that is not a regular file"):
        load(dataset, "test" if dataset != "caltech101" else "train", root=tmp_path / "data", download=False)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 1), "values, more than are read"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2), "other sizes than it says"),
        (struct.pack(">4B", 0, 0, 8, 200), "no header"),
    ],
)
def test_a_packed_file_that_grows(tmp_path: Path, head: bytes, found: str) -> None:
    """100 MB of zeros behind the header; no more is unpacked than the header says."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-labels-idx1-ubyte").touch()
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(100):
            file.write(bytes(10**6))
    with pytest.raises(ConversionError, match=rf"a damaged file \(.*{found}.*\); download it again"):
        load("mnist", "test", root=tmp_path / "data", download=False)
