"""Data sets as tensors: images in [0, 1], channels first, without normalisation (so without negative pixels)."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.atomic import atomic_path
from converters.errors import ConversionError
from converters.zoo.images import Images

__all__ = ["DATASETS", "Images", "cache_folder", "load"]


def load(name: str, split: str, *, root: str | os.PathLike | None = None, download: bool = True) -> Images:
    """A data set by name.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10"}, or a folder
        ``digits`` ships with scikit-learn. A folder holds ``train/<class>/`` and ``test/<class>/`` with images.
    split : {"train", "test"}
    root : path, optional
        Where to look first; then in ``$CALIF_DATA``, ``../shared/data`` and ``~/.cache/calif``, where a
        download goes.

    download : bool
        Whether to look on the network if no folder has it.

    Raises
    ------
    ConversionError
        If it is unknown, or not there and cannot be downloaded: says what to put where.

    >>> load("digits", "test").pixels.shape
    torch.Size([359, 1, 32, 32])
    """
    if split not in ("train", "test"):
        raise ConversionError("split", f"{split!r}", "use train or test")
    if name in DATASETS:
        return DATASETS[name](split, _roots(root), download)
    if Path(name).is_dir():
        return _folder(Path(name), split)
    raise ConversionError(
        "dataset", f"{name!r}", f"use one of {', '.join(DATASETS)}, or a folder with train/<class>/ and test/<class>/"
    )


def _roots(root: str | os.PathLike | None) -> list[Path]:
    if root is not None:
        return [Path(root)]
    given = [os.environ["CALIF_DATA"]] if os.environ.get("CALIF_DATA") else []
    here = Path(__file__).resolve().parents[2]  # beside a source checkout
    return [*map(Path, given), Path("../shared/data"), here.parent / "shared" / "data", cache_folder()]


def cache_folder() -> Path:
    """Where downloads and decoded images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "calif"


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
        found = [next((p for p in (raw / f, raw / f"{f}.gz") if p.is_file()), None) for f in files]
        if all(found):
            images, labels = (_idx(p) for p in found if p)
            return Images(_pad(images.unsqueeze(1).float() / 255), labels.long(), 10)
    try:
        _allow(download)
        MNIST(str(roots[-1]), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise _absent("MNIST", f"{files[0]}.gz and {files[1]}.gz", "MNIST/raw", roots, error) from None
    return _mnist(split, roots, False)


def _idx(path: Path) -> Tensor:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    if path.suffix != ".gz":
        return read_sn3_pascalvincent_tensor(str(path))
    with tempfile.NamedTemporaryFile() as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain)
        except (EOFError, gzip.BadGzipFile) as error:
            raise ConversionError(str(path), f"a damaged file ({error})", "download it again") from None
        plain.flush()
        return read_sn3_pascalvincent_tensor(plain.name)


def _cifar10(split: str, roots: list[Path], download: bool) -> Images:
    """CIFAR-10 (Krizhevsky 2009): torchvision's files, or ``cifar10.zip`` with ``train/<class>/`` and ``test/``."""
    from torchvision.datasets import CIFAR10

    for root in roots:
        if (root / "cifar-10-batches-py").is_dir():
            try:
                data = CIFAR10(str(root), train=split == "train")
            except (OSError, RuntimeError) as error:
                raise ConversionError(
                    str(root / "cifar-10-batches-py"), f"damaged files ({error})", "unpack cifar-10-python.tar.gz again"
                ) from None
            return _from_bytes(data.data.transpose(0, 3, 1, 2), data.targets, 10)
        if (root / "cifar10.zip").is_file():
            return _zipped(root / "cifar10.zip", split)
    try:
        _allow(download)
        CIFAR10(str(roots[-1]), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise _absent("CIFAR-10", "the unpacked cifar-10-python.tar.gz", "cifar-10-batches-py", roots, error) from None
    return _cifar10(split, roots, False)


def _zipped(path: Path, split: str) -> Images:
    """Images of a zip, decoded once and kept in the cache."""
    from PIL import Image

    info = path.stat()
    kept = cache_folder() / f"{path.stem}-{split}-{info.st_size}-{int(info.st_mtime)}-mixed.npz"
    if not kept.is_file():
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and not n.endswith("/"))
            classes = sorted({n.split("/")[1] for n in names})
            pixels = np.stack([np.asarray(Image.open(archive.open(n)).convert("RGB")) for n in names])
        labels = np.array([classes.index(n.split("/")[1]) for n in names])
        # names are sorted by class; mixed, the first n images are a fair sample
        order = np.random.default_rng(0).permutation(len(labels))
        pixels, labels = pixels[order], labels[order]
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as temporary, temporary.open("wb") as f:
            np.savez(f, pixels=pixels.transpose(0, 3, 1, 2), labels=labels)
    with np.load(kept) as data:
        return _from_bytes(data["pixels"], data["labels"], int(data["labels"].max()) + 1)


def _folder(root: Path, split: str) -> Images:
    """Any torchvision ``ImageFolder`` with ``train/`` and ``test/``; all images of one size."""
    from torchvision.datasets import ImageFolder

    try:
        data = ImageFolder(str(root / split))
    except (OSError, RuntimeError) as error:
        raise ConversionError(str(root), f"no images ({error})", "it needs train/<class>/ and test/<class>/") from None
    pictures = [np.asarray(image.convert("RGB")) for image, _ in data]
    sizes = {p.shape for p in pictures}
    if len(sizes) > 1:
        raise ConversionError(str(root), f"images of {len(sizes)} sizes", "resize them to one")
    return _from_bytes(np.stack(pictures).transpose(0, 3, 1, 2), data.targets, len(data.classes))


def _from_bytes(pixels: np.ndarray, labels: object, classes: int) -> Images:
    x = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(x, torch.as_tensor(np.asarray(labels), dtype=torch.int64), classes)


def _allow(download: bool) -> None:
    if not download:
        raise OSError("not asked for")


def _absent(name: str, files: str, folder: str, roots: list[Path], error: Exception) -> ConversionError:
    first = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    return ConversionError(
        name,
        f"no files in {', '.join(str(r) for r in roots)}, and no download ({first})",
        f"put {files} into {roots[-1] / folder}, or name another place with --data-root or CALIF_DATA",
    )


DATASETS: dict[str, Callable[[str, list[Path], bool], Images]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
}
