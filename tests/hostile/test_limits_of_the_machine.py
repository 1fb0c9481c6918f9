"""Arithmetic that does not go on, memory and disks that are full, caches that are damaged: one line, or no harm."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import converters
from converters.errors import ConversionError, warn
from converters.network import Network
from tests.converters.sample_graphs import lenet
from tests.hostile.limited import full_disk


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- arithmetic and memory -------------------------------------------------------------------------------


def _deep(n: int = 0) -> int:
    return _deep(n + 1)


FAULTS = {
    "OverflowError at": lambda: int(float("inf")),
    "ZeroDivisionError: ": lambda: 1 // 0,
    "RecursionError: ": _deep,
    "MemoryError: Unable to allocate": lambda: np.empty(2**59),
    "can't allocate memory": lambda: torch.empty(2**59),
    "overflow": lambda: torch.empty(2**62, 2**62),
}


@pytest.mark.parametrize("message", FAULTS)
def test_one_line_names_the_file(calif: Any, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Whatever raises it, wherever: in the one place of the command line."""
    converters.write("n.nir", converters.to_nir(lenet()))
    monkeypatch.setattr(Network, "from_graph", lambda *_: FAULTS[message]())
    for arguments in (["inspect", "n.nir"], ["run", "n.nir", "--dataset", "digits"], ["lower", "n.nir"]):
        code, out, err = calif(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("calif: n.nir: found ")
        assert message.split(" at")[0] in err
        assert re.search(r" at converters/\S+\.py:\d+\);", err), "for whoever looks for the cause"
    todo = "fewer images at a time" if "llocate" in message else "check what the file holds"
    assert todo in err


def test_other_errors_are_bugs_and_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.cli import main

    def fault(*_: object) -> None:
        raise RuntimeError("a bug")

    converters.write("n.nir", converters.to_nir(lenet()))
    monkeypatch.setattr(Network, "from_graph", fault)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["inspect", "n.nir"])


def test_warnings_of_ours_are_a_line_and_those_of_libraries_are_not(
    calif: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubtful(*_: object) -> None:
        warnings.warn("of a library", UserWarning, stacklevel=1)
        warn("n.nir", "[/red] \x1b", "look at it")
        raise ConversionError("fc", "nothing", "go home")

    converters.write("n.nir", converters.to_nir(lenet()))
    monkeypatch.setattr(Network, "from_graph", doubtful)
    code, out, err = calif("inspect", "n.nir", "--json")
    told = "calif: note: n.nir: found [/red] \\x1b; look at it\ncalif: n.nir: fc: found nothing; go home\n"
    assert (code, out, err) == (2, "", told)


# --- a full disk -----------------------------------------------------------------------------------------


RUN = '{"windows": [{"T": 8, "phase": "settle", "quantised_accuracy": 1, "snn_accuracy": 1, "counts_compared": 8'
RUN += ', "count_mismatches": 0}]}'


@pytest.mark.parametrize("room", [0, 300])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["convert", "--checkpoint", "lenet5-mnist-8", "--out", "a.nir"], "a.nir"),
        (["lower", "n.nir", "--out", "b.nir"], "b.nir"),
        (["report", "run.json", "--out", "c.html"], "c.html"),
        (["reproduce", "fig2", "--out", "d"], "d/fig2.json"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_a_full_disk_is_one_line(calif: Any, room: int, arguments: list[str], named: str) -> None:
    Path("run.json").write_text(RUN)
    converters.write("n.nir", converters.to_nir(lenet()))
    with full_disk(room):
        code, out, err = calif(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"calif: {named}: found that it cannot be written")
    left = {p.name for p in Path().rglob("*") if not p.is_dir()}
    assert left == {"run.json", "n.nir"}


# --- compiled kernels ------------------------------------------------------------------------------------

KERNEL = """
import numba
from calif_plugins.compiling import compiled

@compiled
def double(x):
    for k in numba.prange(len(x)):
        x[k] *= 2
"""


def kernel(path: Path) -> ModuleType:
    """As a new process imports it."""
    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def twice(path: Path) -> tuple[list[int], int]:
    """What the kernel makes of 1, 2, 3; and how often it came from the cache."""
    found = kernel(path).double
    x = np.array([1, 2, 3])
    found(x)
    return x.tolist(), sum(found.stats.cache_hits.values())


def test_a_damaged_cache_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL)
    assert twice(path) == ([2, 4, 6], 0)
    assert twice(path) == ([2, 4, 6], 1)
    (index,), (data,) = (list((tmp_path / "__pycache__").glob(f"kernel.double*.{kind}")) for kind in ("nbi", "nbc"))
    for file, length in ((index, 0), (index, index.stat().st_size // 2), (data, 0), (data, data.stat().st_size // 2)):
        os.truncate(file, length)
        assert twice(path) == ([2, 4, 6], 0), f"{file.name} of {length} bytes"
        assert twice(path) == ([2, 4, 6], 1), "it is whole again"


def test_a_full_disk_keeps_no_cache_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL)
    module = kernel(path)
    x = np.array([1, 2, 3])
    with full_disk(10):
        module.double(x)
    assert x.tolist() == [2, 4, 6]
    assert twice(path)[0] == [2, 4, 6]


RUNS = """
import sys, torch, converters
from calif_plugins.multistep import available
from tests.converters.sample_graphs import lenet
from tests.hostile.limited import full_disk
q = lenet()
pixels = torch.rand(2, 1, 8, 8)
for backend in ("snntorch", "closed_form"):
    counts = converters.run(converters.to_nir(q, T=4), pixels, backend=backend).counts
    exact = q.at_window(4).execute(pixels)
    assert all(torch.equal(counts[k].long(), exact[k].long()) for k in counts)
print(available())
"""


def test_without_the_compiler() -> None:
    """``NUMBA_DISABLE_JIT=1`` is for debugging; the step loop takes over."""
    done = subprocess.run(
        [sys.executable, "-c", RUNS], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout == "False\n"
