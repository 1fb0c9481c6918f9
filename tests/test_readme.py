"""The Python of the README and of the pages beside it runs as it stands there, and commands and links exist."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.main import get_command

from converters.cli import _app
from converters.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (
    "your_own_network", "from_float", "from_another_toolkit", "your_own_operation", "deploy", "migrating", "words",
    "neuron", "command_line", "other_tasks", "gallery", "choosing", "onnx", "limits",
)  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in GUIDE))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS["README.md"]
_PYTHON = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
BLOCKS = {page: _PYTHON.findall(text) for page, text in TEXTS.items()}


@pytest.fixture(autouse=True)
def _operations() -> Iterator[None]:
    """Pages register operations of their own."""
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks])
def test_python(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page go on from each other."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("a_page")  # a dataclass looks its module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in BLOCKS[page]:
        exec(compile(code, page, "exec"), vars(module))


def test_habits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of this page go on from each other; what a training run resumes is what another one goes on with."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "prepared_models.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {"__name__": "habits"}
    titles = re.findall(r"^## (\w+)", text, flags=re.MULTILINE)
    for title, code in zip(["Start", *titles], _PYTHON.findall(text), strict=True):
        exec(compile(code, f"prepared_models.md, {title}", "exec"), found)
        if title == "Resume":
            a, b = found["m"].train(), found["resumed"].train()
            old = torch.optim.SGD(a.parameters(), lr=0.01, momentum=0.9)
            old.load_state_dict(deepcopy(found["state"]["optimiser"]))  # which would share its tensors
            found["step"](a, old)
            found["step"](b, found["optimiser"])
            theirs = b.state_dict()
            assert all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())
    assert titles == ["Evaluate", "Average", "Checkpoint", "Resume", "Copy"]
    x = found["images"]
    assert all(torch.equal(n, found["again"].execute(x)[k]) for k, n in found["q"].execute(x).items())


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


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
    named = set(re.findall(r"\bcalif ([a-z-]+)", "".join(TEXTS.values())))
    assert named
    assert named <= known
    assert known <= named, "a command that no page mentions"


def commands(text: str) -> list[str]:
    """The command lines of a page: indented ones, and those in the text."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^(?: {4}|\$ )\s*(calif [a-z-]+ .*)$", joined, flags=re.MULTILINE)
    spans = re.findall(r"`(calif [a-z-]+ [^`]*)`", joined)
    names = re.compile(r"calif [a-z-]+ --[a-z-]+")  # of options, without their values
    found += [" ".join(span.split()) for span in spans if not names.fullmatch(span)]
    parts = (part.strip() for line in found for part in re.split(r"&&|;|\||\s#\s|\s>\s", line))
    return [part for part in parts if part.startswith("calif ")]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=lambda p: p.name)
def test_commands_have_the_options_that_they_are_given(page: Path) -> None:
    known = get_command(_app()).commands  # type: ignore[attr-defined]
    for line in commands(page.read_text(encoding="utf-8")):
        name, *arguments = shlex.split(line)[1:]
        command = known[name]
        command.make_parser(command.context_class(command)).parse_args(arguments)


def test_an_option_that_a_command_has_not_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Give\n\n    calif quantise --checkpoint runs/x.float.pt --levels 31\n", encoding="utf-8")
    with pytest.raises(Exception, match="No such option: --checkpoint"):
        test_commands_have_the_options_that_they_are_given(page)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_local_links_and_pictures_exist() -> None:
    found = [(p, t) for p, text in TEXTS.items() for t in re.findall(r"\]\(([^)#]+)[^)]*\)", text)]
    local = [(ROOT / page).parent / target for page, target in found if not target.startswith("http")]
    assert ROOT / "docs" / "picture.png" in local
    for target in local:
        assert target.is_file(), target


def test_the_project_speaks_of_itself() -> None:
    assert not re.search(r"file:///|/(?:root|home|tmp|work)/", "".join(TEXTS.values()))
