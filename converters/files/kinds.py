"""What a file is, by what it begins with; a file that is taken for another is told by its own name."""

from __future__ import annotations

import zipfile
from typing import BinaryIO, Literal

__all__ = ["LONGEST", "Kind", "described", "kind_by_content"]

Kind = Literal["nir", "onnx", "run", "quantised"]
LONGEST = 16  # bytes that any of the marks below needs
_OTHERS = {
    b"\x93NUMPY": "an array of NumPy",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"BM": "a picture",
    b"II*\x00": "a picture",
    b"MM\x00*": "a picture",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a compressed file",
    b"\x80": "a pickle",
}
_NAMED: dict[Kind, str] = {
    "nir": "a .nir file (HDF5)",
    "onnx": "an ONNX model",
    "run": "an archive of PyTorch's",
    "quantised": "a .safetensors file",
}


def kind_by_content(start: bytes) -> Kind | None:
    """The kind of network that a file has, by its first :data:`LONGEST` bytes; None if that is none of them.

    >>> kind_by_content(b"PK\\x03\\x04"), kind_by_content(b"\\x08\\x0a" + bytes(14)), kind_by_content(b"hello")
    ('run', 'onnx', None)
    """
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "nir"
    if start.startswith(b"PK\x03\x04"):
        return "run"
    if start.startswith(b"\xfd7zXZ\x00") or start[8:9] == b"{":  # compressed; or a length of 8 bytes, then JSON
        return "quantised"
    if len(start) > 2 and start[0] == 8 and 3 <= start[1] < 32:  # the field ir_version
        return "onnx"
    return None


def described(file: BinaryIO) -> str | None:
    """What an open file is that is no checkpoint of a training run, for people; None where it may be a damaged one.

    >>> import io
    >>> described(io.BytesIO(b"\\x89PNG" + bytes(99))), described(io.BytesIO(b"PK\\x03\\x04 cut off"))
    ('a picture', None)
    """
    file.seek(0)
    start = file.read(LONGEST)
    kind = kind_by_content(start)
    if kind == "run":
        return _in_archive(file)
    if kind is not None:
        return _NAMED[kind]
    if not start:
        return "an empty file"
    return next((name for mark, name in _OTHERS.items() if start.startswith(mark)), "a file of another kind")


def _in_archive(file: BinaryIO) -> str | None:
    """Of a zip file, by the names of its records."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    if "models/model.json" in names:
        return "a program of torch.export"
    if "constants.pkl" in names:
        return "a TorchScript module"
    return None if "data.pkl" in names else "a zip file"
