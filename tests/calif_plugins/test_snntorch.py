"""The snnTorch layer: the reference's rule on tensors, and a good citizen of snnTorch and PyTorch."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from calif_plugins import CaLIFParameters, reference
from calif_plugins.parameters import TieRule
from calif_plugins.snntorch import CaLIF, calif_step, reset, settle


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["even", "up"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(0, 7), (-7, 7), (0, np.inf), (-3, 0)]),
)
def test_one_step_is_the_references(seed: int, tie: TieRule, half: bool, leaking: bool, bounds: Any) -> None:
    rng = np.random.default_rng(seed)
    p = CaLIFParameters(
        threshold=rng.integers(1, 9, 3) / 2, leak=rng.integers(-8, 9, 3) / 4, y_min=bounds[0], y_max=bounds[1], tie=tie
    )
    v, charge = rng.integers(-40, 41, (2, 3, 4)) / 4
    y = rng.integers(max(bounds[0], -9), min(bounds[1], 9) + 1, (3, 4))
    expected = reference.step(v, y, charge, p, half=half, leak=leaking)
    q = p.for_shape(v.shape)
    found = calif_step(
        *(torch.from_numpy(np.array(a, dtype=float)) for a in (v, y, charge, q.threshold, q.leak, q.y_min, q.y_max)),
        tie=tie,
        half=half,
        leaking=leaking,
    )
    for a, b in zip(found, expected, strict=True):
        assert (a.numpy() == b).all()


def _layer(**kwargs: Any) -> CaLIF:
    return CaLIF(threshold=torch.tensor([1.0, 2.0]), leak=0.25, y_min=-4, y_max=5, **kwargs)


def _input(steps: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randint(-12, 13, (steps, 3, 2, 4), generator=torch.Generator().manual_seed(seed)) / 4


@pytest.mark.parametrize("mode", ["hidden", "output", "explicit", "packed"])
def test_a_window_equals_the_reference_in_every_style(mode: str) -> None:
    x = _input()
    neuron = _layer(init_hidden=mode in ("hidden", "output"), output=mode == "output", packed=mode == "packed")
    spikes, state = [], ()
    for charge in x:
        result = neuron(charge, *state) if mode in ("explicit", "packed") else neuron(charge)
        if mode == "hidden":
            spikes.append(result)
        else:
            spikes.append(result[0])
            state = result[1:]
    for k in range(3):
        trace = reference.run(x[:, k].double().numpy(), neuron.parameters_of_neuron(), phase="none")
        assert (torch.stack(spikes)[:, k].detach().numpy() == trace.spikes).all()
    assert (torch.stack(spikes) < 0).any()


def test_settling_ends_on_the_closed_form() -> None:
    x = _input()
    net = nn.Sequential(nn.Identity(), _layer(init_hidden=True))
    total = sum(net(charge) for charge in x).detach()
    assert len(settle(net, torch.zeros_like(x[0]))) > 0
    p = net[1].parameters_of_neuron()
    for k in range(3):
        z = x[:, k].double().sum(0).numpy() - len(x) * 0.25
        assert (net[1].y[k].detach().numpy() == reference.closed_form(z, p)).all()
    assert not torch.equal(total, net[1].y.detach())
    assert (net[1].halved, net[1].leaking) == (False, True)


def test_settling_needs_layers_that_hold_their_state() -> None:
    with pytest.raises(ValueError, match="init_hidden=True"):
        settle(_layer(), torch.zeros(1, 2, 1))


def test_settling_gives_up_on_biases() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), CaLIF(y_min=-1e9, threshold=0.1, init_hidden=True))
    with pytest.raises(ValueError, match="do the synapses have biases"):
        settle(net, torch.zeros(1, 2), max_steps=50)


def test_state_is_no_part_of_the_state_dict() -> None:
    a = _layer(init_hidden=True)
    a(_input()[0])
    assert not {"v", "y"} & set(a.state_dict())
    b = CaLIF(threshold=torch.zeros(2) + 9, init_hidden=True)
    b.load_state_dict(a.state_dict())
    assert torch.equal(b.threshold, a.threshold)
    assert float(b.y_max) == 5


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save"])
def test_copies_carry_everything(how: str) -> None:
    a = _layer(init_hidden=True, tie="up")
    a(_input()[0])
    if how == "pickle":  # a closure of snnTorch's cannot be pickled, a function can
        a.spike_grad = _straight
        b = pickle.loads(pickle.dumps(a))
    elif how == "deepcopy":
        b = copy.deepcopy(a)
    else:
        a.spike_grad = _straight
        file = io.BytesIO()
        torch.save(a, file)
        file.seek(0)
        b = torch.load(file, weights_only=False)
    x = _input(seed=1)[0]
    assert torch.equal(a(x), b(x))
    assert torch.equal(a.v, b.v)
    assert b.tie == "up"


def _straight(x: torch.Tensor) -> torch.Tensor:
    return (x > 0).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype(dtype: torch.dtype) -> None:
    neuron = _layer(init_hidden=True).to(dtype)
    for charge in _input():  # quarters below 16: exact in all of them
        out = neuron(charge.to(dtype))
    assert out.dtype == dtype
    assert neuron.v.dtype == neuron.y.dtype == torch.promote_types(dtype, torch.float32)
    exact = _layer(init_hidden=True).double()
    for charge in _input():
        exact(charge.double())
    assert torch.equal(neuron.y.double(), exact.y)


def test_float64_neurons_in_a_float32_network() -> None:
    neuron = CaLIF.from_parameters(CaLIFParameters(threshold=3.0), init_hidden=True)
    assert neuron(torch.ones(1, 1)).dtype == torch.float32
    assert neuron.v.dtype == torch.float64


@pytest.mark.parametrize("hidden", [True, False])
def test_compiles_into_one_graph(hidden: bool) -> None:
    torch._dynamo.reset()
    eager, compiled = _layer(init_hidden=hidden), _layer(init_hidden=hidden)
    f = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    x, a, b = _input(), (), ()
    with torch.no_grad():
        for charge in x:
            u, w = (eager(charge), f(charge)) if hidden else (eager(charge, *a), f(charge, *b))
            if not hidden:
                (u, *a), (w, *b) = u, w
            assert torch.equal(u, w)


def test_gradient_passes_through_both_signs_and_closed_gates_stop_it() -> None:
    x = torch.tensor([[0.9, -0.9, -0.9]], requires_grad=True)
    neuron = CaLIF(threshold=1.0, y_min=torch.tensor([-1.0, -1.0, 0.0]), y_max=1.0)
    spikes, _, _ = neuron(x)
    assert spikes.tolist() == [[0.0, 0.0, 0.0]]
    spikes.sum().backward()
    grad = x.grad[0]
    assert grad[0] > 0
    assert grad[1] > 0
    assert grad[2] < grad[1]  # the gate below is closed: only the far, positive threshold is felt


def test_a_network_of_them_learns_the_digits() -> None:
    data = load_digits()
    x = torch.from_numpy(data.data / 16).float()
    labels = torch.from_numpy(data.target)
    train = torch.arange(len(x)) % 5 != 4
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 48),
        CaLIF(y_min=-8, y_max=8, init_hidden=True),
        nn.Linear(48, 10),
        CaLIF(y_min=-8, y_max=8, init_hidden=True),
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    negative = 0

    def counts(batch: torch.Tensor) -> torch.Tensor:
        reset(net)
        return sum(net(batch) for _ in range(8))

    for epoch in range(12):
        total = 0.0
        for index in torch.randperm(int(train.sum()), generator=torch.Generator().manual_seed(epoch)).split(64):
            out = counts(x[train][index])
            negative += int((out < 0).sum())
            loss = nn.functional.cross_entropy(out, labels[train][index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        accuracy = (counts(x[~train]).argmax(1) == labels[~train]).double().mean()
    assert accuracy > 0.9
    assert negative > 0


def test_snntorchs_list_does_not_keep_neurons_alive() -> None:
    gc.collect()
    neuron = CaLIF(init_hidden=True)
    neuron(torch.ones(2, 2))
    before = sum(n is not None for n in snn.SpikingNeuron.instances)
    ghost = weakref.ref(neuron)
    del neuron
    gc.collect()
    assert ghost() is None
    assert sum(n is not None for n in snn.SpikingNeuron.instances) == before - 1
    length = len(snn.SpikingNeuron.instances)
    for _ in range(5):
        CaLIF()
    assert len(snn.SpikingNeuron.instances) <= length + 1  # places of those that are gone are used again


def test_reset_is_for_nested_modules_and_no_other_network() -> None:
    mine = nn.Sequential(nn.Sequential(CaLIF(init_hidden=True)), snn.Leaky(beta=0.9, init_hidden=True))
    other: Any = nn.Sequential(CaLIF(init_hidden=True), snn.Leaky(beta=0.9, init_hidden=True))
    for net in (mine, other):
        net(torch.full((1, 1), 1.5))
    kept = other[1].mem.clone()
    reset(mine)
    assert mine[0][0].v.numel() == 0
    assert mine[1].mem.abs().sum() == 0
    assert other[0].v.numel() == 1
    assert torch.equal(other[1].mem, kept)
    assert kept.abs().sum() > 0


def test_is_a_spiking_neuron_but_no_leaky() -> None:
    assert isinstance(CaLIF(), snn.SpikingNeuron)
    assert not isinstance(CaLIF(), snn.Leaky)


def test_bad_parameters_and_calls() -> None:
    with pytest.raises(ValueError, match="threshold: must be > 0"):
        CaLIF(threshold=0.0)
    with pytest.raises(TypeError, match="init_hidden=True"):
        CaLIF(init_hidden=True)(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(TypeError, match="expected v and y"):
        CaLIF()(torch.zeros(1, 1), torch.zeros(1, 1))


def test_what_is_printed_is_what_a_person_needs() -> None:
    """Numbers and ranges; no sign of a zero, and no starting membrane that is what float64 rounds off."""
    shown = repr(CaLIF(threshold=torch.tensor([2.0, 4.0]), leak=-0.0, y_max=7, v_init=torch.tensor([0.0, 3e-10])))
    assert shown == "CaLIF(threshold=2..4, leak=0, y_min=0, y_max=7, tie=even)"
    assert "v_init=1" in repr(CaLIF(threshold=2.0, v_init=1.0))
    assert "v_init=0..1e-05" in repr(CaLIF(threshold=2.0, v_init=torch.tensor([0.0, 1e-5])))
    assert "v_init=2e-08" in repr(CaLIF(threshold=1e-3, v_init=2e-8))


# --- parameters that are learned ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["threshold", "leak", "v_init"])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("multistep", [False, True])
def test_a_parameter_stays_the_parameter_that_it_is(name: str, shape: tuple[int, ...], multistep: bool) -> None:
    """An optimiser that was made with it trains the neuron; where no spike moves, its gradient is a difference's."""
    value = nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64))
    given: dict[str, Any] = {name: value, "y_max": 9, "multistep": multistep}
    neuron = CaLIF(**given, init_hidden=True, output=True, surrogate_disable=True)
    assert dict(neuron.named_parameters()) == {name: value}
    assert getattr(neuron, name) is value
    x = torch.tensor([[0.8, 0.15, 1.2], [0.3, 1.3, 0.1]], dtype=torch.float64)[:, None].repeat(1, 2, 1)

    def membrane() -> Tensor:
        reset(neuron)
        outs = [neuron(x)] if multistep else [neuron(step) for step in x]
        return outs[-1][1].sum()

    membrane().backward()
    assert value.grad is not None
    with torch.no_grad():
        before, counts = membrane(), neuron.y.clone()
        value += 2.0**-6
        slope = float((membrane() - before) * 2**6)
        assert torch.equal(counts, neuron.y)
    assert float(value.grad.sum()) == pytest.approx(slope)
    assert slope
    again = CaLIF(**{**given, name: torch.ones(shape)}, init_hidden=True)
    assert set(again.state_dict()) == set(neuron.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y_max": nn.Parameter(torch.tensor(3.0))}, "y_max: found a tensor with a gradient; a range of counts"),
        ({"leak": nn.Parameter(torch.tensor(3.0)) * 2}, "leak: found a tensor that was computed from others; give a"),
        ({"leak": nn.Parameter(torch.tensor(0.5).half())}, "leak: found a parameter in torch.float16; give it in"),
        ({"threshold": nn.Parameter(torch.tensor(-1.0))}, "threshold: must be > 0"),
    ],
)
def test_parameters_that_no_neuron_can_learn(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        CaLIF(**options)
