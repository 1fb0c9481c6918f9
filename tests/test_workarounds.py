"""Each workaround of an upstream bug has a test here that fails when the bug is gone, and the workaround can go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_brian2_still_replaces_pytests_doctest_collector():
    code = (
        "import _pytest.doctest as d; a = d.DoctestModule; import brian2; "
        "print(a is d.DoctestModule, d.DoctestModule.__module__)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "brian2.tests"], "conftest.py need not import Brian2 any more"


def test_torchao_still_logs_a_notice_when_it_is_imported():
    code = "import torchao.quantization.pt2e"
    plain = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "register_constant" in plain.stderr, "converters.notices need not silence torch.utils._pytree any more"
    ours = [sys.executable, "-W", "ignore", "-c", "import converters; converters.prepare_qat"]
    assert subprocess.run(ours, capture_output=True, text=True, check=True).stderr == ""


def test_numba_starting_its_threads_changes_those_of_torch():
    """``use_threads_of_torch`` puts the number back."""
    pytest.importorskip("numba.np.ufunc.omppool", reason="no Numba, or one without OpenMP")
    code = """
import sys
import numba, torch
import converters
from calif_plugins import multistep
from tests.converters.graphs import GRAPHS
torch.set_num_threads(1)
if sys.argv[1] == "plain":
    multistep.use_threads_of_torch = lambda: numba.set_num_threads(1)
q = GRAPHS["lenet"](levels=3)
assert converters.run(converters.to_nir(q), torch.rand(2, *q.input.shape)).backend == "fast"
print(torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[1])}
    found = {}
    for way in ("plain", "ours"):
        command = [sys.executable, "-W", "ignore", "-c", code, way]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr
        found[way] = done.stdout.strip()
    assert found["plain"] == "2", "fixed in Numba: use_threads_of_torch need not put the number back"
    assert found["ours"] == "1"
