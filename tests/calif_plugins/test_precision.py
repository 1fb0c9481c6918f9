"""Counts, membranes and parameters in half precision, thresholds that are learned, shapes that must not broadcast."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from calif_plugins import CaLIFParameters, reference
from calif_plugins.snntorch import CaLIF, calif_step
from calif_plugins.torch_step import NeuronLayer, shaped

HALVES = [torch.bfloat16, torch.float16]


def by_snntorch(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    layer = CaLIF.from_parameters(p, init_hidden=True).to(dtype)
    spikes = torch.stack([layer(step) for step in x])
    return spikes, layer.y


def by_snntorch_built_in_half(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    layer = CaLIF(torch.tensor(p.threshold, dtype=dtype), y_max=p.y_max.item(), y_min=p.y_min.item(), init_hidden=True)
    spikes = torch.stack([layer(step) for step in x])
    return spikes, layer.y


def by_packed_state(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    layer = CaLIF.from_parameters(p, packed=True).to(dtype)
    spikes, mem = [], None
    for step in x:
        s, mem = layer(step, mem)
        mem = mem.detach().clone()
        spikes.append(s)
    return torch.stack(spikes), mem.y


def by_layer(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    layer, state, spikes = NeuronLayer(p).to(dtype), None, []
    for step in x:
        s, state = layer(step, state)
        spikes.append(s)
    return torch.stack(spikes), state[1]


def by_norse(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    plugin = pytest.importorskip("calif_plugins.norse", reason="Norse is not installed")
    spikes, state = plugin.CaLIF(p).to(dtype)(x)
    return spikes, state.y


def by_spikingjelly(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    plugin = pytest.importorskip("calif_plugins.spikingjelly", reason="SpikingJelly is not installed")
    node = plugin.CaLIFNode(p, step_mode="m")
    first = node(x[:1].double())
    node.to(dtype)  # in the middle of a run
    return torch.cat([first.to(dtype), node(x[1:])]), node.y


def by_sinabs(p: CaLIFParameters, x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    plugin = pytest.importorskip("calif_plugins.sinabs", reason="Sinabs is not installed")
    layer = plugin.CaLIF(p).to(dtype)
    return layer(x.transpose(0, 1)).transpose(0, 1), layer.y


ROADS = [by_snntorch, by_snntorch_built_in_half, by_packed_state, by_layer, by_norse, by_spikingjelly, by_sinabs]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("road", ROADS)
def test_counts_pass_what_half_precision_holds(road: Any, dtype: torch.dtype) -> None:
    x = torch.ones(2400, 1, 1, dtype=dtype)
    spikes, y = road(CaLIFParameters(threshold=1.0, y_max=301), x[:400], dtype)
    assert spikes.dtype == dtype
    assert y.item() == spikes.double().sum().item() == 301
    spikes, y = road(CaLIFParameters(threshold=1.0, y_max=2051), x, dtype)
    assert y.item() == spikes.double().sum().item() == 2051


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(HALVES), st.sampled_from(["even", "up"]))
def test_half_precision_networks_follow_the_reference(seed: int, dtype: torch.dtype, tie: Any) -> None:
    """Inputs and outputs are in half precision; all between them is what the reference computes."""
    rng = np.random.default_rng(seed)
    p = CaLIFParameters(
        threshold=rng.integers(1, 4096, 3) / 7,
        leak=rng.normal(size=3),
        y_min=-int(rng.integers(0, 600)),
        y_max=int(rng.integers(0, 600)),
        v_init=rng.normal(size=3),
        tie=tie,
    )
    scale = float(np.mean(p.threshold)) * 2
    x = torch.from_numpy(rng.normal(size=(300, 3)) * scale + scale * (seed % 3)).to(dtype)
    layer = CaLIF.from_parameters(p, init_hidden=True).to(dtype)
    mine = torch.stack([layer(step[None]) for step in x])[:, 0]
    trace = reference.run(x.double().numpy(), p, phase="none")
    assert (mine.detach().double().numpy() == trace.spikes).all()
    assert (layer.y[0].numpy() == trace.y).all()


def test_a_run_goes_on_when_its_module_changes_type() -> None:
    layer = CaLIF(y_max=2000, init_hidden=True)
    for _ in range(301):
        layer(torch.ones(1, 1))
    layer.bfloat16()
    assert layer(torch.ones(1, 1, dtype=torch.bfloat16)).item() == 1
    assert layer.y.item() == 302
    assert layer.double().y.dtype == torch.float64


def test_a_small_threshold_is_no_zero_in_float16() -> None:
    layer = CaLIF(threshold=1e-9, init_hidden=True).half()
    assert layer(torch.zeros(1, 1, dtype=torch.float16)).item() == 0
    assert layer(torch.full((1, 1), 1e-7, dtype=torch.float16)).item() == 1


def test_ranges_that_float32_does_not_hold() -> None:
    layer = CaLIF(y_max=2**24 + 1, init_hidden=True)
    assert float(layer.y_max) == 2**24 + 1
    layer(torch.ones(1, 1))
    layer.y += 2**24 - 1
    assert [layer(torch.ones(1, 1)).item() for _ in range(2)] == [1.0, 0.0]


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_leaves_the_rule_alone(dtype: torch.dtype) -> None:
    """Weights and spikes are small whole numbers: what autocast rounds is exact, and the counts must be."""
    linear = nn.Linear(1, 1, bias=False)
    net = nn.Sequential(linear, CaLIF(threshold=3.0, y_max=700, init_hidden=True))
    nn.init.constant_(linear.weight, 3.0)
    with torch.autocast("cpu", dtype=dtype):
        spikes = [net(torch.ones(1, 1)) for _ in range(750)]
    assert spikes[0].dtype == dtype
    assert net[1].y.dtype == torch.float32
    assert net[1].y.item() == 700
    sum(spikes).sum().backward()
    assert net[0].weight.grad.isfinite().all()


# --- learned thresholds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 10), st.floats(1e-3, 100), st.integers(1, 3))
def test_a_learned_threshold_stays_positive(optimiser: Any, threshold: float, rate: float, channels: int) -> None:
    start = torch.full((channels,), threshold)
    layer = CaLIF(threshold=start, learn_threshold=True, init_hidden=True)
    assert torch.equal(layer.threshold, start if channels > 1 else start[0])
    steps = optimiser(layer.parameters(), lr=rate)
    for _ in range(5):
        layer.reset()
        out = sum(layer(torch.full((2, channels), 0.4 * threshold)) for _ in range(4))
        (-out.sum()).backward()  # more spikes: lower thresholds
        steps.step()
        layer.reset()
        assert not layer(torch.zeros(2, channels)).any()
        assert bool((layer.threshold >= layer.threshold_floor).all())
        assert bool((layer.state_dict()["threshold"] > 0).all())
        assert layer.parameters_of_neuron().threshold.min() > 0


def test_a_threshold_at_its_floor_can_rise_again() -> None:
    layer = CaLIF(threshold=1.0, learn_threshold=True, init_hidden=True)
    steps = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer.threshold * 100).backward()
    steps.step()
    assert float(layer.threshold.detach()) == layer.threshold_floor == 2.0**-10
    steps.zero_grad()
    (-layer.threshold).backward()
    steps.step()
    assert float(layer.threshold.detach()) == pytest.approx(0.1 + 2.0**-10)


def test_the_state_dict_keeps_its_key_and_value() -> None:
    layer = CaLIF(threshold=torch.tensor([0.7, 0.3]), learn_threshold=True)
    assert torch.equal(layer.state_dict()["threshold"], torch.tensor([0.7, 0.3]))
    assert [name for name, _ in layer.named_parameters()] == ["threshold"]
    other = CaLIF(threshold=torch.tensor([90.0, 50.0]), learn_threshold=True)
    layer.threshold.data.fill_(1e-3)
    other.load_state_dict(layer.state_dict())  # below the floor that it was made with
    assert torch.equal(other.threshold, layer.threshold)
    with pytest.raises(RuntimeError, match=r"threshold: must be > 0, found -1\.0"):
        other.load_state_dict({**layer.state_dict(), "threshold": torch.tensor([1.0, -1.0])})
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file)["threshold"], layer.threshold)


def test_a_learned_threshold_compiles() -> None:
    torch._dynamo.reset()
    layer = CaLIF(learn_threshold=True, init_hidden=True)
    f = torch.compile(layer, fullgraph=True, backend="aot_eager")
    f(torch.full((1, 1), 0.6)).sum().backward()
    with torch.no_grad():
        layer._parameters["threshold"].fill_(-5)  # what an optimiser may do
        layer.reset()
        assert f(torch.zeros(1, 1)).item() == 0
    assert float(layer.threshold.detach()) == layer.threshold_floor


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["threshold", "leak", "y_min", "y_max", "v_init"])
@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (3, 4), (4, 1, 3), (4,), ()])
def test_parameters_never_make_neurons(name: str, shape: Any) -> None:
    values: dict[str, Any] = {"threshold": 1.0, "leak": 0.0, "y_min": 0.0, "y_max": 9.0, "v_init": 0.0}
    layer = CaLIF(**{**values, name: torch.zeros(3) + values[name]})
    with pytest.raises(ValueError, match=f"^{name}: values for 3 channels do not fit an input of shape"):
        layer(torch.zeros(shape))
    with pytest.raises(ValueError, match=f"^{name}: values for 3 channels"):
        NeuronLayer(layer.parameters_of_neuron())(torch.zeros(shape))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_state_has_the_inputs_shape_or_there_is_none(channels: int, shape: Any) -> None:
    layer = CaLIF(threshold=torch.ones(channels))
    fits = channels == 1 or shape[1 if len(shape) > 1 else 0] == channels
    if fits:
        assert [t.shape for t in layer(torch.ones(shape))] == [torch.Size(shape)] * 3
    else:
        with pytest.raises(ValueError, match=r"^threshold: values for"):
            layer(torch.ones(shape))


def test_states_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^state: \(1, 3\) and \(1, 3\) do not fit an input of shape \(4, 3\)"):
        CaLIF()(torch.ones(4, 3), torch.zeros(1, 3), torch.zeros(1, 3))
    one, x = torch.tensor(1.0), torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"^parameters: they broadcast to \(4, 3\), the input has shape \(4, 1\)"):
        calif_step(x, x, x, torch.ones(3), 0 * one, -one, one)
    assert shaped(torch.ones(3, 1, 1), torch.zeros(2, 3, 4, 4)).shape == (3, 1, 1)


def test_a_membrane_without_its_counts_is_refused() -> None:
    layer = CaLIF(packed=True)
    spikes, mem = layer(torch.full((2, 3), 1.5), torch.zeros(2, 3))  # zeros: to start
    assert type(layer(torch.ones(2, 3), mem)[0]) is torch.Tensor
    assert mem.y.tolist() == spikes.tolist() == [[1.0] * 3] * 2
    with pytest.raises(TypeError, match="found a membrane without its counts; pass on the `mem`"):
        layer(torch.ones(2, 3), mem * 1.0)
    for kept in (mem.detach(), mem.clone(), mem.to(torch.float64), mem[:]):
        assert torch.equal(layer(torch.ones(2, 3), kept)[1].y, mem.y + 1)
    assert layer(torch.ones(1, 3), mem[1:])[1].shape == (1, 3)
    mem.detach_()
    assert not mem.requires_grad
    assert not mem.y.requires_grad
