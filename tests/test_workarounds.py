"""Each workaround of an upstream bug has a test here that fails when the bug is gone, and the workaround can go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_brian2_still_replaces_pytests_doctest_collector():
    code = (
        "import _pytest.doctest as d; a = d.DoctestModule; import brian2; "
        "print(a is d.DoctestModule, d.DoctestModule.__module__)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "brian2.tests"], "conftest.py need not import Brian2 any more"


def test_torchao_still_searches_for_convolutions_that_are_not_there(monkeypatch):
    from torch import nn
    from torchao.quantization.pt2e import qat_utils
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    import converters

    prepared = converters.prepare_qat(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), torch.rand(2, 1, 5, 5)
    )
    prepared(torch.rand(2, 1, 5, 5))
    asked = []

    def helper(m, conv_fn, *args, **kwargs):
        asked.append(conv_fn.__name__)
        return m

    monkeypatch.setattr(qat_utils, "_fold_conv_bn_qat_helper", helper)
    convert_pt2e(prepared)
    assert {"conv1d", "conv2d", "conv_transpose2d"} <= set(asked), "frontends/pt2e_fold.py can go"


@pytest.mark.slow  # torchao's own way, whole, beside ours
def test_the_fold_is_torchaos():
    import copy

    from torch import nn
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    from converters.frontends import pt2e_fold
    from converters.frontends.pt2e import convert, prepare_qat

    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3)
    )
    images = torch.rand(8, 2, 6, 6)
    prepared = prepare_qat(net, images)
    prepared.train()
    prepared(images)
    prepared.eval()
    ours = convert(prepared)
    theirs = convert_pt2e(copy.deepcopy(prepared))
    assert [str(n.target) for n in ours.graph.nodes] == [str(n.target) for n in theirs.graph.nodes]
    assert torch.equal(ours(images), theirs(images))
    assert pt2e_fold._kinds(ours) == {"conv2d"}


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
assert converters.run(converters.to_nir(q), torch.rand(2, *q.input.shape)).route == "fast"
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
