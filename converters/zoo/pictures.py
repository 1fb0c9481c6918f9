"""Data sets of picture files: folders, a zip, Caltech-101, Tiny-ImageNet; decoded once where there are many."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins.encoding import dog_filter
from converters.atomic import atomic_path
from converters.errors import ConversionError
from converters.zoo.images import Images
from converters.zoo.places import absent, allow_download, cache_folder

__all__ = ["caltech101", "from_bytes", "image_folder", "tiny_imagenet", "zipped"]

_BAD_ZIP = (EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what zipfile raises for damaged files
CALTECH_TRAIN, CALTECH_TEST = 6162, 1695  # table 1


def from_bytes(pixels: np.ndarray, labels: object, classes: int) -> Images:
    """Images of bytes ``(N, C, H, W)``."""
    x = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(x, torch.as_tensor(np.asarray(labels), dtype=torch.int64), classes)


def image_folder(root: Path, split: str) -> Images:
    """Any torchvision ``ImageFolder`` with ``train/`` and ``test/``; all images of one size, in a seeded order."""
    from torchvision.datasets import ImageFolder

    try:
        data = ImageFolder(str(root / split))
    except (OSError, RuntimeError) as error:
        raise ConversionError(str(root), f"no images ({error})", "it needs train/<class>/ and test/<class>/") from None
    pixels = _decode([path for path, _ in data.samples])
    return from_bytes(*_mixed(pixels, np.array(data.targets)), len(data.classes))


def zipped(path: Path, split: str) -> Images:
    """Images ``<split>/<class>/*`` of a zip, decoded once and kept in the cache."""
    info = path.stat()

    def read() -> tuple[np.ndarray, np.ndarray]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and not n.endswith("/"))
                classes = sorted({n.split("/")[1] for n in names})
                pixels = _decode(names, archive.open)
        except _BAD_ZIP as error:
            reason = str(error) or type(error).__name__
            raise ConversionError(str(path), f"a damaged file ({reason})", "download it again") from None
        return _mixed(pixels, np.array([classes.index(n.split("/")[1]) for n in names]))

    pixels, labels = _once(f"{path.stem}-{split}-{info.st_size}-{int(info.st_mtime)}-mixed", read)
    return from_bytes(pixels, labels, int(labels.max()) + 1)


def caltech101(split: str, roots: list[Path], download: bool) -> Images:
    """Caltech-101 (Fei-Fei et al. 2004), 128 x 128, each colour channel through a difference of Gaussians.

    As it is unpacked, and as torchvision has it: ``caltech101/101_ObjectCategories/<class>/image_0001.jpg``; the
    class ``BACKGROUND_Google`` is none. The paper gives the sizes of its split (6,162 and 1,695 images), not the
    files. Ours: each class gets its share of both by largest remainders, and a seeded permutation of its files, in
    the order of their names, says which: test images first, then training images; 820 images of 8,677 stay unused.
    Of a smaller collection everything is used, in the same proportion.
    """
    for root in roots:
        folder = root / "caltech101" / "101_ObjectCategories"
        if folder.is_dir():
            data = _kept(f"caltech101-{split}", *_caltech_split(folder, split), size=128)
            return replace(data, filter=_difference_of_gaussians)
    try:
        from torchvision.datasets import Caltech101

        allow_download(download)
        Caltech101(str(roots[-1]), download=True)
    except (OSError, RuntimeError) as error:
        raise absent("Caltech-101", "the unpacked 101_ObjectCategories", "caltech101", roots, error) from None
    return caltech101(split, roots, False)


def _caltech_split(folder: Path, split: str) -> tuple[list[Path], np.ndarray, int]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "BACKGROUND_Google")
    files = [sorted((folder / name).glob("*.jpg")) for name in names]
    counts = np.array([len(f) for f in files])
    if not counts.sum():
        raise ConversionError(str(folder), "no classes with .jpg files", "unpack 101_ObjectCategories.tar.gz again")
    total, wanted = int(counts.sum()), CALTECH_TRAIN + CALTECH_TEST
    test_total = CALTECH_TEST if total >= wanted else round(total * CALTECH_TEST / wanted)
    test = _shares(counts, test_total)
    train = _shares(counts - test, CALTECH_TRAIN if total >= wanted else total - test_total)
    rng = np.random.default_rng(0)
    chosen: list[Path] = []
    labels: list[int] = []
    for c, paths in enumerate(files):
        order = rng.permutation(len(paths))
        part = order[: test[c]] if split == "test" else order[test[c] : test[c] + train[c]]
        chosen += [paths[k] for k in part]
        labels += [c] * len(part)
    return chosen, np.array(labels), len(names)


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """``total`` in whole numbers, proportional to ``counts``: the largest remainders round up.

    >>> _shares(np.array([5, 3, 2]), 5)
    array([3, 1, 1])
    """
    exact = counts * (total / max(int(counts.sum()), 1))
    shares = np.floor(exact).astype(np.int64)
    left = total - int(shares.sum())
    shares[np.argsort(-(exact - shares), kind="stable")[:left]] += 1
    return shares


def _difference_of_gaussians(x: Tensor) -> Tensor:
    return torch.from_numpy(dog_filter(x.cpu().numpy())).to(x.device)


def tiny_imagenet(split: str, roots: list[Path], download: bool) -> Images:
    """Tiny-ImageNet as published: 200 classes, 64 x 64; the labelled validation images are the test set.

    ``tiny-imagenet-200/wnids.txt``, ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and
    ``val/val_annotations.txt``. Classes are numbered as in ``wnids.txt``.
    """
    for root in roots:
        folder = root / "tiny-imagenet-200"
        if folder.is_dir():
            return _kept(f"tinyimagenet-{split}", *_tiny_files(folder, split))
    raise absent(
        "Tiny-ImageNet", "the unpacked tiny-imagenet-200.zip", "tiny-imagenet-200", roots, OSError("none is known")
    )


def _tiny_files(folder: Path, split: str) -> tuple[list[Path], np.ndarray, int]:
    again = "unpack tiny-imagenet-200.zip again"
    try:
        wnids = (folder / "wnids.txt").read_text(encoding="utf-8").split()
        number = {w: k for k, w in enumerate(wnids)}
        if split == "train":
            found = [(p, number[w]) for w in wnids for p in sorted((folder / "train" / w / "images").glob("*.JPEG"))]
        else:
            lines = (folder / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
            rows = [line.split("\t") for line in lines if line.strip()]
            found = [(folder / "val" / "images" / row[0], number[row[1]]) for row in rows]
    except OSError as error:
        raise ConversionError(str(error.filename or folder), "no such file", again) from None
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise ConversionError(str(folder), f"labels that make no sense ({error})", again) from None
    if not found:
        raise ConversionError(str(folder / split), "no images", again)
    return [p for p, _ in found], np.array([k for _, k in found]), len(wnids)


def _decode(names: Sequence[Any], opener: Callable[[Any], Any] | None = None, size: int | None = None) -> np.ndarray:
    """Bytes ``(N, 3, H, W)`` of picture files, resized to ``size`` or all of one size."""
    from PIL import Image

    pixels: np.ndarray | None = None
    shapes: set[tuple[int, ...]] = set()
    for k, name in enumerate(names):
        try:
            with Image.open(opener(name) if opener is not None else name) as picture:
                image = picture.convert("RGB")
        except (OSError, SyntaxError) as error:
            raise ConversionError(str(name), f"a damaged picture ({error})", "download or unpack it again") from None
        if size is not None:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(image).transpose(2, 0, 1)
        if pixels is None:
            pixels = np.empty((len(names), *array.shape), dtype=np.uint8)
        shapes.add(array.shape)
        if len(shapes) == 1:
            pixels[k] = array
    if pixels is None:
        raise ConversionError("images", "none", "put pictures there")
    if len(shapes) > 1:
        raise ConversionError(str(Path(str(names[0])).parent), f"images of {len(shapes)} sizes", "resize them to one")
    return pixels


def _mixed(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In a seeded order: names are sorted by class, and the first n images should be a fair sample."""
    order = np.random.default_rng(0).permutation(len(labels))
    return pixels[order], labels[order]


def _kept(name: str, paths: Sequence[Path], labels: np.ndarray, classes: int, size: int | None = None) -> Images:
    """Picture files in a seeded order, decoded once and kept in the cache."""
    pixels, targets = _once(f"{name}-{_state(paths)}", lambda: _mixed(_decode(paths, size=size), labels))
    return from_bytes(pixels, targets, classes)


def _once(name: str, read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels, read once and kept in the cache."""
    kept = cache_folder() / f"{name}.npz"
    # absent or damaged, it is made anew; opened here, for np.load leaves a damaged file open
    with suppress(*_BAD_ZIP, KeyError, ValueError), kept.open("rb") as file, np.load(file) as data:
        return data["pixels"], data["labels"]
    pixels, labels = read()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(kept) as temporary, temporary.open("wb") as f:
        np.savez(f, pixels=pixels, labels=labels)
    return pixels, labels


def _state(paths: Sequence[Path]) -> str:
    """Digest of names, sizes and times: of another collection, another name."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            info = path.stat()
        except OSError:
            raise ConversionError(str(path), "no such file", "unpack the data set again") from None
        digest.update(f"{path}|{info.st_size}|{info.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
