"""Files whose tests fork and train in the child run in processes of their own.

PyTorch refuses to go backwards in a child of a process whose engine has ever started a thread, which depends on what
that process has tested before. ``pytest FILE`` by hand runs them as any other.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FORKING = ("test_kills.py", "test_two_at_once.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    alone = [Path(argument.partition("::")[0]).name for argument in config.invocation_params.args]
    if collection_path.name in FORKING and ("PYTEST_XDIST_WORKER" in os.environ or collection_path.name not in alone):
        return True
    return None
