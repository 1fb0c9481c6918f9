"""The README's Python runs as it stands there, and its commands exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.main import get_command

from converters.cli import _app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0])
def test_python(code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the output of a block is shown, it is what the block prints; dots stand for what is left out."""
    shown = re.findall(r"```python\n((?:(?!```).)*?)```\n\n((?:    [^\n]*\n)+)", TEXT, flags=re.DOTALL)
    assert len(shown) == 1
    for code, output in shown:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
        printed, wanted = capsys.readouterr().out, dedent(output)
        assert doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS), printed


def test_commands_exist() -> None:
    known = set(get_command(_app()).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"\bcalif ([a-z-]+)", TEXT))
    assert named
    assert named <= known
    assert known <= named, "a command that the README does not mention"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_local_links_and_pictures_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT) if not t.startswith("http")]
    assert "docs/picture.png" in targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_the_project_speaks_of_itself() -> None:
    assert not re.search(r"file:///|/(?:root|home|tmp|work)/", TEXT)
