"""A kernel that is compiled in parallel and one that is not are two, in Numba's cache on disk too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

_KERNELS = """
import numba
import numpy as np

from calif_plugins.compiling import compiled, compiled_serially


def _doubled(x):
    for k in numba.prange(len(x)):
        x[k] *= 2


doubled, serial_doubled = compiled(_doubled), compiled_serially(_doubled)
"""
_CALLS = """
import json, sys
import numpy as np
import kernels

for name in sys.argv[1:]:
    x = np.arange(3)
    getattr(kernels, name)(x)
    assert x.tolist() == [0, 2, 4]
found = {name: getattr(kernels, name).stats for name in sys.argv[1:]}
print(json.dumps({name: [sum(s.cache_hits.values()), sum(s.cache_misses.values())] for name, s in found.items()}))
"""


def called(folder: Path, *names: str) -> dict[str, list[int]]:
    """Kernels called in a process of its own: how often each was found in the cache, and how often it was not."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    env = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _CALLS, *names], capture_output=True, text=True, check=True, env=env, timeout=300
    )
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("first", ["doubled", "serial_doubled"])
def test_neither_is_taken_for_the_other(tmp_path: Path, first: str) -> None:
    """Where threads must not be started, as in a forked child, the kernel with threads must not come from the disk."""
    (tmp_path / "kernels.py").write_text(_KERNELS, encoding="utf-8")
    (other,) = {"doubled", "serial_doubled"} - {first}
    assert called(tmp_path, first) == {first: [0, 1]}
    assert called(tmp_path, other) == {other: [0, 1]}
    assert called(tmp_path, first, other) == {first: [1, 0], other: [1, 0]}


def test_what_a_kernel_calls_is_not_kept_from_before(tmp_path: Path) -> None:
    """It is in the kernel's code, and in a file of its own."""
    calls = "import numba\nimport numpy as np\n\n\n@numba.njit\ndef twice(x):\n    return {}\n"
    (tmp_path / "called.py").write_text(calls.format("2 * x"), encoding="utf-8")
    kernels = _KERNELS.replace("x[k] *= 2", "x[k] = twice(x[k])").replace(
        "import numpy as np", "from called import twice"
    )
    (tmp_path / "kernels.py").write_text(kernels, encoding="utf-8")
    assert called(tmp_path, "doubled") == {"doubled": [0, 1]}
    assert called(tmp_path, "doubled") == {"doubled": [1, 0]}
    (tmp_path / "called.py").write_text(calls.format("x + x"), encoding="utf-8")
    assert called(tmp_path, "doubled") == {"doubled": [0, 1]}
