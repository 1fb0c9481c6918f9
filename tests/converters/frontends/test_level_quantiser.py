"""The fake quantiser away from the CPU: torchao's values, ranges and gradients, and nothing that the CPU waits for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchao.quantization.pt2e import FakeQuantize, MinMaxObserver, PerChannelMinMaxObserver, disable_observer

from converters import prepare_qat
from converters.frontends.level_quantiser import LevelQuantiser, RangeObserver
from tests.accelerator.emulated import Elsewhere, device, emulated

_WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.nonzero.default)


class NobodyWaits(TorchDispatchMode):
    """Refuses every operation whose result the CPU needs before it can go on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in _WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def weights(axis: int | None) -> dict[str, Any]:
    scheme = torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric
    more = {} if axis is None else {"ch_axis": axis}
    observer = MinMaxObserver if axis is None else PerChannelMinMaxObserver
    return dict(observer=observer, quant_min=-127, quant_max=127, dtype=torch.int8, qscheme=scheme, **more)


def activations(levels: int, signed: bool) -> dict[str, Any]:
    scheme = torch.per_tensor_symmetric if signed else torch.per_tensor_affine
    low = -levels if signed else 0
    limits = {"quant_min": low, "quant_max": levels}
    return {"observer": RangeObserver, "dtype": torch.int16, "qscheme": scheme, **limits}


SPECS = {
    "per tensor": weights(None),
    "rows": weights(0),
    "columns": weights(1),
    "unsigned": activations(15, False),
    "signed": activations(127, True),
}


def raw(x: Any) -> Tensor:
    """The values of a tensor on the emulated device."""
    assert isinstance(x, Elsewhere)
    return x.raw


def elsewhere(module: nn.Module) -> nn.Module:
    """The same module with its buffers on the emulated device."""
    for m in module.modules():
        for name, buffer in m.named_buffers(recurse=False):
            m._buffers[name] = Elsewhere(buffer.clone())
    return module


@pytest.mark.parametrize("spec", SPECS)
@given(seed=st.integers(0, 999), size=st.sampled_from([1e-3, 1.0, 300.0]))
def test_values_and_ranges_are_those_of_torchao(spec: str, seed: int, size: float) -> None:
    plain, there = FakeQuantize(**SPECS[spec]), elsewhere(LevelQuantiser(**SPECS[spec]))
    plain.train(), there.train()
    g = torch.Generator().manual_seed(seed)
    for _ in range(1 if "ch_axis" in SPECS[spec] else 3):  # an emulated tensor can't be resized, as their range is
        x = size * torch.randn(4, 3, 2, 2, generator=g)
        wanted = plain(x)
        with emulated():
            found = there(x.to(device))
        assert torch.equal(raw(found), wanted)
    assert torch.equal(raw(there.scale), plain.scale)
    assert torch.equal(raw(there.zero_point).long(), plain.zero_point.long())


def test_an_observer_that_is_switched_off_is_seen_at_once() -> None:
    there = elsewhere(LevelQuantiser(**SPECS["unsigned"])).train()
    with emulated():
        there(torch.rand(8, 3).to(device))
        before = raw(there.scale).clone()
        there.apply(disable_observer)
        there(100 * torch.rand(8, 3).to(device))
    assert torch.equal(raw(there.scale), before)


def test_ranges_are_found_in_inference_mode() -> None:
    """Tensors that are made there count no writes, so that switches are read as they are."""
    x = torch.rand(4, 3, 8, 8)
    with torch.inference_mode():
        inside = prepare_qat(Residual(), x, levels=15).train()
        assert inside(x).shape == (4, 5)
        inside.apply(disable_observer)
        before = {k: v.clone() for k, v in inside.state_dict().items() if k.endswith("min_val")}
        inside(100 * x)
        after = inside.state_dict()
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert before
    assert moved == []


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(torch.relu(self.second(x) + x).mean((2, 3)))


def test_a_training_step_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, by the way that other devices take; losses and ranges are those of the plain way."""
    torch.manual_seed(0)
    x, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    plain = prepare_qat(Residual(), x, levels=15).train()
    other = copy.deepcopy(plain)

    def losses(model: nn.Module, guard: Any) -> list[float]:
        optimiser, found = torch.optim.SGD(model.parameters(), lr=0.1), []
        for k in range(3):
            optimiser.zero_grad()
            with guard() if k else torch.enable_grad():  # the first pass reads its switches
                loss = nn.functional.cross_entropy(model(x), labels)
                loss.backward()
                optimiser.step()
            found.append(loss.item())
        return found

    wanted = losses(plain, torch.enable_grad)
    monkeypatch.setattr(LevelQuantiser, "_is_near", staticmethod(lambda t: False))
    assert losses(other, NobodyWaits) == wanted
    states = plain.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
