"""Private names and bent readings of other simulators that ``converters/interop`` works with or around.

Each test fails when its reason is gone: a name has moved, or an importer reads a node as NIR has it.
"""

from __future__ import annotations

import nir
import nirtorch
import numpy as np
import pytest
import torch

import converters
from converters.interop import native
from converters.interop.dialects import spell
from converters.interop.feeding import expected
from tests.converters.sample_graphs import residual

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.load is being deprecated")


def test_the_private_names_are_there() -> None:
    from snntorch.import_nir import _nir_to_snntorch_module

    assert callable(_nir_to_snntorch_module)
    pytest.importorskip("norse", reason="Norse is not installed")
    from norse.torch.utils.import_nir import _import_norse_module

    assert callable(_import_norse_module)
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    from spikingjelly.activation_based.nir_exchange.from_nir import _NIRStatefulModule, _NodeMapper

    assert nir.Conv2d in _NodeMapper(1e-4).map_dict
    assert issubclass(_NIRStatefulModule, torch.nn.Module)
    pytest.importorskip("sinabs", reason="Sinabs is not installed")
    from sinabs.nir import _import_sinabs_module

    assert callable(_import_sinabs_module)


def test_norse_and_snntorch_still_flatten_the_batch() -> None:
    from snntorch.import_nir import _nir_to_snntorch_module

    flatten = nir.Flatten(input_type={"input": np.array([2, 3])}, start_dim=0, end_dim=-1)
    assert _nir_to_snntorch_module(flatten)(torch.ones(4, 2, 3)).shape == (24,), "dialects.py: snntorch can have 0"
    norse = pytest.importorskip("norse.torch.utils.import_nir", reason="Norse is not installed")
    assert norse._import_norse_module(flatten)(torch.ones(4, 2, 3)).shape == (24,), "dialects.py: norse can have 0"


def test_importers_still_fail_on_groups() -> None:
    from snntorch.import_nir import _nir_to_snntorch_module

    conv = nir.Conv2d((4, 4), np.ones((4, 1, 3, 3), np.float32), (1, 1), (0, 0), (1, 1), 4, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="divisible by groups"):
        _nir_to_snntorch_module(conv)
    norse = pytest.importorskip("norse.torch.utils.import_nir", reason="Norse is not installed")
    with pytest.raises(ValueError, match="divisible by groups"):
        norse._import_norse_module(conv)
    home = pytest.importorskip(
        "spikingjelly.activation_based.nir_exchange.from_nir", reason="SpikingJelly is not installed"
    )
    with pytest.raises(NotImplementedError, match="Grouped"):
        home._NodeMapper(1e-4).map_conv2d(conv)


def test_pools_by_average_still_lose_the_last_bit() -> None:
    pool = nirtorch.nir_interpreter.DEFAULT_MAP[nir.SumPool2d](nir.SumPool2d((7, 7), (7, 7), (0, 0)))
    spikes = torch.zeros(49, 1, 7, 7, dtype=torch.float64)
    for n in range(49):
        spikes[n].view(-1)[: n + 1] = 1
    assert not torch.equal(pool(spikes).flatten(), torch.arange(1, 50.0, dtype=torch.float64)), "pools can stay pools"


def test_the_older_executor_still_runs_a_join_before_its_second_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("norse", reason="Norse is not installed")
    q = residual()
    graph = converters.to_nir(q)
    e = expected(graph, torch.rand(1, 2, 8, 8))
    monkeypatch.setattr(native, "_joins", lambda graph: False)
    r = native.run_native("norse", graph, e.inputs)
    assert any(not torch.equal(r.outputs[k], s) for k, s in e.spikes.items()), "native.py: one executor would do"


def test_scale_nodes_are_still_unknown() -> None:
    home = pytest.importorskip("norse.torch.utils.import_nir", reason="Norse is not installed")
    assert home._import_norse_module(nir.Scale(scale=np.full(3, 2.0))) is None, "dialects.py: norse has Scale now"
    spelt, _ = spell(converters.to_nir(residual(shared=False)), "norse")
    assert not [n for n in spelt.nodes.values() if type(n) is nir.Scale]
