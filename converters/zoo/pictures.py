"""Data sets of picture files: folders, a zip, Caltech-101, Tiny-ImageNet; decoded once where there are many."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from calif_plugins.encoding import dog_filter
from converters.errors import ConversionError
from converters.files.atomic import atomic_path
from converters.reading import open_regular, read_text
from converters.zoo.decoding import LARGEST_FILE, decode
from converters.zoo.images import Images
from converters.zoo.places import absent, allow_download, cache_folder

__all__ = ["caltech101", "files_below", "folders_in", "from_bytes", "image_folder", "tiny_imagenet", "zipped"]

_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_BAD_ZIP = (EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what zipfile raises for damaged files
_LARGEST_TEXT = 1 << 26  # bytes
CALTECH_TRAIN, CALTECH_TEST = 6162, 1695  # table 1


def from_bytes(pixels: np.ndarray, labels: object, classes: int, names: tuple[str, ...] = ()) -> Images:
    """Images of bytes ``(N, C, H, W)``."""
    x = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(x, torch.as_tensor(np.asarray(labels), dtype=torch.int64), classes, names=names)


def image_folder(root: Path, split: str, classes: Sequence[str] = ()) -> Images:
    """A folder with ``train/<class>/`` and ``test/<class>/``; all images of one size, in a seeded order.

    Classes are numbered in both parts alike: as ``classes`` says, or else in the order of their names in ``train/``.
    """
    part = root / split
    known = list(classes) or folders_in(root / "train")
    here = folders_in(part)
    for place, names in ((part, here), (root / "train", known)):
        if not names:
            raise ConversionError(str(place), "no folders of classes", "it needs train/<class>/ and test/<class>/")
    _check_known(str(part), here, known, bool(classes))
    files = [(path, known.index(name)) for name in here for path in files_below(part / name)]
    pixels = decode([path for path, _ in files], where=str(part))
    return from_bytes(*_mixed(pixels, np.array([k for _, k in files])), len(known), tuple(known))


def folders_in(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def files_below(folder: Path) -> list[Path]:
    """Pictures in a folder and those below it, by name; folders that links lead to are looked into once."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, below, names in os.walk(folder, followlinks=True):
        info = os.stat(here)
        if (info.st_dev, info.st_ino) in seen:
            below.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        below.sort()
        found += [Path(here, name) for name in sorted(names) if name.lower().endswith(_PICTURES)]
    return found


def _check_known(where: str, here: Sequence[str], known: Sequence[str], by_checkpoint: bool) -> None:
    unknown = [name for name in here if name not in known]
    if unknown:
        whose = "the network was trained on" if by_checkpoint else "train/ has"
        listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise ConversionError(where, f"the class {unknown[0]!r}", f"{whose} {listed}: rename or remove it")


def zipped(path: Path, split: str) -> Images:
    """Images ``<split>/<class>/*`` of a zip, decoded once and kept in the cache; classes are numbered by ``train/``."""
    with open_regular(path) as file, _intact(path), zipfile.ZipFile(file) as archive:
        members = _members(archive)
        known = sorted({n.split("/")[1] for n in members if n.startswith("train/")})
        names = [n for n in members if n.startswith(f"{split}/")]
        classes = [n.split("/")[1] for n in names]
        _check_known(f"{path}: {split}", sorted(set(classes)), known, False)

        def read() -> tuple[np.ndarray, np.ndarray]:
            pixels = decode(names, lambda name: _member(archive, name), where=str(path))
            return _mixed(pixels, np.array([known.index(name) for name in classes]))

        pixels, labels = _once(f"{path.stem}-{split}-{_state_of(archive)}", read)
    return from_bytes(pixels, labels, len(known), tuple(known))


def _member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    if archive.getinfo(name).file_size > LARGEST_FILE:
        raise OSError(f"{name} is larger than {LARGEST_FILE >> 20} MiB")
    return io.BytesIO(archive.read(name))


def _state_of(archive: zipfile.ZipFile) -> str:
    """Digest of the names, sizes and checksums of an archive's files: of other pictures, another name."""
    rows = sorted(f"{info.filename}|{info.file_size}|{info.CRC}\n" for info in archive.infolist())
    return hashlib.sha256("".join(rows).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Files of classes, in the order of their names."""
    return sorted(n for n in archive.namelist() if n.count("/") >= 2 and not n.endswith("/"))


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    try:
        yield
    except ConversionError:
        raise
    except (*_BAD_ZIP, NotImplementedError, UnicodeDecodeError) as error:
        reason = str(error) or type(error).__name__
        raise ConversionError(str(path), f"a damaged file ({reason})", "download it again") from None


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
        wnids = read_text(folder / "wnids.txt", max_bytes=_LARGEST_TEXT, todo=again).split()
        number = {w: k for k, w in enumerate(wnids)}
        if split == "train":
            found = [(p, number[w]) for w in wnids for p in sorted((folder / "train" / w / "images").glob("*.JPEG"))]
        else:
            labels = read_text(folder / "val" / "val_annotations.txt", max_bytes=_LARGEST_TEXT, todo=again)
            rows = [line.split("\t") for line in labels.splitlines() if line.strip()]
            found = [(folder / "val" / "images" / row[0], number[row[1]]) for row in rows]
    except (KeyError, IndexError) as error:
        raise ConversionError(str(folder), f"labels that make no sense ({error})", again) from None
    if not found:
        raise ConversionError(str(folder / split), "no images", again)
    return [p for p, _ in found], np.array([k for _, k in found]), len(wnids)


def _mixed(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In a seeded order: names are sorted by class, and the first n images should be a fair sample."""
    order = np.random.default_rng(0).permutation(len(labels))
    return pixels[order], labels[order]


def _kept(name: str, paths: Sequence[Path], labels: np.ndarray, classes: int, size: int | None = None) -> Images:
    """Picture files in a seeded order, decoded once and kept in the cache."""

    def read() -> tuple[np.ndarray, np.ndarray]:
        return _mixed(decode(paths, where=name, size=size), labels)

    pixels, targets = _once(f"{name}-{_state(paths)}", read)
    return from_bytes(pixels, targets, classes)


def _once(name: str, read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels, read once and kept in the cache."""
    kept = cache_folder() / f"{name}.npz"
    # absent or damaged, it is made anew; opened here, for np.load leaves a damaged file open
    with suppress(*_BAD_ZIP, KeyError, ValueError), open_regular(kept) as file, np.load(file) as data:
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
