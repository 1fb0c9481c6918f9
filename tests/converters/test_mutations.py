"""Faults planted in the front-ends: the conversion goes through, and its comparison with the model alone finds each."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.frontends import (
    brevitas,
    checking,
    operations,
    torch_ao,
    torch_ao_quantisers,
    torch_ao_weights,
    tracing,
    weighted,
)
from converters.frontends.walker import Grid, Walker
from converters.operations import Linear
from converters.quantised import GraphBuilder, QuantGraph
from tests.converters.fault_networks import NETS
from tests.converters.planting import Patch, argument, handler, keywords, result, wrap
from tests.converters.test_fx_frontends import SHAPE, convert, prepared
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]

# --- faults -----------------------------------------------------------------------------------------------------------


def geometry(home: Any, **change: Callable[[Any], Any]) -> Patch:
    return result(home, "conv", lambda op: replace(op, **{k: c(getattr(op, k)) for k, c in change.items()}))


def weights(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda w: replace(w, integers=change(w.integers))


def scales(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda w: replace(w, scale=change(w.scale))


def add_then(change: Callable[[Any, Any], tuple[Any, Any]], **options: Any) -> Callable[..., Any]:
    """An addition of other operands."""

    def planted(net: Any, node: Any, input: Any, other: Any, *, alpha: float = 1) -> Any:
        return operations.add(net, node, *change(input, other), **{"alpha": alpha, **options})

    return planted


def dense_in_another_order(op: Any) -> Any:
    """A flattened map read with its channels last."""
    w = op.weight
    return Linear(w.reshape(len(w), -1, 4, 4).permute(0, 2, 3, 1).reshape(len(w), -1)) if w.shape[1] == 64 else op


def _norm(deviation: Callable[[Tensor, float], Tensor], mean: float = -1.0, beta: float = 1.0) -> Any:
    @torch.no_grad()
    def planted(net: Any, node: Any, module: Any, x: Any) -> Any:
        factor = module.weight.double() / deviation(module.running_var.double(), module.eps)
        return x.normalised(factor, mean * module.running_mean.double() * factor + beta * module.bias.double())

    return planted


def brevitas_module(kind: type, planted: Any) -> Patch:
    return wrap(brevitas, "_modules", lambda f: lambda: {**f(), kind: planted})


def exact_std(var: Tensor, eps: float) -> Tensor:
    return torch.sqrt(var + eps)


def halves_exchanged(w: Tensor) -> Tensor:
    return w.roll(len(w) // 2, 0)


def pool_layer(**change: Callable[[Any], Any]) -> Patch:
    return keywords(GraphBuilder, "layer", **change)


def other_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers that bear each other's weights."""
    plain = Walker._evaluate

    def planted(self: Any, node: Any, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module" and str(node.target) in ("a", "b"):
            modules = self.traced.modules
            modules["a"], modules["b"] = modules["b"], modules["a"]
            try:
                return plain(self, node, args, kwargs)
            finally:
                modules["a"], modules["b"] = modules["b"], modules["a"]
        return plain(self, node, args, kwargs)

    monkeypatch.setattr(Walker, "_evaluate", planted)


def layer_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second quantiser does is taken for nothing."""
    monkeypatch.setattr(Walker, "on_grid", lambda self, value, grid: True)


def in_place_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes without users are dropped as if values were immutable."""
    monkeypatch.setattr(tracing.Effects, "none", property(lambda self: True))


def readout_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GraphBuilder.layer

    def planted(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs | ({} if kwargs.get("spiking", True) else {"bias": 0.0}))

    monkeypatch.setattr(GraphBuilder, "layer", planted)


def unclamped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walker, "clamp", lambda self, node, x, high=0.0: x)


def six_is(high: float) -> Patch:
    return handler(operations.MODULES, nn.ReLU6, operations.of_module(lambda w, node, x: w.clamp(node, x, high)))


@dataclass(frozen=True)
class Fault:
    name: str
    kinds: tuple[str, ...]
    net: str
    plant: Patch


def faults() -> Iterator[Fault]:
    b, e, f = ("brevitas",), ("eager",), ("fx",)
    ao, every = e + f, b + e + f
    homes = {"brevitas": brevitas, "eager": torch_ao_weights, "fx": torch_ao_weights}
    for kind, home in homes.items():
        one = (kind,)
        yield Fault("padding, off by one", one, "conv", geometry(home, padding=lambda p: (p[0], p[1] + 1)))
        yield Fault("stride of the other axis", one, "conv", geometry(home, stride=lambda s: s[::-1]))
        if kind == "eager":
            continue
        yield Fault("dilation forgotten, and padding with it", one, "conv",
                    geometry(home, dilation=lambda d: (1, 1), padding=lambda p: (1, 1)))  # fmt: skip
        yield Fault("groups exchanged", one, "conv", geometry(home, weight=halves_exchanged))
        yield Fault("kernel transposed", one, "conv", geometry(home, weight=lambda w: w.transpose(2, 3)))
        yield Fault("kernel turned round, as in a true convolution", one, "conv",
                    geometry(home, weight=lambda w: w.flip(2, 3)))  # fmt: skip
        yield Fault("features in another order", one, "norm",
                    argument(home, "weighted", lambda w, n, x, op, *r: (w, n, x, dense_in_another_order(op), *r))
                    if kind == "fx" else result(home, "Linear", dense_in_another_order))  # fmt: skip
        yield Fault("a bias lost", one, "conv", argument(home, "weighted", lambda *a: (*a[:-1], None)))
        yield Fault("a bias twice", one, "conv", argument(home, "weighted", lambda *a: (*a[:-1], a[-1] * 2)))
    yield Fault("scales of other channels", b, "per channel", result(brevitas, "_weight", scales(lambda s: s.flip(0))))
    yield Fault("the first channel's scale for all", b, "per channel",
                result(brevitas, "_weight", scales(lambda s: s[:1])))  # fmt: skip
    yield Fault("a weight's smallest integer clamped", b, "per channel",
                result(brevitas, "_weight", weights(lambda w: w.clamp(-126, 126))))  # fmt: skip
    yield Fault("a zero point forgotten", b, "shifted",
                result(brevitas, "_grid", lambda g: replace(g, y_min=0, y_max=g.y_max - g.y_min)))  # fmt: skip
    yield Fault(
        "a bias in the units of the weights alone",
        b,
        "per channel",
        wrap(brevitas, "_bias", lambda f: lambda w, n, m, scale, value: f(w, n, m, scale, value) / value.scale),
    )
    yield Fault("a clamp one level too high", b, "conv",
                result(brevitas, "_grid", lambda g: replace(g, y_max=g.y_max + 1)))  # fmt: skip
    yield Fault("a clamp forgotten", ao, "conv", result(torch_ao_quantisers, "read_grid",
                                                        lambda g: replace(g, y_min=-9999, y_max=9999)))  # fmt: skip
    yield Fault("a symmetric range for the toolkit's", b, "conv",
                result(brevitas, "_grid", lambda g: replace(g, y_min=max(g.y_min, -g.y_max))))  # fmt: skip
    yield Fault("a zero point with the wrong sign", ao, "conv", _turned_grid)
    yield Fault("a scale off by a thousandth", every, "conv", _scales_off)
    yield Fault("input and output scale exchanged", b, "conv", _exchanged)
    yield Fault("a ReLU forgotten", every, "in place", unclamped)
    yield Fault("a ReLU6 that clamps at five", b + f, "six", six_is(5.0))
    yield Fault("the sign of gamma lost", b, "norm", wrap(weighted, "_layer", _unsigned))
    yield Fault("eps forgotten", b, "norm", brevitas_module(nn.BatchNorm2d, _norm(lambda var, eps: var.sqrt())))
    yield Fault("a square root forgotten", b, "norm", brevitas_module(nn.BatchNorm2d, _norm(lambda v, eps: v + eps)))
    yield Fault("the mean with the wrong sign", b, "norm", brevitas_module(nn.BatchNorm2d, _norm(exact_std, mean=1.0)))
    yield Fault("beta lost", b, "norm", brevitas_module(nn.BatchNorm2d, _norm(exact_std, beta=0.0)))
    yield Fault("weights quantised before the batch norm", ao, "norm",
                wrap(torch_ao_weights, "_fold", lambda f: lambda where, m: (m.weight, f(where, m)[1])))  # fmt: skip
    yield Fault("a bias without the batch norm", ao, "norm",
                wrap(torch_ao_weights, "_fold", lambda f: lambda where, m: (f(where, m)[0], m.bn.bias)))  # fmt: skip
    yield Fault("weights rounded down", ao, "norm",
                result(torch_ao_weights, "quantise_weight", weights(lambda w: w - (w > 0).to(w.dtype))))  # fmt: skip
    yield Fault("an operand twice", b + f, "sum", _added(lambda x, y: (x, x)))
    yield Fault("an operand twice", e, "sum", _first_twice)
    yield Fault("a subtraction that adds", b, "difference", _subtracted(lambda x, y: (x, y), alpha=2.0))
    yield Fault("a subtraction turned round", b, "difference", _subtracted(lambda x, y: (y, x), alpha=-2.0))
    yield Fault("alpha forgotten", b, "difference", _subtracted(lambda x, y: (x, y), alpha=-1.0))
    yield Fault(
        "a concatenation turned round", every, "cat", argument(GraphBuilder, "concat", lambda s, n, v: (s, n, v[::-1]))
    )
    yield Fault(
        "a pool divided by its width", every, "pool", pool_layer(threshold=lambda t: t / 3 if type(t) is float else t)
    )
    yield Fault("a pool's stride of the other axis", every, "pool",
                argument(operations, "average_pool", lambda b, n, v, k, s, p: (b, n, v, k, s[::-1], p)))  # fmt: skip
    yield Fault("a pool that rounds where it truncates", b, "trunc", pool_layer(bias=lambda _: 0.0))
    yield Fault("ties that go up", b, "round", _ties_up)
    yield Fault("two layers with each other's weights", every, "sum", other_module)
    yield Fault("a second quantiser dropped", b, "coarse", layer_dropped)
    yield Fault("in-place operations dropped", every, "in place", in_place_ignored)
    yield Fault("an output's bias lost", b, "norm", readout_without_bias)
    yield Fault("a function's bias lost", f, "functional",
                argument(torch_ao_weights, "weighted", lambda *a: (*a[:-1], None)))  # fmt: skip


def _turned_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(where: str, fake: Any) -> Grid:
        zero, bounds = int(fake.zero_point), fake.activation_post_process
        return Grid(
            float(fake.scale), min(0, int(bounds.quant_min) - 255 + zero), int(bounds.quant_max) - 255 + zero or 1
        )

    monkeypatch.setattr(torch_ao_quantisers, "read_grid", planted)


def _scales_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Walker.quantise

    def planted(self: Any, node: Any, grid: Grid, *args: Any) -> Any:
        return plain(self, node, replace(grid, scale=grid.scale * 1.001), *args)

    monkeypatch.setattr(Walker, "quantise", planted)


def _exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each quantiser takes the scale of the one before it."""
    plain = Walker.quantise
    last: list[float] = []

    def planted(self: Any, node: Any, grid: Grid, *args: Any) -> Any:
        last.append(grid.scale)
        return plain(self, node, replace(grid, scale=last[max(0, len(last) - 2)]), *args)

    monkeypatch.setattr(Walker, "quantise", planted)


def _unsigned(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The weight rows stay as they are where gamma is negative."""

    def planted(net: Any, name: str, value: Any, op: Any, unit: Tensor, bias: Tensor) -> Any:
        pending = plain(net, name, value, op, unit, bias)

        def normalised(factor: Tensor, shift: Tensor) -> Any:
            return plain(net, name, value, op, factor.abs() * unit, bias * factor + shift)

        return replace(pending, normalised=normalised)

    return planted


def _added(change: Callable[[Any, Any], tuple[Any, Any]]) -> Patch:
    return handler(operations.FUNCTIONS, operator.add, add_then(change))


def _first_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (torch.add, operator.add):
        monkeypatch.setitem(operations.FUNCTIONS, key, add_then(lambda x, y: (x, x)))


def _subtracted(change: Callable[[Any, Any], tuple[Any, Any]], alpha: float) -> Patch:
    return handler(operations.FUNCTIONS, torch.sub, add_then(change, alpha=alpha))


def _ties_up(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GraphBuilder.layer
    monkeypatch.setattr(GraphBuilder, "layer", lambda self, *a, **k: plain(self, *a, **{**k, "tie": "up"}))


CASES = [(fault, kind) for fault in faults() for kind in fault.kinds]


@cache
def model_of(kind: str, net: str) -> nn.Module:
    build, forward, options = NETS[net]
    return prepared(kind, build, forward, **options)


@cache
def sound(kind: str, net: str) -> QuantGraph:
    return convert(kind, model_of(kind, net), pixels(4, SHAPE, signed=True))


@pytest.fixture(autouse=True)
def _fresh_tables() -> Iterator[None]:
    torch_ao._modules.cache_clear()
    yield
    torch_ao._modules.cache_clear()


@pytest.mark.parametrize(("fault", "kind"), CASES, ids=[f"{kind}-{fault.name}" for fault, kind in CASES])
def test_a_planted_fault_is_found(fault: Fault, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pixels(4, SHAPE, signed=True)
    assert sound(kind, fault.net).checked is not None
    torch_ao._modules.cache_clear()
    fault.plant(monkeypatch)
    # an error of the comparison, which comes last: nothing else has noticed
    with pytest.raises(ConversionError, match=re.escape(checking._TODO)):
        convert(kind, model_of(kind, fault.net), x)


def test_there_are_enough_of_them() -> None:
    assert len({fault.name for fault, _ in CASES}) >= 30
    assert {kind for _, kind in CASES} >= {"brevitas", "eager", "fx"}
