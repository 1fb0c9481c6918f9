"""Files that are whole or not there: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.errors import ConversionError

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends well, and vanishes otherwise.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as p:
    ...     _ = p.write_text("whole")
    >>> [f.name for f in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ConversionError(str(path), "that its folder does not exist", "create the folder first")
    if path.is_dir():
        raise ConversionError(str(path), "a folder", "give the name of a file")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
