"""Files that are whole or not there: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converters.errors import ConversionError
from converters.files.locking import claim

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends well, and vanishes otherwise.

    A link stays one: the file it points to is replaced. Of a process that was killed a hidden ``.part`` file stays; the
    next one that writes the same file removes it.

    Raises
    ------
    ConversionError
        If there is no such folder or it may not be written, the disk is full, or ``path`` is a folder, a device or a
        pipe.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as p:
    ...     _ = p.write_text("whole")
    >>> [f.name for f in folder.iterdir()]
    ['a.txt']
    """
    where, target = str(path), Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ConversionError(where, "that its folder does not exist", "create the folder first")
    if os.path.isdir(target):
        raise ConversionError(where, "a folder", "give the name of a file")
    if os.path.exists(target) and not os.path.isfile(target):  # root could put a file in the place of a device
        raise ConversionError(where, "something that is not a regular file", "give the name of a file")
    try:
        handle, name = _claimed(target)
    except OSError as error:
        raise _unwritable(where, error, "choose another folder or name") from None
    temporary = Path(name)
    try:
        _remove_abandoned(target)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:  # its message would name the temporary file
        if error.filename not in (None, name):
            raise
        raise _unwritable(where, error, "make room, or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)  # it has its own name where all went well
        os.close(handle)


def _claimed(target: Path) -> tuple[int, str]:
    """A new temporary file, and the descriptor that says that its process lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        if claim(handle) is not False and os.path.exists(name):
            return handle, name
        os.close(handle)  # between the two, another writer took it for abandoned


def _remove_abandoned(target: Path) -> None:
    """Temporary files of the same target whose process is dead."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.part")
    with suppress(OSError):
        for path in [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]:
            if path.is_symlink() or not path.is_file():
                continue
            handle = os.open(path, os.O_RDWR)
            try:
                if claim(handle):
                    path.unlink()
            finally:
                os.close(handle)


def _unwritable(where: str, error: OSError, todo: str) -> ConversionError:
    return ConversionError(where, f"that it cannot be written ({error.strerror or error})", todo)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
