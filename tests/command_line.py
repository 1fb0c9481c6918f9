"""The type of the fixture that runs a command line."""

from __future__ import annotations

from collections.abc import Callable

Calif = Callable[..., tuple[int, str, str]]  # arguments; exit code, standard output and standard error
