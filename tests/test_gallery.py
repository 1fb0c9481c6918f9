"""Every picture of the page of pictures is small, is shown, and is made by a script that is there and runs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
SHOWN = {ROOT / "docs" / path for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)}


def test_every_picture_is_shown_and_small() -> None:
    there = {*(ROOT / "docs").glob("*.png"), *(ROOT / "docs" / "pictures").glob("*.png")}
    assert there == SHOWN
    for path in there:
        assert path.stat().st_size < 250_000, path
        with Image.open(path) as picture:
            picture.verify()


def test_every_script_is_there() -> None:
    scripts = set(re.findall(r"python (tutorials/\w+\.py)", PAGE))
    assert len(scripts) >= 2
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.slow
def test_the_script_draws_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "tutorials" / "gallery.py"), run_name="__main__")
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"transfer.png", "raster.png", "layer_spikes.png", "network.png", "windows.png"}
    for name in drawn:
        with Image.open(tmp_path / name) as mine, Image.open(ROOT / "docs" / "pictures" / name) as theirs:
            assert mine.size == theirs.size
