"""What runs on a device stays there: on one that is emulated, since no GPU is needed to see tensors mixed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from calif_plugins.snntorch import CaLIF
from converters.backends import Backend, Settings
from converters.backends.contract import backend_for
from converters.network import Network
from converters.results import RunResult
from converters.testing import Case, conformance
from converters.testing.conforming import SCENARIOS
from tests.accelerator.emulated import Elsewhere, device, emulated


class There(Backend):
    """A backend of ours on the emulated device; its results must all be there, and are brought back."""

    def __init__(self, name: str) -> None:
        self.inner: Any = backend_for(name, torch.device("cpu"))
        self.name, self.own_options = name, self.inner.own_options  # type: ignore[misc]
        self.phases, self.records = self.inner.phases, self.inner.records  # type: ignore[misc]

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: Any) -> RunResult:
        with emulated():
            there = replace(settings, device=device)
            r: RunResult = self.inner.simulate(network, integers.to(device), there, options)
            values = {f.name: getattr(r, f.name) for f in fields(r) if f.name != "output_structure"}
            return replace(r, **tree_map(_back, values))


def _back(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    assert isinstance(x, Elsewhere), f"a tensor of shape {tuple(x.shape)} on the CPU"
    return x.cpu()


def some(name: str, **options: Any) -> list[Any]:
    """Of the networks times the ways to run them every third, so that each is there; and all that is left."""
    cases = conformance(There(name), **options)
    ways = sum(s.phase in cases[0].run.func.__self__.backend.phases for s in SCENARIOS)  # type: ignore[attr-defined]
    chosen = [c for k, c in enumerate(cases) if "refuses" not in c.name and (k // ways + k % ways) % 3 == 0]
    return [pytest.param(c, id=f"{name}-{c.name}-{options or ''}") for c in chosen]


@pytest.mark.parametrize("case", [*some("snntorch"), *some("closed_form"), *some("snntorch", dtype="int8")[::4]])
def test_a_backend_stays_on_its_device(case: Case) -> None:
    assert case.run() > 0


@pytest.mark.parametrize("multistep", [False, True])
def test_the_layer_stays_on_its_device(multistep: bool) -> None:
    """Forwards and backwards, with values and gradients of the CPU."""
    x = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))

    def trained(x: Tensor, where: torch.device) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        dense = nn.Linear(5, 5)
        neuron = CaLIF(
            torch.tensor([0.2, 0.4]), leak=0.05, y_min=-2, y_max=3, init_hidden=True, multistep=multistep,
            learn_threshold=True, window=3, compiled=False, spike_grad=lambda u: (2 * u).atan(),
        )  # fmt: skip
        own: Any = [dense.weight, dense.bias, neuron.threshold]
        if where.type != "cpu":
            own = [nn.Parameter(p.detach().to(where)) for p in own]
            dense._parameters["weight"], dense._parameters["bias"], neuron._parameters["threshold"] = own
            for name, buffer in neuron._buffers.items():
                assert buffer is not None
                neuron._buffers[name] = buffer.to(where)
        s = neuron(dense(x)) if multistep else torch.stack([neuron(dense(now)) for now in x])
        (s.sum() + neuron.v.sum()).backward()
        return s.detach(), neuron.v.detach(), neuron.y.detach(), *(p.grad for p in own)

    expected = trained(x, torch.device("cpu"))
    with emulated():
        found = [_back(t) for t in trained(x.to(device), device)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert expected[3].any()


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        (lambda x: x + torch.ones(3), "tensors of two devices"),
        (lambda x: torch.stack([x, torch.ones(3)]), "tensors of two devices"),
        (lambda x: x.long()[None] @ x.long()[:, None], "not implemented on CUDA"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_the_device_refuses(what: Any, wrong: str) -> None:
    """Or these tests would show nothing."""
    with emulated():
        x = torch.zeros(3, device=device)
        assert (2 * x + 1).sum().item() == 3
        with pytest.raises((RuntimeError, TypeError), match=wrong):
            what(x)
