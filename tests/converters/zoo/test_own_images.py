"""Images of one's own: arrays and pictures become what the network is given; what does not fit is one line."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from converters.errors import ConversionError
from converters.ports.tokens import TokenTable
from converters.quantised import InputSpec
from converters.zoo.own_images import array_in, own_images

GREY = InputSpec((1, 6, 8), 1 / 15, 0, 15)
COLOUR = InputSpec((3, 6, 8), 1 / 15, 0, 15)
RNG = np.random.default_rng(0)


def saved(tmp_path: Path, array: Any, name: str = "x.npy") -> Path:
    np.save(tmp_path / name, array)
    return tmp_path / name


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "uint8"])
@pytest.mark.parametrize("shape", [(5, 1, 6, 8), (5, 6, 8), (1, 6, 8), (6, 8)])
def test_arrays(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Floats as they are, bytes as 0 to 1; the single channel, and the axis of a single image, may be left out."""
    x = RNG.integers(0, 256, shape).astype("uint8")
    array = x if kind == "uint8" else (x / 255).astype(kind)
    data, names = own_images(saved(tmp_path, array), GREY)
    n = 5 if shape[0] == 5 else 1
    assert data.pixels.shape == (n, 1, 6, 8)
    assert data.pixels.dtype == torch.float32
    want = array.astype("float32") / 255 if kind == "uint8" else array.astype("float32")
    np.testing.assert_array_equal(data.pixels.numpy(), want.reshape(n, 1, 6, 8))
    assert names == [str(k) for k in range(n)]
    assert data.labels.tolist() == [-1] * n


def test_negative_pixels_stay(tmp_path: Path) -> None:
    x = RNG.standard_normal((2, 3, 6, 8)).astype("float32")
    np.testing.assert_array_equal(own_images(saved(tmp_path, np.asfortranarray(x)), COLOUR)[0].pixels.numpy(), x)


def test_pictures(tmp_path: Path) -> None:
    """A folder in the order of names, those below it too; a network of one channel sees greys."""
    pixels = RNG.integers(0, 256, (3, 6, 8, 3)).astype("uint8")
    places = ["b.png", "a.png", "more/c.bmp"]
    (tmp_path / "more").mkdir()
    for x, place in zip(pixels, places, strict=True):
        Image.fromarray(x).save(tmp_path / place)
    data, names = own_images(tmp_path, COLOUR)
    assert names == ["a.png", "b.png", "more/c.bmp"]
    want = torch.from_numpy(pixels[[1, 0, 2]]).permute(0, 3, 1, 2)
    assert torch.equal(data.stored, want)
    grey, _ = own_images(tmp_path, GREY)
    luma = (want.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)).sum(1)
    assert (grey.stored[:, 0].double() - luma).abs().max() <= 0.501
    one, name = own_images(tmp_path / "b.png", COLOUR)
    assert name == ["b.png"]
    assert torch.equal(one.stored[0], want[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255))
def test_a_grey_picture_is_its_own_grey(level: int) -> None:
    from converters.zoo.own_images import _fitting

    pixels = torch.full((1, 3, 6, 8), level, dtype=torch.uint8)
    assert _fitting(pixels, Path("x"), GREY).unique().tolist() == [level]


def test_tokens(tmp_path: Path) -> None:
    table = TokenTable(torch.arange(20).reshape(5, 4) % 7)
    spec = InputSpec((3, 4), 1.0, 0, 7, table=table)
    x = RNG.integers(0, 5, (6, 3))
    data, _ = own_images(saved(tmp_path, x.astype("int32")), spec)
    assert torch.equal(data.pixels, torch.from_numpy(x))
    with pytest.raises(ConversionError, match="an array of float64; give tokens, as integers"):
        own_images(saved(tmp_path, x * 1.0), spec)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8", "bool", "float32"])
def test_labels(tmp_path: Path, kind: str) -> None:
    x = saved(tmp_path, RNG.random((4, 6, 8)))
    y = np.array([1, 0, 1, 1]).astype(kind)
    data, _ = own_images(x, GREY, saved(tmp_path, y, "y.npy"))
    assert data.labels.dtype == (torch.float64 if kind == "float32" else torch.int64)
    assert data.labels.tolist() == [1, 0, 1, 1]


WRONG = {
    "channels last": (np.zeros((2, 6, 8, 3)), COLOUR, r"takes \(N, 3, 6, 8\): put channels first, with numpy.moveaxis"),
    "another size": (np.zeros((2, 3, 8, 8)), COLOUR, r"an array of shape \(2, 3, 8, 8\); the network takes"),
    "integers": (np.zeros((2, 6, 8), "int64"), GREY, "an array of int64; give bytes .uint8. from 0 to 255, or floats"),
    "complex": (np.zeros((2, 6, 8), "complex64"), GREY, "an array of complex64"),
    "text": (np.array(["a", "b"]), GREY, r"an array of shape \(2,\)"),
    "a number": (np.array(3.0), GREY, r"an array of shape \(\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit(tmp_path: Path, case: str) -> None:
    array, spec, message = WRONG[case]
    with pytest.raises(ConversionError, match=message):
        own_images(saved(tmp_path, array), spec)


def test_pictures_that_do_not_fit(tmp_path: Path) -> None:
    Image.new("RGB", (9, 6)).save(tmp_path / "a.png")
    with pytest.raises(ConversionError, match="pictures of 9 x 6 pixels; the network takes 8 x 6: resize or pad them"):
        own_images(tmp_path, COLOUR)
    with pytest.raises(ConversionError, match=r"pictures; the network takes \(N, 7\): give a .npy file"):
        own_images(tmp_path, InputSpec((7,), 1.0, 0, 7))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="no pictures"):
        own_images(tmp_path / "empty", COLOUR)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ConversionError, match="a damaged picture"):
        own_images(tmp_path / "text.png", COLOUR)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    x = saved(tmp_path, RNG.random((4, 6, 8)))
    for wrong in (np.zeros(3), np.zeros(()), np.array(list("abcd"))):
        with pytest.raises(ConversionError, match="for 4 images; give one label for each image"):
            own_images(x, GREY, saved(tmp_path, wrong, "y.npy"))


def header(text: str) -> bytes:
    whole = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(whole)) + whole


DAMAGED = {
    "empty": b"",
    "no array": b"PK\x03\x04 and more",
    "cut": header("{'descr': '<f8', 'fortran_order': False, 'shape': (9, 9), }") + bytes(8),
    "larger than the machine": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000), }"),
    "more behind it": header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }") + bytes(40),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 4), }") + bytes(96),
    "code for a header": header("__import__('os').system('true')"),
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_arrays(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(DAMAGED[case])
    with pytest.raises(ConversionError, match=r"x.npy: found no .npy file \(.*\); save it anew") as error:
        array_in(path)
    assert "\n" not in str(error.value)


def test_no_objects_are_made(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="Python objects in it"):
        array_in(saved(tmp_path, np.array([{}, {}], dtype=object)))
