"""Picture files to bytes: every mode by the range of its own type, none that would fill the memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from converters.errors import ConversionError
from converters.reading import open_regular

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LARGEST_FILE", "decode"]

LARGEST_FILE = 1 << 28  # bytes
_LARGEST_PICTURE = 1 << 26  # pixels
_LARGEST_SET = 1 << 35  # bytes of all pictures together
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_SIXTEEN_IN_32 = ("PNG", "PPM")  # formats whose 16-bit greys Pillow has as 32-bit integers, in some versions


def decode(
    names: Sequence[str | Path],
    opener: Callable[[str], BinaryIO] | None = None,
    *,
    where: str,
    size: int | None = None,
) -> np.ndarray:
    """Bytes ``(N, 3, H, W)`` of picture files, resized to ``size`` or all of one size.

    Parameters
    ----------
    names : sequence
        Paths, or what ``opener`` takes.
    opener : callable, optional
        Gives an open file for a name, of at most 256 MiB.
    where : str
        What they are part of, for messages.
    size : int, optional

    Pictures of 16-bit greys are scaled by their type's range, 0 to 65,535. Of 32-bit integers and floats nobody knows
    the range: they are refused.

    Raises
    ------
    ConversionError
        If there is none, one is damaged, too large or of such a type, or sizes differ.
    """
    pixels: np.ndarray | None = None
    shapes: set[tuple[int, ...]] = set()
    for k, name in enumerate(names):
        with _open(str(name)) if opener is None else opener(str(name)) as file:
            array = _one(str(name) if opener is None else f"{where}: {name}", file, size).transpose(2, 0, 1)
        if pixels is None:
            if len(names) * array.size > _LARGEST_SET:
                found = f"{len(names):,} pictures of {array.shape[2]} x {array.shape[1]} pixels"
                raise ConversionError(where, found, f"they would take more than {_LARGEST_SET >> 30} GiB; resize them")
            pixels = np.empty((len(names), *array.shape), dtype=np.uint8)
        shapes.add(array.shape)
        if len(shapes) == 1:
            pixels[k] = array
    if pixels is None:
        raise ConversionError(where, "no pictures", "put some there")
    if len(shapes) > 1:
        raise ConversionError(where, f"images of {len(shapes)} sizes", "resize them to one")
    return pixels


def _one(name: str, file: BinaryIO, size: int | None) -> np.ndarray:
    """Bytes ``(H, W, 3)`` of one picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that nobody needs
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                image = _as_bytes(name, picture)
    except ConversionError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        reason = str(error) or "more than the memory holds"
        raise ConversionError(name, f"a picture that is too large ({reason})", "make it smaller") from None
    except Exception as error:  # Pillow's readers raise whatever their format's data makes them stumble over
        raise ConversionError(name, f"a damaged picture ({error})", "download or unpack it again") from None
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _open(path: str) -> BinaryIO:
    return open_regular(path, max_bytes=LARGEST_FILE, todo="download or unpack it again")


def _as_bytes(where: str, picture: Image.Image) -> Image.Image:
    """RGB; of pictures with 16 bits by their type's range."""
    from PIL import Image

    if picture.width * picture.height > _LARGEST_PICTURE:
        found = f"a picture of {picture.width} x {picture.height} pixels"
        raise ConversionError(where, found, f"make it smaller: at most {_LARGEST_PICTURE:,} pixels")
    mode = picture.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and picture.format in _SIXTEEN_IN_32):
        wide = np.asarray(picture).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if mode not in _EIGHT_BITS:
        kind = {"F": "32-bit floats", "I": "32-bit integers"}.get(mode, f"mode {mode}")
        raise ConversionError(where, f"a picture of {kind}", "save it with 8 or 16 bits, scaled to all of their range")
    return picture.convert("RGB")
