"""Checkpoints by name: quantised graphs that ship with the package or lie in its repository, or a file of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converters.errors import FileFormatError
from converters.files.quantised_file import load_with_notes
from converters.quantised import QuantGraph

__all__ = [
    "FOLDER",
    "REPOSITORY",
    "class_names",
    "find_checkpoint",
    "find_checkpoints",
    "load_checkpoint",
    "names",
    "plain_name",
]

FOLDER = Path(__file__).parent / "checkpoints"
REPOSITORY = (
    "lenet5x4-cifar10-127",
    "mobilenet20-cifar10-127",
    "mobilenet20-cifar100-127",
    "mobilenet20-mnist-127",
    "resnet11h-cifar10-127",
    "resnet11h-cifar10-8",
    "resnet11h-cifar100-127",
    "resnet11h-cifar100-8",
    "resnet11h-mnist-127",
    "vgg9-cifar10-127",
    "vgg9-cifar100-127",
    "vgg9-mnist-127",
    "vit6-cifar10-15",
    "vit6-mnist-15",
)
"""Checkpoints that are in the repository alone, in the folder ``checkpoints``: they are larger than the package."""


def _folders() -> list[Path]:
    """Where checkpoints are looked for: in the package, and at the top of the clone that it is run from, if it is."""
    root = Path(__file__).resolve().parents[2]
    return [FOLDER, *([root / "checkpoints"] if (root / "pyproject.toml").is_file() else [])]


def names() -> list[str]:
    """Names of the checkpoints that are here: ``network-dataset-levels``."""
    return sorted(plain_name(p) for folder in _folders() for p in folder.glob("*.safetensors*"))


def plain_name(path: str | os.PathLike) -> str:
    """The name of a checkpoint without folder and endings.

    >>> plain_name("runs/a-b-7.safetensors.xz"), plain_name("a-b-7"), plain_name("v1.5.safetensors")
    ('a-b-7', 'a-b-7', 'v1.5')
    """
    return Path(path).name.removesuffix(".xz").removesuffix(".safetensors")


def find_checkpoint(which: str) -> Path:
    """The file of a name, or ``which`` itself if it is a file.

    Raises
    ------
    FileFormatError
        If it is neither; lists the names.
    """
    if os.path.exists(which) and not os.path.isdir(which):  # what is no regular file is refused where it is opened
        return Path(which)
    for folder in _folders():
        for path in (folder / f"{which}.safetensors", folder / f"{which}.safetensors.xz"):
            if path.is_file():
                return path
    if which in REPOSITORY:
        todo = f"get checkpoints/{which}.safetensors.xz of the repository, and give its path"
        raise FileFormatError(which, "a checkpoint that is not installed with the package", todo)
    known = ", ".join(names()) or "none yet"
    raise FileFormatError(which, "no such file or checkpoint", f"give a file, or one of: {known}")


def find_checkpoints(which: str) -> list[Path]:
    """The checkpoints in a folder, or the one of :func:`find_checkpoint`.

    Raises
    ------
    FileFormatError
        If there is none.
    """
    if not Path(which).is_dir():
        return [find_checkpoint(which)]
    found = sorted(Path(which).glob("*.safetensors*"))
    if not found:
        raise FileFormatError(which, "a folder without .safetensors files", "give the --out of calif train")
    return found


def load_checkpoint(which: str) -> tuple[QuantGraph, dict[str, Any]]:
    """A quantised network by name or file, and the notes of its training."""
    return load_with_notes(find_checkpoint(which))


def class_names(notes: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes that a network was trained on, in the order of its outputs; empty where unknown."""
    return tuple(notes.get("classes") or ())
