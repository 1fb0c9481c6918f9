"""Checkpoints by name: quantised graphs that ship with the package, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.errors import FileFormatError
from converters.quantised import QuantGraph
from converters.quantised_file import load_with_notes

__all__ = ["FOLDER", "find_checkpoint", "load_checkpoint", "names"]

FOLDER = Path(__file__).parent / "checkpoints"


def names() -> list[str]:
    """Names of the checkpoints that ship with the package: ``network-dataset-levels``."""
    return sorted(p.stem for p in FOLDER.glob("*.safetensors"))


def find_checkpoint(which: str) -> Path:
    """The file of a name, or ``which`` itself if it is a file.

    Raises
    ------
    FileFormatError
        If it is neither; lists the names.
    """
    if Path(which).is_file():
        return Path(which)
    if which in names():
        return FOLDER / f"{which}.safetensors"
    known = ", ".join(names()) or "none yet"
    raise FileFormatError(which, "no such file or checkpoint", f"give a file, or one of: {known}")


def load_checkpoint(which: str) -> tuple[QuantGraph, dict[str, Any]]:
    """A quantised network by name or file, and the notes of its training."""
    return load_with_notes(find_checkpoint(which))
