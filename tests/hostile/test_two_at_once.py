"""Two trainings into one folder at once: one of them is told so in one line, and the other ends as it would alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from converters.cli import main
from tests.command_line import Calif
from tests.converters.zoo.picture_sets import picture
from tests.hostile.kills import contents

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training of a second, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for c in "ab":
            folder = tmp_path / "data" / part / c
            folder.mkdir(parents=True)
            picture(ord(c), 32, 32).save(folder / "0.png")
    return ["train", "--dataset", "data", "--epochs", "2", "--qat-epochs", "2", "--levels", "7", "--out", "out"]


def stopped_before(opening: str, command: list[str]) -> int:
    """The process of a training that stands before it opens such a file."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open" and opening in str(arguments[0]):
                os.kill(os.getpid(), signal.SIGSTOP)

        sys.addaudithook(hook)
        code = 1
        try:
            with redirect_stdout(StringIO()):
                main(command)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            os._exit(code)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    return child


def end_of(child: int) -> int:
    """Its exit code, however often it stops."""
    while True:
        os.kill(child, signal.SIGCONT)
        status = os.waitpid(child, os.WUNTRACED)[1]
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)


# it holds the lock of the whole run; that of the float phase, which runs of other levels share; of the quantised one
@pytest.mark.parametrize(
    ("opening", "shared", "levels"),
    [
        ("/.lenet5-data.float.pt.lock", False, "3"),
        ("/.lenet5-data.float.pt.", True, "3"),
        ("/.lenet5-data.float.pt.", True, "7"),
        ("/.lenet5-data-7.qat.pt.", False, "7"),
    ],
)
def test_the_second_is_told(calif: Calif, command: list[str], opening: str, shared: bool, levels: str) -> None:
    """Of the same run always, and of one of other levels while the first trains what both begin with."""
    assert calif(*command[:-1], "alone")[0] == 0
    child = stopped_before(opening, command)
    if shared:  # that was its lock; next comes the checkpoint
        os.kill(child, signal.SIGCONT)
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    code, out, err = calif(*[levels if a == "7" else a for a in command])
    assert end_of(child) == 0
    if levels == "7" or shared:
        taken = "lenet5-data-7" if levels == "7" else "lenet5-data.float.pt"
        assert (code, out, err.count("\n")) == (2, "", 1)
        told = f"calif: out/{taken}: found another process ({child}) at work on it; wait for it, or use another --out\n"
        assert err == told
    else:
        assert (code, err) == (0, "")
    found = {name: data for name, data in contents(Path("out")).items() if "-3." not in name}
    assert found == contents(Path("alone"))


@pytest.mark.slow
def test_started_by_hand(command: list[str]) -> None:
    """Two command lines at the same moment: at least one ends well, and of the other there is one line or the same."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    calif = [sys.executable, "-m", "converters.cli", *command]
    both = [subprocess.Popen(calif, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, err in zip(codes, told, strict=True):
        assert (code, err) == (0, "") or (code, err.count("\n")) == (2, 1)
        assert code == 0 or "at work on it; wait for it, or use another --out" in err
    found = contents(Path("out"))
    subprocess.run([*calif[:-1], "alone"], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert found == contents(Path("alone"))
