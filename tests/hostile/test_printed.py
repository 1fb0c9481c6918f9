"""What the command line prints of foreign text: all that it holds, and nothing that a terminal would obey."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import converters
from converters.cli import main
from converters.commands import common
from converters.console.printing import json_text, printable
from converters.errors import ConversionError
from converters.files.quantised_file import save_quantised
from converters.measuring.cross_checking import CrossCheck, Difference, plot
from converters.operations import Linear
from converters.quantised import GraphBuilder, QuantGraph

BYTES = "\udcff"  # of a path, which may be any
NAMES = ["[/red]", "[bold]b", "\x1b[31mred\x1b]0;title\x07", ":smile:", "a\nb", "\u202egnp.exe", BYTES, "\x9b2J", "{T}"]
FORBIDDEN = "\x1b\x07\x9b\u202e\r"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network(layer: str = "fc") -> QuantGraph:
    b = GraphBuilder()
    x = b.input((4,), scale=0.25, q_min=0, q_max=4)
    weight = torch.tensor([[1, 2, 0, -1], [0, 1, 1, 0]])
    y = b.layer(layer, [(x, Linear(weight))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    return b.build(y)


@given(st.text(st.characters()))
@example("\ud800")
@example("\x1b[2J")
def test_whatever_the_text(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
    assert str(shown.encode("utf-8"), "utf-8") == shown
    assert str(ConversionError(text, text, "do this")).isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_paths_and_names(calif: Any, tmp_path: Path, name: str) -> None:
    """Written, inspected, run and missed: each line shows the path as it is."""
    folder = tmp_path / name.replace("/", "|")
    folder.mkdir()
    path = f"{tmp_path if name == BYTES else folder}/n.safetensors"  # whose own reader takes no bytes that are no text
    layer = name.replace("/", "|") if name.isprintable() else "fc"
    save_quantised(path, network(layer), notes={"network": name.replace(BYTES, "n")})
    code, out, err = calif("convert", "--checkpoint", path, "--out", f"{folder}/n.nir")
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {printable(f'{folder}/n.nir')} (T = 4, ")
    shown = [out]
    for arguments in (
        ["inspect", path],
        ["inspect", f"{folder}/n.nir"],
        ["lower", f"{folder}/n.nir", "--out", f"{folder}/stock.nir"],
        ["inspect", f"{folder}/gone.nir"],
        ["run", "--checkpoint", path, "--dataset", f"{folder}/none"],
        ["report", folder, "--out", f"{folder}/no/r.html"],
        ["convert", "--checkpoint", name],
        ["inspect", path, name],
        [name],
    ):
        code, out, err = calif(*arguments)
        assert (code, err) == (0, "") if out else (code, err.count("\n")) == (2, 1)
        shown += [out, err]
    whole = "".join(shown)
    assert not set(whole) & set(FORBIDDEN)
    assert all(line.isprintable() for line in whole.split("\n"))
    assert whole.count(printable(str(folder))) >= 3


def test_tables_and_progress_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    common.show(common.table("[red]title\x1b[0m", ["a", "b"], [["[/red]", ":smile:"], ["\x9b2J", "a\nb"]]))
    common.say("[/bold] \x1b]0;x\x07 :boom:")
    told = capsys.readouterr().out
    for text in ("[red]title\\x1b[0m", "[/red]", ":smile:", "\\x9b2J", "a\\nb", "[/bold] \\x1b]0;x\\x07 :boom:"):
        assert text in told
    assert not set(told) & set(FORBIDDEN)
    with common.progress_bar() as bar:
        bar.add_task("[/red]\x1b[2J", total=1)
        assert str(bar.columns[0](bar.tasks[-1])) == "[/red]\\x1b[2J"


@pytest.mark.parametrize("name", [r"$\frac$", "$a_$ b$", "\x1b[31mfc", "[/red]"])
def test_names_in_a_plot(tmp_path: Path, name: str) -> None:
    """Matplotlib would set what stands between dollars, or stop at it."""
    trace: dict[str, list[Any]] = {"step": [0, 1], "first": [0.0, 1.0], "other": [0.0, 2.0]}
    first = Difference(name, 0, (1,), 1, (0, 1), (0.5, 1.5), (0, 0), (1.0, 1.0), (1.0, 1.0), trace)
    found = CrossCheck(("snntorch", "brian2"), 4, "settle", 1, {}, {"brian2": first}, {"brian2": 0})
    plot(found, tmp_path / "first.png")
    assert (tmp_path / "first.png").stat().st_size > 1000


COMMANDS = sorted(Path(common.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.name)
def test_all_printing_passes_there(path: Path) -> None:
    """``say``, ``show``, ``table`` and ``print_json`` are the only ways out."""
    if path.name == "common.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not used & {"print", "stdout", "stderr", "Console", "Table.add_row", "echo", "secho"}


# --- JSON ------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


@given(VALUES, st.sampled_from([None, 1]))
@example({"a": [float("nan"), {"b": float("-inf")}, "NaN"]}, None)
def test_json_is_json(value: Any, indent: int | None) -> None:
    def expected(x: Any) -> Any:
        if isinstance(x, float) and (x != x or abs(x) == float("inf")):
            return None
        if isinstance(x, dict):
            return {k: expected(v) for k, v in x.items()}
        return [expected(v) for v in x] if isinstance(x, list) else x

    assert json.loads(json_text(value, indent), parse_constant=refuse) == expected(value)


# --- where standard output goes --------------------------------------------------------------------------


class Stream(io.TextIOBase):
    """Text to a descriptor, at once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, text: str) -> int:
        return os.write(self.descriptor, text.encode())


@pytest.mark.parametrize(
    "arguments", [["inspect", "µ.nir"], ["lower", "µ.nir", "--out", "µ2.nir"], ["inspect", "networks"], ["--help"]]
)
def test_ascii(calif: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """A terminal or a file that takes ASCII alone."""
    converters.write("µ.nir", converters.to_nir(network("µ–λ"), T=4))
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        code, _, err = calif(*arguments)
    assert (code, err, narrow.errors) == (0, "", "strict")  # the stream is as it was
    assert rb"\xb5" in raw.getvalue() or "µ.nir" not in arguments


PRINTS = [["inspect", "networks"], ["inspect", "networks", "--json"], ["inspect", "--help"], []]


@pytest.mark.parametrize("arguments", PRINTS)
def test_full(calif: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(full))
        code, _, err = calif(*arguments)
    os.close(full)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith(": No space left on device\n")


@pytest.mark.parametrize("arguments", PRINTS)
def test_a_reader_that_went_away(calif: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(writing))
        code, _, err = calif(*arguments)
    os.close(writing)
    assert (code, err) == (141, "")  # as a program that SIGPIPE ended


@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
def test_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], streams: tuple[str, ...]) -> None:
    with monkeypatch.context() as patch:
        for name in streams:
            patch.setattr(sys, name, None)
        with pytest.raises(SystemExit) as stopped:
            main(["inspect", "networks"])
    assert stopped.value.code == 2
    expected = "calif: standard output: found that it is closed; open it, or send it to /dev/null\n"
    assert capsys.readouterr().err == (expected if len(streams) == 1 else "")
