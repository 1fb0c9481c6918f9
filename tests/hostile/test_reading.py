"""Paths that are no regular files, and JSON that would end or fill the process."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import FileFormatError
from converters.reading import open_regular, parse_json, read_bytes, read_text
from tests.command_line import Calif


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, found in {
            "pipe": "something that is not a regular file",
            "link": "something that is not a regular file",
            "socket": "something that is not a regular file",
            "/dev/zero": "something that is not a regular file",
            ".": "a folder",
            "absent": "no such file",
            "a\0b": "no such file",
            "loop": "that it cannot be read",
        }.items():
            with pytest.raises(FileFormatError) as caught:
                open_regular(tmp_path / name, todo="do this")
            assert caught.value.found.startswith(found)
            assert caught.value.todo == "do this"


def test_a_pipe_that_takes_the_files_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    before = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr("converters.reading.os.stat", lambda p: before)
    with pytest.raises(FileFormatError, match="not a regular file"):
        open_regular(path)


def test_links_to_files_are_followed_and_sizes_are_bounds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", max_bytes=5) == b"12345"
    with pytest.raises(FileFormatError, match="found 5 bytes; at most 4 are read"):
        read_text(tmp_path / "link", max_bytes=4)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileFormatError, match="found 1,099,511,627,776 bytes"):
        read_bytes(tmp_path / "sparse", max_bytes=1 << 20)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(FileFormatError, match="no UTF-8 text"):
        read_text(tmp_path / "latin", max_bytes=9)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1" * 5000, "of 5000 characters"),
        ("1" + "0" * 400, "of 401 characters"),
        (str(2**63), "the number 9223372036854775808"),
        ("1e400", "the number 1e400"),
        ("NaN", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        (r'"\ud800"', "text that cannot be encoded"),
        ("", "Expecting value"),
        (b"\xff\xfe\x00", "text that cannot be encoded"),
    ],
)
def test_json_that_is_refused(text: str | bytes, found: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        parse_json("here", text, "write it again")
    assert found in str(caught.value)
    assert len(str(caught.value)) < 500


_CHARACTERS = st.characters(exclude_categories=["Cs"])  # no halves of surrogate pairs
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(_CHARACTERS), inner),
    max_leaves=20,
)  # fmt: skip


@given(_JSON)
def test_all_other_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json("here", json.dumps(value), "") == value


def test_numbers_that_are_not_finite_can_be_left_to_the_caller() -> None:
    assert parse_json("here", "[Infinity]", "", finite=False) == [float("inf")]


COMMANDS = [
    ("report", "{path}"),
    ("report", "{folder}"),
    ("report", "run.json", "--nir", "{path}"),
    ("report", "run.json", "--checkpoint", "{path}"),
    ("run", "{path}", "--dataset", "digits"),
    ("run", "--checkpoint", "{path}", "--dataset", "digits"),
    ("convert", "--checkpoint", "{path}"),
    ("inspect", "{path}"),
    ("lower", "{path}"),
    ("cross-check", "{path}", "--dataset", "digits"),
    ("train", "--start", "{path}"),
    ("train", "--teacher", "{path}"),
    ("reproduce", "table2", "--checkpoint", "{path}"),
]


@pytest.mark.parametrize(
    ("arguments", "device"),
    [*((c, False) for c in COMMANDS), *((c, True) for c in COMMANDS[:7])],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "device" if x else "pipe",
)
def test_every_command_refuses_them_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calif: Calif, arguments: tuple[str, ...], device: bool
) -> None:
    """A pipe that nobody writes to, and a device that never ends."""
    row = {"T": 8, "phase": "settle", "quantised_accuracy": 0.9, "snn_accuracy": 0.9}
    row |= {"counts_compared": 800, "count_mismatches": 0}
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(json.dumps({"network": "lenet5", "dataset": "digits", "windows": [row]}))
    Path("folder").mkdir()
    path = Path("/dev/zero" if device else "pipe")
    if not device:
        os.mkfifo("pipe")
    Path("folder/run.json").symlink_to(path.absolute())
    code, out, err = calif(*(a.format(path=path, folder="folder") for a in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "something that is not a regular file" in err
