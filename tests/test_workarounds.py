"""Each workaround of an upstream bug has a test here that fails when the bug is gone, and the workaround can go."""

from __future__ import annotations

import subprocess
import sys


def test_brian2_still_replaces_pytests_doctest_collector():
    code = (
        "import _pytest.doctest as d; a = d.DoctestModule; import brian2; "
        "print(a is d.DoctestModule, d.DoctestModule.__module__)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "brian2.tests"], "conftest.py need not import Brian2 any more"
