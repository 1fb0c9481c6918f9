"""The endings of files that are written here, so that a name does not say another kind than the file is of."""

from __future__ import annotations

import os
from pathlib import Path

from converters.errors import ConversionError

__all__ = ["NIR", "ONNX", "QUANTISED", "check_ending"]

NIR = (".nir", ".h5", ".hdf5")
ONNX = (".onnx",)
QUANTISED = (".safetensors", ".xz")
_WRITERS = {
    ".nir": "converters.write writes Ca-LIF networks",
    ".onnx": "converters.to_onnx writes ONNX",
    ".safetensors": "converters.save_quantised writes quantised networks",
}


def check_ending(path: str | os.PathLike, own: tuple[str, ...]) -> None:
    """Raise a ConversionError if a file to write has the ending of another kind; none is no ending, and ``.2`` is none.

    >>> check_ending("net.nir", NIR), check_ending("net", NIR), check_ending("net-v0.2", NIR)
    (None, None, None)
    >>> check_ending("net.onnx", NIR)
    Traceback (most recent call last):
    converters.errors.ConversionError: net.onnx: found the ending of another kind of file; \
give a name that ends in .nir (converters.to_onnx writes ONNX)
    """
    ending = Path(path).suffix.lower()
    if ending[1:2].isalpha() and ending not in own:
        hint = f" ({_WRITERS[ending]})" if ending in _WRITERS else ""
        found = "the ending of another kind of file"
        raise ConversionError(str(path), found, f"give a name that ends in {own[0]}{hint}")
