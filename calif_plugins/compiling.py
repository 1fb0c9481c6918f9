"""How kernels are compiled: in parallel, without Python's lock, and kept on disk where the disk takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

__all__ = ["compiled", "compiled_serially", "compiles"]


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, compiled by Numba at its first call, and kept in Numba's cache.

    A cache that is damaged (a full disk, a process that was killed while it wrote) or cannot be written costs seconds
    of compiling, and nothing else.

    >>> import numpy as np
    >>> @compiled
    ... def double(x):
    ...     for k in numba.prange(len(x)):
    ...         x[k] *= 2
    >>> x = np.arange(3)
    >>> double(x); x.tolist()
    [0, 2, 4]
    """
    return _kept(function, parallel=True)


def compiled_serially(function: Callable[..., Any]) -> Any:
    """The same on one core, without threads to start and to wait for: for arrays that are small."""
    return _kept(function, parallel=False)


def _kept(function: Callable[..., Any], parallel: bool) -> Any:
    dispatcher: Any = numba.njit(parallel=parallel, nogil=True, boundscheck=False, error_model="numpy")(function)
    if compiles():
        with suppress(RuntimeError):  # no folder to keep it in
            dispatcher._cache = _Cache(function)  # as cache=True does, with Numba's own class
            dispatcher._cache.parallel = parallel
            dispatcher._cache.folder = Path(function.__code__.co_filename).parent
    return dispatcher


def compiles() -> bool:
    """Whether kernels are compiled; ``NUMBA_DISABLE_JIT=1`` has Python run them."""
    return not getattr(numba.config, "DISABLE_JIT")  # noqa: B009  set when Numba is imported


@cache
def _sources(folder: Path) -> str:
    """What tells the files beside a kernel from others: whatever it calls is in one of them."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        with suppress(OSError):
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


class _Cache(FunctionCache):
    """Numba's, whose faults are no faults of the program.

    Numba knows a kernel by its function and its types alone: of two that are compiled of one function, in parallel and
    not, the second would get the first one's code, and a forked child threads that are not there. And of the sources it
    knows the kernel's own file alone: of functions that a kernel calls, and has in its code, it would keep old ones.
    """

    parallel = False
    folder = Path()

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self.parallel, _sources(self.folder))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # half a pickle may raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)
