"""Checkpoints by name: quantised graphs that ship with the package, or a file of the user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converters.errors import FileFormatError
from converters.files.quantised_file import load_with_notes
from converters.quantised import QuantGraph

__all__ = ["FOLDER", "class_names", "find_checkpoint", "find_checkpoints", "load_checkpoint", "names", "plain_name"]

FOLDER = Path(__file__).parent / "checkpoints"


def names() -> list[str]:
    """Names of the checkpoints that ship with the package: ``network-dataset-levels``."""
    return sorted(plain_name(p) for p in FOLDER.glob("*.safetensors*"))


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
    for path in (FOLDER / f"{which}.safetensors", FOLDER / f"{which}.safetensors.xz"):
        if path.is_file():
            return path
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
