"""Processes of their own: to be killed before a file operation, to be measured, or to have a small disk."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

# what Python announces before it touches a file, and the place of the path among the announcement's arguments
_EVENTS = {
    "open": 0, "os.rename": 0, "os.remove": 0, "os.mkdir": 0, "os.chmod": 0, "os.truncate": 0, "os.scandir": 0,
    "os.listdir": 0, "os.link": 0, "os.symlink": 0, "os.rmdir": 0, "fcntl.flock": None,
}  # fmt: skip


def killed_before(
    number: int | None, folders: Iterable[Path], work: Callable[[], object], events: Iterable[str] = tuple(_EVENTS)
) -> bool:
    """Whether ``work``, in a process of its own, came to its file operation ``number`` and was killed before it.

    None: it runs to its end. ``events``: the operations that count.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            torch.set_num_threads(1)
            if number is not None:
                _kill_before(number, [str(f.resolve()) for f in folders], set(events))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed"
    return False


def _kill_before(number: int, folders: list[str], events: set[str]) -> None:
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in events:
            return
        place = _EVENTS[event]
        if place is not None:
            path = arguments[place]
            if not isinstance(path, str | bytes | os.PathLike) or not os.fsdecode(path).startswith(tuple(folders)):
                return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(hook)


def in_a_child(work: Callable[[], object]) -> tuple[str, int]:
    """What ``work`` raised as text (or "" if nothing), and by how many kB the process grew, in one of its own."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        torch.set_num_threads(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        message = ""
        try:
            work()
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, f"{grown} {message[:3000]}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        size, text = file.read().decode().split(" ", 1)
    os.wait()
    return text, int(size)


def contents(*folders: Path) -> dict[str, bytes]:
    """Every file, hidden ones too, by its path."""
    return {
        f"{k}/{p.relative_to(folder)}": p.read_bytes()
        for k, folder in enumerate(folders)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def ends_alike(
    root: Path,
    work: Callable[[Path], object],
    numbers: Iterable[int] | None = None,
    step: int = 1,
    events: Iterable[str] = tuple(_EVENTS),
) -> Iterator[int]:
    """The numbers at which ``work(folder)`` was killed; begun again, it ended with the files of an unbroken run.

    ``numbers`` None: every ``step``-th operation there is.
    """
    killed_before(None, [], partial(work, root / "whole"))
    whole = contents(root / "whole")
    assert whole
    for k in numbers if numbers is not None else range(0, 10**6, step):
        folder = root / str(k)
        if not killed_before(k, [folder], partial(work, folder), events):
            assert contents(folder) == whole
            if numbers is None:
                return
            continue
        yield k
        killed_before(None, [], partial(work, folder))
        again = contents(folder)
        differing = [n for n in {**whole, **again} if again.get(n) != whole.get(n)]
        assert not differing, f"killed before operation {k}"
