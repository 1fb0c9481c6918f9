"""The kernels for GPUs in Triton's interpreter, on the CPU: the values and gradients of plain steps, bit for bit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from calif_plugins import scan as scanning
from calif_plugins.parameters import TieRule
from calif_plugins.scan import Clock, scan
from calif_plugins.snntorch import CaLIF
from calif_plugins.surrogates import Slope
from tests.calif_plugins.test_scan import SLOPES, Double

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings(  # of the interpreter of Triton 3.6
    "ignore:Conversion of an array with ndim > 0 to a scalar is deprecated:DeprecationWarning"
)
in_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="where there is a GPU the compiled kernels are tested: tests/accelerator"
)


def interpreted() -> ModuleType:
    """A copy of the module whose kernels Triton interprets; the module itself stays as it is."""
    path = Path(scanning.__file__).with_name("scan_triton.py")
    spec = importlib.util.spec_from_file_location("scan_triton_interpreted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    return module


@pytest.fixture(scope="module")
def kernels() -> Iterator[None]:
    own, module = scanning._engine, interpreted()
    scanning._engine = lambda device: module
    yield
    scanning._engine = own


BITWISE = [slope for slope in SLOPES if slope.kind < 2]  # an exp has its last bits from the platform


@in_interpreter
@pytest.mark.usefixtures("kernels")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**31),
    st.sampled_from([(3,), (3, 2, 4), (1, 5), (150, 2)]),
    st.integers(0, 6),
    st.sampled_from(SLOPES),
    st.sampled_from(["even", "up"]),
    st.sampled_from([(0, 6), (2, 2), (0, 0), (6, 6), (3, 1)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.sets(st.sampled_from("svy"), min_size=1),
)
def test_values_and_gradients_are_those_of_plain_steps(
    seed: int, image: tuple[int, ...], steps: int, slope: Slope, tie: TieRule, clock: Any, wide: bool, learned: bool,
    dtype: torch.dtype, asked: set[str],
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    single = steps == 0
    shape = (2, *image)
    x = (torch.randint(-24, 25, shape if single else (steps, *shape), generator=g) / 8).to(dtype)  # ties are common

    def number(low: float, high: float) -> Tensor:
        size = (image[0],) if wide else ()
        return (low + (high - low) * (torch.randint(0, 9, size, generator=g) / 8)).to(dtype)

    limits = [number(0.5, 2), number(-0.25, 0.25), -torch.ones((), dtype=dtype), number(1, 3).floor()]
    start = (torch.randint(-8, 9, shape, generator=g) / 8).to(dtype)
    count = torch.randint(-1, 2, shape, generator=g).to(dtype)
    weights = torch.randn(3, *x.shape, generator=g, dtype=dtype)
    found = []
    for compiled in (True, False):
        a, v, y = (t.clone().requires_grad_() for t in (x, start, count))
        own: Any = [t.clone() for t in limits]
        own[0].requires_grad_(learned)
        v_end, y_end, s = scan(
            v, y, a, *own, clock=Clock(*clock), tie=tie, surrogate=lambda u: Double.apply(u, slope), compiled=compiled
        )
        assert (type(s.grad_fn).__name__ == "_ScanBackward") == compiled
        parts = {"s": s * weights[0], "v": v_end * weights[1], "y": y_end * weights[2]}
        torch.stack([parts[k].sum() for k in sorted(asked)]).sum().backward()
        found.append((v_end.detach(), y_end.detach(), s.detach(), a.grad, v.grad, y.grad, own[0].grad))
    ours, plain = found
    assert all(torch.equal(p, q) for p, q in zip(ours[:3], plain[:3], strict=True))
    for k, (p, q) in enumerate(zip(ours[3:], plain[3:], strict=True)):
        assert (p is None) == (q is None)
        if p is not None and q is not None and k < 3 and slope.kind < 2:
            assert torch.equal(p, q), (k, (p - q).abs().max())
        elif p is not None:
            torch.testing.assert_close(p, q, rtol=1e-4 if dtype is torch.float32 else 1e-10, atol=1e-5)


@in_interpreter
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("multistep", [False, True])
def test_a_layer_of_any_type(dtype: torch.dtype, multistep: bool) -> None:
    """Networks of half precision: charges and spikes in it, states in float32."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 3, 6, generator=g).to(dtype)
    weights = torch.randn(5, 4, 3, 6, generator=g).to(dtype)
    found = []
    for compiled in (True, False):
        neuron = CaLIF(
            torch.tensor([0.3, 0.5, 0.7]), leak=0.05, y_min=-2, y_max=3, init_hidden=True, window=3,
            multistep=multistep, compiled=compiled, spike_grad=lambda u: Double.apply(u, BITWISE[0]),
        ).to(dtype)  # fmt: skip
        a = x.clone().requires_grad_()
        s = neuron(a) if multistep else torch.stack([neuron(now) for now in a])
        assert s.dtype == dtype
        (s * weights).sum().backward()
        assert a.grad is not None
        found.append((s.detach(), neuron.v.detach(), neuron.y.detach(), a.grad))
    (*values, gradient), (*expected, wanted) = found
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(values, expected, strict=True))
    assert gradient.dtype == wanted.dtype == dtype
    if dtype is torch.bfloat16:  # to which the interpreter truncates, and a GPU rounds
        torch.testing.assert_close(gradient, wanted, rtol=2.0**-7, atol=0)
    else:
        assert torch.equal(gradient, wanted)


@in_interpreter
@pytest.mark.usefixtures("kernels")
def test_training_is_training_with_plain_steps() -> None:
    """Weights after a few updates of a network with a learned threshold."""
    x = (torch.rand(6, 8, 5, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    labels = torch.arange(8) % 3
    after = []
    for compiled in (True, False):
        torch.manual_seed(0)
        own: Any = {"init_hidden": True, "multistep": True, "learn_threshold": True, "compiled": compiled}
        own["spike_grad"] = lambda u: Double.apply(u, SLOPES[0])
        net = nn.Sequential(nn.Linear(5, 9), CaLIF(0.3, **own), nn.Linear(9, 3), CaLIF(0.2, y_min=-6, **own)).double()
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            for module in net:
                if isinstance(module, CaLIF):
                    module.reset()
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x).sum(0), labels).backward()
            optimiser.step()
        after.append([p.detach() for p in net.parameters()])
    for p, q in zip(*after, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@in_interpreter
def test_kernels_that_do_not_run_are_not_taken() -> None:
    """As here, where there is no GPU; elsewhere it may be the C compiler that Triton asks for."""
    with pytest.warns(
        UserWarning, match=r"^CaLIF: steps on CUDA run as plain PyTorch, Triton's kernels do not \(.+\)$"
    ):
        assert scanning._triton.__wrapped__() is None


@pytest.mark.parametrize(("charge", "state"), [("fp16", "fp32"), ("fp32", "fp32"), ("fp64", "fp64"), ("i32", "fp64")])
def test_kernels_compile_for_a_gpu(charge: str, state: str) -> None:
    """To machine code, which needs none; with true division and no multiply-add that would round once less."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from calif_plugins import scan_triton

    def machine_code(kernel: Any, narrow: tuple[str, ...], constants: dict[str, int]) -> str:
        counts = ("size", "inner", "channels", "steps", "half", "dry")
        names = kernel.arg_names
        numbers = {n for n in names if n in counts or n.startswith("wide")}
        kinds = {n: "constexpr" if n.isupper() else "i32" if n in numbers else f"*{state}" for n in names}
        kinds |= dict.fromkeys(narrow, f"*{charge}")
        fixed = {(names.index(n),): constants.get(n, 1) for n in names if n.isupper()}
        made = triton.compile(
            ASTSource(kernel, kinds, fixed), target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False}
        )
        assert made.asm["cubin"]
        return str(made.asm["ptx"])

    assert "fma" not in machine_code(scan_triton._forwards, ("x", "s"), {"BLOCK": 256})
    if not charge.startswith("i"):
        for kind in (0, 1):
            code = machine_code(scan_triton._backwards, ("gs", "s", "gx"), {"BLOCK": 256, "KIND": kind})
            assert "fma" not in code
            assert f"div.rn.f{state[2:]}" in code
        machine_code(scan_triton._backwards, ("gs", "s", "gx"), {"BLOCK": 256, "KIND": 2})
