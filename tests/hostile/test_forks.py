"""Tests that fork, in processes of their own (see ``conftest.py`` beside this)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.conftest import FORKING

HERE = Path(__file__).parent


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FORKING)
def test_in_a_process_of_its_own(name: str, speed: str) -> None:
    command = [sys.executable, "-m", "pytest", str(HERE / name), "-m", speed, "-q", "--benchmark-disable"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parents[1], env=plain)
    assert done.returncode in (0, 5), done.stdout[-4000:] + done.stderr[-2000:]  # 5: a file without slow ones
    assert done.returncode == 0 or speed == "slow"
