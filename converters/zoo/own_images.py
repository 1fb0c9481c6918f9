"""Images of one's own: an array in a file, a picture, or a folder of pictures; and their labels, if there are any."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError, first_line, warn
from converters.quantised import InputSpec
from converters.reading import open_regular
from converters.zoo.decoding import decode
from converters.zoo.images import Images
from converters.zoo.pictures import files_below

__all__ = ["array_in", "own_images"]

_LARGEST = 1 << 35  # bytes of an array
_GREY = (299, 587, 114)  # thousandths of red, green and blue (ITU-R BT.601)
_TODO = "save it anew with numpy.save"


def own_images(
    path: str | os.PathLike, spec: InputSpec, labels: str | os.PathLike | None = None
) -> tuple[Images, list[str]]:
    """Images for a network, and a name for each.

    Parameters
    ----------
    path : path
        A ``.npy`` file with an array ``(N, *shape)`` or ``(*shape)``, where one channel may be left out: floats are
        taken as they are, so in the range that the network was trained on; bytes as 0 to 1, as the pixels of pictures
        are. Or a picture, or a folder of pictures, all of the network's size; a network of one channel sees their
        greys.
    spec : InputSpec
        What the network takes. Of tokens: an array of integers.
    labels : path, optional
        A ``.npy`` file: integers for classes, or for maps of classes; floats for values.

    Raises
    ------
    ConversionError
        If there is nothing, it cannot be read, or does not fit the network.
    """
    where = Path(path)
    if where.suffix.lower() == ".npy":
        pixels = _of_array(where, spec)
        names = [f"{k}" for k in range(len(pixels))]
    else:
        files = files_below(where) if where.is_dir() else [where]
        if not files:
            raise ConversionError(str(where), "no pictures", "give a .npy file, a picture, or a folder of pictures")
        pixels = _fitting(torch.from_numpy(decode(files, where=str(where))), where, spec)
        names = [file.name if file == where else str(file.relative_to(where)) for file in files]
    if pixels.dtype == torch.uint8 and spec.q_min < 0:
        todo = "give what the network's own transform makes of them, floats in a .npy file, if it was trained with one"
        warn(str(where), "bytes, as 0 to 1, for a network whose input has both signs", todo)
    truth = torch.full((len(pixels),), -1)
    if labels is not None:
        truth = _labels(Path(labels), len(pixels))
    return Images(pixels, truth, 0), names


def _of_array(path: Path, spec: InputSpec) -> Tensor:
    array, where = array_in(path), str(path)
    shape, n = tuple(spec.given), len(spec.given)
    one_less = shape[1:] if n > 1 and shape[0] == 1 else None
    if array.shape == shape or array.shape == one_less:
        array = array[None]
    if one_less is not None and array.shape[1:] == one_less:
        array = array[:, None]
    if array.shape[1:] != shape or array.ndim != n + 1:
        todo = f"the network takes (N, {', '.join(map(str, shape))})"
        if n == 3 and array.shape[1:] == (*shape[1:], shape[0]):
            todo += ": put channels first, with numpy.moveaxis(images, -1, 1)"
        raise ConversionError(where, f"an array of shape {array.shape}", todo)
    if spec.table is not None:
        if array.dtype.kind not in "iu":
            raise ConversionError(where, f"an array of {array.dtype}", "give tokens, as integers")
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype == np.uint8:
        return torch.from_numpy(array)
    if array.dtype.kind != "f":
        todo = "give bytes (uint8) from 0 to 255, or floats in the range that the network was trained on"
        raise ConversionError(where, f"an array of {array.dtype}", todo)
    return torch.from_numpy(array.astype(np.float32))


def _fitting(pixels: Tensor, where: Path, spec: InputSpec) -> Tensor:
    """Bytes ``(N, 3, H, W)`` of pictures as the network takes them."""
    shape = tuple(spec.shape)
    if spec.table is not None or len(shape) != 3 or shape[0] not in (1, 3):
        takes = "tokens" if spec.table is not None else f"(N, {', '.join(map(str, shape))})"
        raise ConversionError(str(where), "pictures", f"the network takes {takes}: give a .npy file")
    if tuple(pixels.shape[2:]) != shape[1:]:
        found = f"pictures of {pixels.shape[3]} x {pixels.shape[2]} pixels"
        raise ConversionError(str(where), found, f"the network takes {shape[2]} x {shape[1]}: resize or pad them first")
    if shape[0] == 3:
        return pixels
    weights = torch.tensor(_GREY).view(1, 3, 1, 1)
    return ((pixels.long() * weights).sum(1, keepdim=True) + 500).div(1000, rounding_mode="floor").to(torch.uint8)


def _labels(path: Path, n: int) -> Tensor:
    array = array_in(path)
    if array.ndim < 1 or len(array) != n or array.dtype.kind not in "iubf":
        found = f"an array of {array.dtype} and shape {array.shape} for {n} images"
        raise ConversionError(
            str(path), found, "give one label for each image: integers for classes, floats for values"
        )
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def array_in(path: Path, *, largest: int = _LARGEST, what: str = "no .npy file", todo: str = _TODO) -> np.ndarray:
    """The array of a ``.npy`` file, in which there is nothing else; no Python object is made.

    ``largest``: bytes of an array that is read. ``what`` and ``todo``: what the error calls anything else, and advises.

    Raises
    ------
    ConversionError
        If there is no such file, or none of that kind.
    """
    with open_regular(path, todo=todo) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"version {version}")
            shape, _, dtype = read[version](file)
            wanted = int(np.prod([int(k) for k in shape], dtype=object)) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError("Python objects in it")
            if wanted != size - file.tell() or wanted > largest:
                raise ValueError(f"{wanted:,} bytes announced, {size - file.tell():,} there")
            file.seek(0)
            found = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError, TypeError, KeyError, SyntaxError) as error:
            raise ConversionError(str(path), f"{what} ({first_line(error)})", todo) from None
    return np.ascontiguousarray(found).reshape(found.shape)
