"""What ``docs/security.md`` says: the files that it names are there, and its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from converters.files import nir_file, quantised_file
from converters.graphs import shapes
from converters.operations import building
from converters.reporting import page
from converters.zoo import decoding, training_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LIMITS = {
    r"`max_bytes`, 1 GiB": nir_file.MAX_BYTES == 2**30,
    r"\| 200,000; 8; 200 bytes; 8 \|": nir_file._MAX_OBJECTS == 200_000,
    r"all nodes together \| 2\^27, unless": shapes.MOST_VALUES == 2**27,
    r"window \| 2\^20 steps, unless": shapes.LARGEST_WINDOW == 2**20,
    r"whole numbers of at most 2\^24": building.LARGEST_WEIGHT == 2**24,
    r"by a schema \| 1 GiB, decompressed too": quantised_file._LARGEST == 2**30,
    r"256 MiB for the decompressor": quantised_file._DICTIONARY == 2**28,
    r"16 MiB of description": quantised_file._LARGEST_TEXT == 2**24,
    r"\| 4 GiB, and 16 MiB of text": (training_file._LARGEST, training_file._LARGEST_TEXT) == (2**32, 2**24),
    r"have bounds \| 256 MiB \|": page._MOST_BYTES == 2**28,
    r"256 MiB a file, 2\^26 pixels a picture, 32 GiB a data set": (
        (decoding.LARGEST_FILE, decoding._LARGEST_PICTURE, decoding._LARGEST_SET) == (2**28, 2**26, 2**35)
    ),
}


@pytest.mark.parametrize("said", LIMITS)
def test_limits(said: str) -> None:
    assert re.search(said, PAGE)
    assert LIMITS[said]


def test_paths() -> None:
    named = re.findall(r"`((?:tests|converters)/[\w/.]+)`", PAGE)
    assert len(named) > 4
    assert not [name for name in named if not (ROOT / name).exists()]
