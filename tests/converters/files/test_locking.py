"""One process at a time, however the one before it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from converters.errors import ConversionError
from converters.files.locking import locked

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from converters.files.locking import locked
with locked(sys.argv[1], "wait"):
    print(flush=True)
    input()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until it is told to go."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return process


@pytest.mark.parametrize("end", ["kill", "well"])
def test_another_process(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.pt"
    with holder(path) as other:
        with pytest.raises(ConversionError) as caught, locked(path, "wait for it"):
            pytest.fail("both have it")
        assert str(caught.value) == f"{path}: found another process ({other.pid}) at work on it; wait for it"
        with locked(tmp_path / "b.pt", ""):
            pass
        if end == "kill":
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert [p.name for p in tmp_path.iterdir()] == [".a.pt.lock"]  # stale, and nobody's
        else:
            other.communicate("\n")
    with locked(path, ""):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_inside_ends_it(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "a", ""):
            raise KeyError
    assert not list(tmp_path.iterdir())


def test_many_at_once_are_never_two_inside(tmp_path: Path) -> None:
    inside, most, entered = [], [], []

    def work() -> None:
        for _ in range(200):
            try:
                with locked(tmp_path / "a", ""):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    entered.append(1)
            except ConversionError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(most) == {1}
    assert entered
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_hold_it(tmp_path: Path) -> None:
    with (
        pytest.raises(ConversionError, match=r"found that \.a\.lock cannot be made beside it"),
        locked(tmp_path / "absent" / "a", ""),
    ):
        pass
    os.symlink(tmp_path / "elsewhere", tmp_path / ".a.lock")
    with pytest.raises(ConversionError, match="cannot be made"), locked(tmp_path / "a", ""):
        pass
    assert not (tmp_path / "elsewhere").exists()
