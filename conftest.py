"""Fixed seeds for every test; and Brian2 kept from replacing pytest's collector of doctests."""

from __future__ import annotations

import random

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


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries still draw from it
    torch.manual_seed(0)
    brian2.prefs.codegen.target = "numpy"  # no compiler in the default suite
