"""Files that are whole or not there, whatever stands in the way."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import ConversionError
from converters.files.atomic import atomic_path


def write(path: Path, text: str = "new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_link_to_nowhere_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link")
    assert (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConversionError, match="not a regular file"):
        write(tmp_path / "pipe")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_that_cannot_be_written_is_the_one_that_was_given(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300)
    with pytest.raises(ConversionError, match=r"n{300}: found that it cannot be written \(File name too long\)"):
        write(path)


def test_errors_of_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_text()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    """Of 4 kB, in a process of its own: HDF5 would end it."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = [sys.executable, "-m", "converters.cli", "convert", "--checkpoint", "lenet5-mnist-8", "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "f.nir")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
        preexec_fn=small_files,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.count("\n") == 1
    assert "f.nir: found that it cannot be written (File too large); make room" in done.stderr
    assert not [p for p in tmp_path.iterdir() if p.name != "numba"]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """Its own alone: not that of another file, of a living writer, nor what only looks like it."""
    source = (
        "import os, signal, sys\nfrom converters.files.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as p:\n    p.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("a", "b"):
        command = [sys.executable, "-c", source, str(tmp_path / name)]
        assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == -9
    mine, other = sorted(p.name for p in tmp_path.iterdir())
    others = [other, ".a.12345678.part.x", ".a.1234567.part", ".xa.12345678.part"]
    for name in others[1:]:
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".a.abcdefgh.part")
    with atomic_path(tmp_path / "a") as living:
        assert not (tmp_path / mine).exists()
        write(tmp_path / "a", "first")
        assert living.exists()
        living.write_text("second")
    assert (tmp_path / "a").read_text() == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "a", ".a.abcdefgh.part"])
