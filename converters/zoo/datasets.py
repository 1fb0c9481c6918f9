"""Data sets by name: the paper's five (table 1), the scikit-learn digits, and folders of images.

Images in [0, 1], channels first, without normalisation; Caltech-101's go through a difference of Gaussians, and so
have pixels of both signs.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.extras import naming_extras
from converters.reading import open_regular
from converters.zoo.cifar import cifar10, cifar100
from converters.zoo.images import Images
from converters.zoo.pictures import caltech101, image_folder, tiny_imagenet
from converters.zoo.places import absent, allow_download, cache_folder, data_roots

__all__ = ["DATASETS", "Images", "cache_folder", "load"]

_LARGEST_IDX = 1 << 32  # bytes


def load(
    name: str,
    split: str,
    *,
    root: str | os.PathLike | None = None,
    download: bool = True,
    classes: Sequence[str] = (),
) -> Images:
    """A data set by name.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10", "cifar100", "caltech101", "tinyimagenet"}, or a folder
        ``digits`` ships with scikit-learn. A folder holds ``train/<class>/`` and ``test/<class>/`` with images.
        Pictures with 8 or 16 bits are scaled by their type's range.
    split : {"train", "test"}
    root : path, optional
        Where to look, and where a download goes; by default ``$CALIF_DATA``, ``../shared/data`` and
        ``~/.cache/calif``, the last for downloads.

    download : bool
        Whether to look on the network if no folder has it.
    classes : sequence of str
        Names of a folder's classes in the order of their numbers, as a checkpoint's notes have them; by default the
        folders of ``train/``, in the order of their names. Either way both parts are numbered alike.

    Raises
    ------
    ConversionError
        If it is unknown, or not there and cannot be downloaded: says what to put where. If a folder has a class that
        its numbering does not have.

    >>> load("digits", "test").pixels.shape
    torch.Size([359, 1, 32, 32])
    """
    if split not in ("train", "test"):
        raise ConversionError("split", f"{split!r}", "use train or test")
    with naming_extras():
        if name in DATASETS:
            return DATASETS[name](split, data_roots(root), download)
        if Path(name).is_dir():
            return image_folder(Path(name), split, classes)
    raise ConversionError(
        "dataset", f"{name!r}", f"use one of {', '.join(DATASETS)}, or a folder with train/<class>/ and test/<class>/"
    )


def _pad(x: Tensor) -> Tensor:
    """To 32 x 32, evenly."""
    side = (32 - x.shape[-1]) // 2
    return torch.nn.functional.pad(x, (side, 32 - side - x.shape[-1]) * 2)


def _digits(split: str, roots: list[Path], download: bool) -> Images:
    """The scikit-learn digits: 1,797 images of 8 x 8, each pixel 3 x 3, padded to 32 x 32. Every fifth is for tests."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images.astype(np.float32) / 16).unsqueeze(1)
    pixels = _pad(pixels.repeat_interleave(3, 2).repeat_interleave(3, 3))
    labels = torch.from_numpy(data.target.astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 4
    keep = test if split == "test" else ~test
    return Images(pixels[keep], labels[keep], 10)


_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _mnist(split: str, roots: list[Path], download: bool) -> Images:
    """MNIST (LeCun et al. 1998), 28 x 28 padded to 32 x 32; raw files, gzipped or not."""
    from torchvision.datasets import MNIST

    files = _MNIST_FILES[split]
    for root in roots:
        raw = root / "MNIST" / "raw"
        found = [next((p for p in (raw / f, raw / f"{f}.gz") if os.path.lexists(p)), None) for f in files]
        if all(found):
            images, labels = (_idx(p) for p in found if p)
            if images.ndim != 3 or labels.shape != images.shape[:1]:
                n, m = (" x ".join(map(str, x.shape)) for x in (images, labels))
                both = f"{n} images in {files[0]}, {m} labels in {files[1]}"
                raise ConversionError(str(raw), both, "download both again")
            return Images(_pad(images.unsqueeze(1).float() / 255), labels.long(), 10)
    try:
        allow_download(download)
        MNIST(str(roots[-1]), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise absent("MNIST", f"{files[0]}.gz and {files[1]}.gz", "MNIST/raw", roots, error) from None
    return _mnist(split, roots, False)


def _idx(path: Path) -> Tensor:
    """Bytes in LeCun's format: two zeros, the type (8), the number of axes, their sizes, and the values."""
    again = "download it again"
    try:
        with open_regular(path, todo=again) as file:
            if path.suffix != ".gz":
                return _idx_of(file)
            with gzip.open(file) as unpacked:
                return _idx_of(unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error, _IdxError) as error:
        raise ConversionError(str(path), f"a damaged file ({error})", again) from None


class _IdxError(Exception):
    pass


def _idx_of(file: BinaryIO | gzip.GzipFile) -> Tensor:
    """No more is read than the header says, and one byte: whatever a packed file would become."""
    start = file.read(4)
    if len(start) < 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 4:
        raise _IdxError("no header of an idx file of bytes")
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise _IdxError("a header that ends too early")
    shape = [int.from_bytes(sizes[k : k + 4], "big") for k in range(0, len(sizes), 4)]
    total = math.prod(shape)
    if total > _LARGEST_IDX:
        raise _IdxError(f"{total:,} values, more than are read")
    values = file.read(total + 1)
    if len(values) != total:
        raise _IdxError("other sizes than it says")
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape) if total else torch.empty(shape)


# name: what reads a split from the first of the folders that has it
DATASETS: dict[str, Callable[[str, list[Path], bool], Images]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "caltech101": caltech101,
    "tinyimagenet": tiny_imagenet,
}
