"""The neuron in Norse, SpikingJelly, Sinabs and snnTorch, each by that framework's conventions, against the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from calif_plugins import CaLIFParameters
from calif_plugins.parameters import TieRule
from calif_plugins.reference import run
from calif_plugins.torch_step import NeuronLayer

T, N, SHAPE = 9, 3, (4, 2, 2)


def parameters(tie: TieRule = "even", v_init: float = 0.0) -> Any:
    rng = np.random.default_rng(3)
    return CaLIFParameters(
        threshold=rng.integers(2, 9, 4), leak=rng.integers(-8, 9, 4) / 8, y_min=-2, y_max=5, tie=tie, v_init=v_init
    )


def charges(steps: Any = T) -> Any:
    x = np.random.default_rng(5).integers(-9, 12, (steps, N, *SHAPE))
    return torch.from_numpy(np.concatenate([x, np.zeros((12, N, *SHAPE), dtype=x.dtype)])).double()


def oracle(x: Any, p: Any) -> Any:
    """Spikes, membranes and counts of each image by the NumPy reference; then silence, as long as ``x`` is."""
    spikes = np.zeros(x.shape)
    v, y = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for n in range(N):
        trace = run(x[:T, n].numpy(), p)
        assert len(trace.spikes) < len(x), "the silence must be long enough to settle"
        spikes[: len(trace.spikes), n] = trace.spikes
        v[n], y[n] = trace.v, trace.y
    assert (spikes < 0).any()
    assert (spikes[T:] != 0).any()
    return torch.from_numpy(spikes), torch.from_numpy(v), torch.from_numpy(y)


def norse_cell(p: Any, x: Any) -> Any:
    plugin = pytest.importorskip("calif_plugins.norse", reason="Norse is not installed")
    cell, state, out = plugin.CaLIFCell(p, T), None, []
    for step in x:
        s, state = cell(step, state)
        out.append(s)
    assert state.steps == len(x)
    return torch.stack(out), state.v, state.y


def norse_lifted(p: Any, x: Any) -> Any:
    plugin = pytest.importorskip("calif_plugins.norse", reason="Norse is not installed")
    import norse.torch as nt

    s, state = nt.SequentialState(plugin.CaLIF(p, T))(x)
    return s, state[0].v, state[0].y


def spikingjelly_single(p: Any, x: Any) -> Any:
    module = pytest.importorskip("calif_plugins.spikingjelly", reason="SpikingJelly is not installed")
    from spikingjelly.activation_based import functional

    node = module.CaLIFNode(p, T)
    node(x[0])
    functional.reset_net(node)  # whatever was before is forgotten
    return torch.stack([node(step) for step in x]), node.v, node.y


def spikingjelly_multi(p: Any, x: Any) -> Any:
    module = pytest.importorskip("calif_plugins.spikingjelly", reason="SpikingJelly is not installed")
    from spikingjelly.activation_based import functional

    node = module.CaLIFNode(p, T)
    functional.set_step_mode(node, "m")
    return node(x), node.v, node.y


def sinabs_layer(p: Any, x: Any) -> Any:
    module = pytest.importorskip("calif_plugins.sinabs", reason="Sinabs is not installed")
    import sinabs

    layer = module.CaLIF(p, T)
    layer(x.transpose(0, 1)[:, :4])
    sinabs.reset_states(torch.nn.Sequential(layer))
    first = layer(x.transpose(0, 1)[:, :4])  # the state stays between calls
    rest = copy.deepcopy(layer)
    out = torch.cat([first, layer(x.transpose(0, 1)[:, 4:])], dim=1)
    assert torch.equal(rest(x.transpose(0, 1)[:, 4:]), out[:, 4:])
    return out.transpose(0, 1), layer.v, layer.y


def sinabs_squeezed(p: Any, x: Any) -> Any:
    module = pytest.importorskip("calif_plugins.sinabs", reason="Sinabs is not installed")
    layer = module.CaLIFSqueeze(p, T, batch_size=N)
    flat = x.transpose(0, 1).flatten(0, 1)
    return layer(flat).unflatten(0, (N, len(x))).transpose(0, 1), layer.v, layer.y


def snntorch_window(p: Any, x: Any) -> Any:
    from calif_plugins.snntorch import CaLIF, reset

    layer = CaLIF.from_parameters(p, init_hidden=True, window=T)
    layer(x[0])
    reset(layer)
    return torch.stack([layer(step) for step in x]), layer.v, layer.y


FORMS = [
    norse_cell,
    norse_lifted,
    spikingjelly_single,
    spikingjelly_multi,
    sinabs_layer,
    sinabs_squeezed,
    snntorch_window,
]


@pytest.mark.parametrize("tie", ["even", "up"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_reference(form: Callable[..., Any], tie: TieRule) -> None:
    p = parameters(tie, v_init=0.5)
    x = charges()
    for found, right in zip(form(p, x), oracle(x, p), strict=True):
        assert torch.equal(found, right)


def test_without_a_window_there_is_no_rounding() -> None:
    p, x = parameters(), charges()
    right = np.stack([run(x[:, n].numpy(), p, phase="none").spikes for n in range(N)], axis=1)
    layer, state, out = NeuronLayer(p), None, []
    for step in x:
        s, state = layer(step, state)
        out.append(s)
    assert torch.equal(torch.stack(out), torch.from_numpy(right).double())


def test_bad_windows() -> None:
    from calif_plugins.snntorch import CaLIF

    with pytest.raises(ValueError, match="window: must be at least one step, found 0"):
        NeuronLayer(parameters(), 0)
    with pytest.raises(ValueError, match="window: 4 with init_hidden=False"):
        CaLIF(window=4)
    with pytest.raises(ValueError, match="start from one state"):
        pytest.importorskip("calif_plugins.sinabs", reason="Sinabs is not installed").CaLIF(parameters()).reset_states(
            randomize=True
        )
