"""Maxima, activations, products and norms as the toolkits of traced models quantise them, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_qat_fx

import converters
from converters.errors import ConversionError
from converters.operations import Levels, Softmax
from converters.quantised import QuantGraph
from converters.results import compare_counts
from tests.converters.frontends.test_fx_frontends import SHAPE, Layers, convert, equal_to_the_toolkit, prepared
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]
Step = Callable[[Any, Tensor], Tensor]


def network(
    middle: Callable[[], nn.Module], step: Step | None = None, *, relu: bool = True
) -> tuple[Callable[[Layers], dict[str, Any]], Step]:
    """A convolution, perhaps a ReLU, something in the middle with a quantiser behind it, a dense layer."""

    def build(layers: Layers) -> dict[str, Any]:
        found = {"conv": layers.conv(2, 4), "relu": layers.relu(), "middle": middle(), "q": layers.quantise()}
        found["other"] = layers.conv(2, 4)
        found["q2"] = layers.quantise()
        with torch.no_grad():
            size = found["middle"](torch.zeros(2, 4, 4, 4)).flatten(1).shape[1] if step is None else 64
        return {**found, "fc": layers.linear(size, 3)}

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        y = net.relu(y) if relu else y
        y = net.middle(y) if step is None else step(net, x)
        return net.fc(torch.flatten(net.q(y), 1))

    return build, forward


def spikes_equal(q: QuantGraph) -> None:
    x = pixels(4, SHAPE, signed=True, seed=4)
    r = converters.run(converters.to_nir(q), x)
    assert [row for row in compare_counts(r, q.execute(x)) if row.differing] == []


@pytest.mark.parametrize("kind", ["brevitas", "eager", "fx"])
@pytest.mark.parametrize(
    ("middle", "relu"),
    [
        (lambda: nn.MaxPool2d(2), True),
        (lambda: nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), True),
        (lambda: nn.AdaptiveMaxPool2d((2, 3)), True),
        (lambda: nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), False),
    ],
    ids=["max pool", "padded", "adaptive", "in front of the ReLU"],
)
def test_max_pools(kind: str, middle: Callable[[], nn.Module], relu: bool) -> None:
    q = equal_to_the_toolkit(kind, prepared(kind, *network(middle, relu=relu)))
    assert sum(type(op).__name__.endswith("MaxPool") for k in q.layers for s in k.synapses for op in s.ops) == 1
    spikes_equal(q)


ACTIVE: dict[str, Callable[[], nn.Module]] = {
    "hardswish": nn.Hardswish,
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardsigmoid": nn.Hardsigmoid,
}
MORE: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu, tanh": lambda: nn.GELU("tanh"),
    "mish": nn.Mish,
    "prelu": lambda: nn.PReLU(4, 0.2),
    "softplus": lambda: nn.Softplus(2.0),
    "celu": nn.CELU,
    "selu": nn.SELU,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
    "tanhshrink": nn.Tanhshrink,
    "softshrink": nn.Softshrink,
    "threshold": lambda: nn.Threshold(0.1, -0.2),
}


@pytest.mark.parametrize("name", [*ACTIVE, *MORE])
def test_a_convolution_and_its_activation_are_one_layer_from_brevitas(name: str) -> None:
    q = equal_to_the_toolkit("brevitas", prepared("brevitas", *network({**ACTIVE, **MORE}[name], relu=False)))
    assert len(q.layers) == 2
    assert sum(type(op) is Levels for s in q.layers[0].synapses for op in s.ops) == 1
    spikes_equal(q)


@pytest.mark.parametrize("kind", ["eager", "fx"])
@pytest.mark.parametrize("name", ACTIVE)
def test_activations_that_torch_ao_quantises(kind: str, name: str) -> None:
    """It quantises what stands before them too, so they are tables on counts."""
    if kind == "fx" and name in ("sigmoid", "tanh", "hardsigmoid"):
        x = pixels(60, SHAPE, signed=True, seed=2)
        q = convert(kind, _with_fixed_ranges(ACTIVE[name]()), x[:4], check=x)
        assert q.checked is not None
        assert q.checked.near_ties <= 40  # a count of a few hundred that is one comes many times
    else:
        q = equal_to_the_toolkit(kind, prepared(kind, *network(ACTIVE[name], relu=False)))
    assert sum(type(op) is Levels for k in q.layers for s in k.synapses for op in s.ops) == 1
    spikes_equal(q)


def _with_fixed_ranges(middle: nn.Module) -> nn.Module:
    """In FX mode, where the toolkit has a quantiser of a fixed range for some functions."""
    torch.manual_seed(3)
    x = pixels(32, SHAPE, signed=True, seed=1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), middle, nn.Flatten(), nn.Linear(64, 3)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = prepare_qat_fx(net, get_default_qat_qconfig_mapping("x86"), (x[:2],))
    model(x)
    model.eval().apply(ao.disable_observer)
    return model


def test_softmax_with_a_fixed_range() -> None:
    q = equal_to_the_toolkit("fx", _with_fixed_ranges(nn.Softmax(1)))
    assert any(type(op) is Softmax for k in q.layers for s in k.synapses for op in s.ops)
    spikes_equal(q)


@pytest.mark.parametrize("kind", ["brevitas", "eager"])
@pytest.mark.parametrize("bounds", [(-0.4, 0.7), (0.1, 0.9)])
def test_clamps(kind: str, bounds: tuple[float, float]) -> None:
    """A range of counts where 0 lies between the bounds, a table where it does not."""
    q = equal_to_the_toolkit(kind, prepared(kind, *network(lambda: nn.Hardtanh(*bounds), relu=False)))
    tables = sum(type(op) is Levels for k in q.layers for s in k.synapses for op in s.ops)
    assert tables == (0 if bounds[0] < 0 else 1)
    spikes_equal(q)


def _gate(net: Any, x: Tensor) -> Tensor:
    return net.q2(net.conv(x)) * net.q(net.middle(net.q(net.other(x))))


def _extremes(net: Any, x: Tensor) -> Tensor:
    a, b = net.q(net.conv(x)), net.q(net.other(x))
    return torch.maximum(a, b) - torch.minimum(a, b).amax((2, 3), keepdim=True)


def _attention(net: Any, x: Tensor) -> Tensor:
    a = net.q(net.conv(x)).flatten(2)
    weights = net.q2(torch.softmax(net.middle(a @ a.transpose(1, 2) * 0.1), -1))
    return weights @ a


STEPS: dict[str, tuple[Callable[[], nn.Module], Step | None]] = {
    "layer norm": (lambda: nn.LayerNorm((4, 4, 4)), None),
    "layer norm of rows": (lambda: nn.LayerNorm(4, eps=1e-3), None),
    "group norm, silu": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU()), None),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), None),
    "rms norm": (lambda: nn.RMSNorm((4, 4)), None),
    "unit length": (nn.Identity, lambda net, x: F.normalize(net.q2(net.conv(x)), dim=1)),
    "local response": (lambda: nn.LocalResponseNorm(3, alpha=0.5), None),
    "softmax": (lambda: nn.Softmax(1), None),
    "gate": (nn.Sigmoid, _gate),
    "extremes": (nn.Identity, _extremes),
}


@pytest.mark.parametrize("name", STEPS)
def test_norms_products_and_extremes_from_brevitas(name: str) -> None:
    middle, step = STEPS[name]
    q = equal_to_the_toolkit("brevitas", prepared("brevitas", *network(middle, step)))
    spikes_equal(q)


def test_attention_from_brevitas() -> None:
    build, forward = network(lambda: nn.Identity(), _attention)

    def built(layers: Layers) -> dict[str, Any]:
        return {**build(layers), "middle": layers.quantise()}

    q = equal_to_the_toolkit("brevitas", prepared("brevitas", built, forward))
    kinds = {type(op).__name__ for k in q.layers for s in k.synapses for op in s.ops}
    assert {"MatMul", "Softmax"} <= kinds
    spikes_equal(q)


REFUSED: dict[str, tuple[Step, str]] = {
    "indices": (lambda net, x: net.pool(net.pool(net.q(net.conv(x)))[1])[0], "the operand NoneType"),
    "cube": (lambda net, x: net.q(net.conv(x)) ** 3, "the power 3; only squares"),
    "batch": (lambda net, x: net.q(net.conv(x)).amax(0), r"the axes \[0\] of a batch with 4"),
    "unknown": (lambda net, x: torch.atan(net.conv(x)), "the function atan"),
    "no axis": (lambda net, x: F.softmax(net.q(net.conv(x)).flatten(1)), "a softmax without its axis"),
    "log-softmax": (
        lambda net, x: net.pool(F.log_softmax(net.q(net.conv(x)), 1))[0],
        "an unquantised log_softmax, used by pool",
    ),
    "twice": (lambda net, x: torch.tanh(F.silu(net.conv(x))), "an unquantised activation"),
}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax:UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_is_said(case: str) -> None:
    step, match = REFUSED[case]

    def build(layers: Layers) -> dict[str, Any]:
        pool = nn.MaxPool2d(2, return_indices=True)
        return {"conv": layers.conv(2, 4), "q": layers.quantise(), "pool": pool}

    model = prepared("brevitas", build, step)
    with pytest.raises(ConversionError, match=match):
        convert("brevitas", model, pixels(4, SHAPE, signed=True))
