"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read by torchvision, which knows the published files' checksums."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converters.errors import ConversionError
from converters.reading import open_regular
from converters.zoo.images import Images
from converters.zoo.pictures import from_bytes, zipped
from converters.zoo.places import absent, allow_download

__all__ = ["cifar10", "cifar100"]

_LARGEST = 1 << 30  # bytes of a file


def cifar10(split: str, roots: list[Path], download: bool) -> Images:
    """CIFAR-10: torchvision's files, or ``cifar10.zip`` with ``train/<class>/`` and ``test/<class>/``."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, "CIFAR-10", 10, split, roots, download)


def cifar100(split: str, roots: list[Path], download: bool) -> Images:
    """CIFAR-100 with its fine labels: torchvision's files, or ``cifar100.zip`` as for CIFAR-10."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, "CIFAR-100", 100, split, roots, download)


def _cifar(reader: Any, name: str, classes: int, split: str, roots: list[Path], download: bool) -> Images:
    folder, archive = reader.base_folder, reader.filename
    for root in roots:
        if (root / folder).is_dir():
            for path in sorted((root / folder).iterdir()):  # torchvision opens them by name: a pipe would be waited for
                open_regular(path, max_bytes=_LARGEST, todo=f"unpack {archive} again").close()
            try:
                data = reader(str(root), train=split == "train")
            except (OSError, RuntimeError) as error:
                raise ConversionError(
                    str(root / folder), f"damaged files ({error})", f"unpack {archive} again"
                ) from None
            return from_bytes(data.data.transpose(0, 3, 1, 2), data.targets, classes)
        packed = root / f"cifar{classes}.zip"
        if os.path.lexists(packed):
            return zipped(packed, split)
    try:
        allow_download(download)
        reader(str(roots[-1]), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise absent(name, f"the unpacked {archive}", folder, roots, error) from None
    return _cifar(reader, name, classes, split, roots, False)
