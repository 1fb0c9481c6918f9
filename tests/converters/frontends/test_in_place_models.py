"""Quantised models with in-place operations: the conversion is the toolkit's own forward."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization.quantize_fx import prepare_qat_fx

from converters.errors import ConversionError
from converters.frontends.brevitas import from_brevitas
from converters.frontends.torch_ao import from_torch_ao
from converters.quantised import QuantGraph
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]

# --- what is done to z = quant(conv(x)) and to a, of the same scale; everything is used afterwards --------------------


def relu_of_what_is_used_again(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    F.relu_(z)
    return [z, a]


def result_and_argument(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    r = net.relu(z)
    return [r, z]


def argument_first(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    torch.relu_(z)
    return [a, z, z]


def module_without_a_user(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    net.relu(z)
    net.relu(a)
    return [z, a]


def through_a_flat_view(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    F.relu_(torch.flatten(z, 1))
    return [z, a]


def view_made_before(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    v = torch.flatten(z, 1)
    F.relu(z, inplace=True)
    return [v, torch.flatten(a, 1)]


def a_copy_is_another_tensor(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    c = torch.clone(z)
    F.relu_(z)
    return [z, c]


def sum_whose_result_is_thrown_away(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    z.add_(a)
    return [net.quantise(z), a]


def augmented_assignment(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    seen = z
    z += a
    return [net.quantise(seen), a]


def operator_form(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
    operator.isub(z, a)
    return [net.quantise(z), a]


CASES = [
    relu_of_what_is_used_again,
    result_and_argument,
    argument_first,
    module_without_a_user,
    through_a_flat_view,
    view_made_before,
    a_copy_is_another_tensor,
    sum_whose_result_is_thrown_away,
    augmented_assignment,
    operator_form,
]
SUMS = CASES[-3:]


class Brevitas(nn.Module):
    def __init__(self, body: Callable[[Any, Tensor, Tensor], list[Tensor]], wrapped: bool) -> None:
        super().__init__()
        self.body, self.relu = body, nn.ReLU(inplace=True)
        self.input = qnn.QuantIdentity(return_quant_tensor=True)
        self.conv, self.conv2 = qnn.QuantConv2d(1, 2, 3), qnn.QuantConv2d(1, 2, 3)
        self.z = qnn.QuantIdentity(return_quant_tensor=wrapped)
        self.sum = qnn.QuantIdentity(return_quant_tensor=False)  # Brevitas adds tensors of unlike scales only so
        self.quantise = qnn.QuantIdentity(return_quant_tensor=False)
        self.fc = qnn.QuantLinear(32, 5, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        parts = self.body(self, self.z(self.conv(x)), self.z(self.conv2(x)))
        total = parts[0]
        for part in parts[1:]:
            total = self.sum(total + part)
        return self.fc(torch.flatten(total, 1))


class TorchAo(nn.Module):
    def __init__(self, body: Callable[[Any, Tensor, Tensor], list[Tensor]], eager: bool) -> None:
        super().__init__()
        self.body, self.eager, self.relu = body, eager, nn.ReLU(inplace=True)
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.conv2, self.fc = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(32, 5)
        self.quantise = ao.QuantStub() if eager else nn.Identity()
        self.adds = nn.ModuleList(FloatFunctional() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.eager:
            x = self.quant(x)
        parts = self.body(self, self.conv(x), self.conv2(x))
        total = parts[0]
        for part, add in zip(parts[1:], self.adds):  # noqa: B905 (two suffice)
            total = add.add(total, part) if self.eager else total + part
        return self.dequant(self.fc(torch.flatten(total, 1))) if self.eager else self.fc(torch.flatten(total, 1))


def qconfig() -> ao.QConfig:
    return ao.QConfig(
        activation=ao.FakeQuantize.with_args(
            observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
        ),
        weight=ao.FakeQuantize.with_args(
            observer=ao.MovingAverageMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_tensor_symmetric,
        ),
    )


KINDS = ("brevitas", "brevitas, plain tensors", "eager", "fx")


def prepared(kind: str, body: Callable[[Any, Tensor, Tensor], list[Tensor]]) -> nn.Module:
    torch.manual_seed(3)
    x = pixels(32, (1, 6, 6), seed=1)
    model: Any
    if kind.startswith("brevitas"):
        model = Brevitas(body, kind == "brevitas")
    else:
        net = TorchAo(body, kind == "eager").train()
        if kind == "eager":
            net.qconfig = qconfig()  # type: ignore[assignment]
            net.relu.qconfig = None  # type: ignore[assignment]
            model = ao.prepare_qat(net)
        else:
            model = prepare_qat_fx(net, ao.QConfigMapping().set_global(qconfig()), (x[:2],))
    model(x)
    model.eval()
    if not kind.startswith("brevitas"):
        model.apply(ao.disable_observer)
    return model


def convert(kind: str, model: nn.Module, x: Tensor, **options: Any) -> QuantGraph:
    return (from_brevitas if kind.startswith("brevitas") else from_torch_ao)(model, x, **options)


@torch.no_grad()
def differing(q: QuantGraph, model: nn.Module, x: Tensor) -> float:
    """Share of the logits that are not the toolkit's own."""
    theirs = model(x.clone())
    theirs = getattr(theirs, "value", theirs).double()
    ours = q.logits(q.execute(x))
    step = q.output.scale if q.output.spiking else 1e-4
    assert theirs.std() > 0
    return float(((ours - theirs).abs() > step / 2).double().mean())


PAIRS = [(c, k) for c in CASES for k in KINDS if c not in SUMS or k != "brevitas"]  # whose tensors have no such sums


@pytest.mark.parametrize(("body", "kind"), PAIRS, ids=lambda c: getattr(c, "__name__", c))
def test_the_toolkits_own_forward(kind: str, body: Callable[..., list[Tensor]]) -> None:
    model, x = prepared(kind, body), pixels(50, (1, 6, 6), seed=2)
    before = x.clone()
    q = convert(kind, model, x[:4], check=x)
    assert differing(q, model, x) < 0.02  # near-ties of float32 sums
    assert torch.equal(x, before)
    assert q.checked is not None
    assert q.checked.integers > 1000


STEPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu_": lambda net, z: F.relu_(z),
    "module": lambda net, z: net.relu(z),
    "view": lambda net, z: torch.relu_(torch.flatten(z, 1)),
    "clone": lambda net, z: torch.clone(z),
    "relu": lambda net, z: F.relu(z),
    "same": lambda net, z: torch.detach(z),
}


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 6), st.booleans()), min_size=1, max_size=5))
def test_random_bodies(steps: list[tuple[str, int, bool]]) -> None:
    """The comparison inside of the conversion is the oracle: it knows the model's own forward only."""

    def body(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
        tensors = [z, a]
        for name, i, keep in steps:
            made = STEPS[name](net, tensors[i % len(tensors)])
            if keep and name != "view":
                tensors.append(made)
        return [tensors[-1], tensors[0], tensors[1]]

    model, x = prepared("brevitas, plain tensors", body), pixels(30, (1, 6, 6), seed=2)
    q = from_brevitas(model, x[:4], check=x)
    assert differing(q, model, x) < 0.05


def test_a_quantised_tensor_of_which_a_part_is_changed() -> None:
    def body(net: Any, z: Tensor, a: Tensor) -> list[Tensor]:
        F.relu_(z[:, :1])
        return [z, a]

    model, x = prepared("brevitas, plain tensors", body), pixels(4, (1, 6, 6))
    with pytest.raises(ConversionError, match=r"a tensor of which a part was changed in place through a view"):
        from_brevitas(model, x)
