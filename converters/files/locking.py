"""Locks that end with their process, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converters.errors import ConversionError

try:
    import fcntl
except ImportError:  # no such locks on Windows: there, nothing is locked
    fcntl = None  # type: ignore[assignment]

__all__ = ["claim", "locked"]


def claim(descriptor: int) -> bool | None:
    """Whether an open file is now this process's alone; None where the system or file system knows no locks.

    The claim ends when the descriptor is closed, so when the process ends, too.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


@contextmanager
def locked(path: str | os.PathLike, todo: str) -> Iterator[None]:
    """Only one process at a time works on ``path``; a file ``.<name>.lock`` beside it says so, and goes at the end.

    One that a dead process has left behind does not block.

    Raises
    ------
    ConversionError
        If another process works on it; ``todo`` says the way out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder / "a", "wait for it"):
    ...     [f.name for f in folder.iterdir()]
    ['.a.lock']
    >>> list(folder.iterdir())
    []
    """
    lock = Path(path).parent / f".{Path(path).name}.lock"
    descriptor = _open(lock, str(path), todo)
    try:
        with suppress(OSError):  # for the other's message alone
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # while it is ours: whoever has opened it meanwhile finds that it is gone
        os.close(descriptor)


def _open(lock: Path, where: str, todo: str) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            found = f"that {lock.name} cannot be made beside it ({error.strerror or error})"
            raise ConversionError(where, found, "choose another folder") from None
        if claim(descriptor) is False:
            process = os.read(descriptor, 20).decode("ascii", "replace").strip() or "of unknown number"
            os.close(descriptor)
            raise ConversionError(where, f"another process ({process}) at work on it", todo)
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # its owner has removed it since it was opened
