"""Pictures of other types, too large, damaged, or none at all."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from converters.errors import ConversionError
from converters.zoo.datasets import load
from converters.zoo.decoding import decode


def pixels(*paths: Path) -> np.ndarray:
    return decode(paths, where="pictures")


def refused(*paths: Path) -> str:
    with pytest.raises(ConversionError) as caught:
        pixels(*paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_a_ramp_of_16_bits(tmp_path: Path, name: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / name)
    exact = np.rint(ramp.astype(np.float64) * 255 / 65535)
    assert (pixels(tmp_path / name) == exact).all()


def test_16_bits_of_either_byte_order(tmp_path: Path) -> None:
    """As TIFF stores them: a header, one row of four pixels, and the tags that say so."""
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        tags = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (278, 1), (279, 8)]
        data = struct.pack(f"{order}4H", 0, 257, 32896, 65535)
        directory = struct.pack(f"{order}H", len(tags)) + b"".join(
            struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags
        )
        (tmp_path / "a.tif").write_bytes(mark + struct.pack(f"{order}I", 16) + data + directory + bytes(4))
        assert pixels(tmp_path / "a.tif")[0, 0].tolist() == [[0, 1, 128, 255]]


def test_ranges_that_nobody_knows(tmp_path: Path) -> None:
    for dtype, kind in ((np.float32, "32-bit floats"), (np.int32, "32-bit integers")):
        Image.fromarray(np.linspace(0, 1, 64).reshape(8, 8).astype(dtype)).save(tmp_path / "a.tif")
        assert refused(tmp_path / "a.tif") == (
            f"{tmp_path / 'a.tif'}: found a picture of {kind}; save it with 8 or 16 bits, scaled to all of their range"
        )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_8_bits_are_as_pillow_has_them(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    name = "a.png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "a.tif"
    image.save(tmp_path / name)
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).transpose(2, 0, 1)
    assert (pixels(tmp_path / name)[0] == expected).all()


def png(width: int, height: int, chunks: bytes = b"", rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    data = b"a\0\0" + zlib.compress(bytes(1 << 26))
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


FILES: dict[str, tuple[bytes, str]] = {
    "bomb.png": (png(30000, 30000), "too large"),
    "warning.png": (png(10000, 10000), "too large"),
    "wide.png": (png(8193, 8192), "8193 x 8192 pixels; make it smaller"),
    "text.png": (png(4, 4, text_bomb(), bytes(20)), "damaged picture"),
    "short.png": (png(4, 4, b"", bytes(3)), "damaged picture"),
    "cut.png": (png(4, 4, b"", bytes(20))[:-30], "damaged picture"),
    "a.ppm": (b"P6\n4 4\n70000\n", "damaged picture"),
    "b.ppm": (b"P5\n4 4\n255\n123", "damaged picture"),
    "c.ppm": (b"P3\n2 2\n255\n1 2 x", "damaged picture"),
    "d.ppm": (b"P6\n" + b"9" * 30, "damaged picture"),
    "e.ppm": (b"P6\n100000 100000\n255\n", "too large"),
    "empty.png": (b"", "damaged picture"),
    "junk.jpg": (b"\xff\xd8junk", "damaged picture"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_and_too_large(tmp_path: Path, name: str) -> None:
    data, found = FILES[name]
    (tmp_path / name).write_bytes(data)
    assert found in refused(tmp_path / name)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "own" / "train" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    make(folder / "1.png")
    if (folder / "1.png").is_dir():
        assert len(load(str(tmp_path / "own"), "train")) == 1
        return
    with pytest.raises(ConversionError, match=r"1\.png: found something that is not a regular file"):
        load(str(tmp_path / "own"), "train")


def test_a_set_that_no_memory_holds(tmp_path: Path) -> None:
    Image.new("L", (4096, 4096)).save(tmp_path / "a.png")
    found = refused(*[tmp_path / "a.png"] * 1000)
    assert "1,000 pictures of 4096 x 4096 pixels; they would take more than 32 GiB" in found


_WHOLE = [png(8, 8, b"", bytes(72)), b"P6\n2 2\n255\n" + bytes(12), b"P5\n2 2\n65535\n" + bytes(8)]


@given(st.sampled_from(_WHOLE), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4))
def test_changed_bytes_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("x") / "a.png"
    path.write_bytes(data)
    with suppress(ConversionError):  # no other error
        assert pixels(path).dtype == np.uint8
