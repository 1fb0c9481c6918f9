"""What the command line names: a checkpoint of the package, or a file, known by its name or else by what is in it."""

from __future__ import annotations

from pathlib import Path

from converters.errors import ConversionError
from converters.files.kinds import LONGEST, Kind, kind_by_content

__all__ = ["Kind", "is_onnx", "kind_of", "kind_within"]

_ENDINGS: dict[str, Kind] = {
    ".nir": "nir",
    ".onnx": "onnx",
    ".pt": "run",
    ".safetensors": "quantised",
    ".safetensors.xz": "quantised",
}
_IMAGES = (".npy", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def is_onnx(path: str | Path) -> bool:
    """Whether a name is that of an ONNX model."""
    return str(path).lower().endswith(".onnx")


def kind_of(which: str | Path) -> Kind:
    """``nir``, ``onnx``, ``run`` (a ``.pt`` of calif train) or ``quantised`` (a checkpoint, by name or file).

    The ending of a name decides; of a file with another ending, what it begins with; a name that is no file is a
    checkpoint's.

    Raises
    ------
    ConversionError
        If it is a folder, or a file of none of these kinds.

    >>> kind_of("a/net.nir"), kind_of("net.ONNX"), kind_of("lenet5-mnist-8.qat.pt"), kind_of("lenet5-mnist-8")
    ('nir', 'onnx', 'run', 'quantised')
    """
    name = str(which).lower()
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    path = Path(which)
    if path.is_dir():
        raise ConversionError(str(which), "a folder", "name a file in it")
    if not path.is_file():  # a pipe or a device is refused where it would be opened
        return "quantised"
    found = kind_within(path)
    if found is None and path.suffix.lower() in _IMAGES:
        raise ConversionError(str(which), "images, and no network", f"name a network, and give --images {which}")
    if found is None:
        raise ConversionError(
            str(which), "a file of no kind that is known here", "give a .nir, .onnx, .qat.pt or .safetensors file"
        )
    return found


def kind_within(path: Path) -> Kind | None:
    """The kind of a file by what it begins with; None where it is of no kind, or there is no such file."""
    if not path.is_file():  # a pipe or a device is refused where it would be opened
        return None
    with path.open("rb") as file:
        return kind_by_content(file.read(LONGEST))
