"""Faults planted in the PT2E front-end: the conversion goes through, and its comparison with the model finds each."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends import checking
from tests.converters.frontends.planting import differ
from tests.converters.frontends.verb_faults import VERB_FAULTS, VerbFault
from tests.networks import pixels

SHAPE = (2, 6, 6)


class Steps(nn.Module):
    """Modules by name, and what is done with them."""

    def __init__(self, steps: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.steps = steps
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def convolutions() -> nn.Module:
    last = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=(2, 1)), nn.ReLU(), last)


def norm(bias: bool = False) -> nn.Module:
    bn = nn.BatchNorm2d(4, eps=0.2)
    nn.init.uniform_(bn.weight, -1.5, 1.5)
    nn.init.uniform_(bn.bias, -0.3, 0.5)
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=bias), bn, nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))


def two(steps: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Steps(
        steps, a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 3, padding=1), fc=nn.Linear(108, 4),
        merge=nn.Conv2d(6, 4, 3),
    )  # fmt: skip


def _sum(net: Any, x: Tensor) -> Tensor:
    return net.fc((F.relu(net.a(x)) + net.b(x)).flatten(1))


def _cat(net: Any, x: Tensor) -> Tensor:
    return net.merge(torch.cat([net.a(x), net.b(x)], 1))


def _clamped(net: Any, x: Tensor) -> Tensor:
    """One quantiser for both, which does not clamp at zero."""
    return net.merge(torch.cat([F.relu_(net.a(x)), net.b(x)], 1))


def six() -> nn.Module:
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight *= 20  # so that six is reached
    return nn.Sequential(conv, nn.ReLU6(), nn.Flatten(), nn.Linear(48, 4))


NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": convolutions,
    "per channel": convolutions,
    "norm": norm,
    "biased norm": lambda: norm(bias=True),
    "sum": two(_sum),
    "cat": two(_cat),
    "in place": two(_clamped),
    "pool": lambda: nn.Sequential(nn.AvgPool2d(3, (3, 1), 1), nn.Flatten(), nn.Linear(24, 4)),
    "mean": lambda: Steps(lambda net, x: net.fc(net.conv(x).mean((2, 3))), conv=nn.Conv2d(2, 3, 3), fc=nn.Linear(3, 4)),
    "six": six,
}


FAULTS = [fault for fault in VERB_FAULTS if "pt2e" in fault.kinds]


@cache
def model_of(net: str) -> Any:
    torch.manual_seed(3)
    model = converters.prepare_qat(NETS[net](), pixels(4, SHAPE, signed=True), levels=60)
    for k in range(2):
        model(pixels(32, SHAPE, signed=True, seed=k + 1))
    assert converters.from_pt2e(model.eval()).checked is not None
    return model


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_is_found(fault: VerbFault, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(fault.net)
    fault.plant(monkeypatch)
    # an error of the comparison, which comes last: nothing else has noticed
    with pytest.raises(ConversionError, match=re.escape(checking._TODO)):
        converters.from_pt2e(model)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_without_the_comparison_it_would_have_been_converted(fault: VerbFault, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each fault is one: another network than the sound conversion's."""
    model = model_of(fault.net)
    plain = converters.from_pt2e(model, check=False)
    fault.plant(monkeypatch)
    assert differ(plain, converters.from_pt2e(model, check=False))


def test_there_are_enough_of_them() -> None:
    assert len({fault.name for fault in FAULTS}) >= 30
