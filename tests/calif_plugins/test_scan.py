"""Compiled steps against the rule in plain PyTorch: the same values, and in float64 the same gradients."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from calif_plugins.parameters import TieRule
from calif_plugins.scan import Clock, Scanner, scan
from calif_plugins.snntorch import CaLIF, reset, settle
from calif_plugins.surrogates import Slope, slope_of


class Double(torch.autograd.Function):
    """A surrogate that works in the input's type; snnTorch's own round their gradient to float32."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, slope: Slope) -> Tensor:
        ctx.save_for_backward(u)
        ctx.slope = slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return g * ctx.slope.at(u), None


SLOPES = [Slope(0, 1.0, 3.0), Slope(0, 1.0, 0.0), Slope(1, 1.0, 25.0), Slope(1, 0.5, 2.0), Slope(2, 5.0, 5.0)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(3,), (3, 2, 4), (1, 5)]),
    st.integers(0, 6),
    st.sampled_from(SLOPES),
    st.sampled_from(["even", "up"]),
    st.sampled_from([(0, 6), (2, 2), (0, 0), (6, 6), (3, 1)]),
    st.booleans(),
    st.booleans(),
)
def test_values_and_gradients_are_those_of_plain_steps(
    seed: int, image: tuple[int, ...], steps: int, slope: Slope, tie: TieRule, clock: Any, wide: bool, learned: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    single = steps == 0
    shape = (2, *image)
    x = torch.randint(-24, 25, shape if single else (steps, *shape), generator=g).double() / 8  # ties are common

    def number(low: float, high: float) -> Tensor:
        size = (image[0],) if wide else ()
        return low + (high - low) * (torch.randint(0, 9, size, generator=g).double() / 8)

    limits = [number(0.5, 2), number(-0.25, 0.25), -torch.ones(()).double(), number(1, 3).floor()]
    start = torch.randint(-8, 9, shape, generator=g).double() / 8
    count = torch.randint(-1, 2, shape, generator=g).double()
    weights = torch.randn(3, *x.shape, generator=g).double()
    found = []
    for compiled in (True, False):
        a, v, y = (t.clone().requires_grad_() for t in (x, start, count))
        own: Any = [t.clone() for t in limits]
        own[0].requires_grad_(learned)
        v_end, y_end, s = scan(
            v, y, a, *own, clock=Clock(*clock), tie=tie, surrogate=lambda u: Double.apply(u, slope), compiled=compiled
        )
        ((s * weights[0]).sum() + (v_end * weights[1]).sum() + (y_end * weights[2]).sum()).backward()
        found.append((v_end.detach(), y_end.detach(), s.detach(), a.grad, v.grad, y.grad, own[0].grad))
    ours, plain = found
    assert all(torch.equal(p, q) for p, q in zip(ours[:3], plain[:3], strict=True))
    for p, q in zip(ours[3:], plain[3:], strict=True):
        assert (p is None) == (q is None)
        if p is not None and q is not None:
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


def test_it_is_the_compiled_steps_that_ran() -> None:
    """Or all of this would compare plain steps with themselves."""
    one, x = torch.ones(()), torch.randn(3, 2, 4, requires_grad=True)
    v, y = torch.zeros(2, 2, 4)
    ours = scan(v, y, x, one, 0 * one, -one, one, clock=Clock(9, 9), surrogate=snn.surrogate.atan())
    assert type(ours[2].grad_fn).__name__ == "_ScanBackward"


@pytest.mark.parametrize("slope", SLOPES)
def test_slopes_are_found(slope: Slope) -> None:
    found = slope_of(lambda u: Double.apply(u, slope))
    assert found is not None
    u = torch.linspace(-30, 30, 1001, dtype=torch.float64)
    torch.testing.assert_close(found.at(u), slope.at(u), rtol=1e-5, atol=1e-9)


def test_surrogates_of_snntorch() -> None:
    """Those that have a slope of these shapes, and those that have not, draw numbers or forget the gradient."""
    s = snn.surrogate
    taken = [s.atan(), s.atan(alpha=3.3), s.fast_sigmoid(slope=10), s.sigmoid(slope=5), s.straight_through_estimator()]
    assert None not in [slope_of(f) for f in taken]
    others = [s.SSO(), s.LSO(), s.SFS(), s.triangular(), s.spike_rate_escape(), s.heaviside(), torch.round, abs]
    assert [slope_of(f) for f in others] == [None] * len(others)


@pytest.mark.parametrize("surrogate", [snn.surrogate.triangular(), snn.surrogate.SFS()])
def test_other_surrogates_run_as_plain_steps(surrogate: Any) -> None:
    x = torch.linspace(-2, 2, 24).reshape(4, 2, 3).requires_grad_()
    ours, plain = (
        CaLIF(0.7, y_min=-2, y_max=2, spike_grad=surrogate, multistep=True, init_hidden=True, compiled=c)
        for c in (True, False)
    )
    (a,) = torch.autograd.grad(ours(x).sum(), x)
    (b,) = torch.autograd.grad(plain(x).sum(), x)
    assert torch.equal(a, b)
    assert a.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_a_block_is_its_steps(seed: int, pieces: list[int], window: int, packed: bool) -> None:
    """In pieces of any length, with a rounding phase that begins inside of one, whatever holds the state."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(pieces), 2, 3, 2, generator=g)
    p: Any = {"threshold": torch.tensor([0.5, 1.0, 1.5]), "leak": 0.1, "y_min": -2, "y_max": 3}
    steps = CaLIF(**p, init_hidden=True, window=window)
    blocks = CaLIF(**p, init_hidden=True, window=window, multistep=True)
    expected = torch.stack([steps(now) for now in x])
    assert torch.equal(torch.cat([blocks(part) for part in x.split(pieces)]), expected)
    assert torch.equal(blocks.v, steps.v)
    assert blocks.steps == steps.steps == len(x)
    given, state = CaLIF(**p, multistep=True, packed=packed), list[Any]()
    free, whole = CaLIF(**p), list[Any]()
    spikes = []
    for part in x.split(pieces):
        s, *state = given(part, *state)
        spikes.append(s)
        for now in part:
            s, *whole = free(now, *whole)
    assert torch.equal(torch.cat(spikes)[-1], s)
    assert torch.equal(torch.as_tensor(state[0]), torch.as_tensor(whole[0]))
    assert torch.equal(state[0].y if packed else state[1], whole[1])


def test_a_network_of_blocks_settles_on_the_counts_of_steps() -> None:
    x = (torch.rand(8, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()

    def network(multistep: bool) -> nn.Module:
        torch.manual_seed(0)
        pair = (nn.Linear(6, 9, bias=False), nn.Linear(9, 3, bias=False))
        own: Any = {"y_min": -8, "y_max": 8, "init_hidden": True, "multistep": multistep}
        return nn.Sequential(pair[0], CaLIF(0.4, **own), pair[1], CaLIF(0.3, **own))

    steps, blocks = network(False), network(True)
    for now in x:
        steps(now)
    blocks(x)
    settle(steps, torch.zeros(4, 6))
    settle(blocks, torch.zeros(1, 4, 6))
    assert torch.equal(blocks[3].y, steps[3].y)
    assert steps[3].y.any()


def test_blocks_need_a_time_axis() -> None:
    neuron = CaLIF(multistep=True, init_hidden=True)
    for wrong in (torch.zeros(3), torch.zeros(0, 2, 3)):
        with pytest.raises(ValueError, match=r"multistep takes \(T, N, C"):
            neuron(wrong)


@pytest.mark.parametrize("how", ["in place", "data", "replaced", "loaded", "double", "optimiser"])
def test_parameters_that_change_are_seen(how: str) -> None:
    """What is remembered of them is their memory, not their values."""
    neuron = CaLIF(1.0, learn_threshold=True, init_hidden=True)
    x = torch.full((1, 2), 1.5, dtype=torch.float64 if how == "double" else torch.float32)
    assert neuron(x.float()).tolist() == [[1, 1]]
    if how == "in place":
        with torch.no_grad():
            neuron.threshold.fill_(2.0)
    elif how == "data":
        neuron.threshold.data = torch.tensor(2.0)
    elif how == "replaced":
        neuron._parameters["threshold"] = nn.Parameter(torch.tensor(2.0))
    elif how == "loaded":
        neuron.load_state_dict({**neuron.state_dict(), "threshold": torch.tensor(2.0)})
    elif how == "double":
        neuron.double()
        neuron.threshold.data.fill_(2.0)
    else:
        neuron.threshold.grad = torch.tensor(-1.0)
        torch.optim.SGD([neuron.threshold], 1.0).step()
    neuron.reset()
    assert neuron(x).tolist() == [[0, 0]]


def test_copies_have_their_own_parameters() -> None:
    neuron = CaLIF(1.0, init_hidden=True, spike_grad=torch.atan)
    x = torch.full((1, 2), 1.5)
    neuron(x)
    file = io.BytesIO()
    torch.save(neuron, file)
    file.seek(0)
    for twin in (copy.deepcopy(neuron), torch.load(file, weights_only=False)):
        twin.threshold.fill_(2.0)
        twin.reset()
        assert twin(x).tolist() == [[0, 0]]
    neuron.reset()
    assert neuron(x).tolist() == [[1, 1]]
    assert type(copy.deepcopy(neuron)._scan) is Scanner


def test_strides_and_types() -> None:
    """Channels-last maps, halves and doubles."""
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for image in (
        x.to(memory_format=torch.channels_last),
        x.half(),
        x.double(),
        x[:, :, ::2],
        x[None].expand(3, 2, 3, 4, 5)[1],
    ):
        ours, plain = (CaLIF(torch.tensor([0.3, 0.5, 0.7]), init_hidden=True, compiled=c) for c in (True, False))
        for _ in range(3):
            a, b = ours(image), plain(image)
            assert a.dtype == b.dtype == image.dtype
            assert torch.equal(a, b)
        assert torch.equal(ours.v, plain.v)


def test_transforms_of_functions() -> None:
    """What traces or transforms a step gets operations that it knows."""
    neuron = CaLIF(0.5, spike_grad=lambda u: (2 * u).atan())  # snnTorch's own take no transforms
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    together = torch.func.vmap(lambda a: neuron(a)[0])(x)
    assert torch.equal(together, torch.stack([neuron(a)[0] for a in x]))
    slope = torch.func.grad(lambda a: neuron(a)[0].sum())(x[0])
    a = x[0].clone().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(neuron(a)[0].sum(), a)[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes that steps look at, as they always did
@pytest.mark.parametrize("how", ["make_fx", "jit"])
def test_traces_hold_the_operations(how: str) -> None:
    """And no values of the input that was traced."""
    neuron = CaLIF(0.5, spike_grad=lambda u: (2 * u).atan())
    x = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(0))
    first, other = x[0], 3 * x[1]
    with torch.no_grad():
        if how == "jit":
            traced = torch.jit.trace(lambda a: neuron(a)[0], (first,))
            assert "Python" not in str(traced.graph)
        else:
            traced = make_fx(lambda a: neuron(a)[0])(first)
        assert torch.equal(traced(other), neuron(other)[0])
    assert not torch.equal(traced(other), traced(first))


@pytest.mark.parametrize("name", ["leak", "y_min", "y_max", "threshold"])
def test_any_of_them_may_become_a_parameter(name: str) -> None:
    """A learned leak has its gradient."""
    values = {"threshold": 0.5, "leak": 0.1, "y_min": -1.0, "y_max": 1.0}
    own: Any = {k: torch.tensor(value) for k, value in values.items()}
    x = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    learned, plain = CaLIF(**own, init_hidden=True), CaLIF(**own, init_hidden=True, compiled=False)
    for neuron in (learned, plain):
        if name == "threshold":
            del neuron._buffers[name]
            neuron._parameters[name] = nn.Parameter(own[name])
        else:
            setattr(neuron, name, nn.Parameter(own[name]))
    a, b = (torch.stack([neuron(now) for now in x]) for neuron in (learned, plain))
    assert torch.equal(a, b)
    if name in ("leak", "threshold"):
        (a + b).sum().backward()
        torch.testing.assert_close(learned._parameters[name].grad, plain._parameters[name].grad)


@pytest.mark.parametrize("compiled", [True, False])
def test_shapes_that_disagree(compiled: bool) -> None:
    one, v = torch.ones(()), torch.zeros(2, 3)
    for charge in (torch.zeros(5, 4, 2, 3), torch.zeros(4, 3), torch.zeros(4, 3, 3)):
        with pytest.raises(ValueError, match="do not fit an input of shape"):
            scan(v, v, charge, one, 0 * one, -one, one, clock=Clock(9, 9), compiled=compiled)


FORKED = """
import os, torch
from calif_plugins.snntorch import CaLIF
torch.set_num_threads(2)
neuron, x = CaLIF(0.5, multistep=True), torch.rand(20, 8, 1000)
same = neuron(x)[0].numpy().tobytes()
child = os.fork()
if not child:
    os._exit(0 if neuron(x)[0].numpy().tobytes() == same else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_of_a_process_with_threads() -> None:
    """Kernels that a layer remembers start no threads there, for which some builds of OpenMP end it.

    Bytes are compared: PyTorch's own comparison would wait there for threads that did not come along.
    """
    plain = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=False, env=plain, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_gradient_of_a_gradient_needs_plain_steps() -> None:
    """Which is said; and ``compiled=False`` has one."""
    x = torch.tensor([[0.3, 0.9]], requires_grad=True)

    def twice(compiled: bool) -> Tensor:
        v = CaLIF(0.5, compiled=compiled, spike_grad=lambda u: u.atan())(x * x)[1]
        (once,) = torch.autograd.grad(v.sum(), x, create_graph=True)
        return torch.autograd.grad(once.sum(), x)[0]

    with pytest.raises(RuntimeError, match="compiled=False"):
        twice(True)
    assert torch.isfinite(twice(False)).all()


def test_training_with_blocks_is_training_with_steps() -> None:
    """Losses and weights after a few updates, in float64."""
    x = (torch.rand(6, 8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    labels = torch.arange(8) % 3
    after = []
    for multistep in (True, False):
        torch.manual_seed(0)
        own: Any = {"init_hidden": True, "multistep": multistep, "learn_threshold": True}
        own["spike_grad"] = lambda u: Double.apply(u, SLOPES[0])
        conv, dense = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)
        net = nn.ModuleList([conv, CaLIF(0.3, **own), dense, CaLIF(0.2, y_min=-6, **own)]).double()
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            reset(net)
            if multistep:
                s = net[1](conv(x.flatten(0, 1)).unflatten(0, (6, 8)))
                out = net[3](dense(s.flatten(2)))
            else:
                out = torch.stack([net[3](dense(net[1](conv(now)).flatten(1))) for now in x])
            optimiser.zero_grad()
            nn.functional.cross_entropy(out.sum(0), labels).backward()
            optimiser.step()
        after.append([p.detach() for p in net.parameters()])
    for p, q in zip(*after, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
