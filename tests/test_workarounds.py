"""Each workaround of an upstream bug has a test here that fails when the bug is gone, and the workaround can go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save


def test_brian2_still_replaces_pytests_doctest_collector() -> None:
    code = (
        "import _pytest.doctest as d; a = d.DoctestModule; import brian2; "
        "print(a is d.DoctestModule, d.DoctestModule.__module__)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "brian2.tests"], "conftest.py need not import Brian2 any more"


def test_torchao_still_logs_a_notice_when_it_is_imported() -> None:
    code = "import torchao.quantization.pt2e"
    plain = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "register_constant" in plain.stderr, "converters.console need not silence torch.utils._pytree any more"
    ours = [sys.executable, "-W", "ignore", "-c", "import converters; converters.prepare_qat"]
    assert subprocess.run(ours, capture_output=True, text=True, check=True).stderr == ""


def test_safetensors_writes_metadata_in_any_order() -> None:
    written = {save({"x": torch.ones(1)}, {"a": "1", "b": "2", "c": "3"}) for _ in range(100)}
    assert len(written) > 1, "save_quantised need not put them in order any more"


def test_numba_starting_its_threads_changes_those_of_torch() -> None:
    """``use_threads_of_torch`` puts the number back."""
    pytest.importorskip("numba.np.ufunc.omppool", reason="no Numba, or one without OpenMP")
    code = """
import sys
import numba, torch
import converters
from calif_plugins import multistep
from tests.converters.sample_graphs import GRAPHS
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


_INTEGER_CONVOLUTION = """
import sys, torch
from converters.backends.integer_kernels import _Geometry, _onednn
shape, weights, geometry = eval(sys.argv[1])
weight = torch.full(weights, 1, dtype=torch.int8)
y = _onednn(shape, weight, 1, _Geometry(*geometry))(torch.full(shape, 2, dtype=torch.uint8))
x = torch.ones(shape, dtype=torch.float64).permute(0, 3, 1, 2)
want = torch.nn.functional.conv2d(x, weight.double(), None, *geometry).permute(0, 2, 3, 1)
sys.exit(0 if torch.equal(y.double(), want) else 3)
"""


@pytest.mark.parametrize(
    "case",
    [
        ((3, 3, 1, 3), (1, 3, 1, 1), ((2, 3), (4, 2), (2, 2), 1)),
        ((2, 5, 3, 8), (16, 1, 1, 2), ((1, 2), (0, 0), (1, 1), 8)),
    ],
)
def test_integer_convolutions_of_onednn_still_fail_for_some_geometries(
    case: tuple[
        tuple[int, int, int, int],
        tuple[int, int, int, int],
        tuple[tuple[int, int], tuple[int, int], tuple[int, int], int],
    ],
) -> None:
    """``integer_kernels._trusted`` keeps away from the first, which ends the process, and finds the second."""
    from converters.backends.integer_kernels import int8_kernels

    if not int8_kernels():
        pytest.skip("this processor has no integer kernels")
    done = subprocess.run([sys.executable, "-c", _INTEGER_CONVOLUTION, repr(case)], check=False, capture_output=True)
    assert done.returncode != 0, "this geometry can be trusted now"


def test_float_convolutions_of_one_channel_are_still_wrong_channels_last() -> None:
    """``operations.convolution.in_order`` copies such a channel."""
    import torch

    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch without oneDNN")
    x = torch.ones(2, 5, 1, 1).permute(0, 3, 1, 2)
    assert x.stride() == (5, 1, 1, 1)
    w, geometry = torch.ones(2, 1, 4, 3), ((1, 3), (2, 1), (2, 1), 1)
    y = torch.nn.functional.conv2d(x, w, None, *geometry)
    right = torch.nn.functional.conv2d(x.double(), w.double(), None, *geometry)
    assert not torch.equal(y.double(), right), "convolutions need no copy any more"
