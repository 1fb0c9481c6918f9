"""Faults planted in the PT2E front-end: the conversion goes through, and its comparison with the model finds each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends import aten, checking, pt2e_reader
from converters.operations import Linear
from converters.quantised import GraphBuilder
from tests.converters.planting import Patch, argument, keywords, result
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


def norm() -> nn.Module:
    bn = nn.BatchNorm2d(4, eps=0.2)
    nn.init.uniform_(bn.weight, -1.5, 1.5)
    nn.init.uniform_(bn.bias, -0.3, 0.5)
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), bn, nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))


def two(steps: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Steps(
        steps, a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 3, padding=1), fc=nn.Linear(108, 4),
        merge=nn.Conv2d(6, 4, 3),
    )  # fmt: skip


def _sum(net: Any, x: Tensor) -> Tensor:
    return net.fc((F.relu(net.a(x)) + net.b(x)).flatten(1))


def _cat(net: Any, x: Tensor) -> Tensor:
    return net.merge(torch.cat([net.a(x), net.b(x)], 1))


def six() -> nn.Module:
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight *= 20  # so that six is reached
    return nn.Sequential(conv, nn.ReLU6(), nn.Flatten(), nn.Linear(48, 4))


NETS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutions,
    "norm": norm,
    "sum": two(_sum),
    "cat": two(_cat),
    "pool": lambda: nn.Sequential(nn.AvgPool2d(3, (3, 1), 1), nn.Flatten(), nn.Linear(24, 4)),
    "mean": lambda: Steps(lambda net, x: net.fc(net.conv(x).mean((2, 3))), conv=nn.Conv2d(2, 3, 3), fc=nn.Linear(3, 4)),
    "six": six,
}


def every(targets: set[Any], planted: Callable[..., Any]) -> Patch:
    """Another handler for some operations, given the one there is."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for target in targets & set(pt2e_reader._HANDLERS):
            plain = pt2e_reader._HANDLERS[target]
            monkeypatch.setitem(pt2e_reader._HANDLERS, target, lambda r, n, plain=plain: planted(plain(r, n)))

    return patch


def geometry(**change: Callable[[Any], Any]) -> Patch:
    return result(
        pt2e_reader, "_make_conv", lambda op: replace(op, **{k: c(getattr(op, k)) for k, c in change.items()})
    )


def of_sum(**change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda s: replace(s, **{k: c(getattr(s, k)) for k, c in change.items()})


def weights(**change: Callable[[Tensor], Tensor]) -> Patch:
    return result(pt2e_reader._Reader, "_weights", of_sum(**change))


def in_another_order(s: Any) -> Any:
    ((x, op),) = s.inputs
    if op.weight.shape[1] != 64:
        return s
    w = op.weight.reshape(4, 4, 4, 4).permute(0, 2, 3, 1).reshape(4, 64)
    return replace(s, inputs=((x, Linear(w)),))


def grid(plain: Callable[..., Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Any]:
    return lambda *args, **kwargs: plain(*args, **change(kwargs))


def other_grid(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Patch:
    """The layer of a sum on another grid than its quantiser's."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pt2e_reader._Reader, "layer", grid(pt2e_reader._Reader.layer, change))

    return patch


def beta_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias of a batch norm, wherever it is added."""
    every(aten.BATCH_NORM, of_sum(bias=lambda b: torch.zeros(1, dtype=torch.float64)))(monkeypatch)


def half(s: Any) -> Any:
    return replace(s, branches=(s.branches[0], s.branches[0])) if s.branches else s


@dataclass(frozen=True)
class Fault:
    name: str
    net: str
    plant: Patch


FAULTS = [
    Fault("padding, off by one", "convolutions", geometry(padding=lambda p: (p[0], p[1] + 1))),
    Fault("stride of the other axis", "convolutions", geometry(stride=lambda s: s[::-1])),
    Fault("dilation forgotten, and padding with it", "convolutions",
          geometry(dilation=lambda d: (1, 1), padding=lambda p: (1, 1))),
    Fault("groups exchanged", "convolutions", geometry(weight=lambda w: w.roll(2, 0))),
    Fault("kernel transposed", "convolutions", geometry(weight=lambda w: w.transpose(2, 3))),
    Fault("a bias lost", "convolutions", every(aten.CONV, of_sum(bias=lambda b: 0.0))),
    Fault("a bias twice", "convolutions", every(aten.CONV, of_sum(bias=lambda b: b * 2))),
    Fault("scales of other channels", "convolutions", weights(scale=lambda s: s.flip(0))),
    Fault("the first channel's scale for all", "convolutions", weights(scale=lambda s: s[:1])),
    Fault("weights off by one where they are largest", "convolutions",
          weights(integers=lambda w: w.clamp(-126, 126))),
    Fault("features in another order", "norm", every(aten.LINEAR, in_another_order)),
    Fault("a batch norm's shift lost", "norm", beta_lost),
    Fault("a batch norm's shift with the wrong sign", "norm", every(aten.BATCH_NORM, of_sum(bias=lambda b: -b))),
    Fault("a negative gamma taken for a positive one", "norm",
          every(aten.BATCH_NORM, lambda s: replace(s, inputs=tuple(
              (x, replace(op, weight=op.weight * torch.tensor([1, -1, 1, -1], dtype=op.weight.dtype).view(-1, 1, 1, 1)))
              for x, op in s.inputs)))),
    Fault("a clamp one level too high", "six", other_grid(lambda k: k | {"high": k["high"] + 1})),
    Fault("a clamp forgotten", "convolutions", other_grid(lambda k: k | {"low": -9999, "high": 9999})),
    Fault("a ReLU6 that clamps at five", "six", every(aten.RELUS, of_sum(high=lambda h: 5.0))),
    Fault("a scale off by a thousandth", "sum", other_grid(lambda k: k | {"scale": k["scale"] * 1.001})),
    Fault("an operand twice", "sum", every(aten.ADD, half)),
    Fault("a concatenation turned round", "cat", argument(GraphBuilder, "concat", lambda s, n, v: (s, n, v[::-1]))),
    Fault("a pool divided by its width", "pool", every(aten.POOLS, of_sum(unit=lambda u: u * 3))),
    Fault("a pool's stride of the other axis", "pool", every(aten.POOLS, of_sum(
        inputs=lambda pairs: tuple((x, replace(op, stride=op.stride[::-1])) for x, op in pairs)))),
    Fault("a mean that is a sum", "mean", every(aten.POOLS, of_sum(unit=lambda u: u * 16))),
    Fault("the input's range forgotten", "sum", keywords(GraphBuilder, "input", q_max=lambda q: q - 1)),
    Fault("the input's scale off by a thousandth", "sum", keywords(GraphBuilder, "input", scale=lambda s: s * 1.001)),
]  # fmt: skip


@cache
def model_of(net: str) -> Any:
    torch.manual_seed(3)
    model = converters.prepare_qat(NETS[net](), pixels(4, SHAPE, signed=True), levels=60)
    for k in range(2):
        model(pixels(32, SHAPE, signed=True, seed=k + 1))
    assert converters.from_pt2e(model.eval()).checked is not None
    return model


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(fault.net)
    fault.plant(monkeypatch)
    # an error of the comparison, which comes last: nothing else has noticed
    with pytest.raises(ConversionError, match=re.escape(checking._TODO)):
        converters.from_pt2e(model)


def test_there_are_enough_of_them() -> None:
    assert len({fault.name for fault in FAULTS}) >= 20
