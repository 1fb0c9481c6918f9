"""Where data sets are looked for, and what is said when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

from converters.errors import ConversionError, first_line

__all__ = ["absent", "allow_download", "cache_folder", "data_roots"]


def data_roots(root: str | os.PathLike | None) -> list[Path]:
    """Folders to look in, in this order; a download goes to the last one."""
    if root is not None:
        if not Path(root).is_dir():  # a download would make it: of a mistyped name, a second place for the data
            raise ConversionError(
                str(root), "no such folder", "name the one that has the data sets, or make it for a download"
            )
        return [Path(root)]
    given = [os.environ["CALIF_DATA"]] if os.environ.get("CALIF_DATA") else []
    here = Path(__file__).resolve().parents[2]  # beside a source checkout
    return [*map(Path, given), Path("../shared/data"), here.parent / "shared" / "data", cache_folder()]


def cache_folder() -> Path:
    """Where downloads and decoded images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "calif"


def allow_download(download: bool) -> None:
    """Raise an OSError unless a download is wanted."""
    if not download:
        raise OSError("not asked for")


def absent(name: str, files: str, folder: str, roots: list[Path], error: Exception) -> ConversionError:
    """The one message for a data set that is not there: what to put where."""
    first = first_line(error)[:100]
    return ConversionError(
        name,
        f"no files in {', '.join(str(r) for r in roots)}, and no download ({first})",
        f"put {files} into {roots[-1] / folder}, or name another place with --data-root or CALIF_DATA",
    )
