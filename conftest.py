"""Fixed seeds for every test; and Brian2 kept from replacing pytest's collector of doctests."""

from __future__ import annotations

import random
from importlib.util import find_spec

import _pytest.doctest
import numpy as np
import pytest
import torch

# Importing Brian2 puts its own DoctestModule into pytest, which fails on the __init__.py of any package. So it is
# imported here, before anything is collected, and the original put back (tests/test_workarounds.py says until when).
_original = _pytest.doctest.DoctestModule
import brian2  # noqa: E402

_pytest.doctest.DoctestModule = _original  # type: ignore[misc]
assert brian2.prefs

# plugins of simulators that are not here cannot be imported for their doctests; the header says so
_ABSENT = [name for name in ("norse", "spikingjelly", "sinabs") if find_spec(name) is None]
collect_ignore = [f"calif_plugins/{name}.py" for name in _ABSENT]
if find_spec("triton") is None:  # comes with PyTorch for CUDA
    collect_ignore.append("calif_plugins/scan_triton.py")


def pytest_report_header() -> str:
    return f"simulators not installed, their tests skip: {', '.join(_ABSENT) or 'none'}"


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries still draw from it
    torch.manual_seed(0)
    brian2.prefs.codegen.target = "numpy"  # no compiler in the default suite
