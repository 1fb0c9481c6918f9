"""What the front-ends of traced models share: Brevitas, and torch.ao in eager and in FX mode, one module at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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

import converters
from converters.errors import ConversionError
from converters.frontends.brevitas import from_brevitas
from converters.frontends.torch_ao import from_torch_ao
from converters.quantised import QuantGraph
from converters.results import compare_counts
from tests.converters.frontends.test_in_place_models import qconfig
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]

KINDS = ("brevitas", "eager", "fx")
SHAPE = (2, 6, 6)


class Layers:
    """The same words in each toolkit."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.brevitas = kind == "brevitas"

    def conv(self, a: int, b: int, k: int = 3, **options: Any) -> nn.Module:
        return qnn.QuantConv2d(a, b, k, **options) if self.brevitas else nn.Conv2d(a, b, k, **options)

    def linear(self, a: int, b: int) -> nn.Module:
        return qnn.QuantLinear(a, b, bias=True) if self.brevitas else nn.Linear(a, b)

    def quantise(self) -> nn.Module:
        """A quantiser of its own, where the toolkit does not place one."""
        if self.brevitas:
            return qnn.QuantIdentity(return_quant_tensor=False)
        return ao.QuantStub() if self.kind == "eager" else nn.Identity()

    def input(self) -> nn.Module:
        return self.quantise()

    def relu(self) -> nn.Module:
        return qnn.QuantReLU(return_quant_tensor=False) if self.brevitas else nn.ReLU()


class Net(nn.Module):
    """``build(layers)`` gives modules by name, ``forward(net, x)`` what they do to a quantised image."""

    def __init__(
        self, kind: str, build: Callable[[Layers], dict[str, Any]], forward: Callable[[Any, Tensor], Tensor]
    ) -> None:
        super().__init__()
        layers = Layers(kind)
        self.input, self.steps, self.functions = layers.input(), forward, FloatFunctional()
        self.functional = kind == "eager"
        self.dequant = ao.DeQuantStub() if kind == "eager" else nn.Identity()
        for name, part in build(layers).items():
            setattr(self, name, part)

    def cat(self, tensors: Sequence[Tensor]) -> Tensor:
        return self.functions.cat(list(tensors), 1) if self.functional else torch.cat(list(tensors), 1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.functions.add(a, b) if self.functional else a + b

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.steps(self, self.input(x)))


def prepared(
    kind: str, build: Callable[[Layers], dict[str, Any]], forward: Callable[[Any, Tensor], Tensor], **options: Any
) -> nn.Module:
    torch.manual_seed(3)
    x = pixels(32, SHAPE, signed=True, seed=1).to(options.get("dtype", torch.float32))
    net: Any = Net(kind, build, forward).to(x.dtype).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
    if kind != "brevitas":
        net.qconfig = qconfig()
        for names in options.get("fuse", []) if kind == "eager" else []:
            ao.fuse_modules_qat(net, names, inplace=True)
        mapping = ao.QConfigMapping().set_global(qconfig())
        net = ao.prepare_qat(net) if kind == "eager" else prepare_qat_fx(net, mapping, (x[:2],))
    net(x)
    net(x * 0.9)
    net.eval()
    if kind != "brevitas":
        net.apply(ao.disable_observer)
    return net


def convert(kind: str, model: nn.Module, x: Tensor, **options: Any) -> QuantGraph:
    return (from_brevitas if kind == "brevitas" else from_torch_ao)(model, x, **options)


def equal_to_the_toolkit(kind: str, model: nn.Module, dtype: torch.dtype = torch.float32) -> QuantGraph:
    """The conversion, compared with the toolkit's outputs here, and with its layers by itself."""
    x = pixels(60, SHAPE, signed=True, seed=2).to(dtype)
    q = convert(kind, model, x[:4], check=x)
    with torch.no_grad():
        theirs = model(x).double()
    step = q.output.scale if q.output.spiking else 1e-4
    ours = q.logits(q.execute(x))
    assert theirs.std() > 0
    assert float(((ours - theirs.reshape(ours.shape)).abs() > step / 2).double().mean()) < 0.02  # near-ties
    assert q.checked is not None
    assert q.checked.near_ties <= q.checked.integers * 1e-4
    return q


# --- concatenation of a map and a vector ------------------------------------------------------------------------------


def mixed(layers: Layers) -> dict[str, Any]:
    shared = layers.quantise()
    return {
        "conv": layers.conv(2, 3, 3),
        "vector": layers.linear(72, 5),
        "shared": shared,
        "fc": layers.linear(48 + 5, 4),
    }


def flat_map_and_vector(net: Any, x: Tensor) -> Tensor:
    a, b = net.conv(x), net.vector(torch.flatten(x, 1))
    if isinstance(net.shared, qnn.QuantIdentity):
        a, b = net.shared(a), net.shared(b)
    return net.fc(net.cat([torch.flatten(a, 1), b]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flattened_map_beside_a_vector(kind: str) -> None:
    q = equal_to_the_toolkit(kind, prepared(kind, mixed, flat_map_and_vector))
    x = pixels(6, SHAPE, signed=True, seed=4)
    r = converters.run(converters.to_nir(q, T=q.levels), x)
    assert [row for row in compare_counts(r, q.execute(x)) if row.differing] == []


# --- one module at several places -------------------------------------------------------------------------------------


def twice(layers: Layers) -> dict[str, Any]:
    conv, relu = layers.conv(2, 2, 3, padding=1), layers.relu()
    body = nn.Sequential(conv, relu, conv, relu)
    return {"body": body, "again": body[0], "fc": layers.linear(72, 4)}


def three_times(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.flatten(net.body[1](net.again(net.body(x))), 1))


def test_a_place_that_the_toolkit_does_not_prepare() -> None:
    """torch.ao's eager mode swaps a module at the first of its places, and leaves it unquantised at the others."""
    with pytest.raises(ConversionError, match=r"^body.2: found a layer without weight fake-quantiser; .*each place"):
        from_torch_ao(prepared("eager", twice, three_times), pixels(4, SHAPE, signed=True))


@pytest.mark.parametrize("kind", ["brevitas", "fx"])
def test_one_module_at_three_places_and_under_two_names(kind: str) -> None:
    q = equal_to_the_toolkit(kind, prepared(kind, twice, three_times))
    weights = [s.ops[-1].weight for k in q.layers[:-1] for s in k.synapses if hasattr(s.ops[-1], "weight")]
    convolutions = [w for w in weights if isinstance(w, Tensor) and w.ndim == 4]
    assert len(convolutions) == 3
    assert all(torch.equal(w, convolutions[0]) for w in convolutions)


@settings(deadline=None, max_examples=6)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_random_trees_with_repeats(order: list[int]) -> None:
    """Any sequence of three convolutions, each an object that may come again, nested or not."""

    def build(layers: Layers) -> dict[str, Any]:
        blocks = [nn.Sequential(layers.conv(2, 2, 3, padding=1), layers.relu()) for _ in range(3)]
        nested = nn.Sequential(*(blocks[k] if k else blocks[0][0] for k in order), layers.relu())
        return {"body": nested, "fc": layers.linear(72, 4), "relu": blocks[0][1]}

    def forward(net: Any, x: Tensor) -> Tensor:
        for module in net.body:
            x = module(x) if isinstance(module, nn.Sequential | qnn.QuantReLU) else net.relu(module(x))
        return net.fc(torch.flatten(x, 1))

    q = equal_to_the_toolkit("brevitas", prepared("brevitas", build, forward))
    assert len(q.layers) >= len(order) + 1


# --- dropout ----------------------------------------------------------------------------------------------------------

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def conv_and_linear(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 2), "q": layers.quantise(), "fc": layers.linear(32, 4)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", DROPOUTS)
def test_dropout_is_nothing_in_eval(kind: str, dropout: type[nn.Module]) -> None:
    def build(layers: Layers) -> dict[str, Any]:
        return {**conv_and_linear(layers), "drop": dropout(0.5)}

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.q(net.conv(x))
        return net.fc(net.drop(x.flatten(1)) if dropout is nn.Dropout1d else torch.flatten(net.drop(x), 1))

    equal_to_the_toolkit(kind, prepared(kind, build, forward))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout])
def test_a_dropout_that_stays_on_is_refused(kind: str, function: Callable[..., Tensor]) -> None:
    def on(net: Any, x: Tensor) -> Tensor:
        return net.fc(torch.flatten(function(net.q(net.conv(x)), 0.5, training=True), 1))

    with pytest.raises(ConversionError, match=r"found a dropout that stays on in eval mode; give it training="):
        convert(kind, prepared(kind, conv_and_linear, on), pixels(4, SHAPE, signed=True))

    def off(net: Any, x: Tensor) -> Tensor:
        return net.fc(torch.flatten(function(net.q(net.conv(x)), 0.5, net.training), 1))

    if kind == "fx":  # torch's own tracer writes the mode of training into the graph
        with pytest.raises(ConversionError, match="dropout that stays on"):
            convert(kind, prepared(kind, conv_and_linear, off), pixels(4, SHAPE, signed=True))
    else:
        equal_to_the_toolkit(kind, prepared(kind, conv_and_linear, off))


# --- batch norms of unusual kinds, parameters, types ------------------------------------------------------------------


def norm_of(**options: Any) -> Callable[[Layers], dict[str, Any]]:
    def build(layers: Layers) -> dict[str, Any]:
        return {
            "conv": layers.conv(2, 3, bias=False),
            "bn": nn.BatchNorm2d(3, **options),
            "relu": layers.relu(),
            "fc": layers.linear(48, 4),
        }

    return build


def with_norm(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.flatten(net.relu(net.bn(net.conv(x))), 1))


FUSE = [["conv", "bn", "relu"]]


def test_batch_norms_without_weights_or_statistics() -> None:
    """torch.ao itself refuses to fuse them, in FX mode as it prepares the model; in eager mode they may stand alone."""
    equal_to_the_toolkit("brevitas", prepared("brevitas", norm_of(affine=False), with_norm))
    x = pixels(4, SHAPE, signed=True)
    plain = {"track_running_stats": False}
    with pytest.raises(ConversionError, match=r"^bn: found a batch norm without running statistics, .*track_running"):
        from_brevitas(prepared("brevitas", norm_of(**plain), with_norm), x)
    with pytest.raises(ConversionError, match=r"^bn: found a batch norm without running statistics, .*track_running"):
        from_torch_ao(prepared("eager", norm_of(**plain), with_norm), x)
    equal_to_the_toolkit("eager", prepared("eager", norm_of(affine=False), with_norm))


def parameter(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 3), "p": nn.Parameter(torch.rand(3, 1, 1)), "q": layers.quantise(),
            "fc": layers.linear(48, 4)}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [True, False])
def test_an_added_parameter_is_bias(kind: str, left: bool) -> None:
    """In torch.ao it is rounded by a fake-quantiser of its own, or by that of the sum alone."""

    def forward(net: Any, x: Tensor) -> Tensor:
        z = net.conv(x)
        return net.fc(torch.flatten(net.q(net.add(net.p, z) if left else net.add(z, net.p)), 1))

    equal_to_the_toolkit(kind, prepared(kind, parameter, forward))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_double_precision(kind: str) -> None:
    model = prepared(kind, norm_of(), with_norm, fuse=FUSE, dtype=torch.float64)
    equal_to_the_toolkit(kind, model, torch.float64)
    with pytest.raises(ConversionError, match=r"^example: found torch.float32 .*torch.float64"):
        convert(kind, model, pixels(4, SHAPE, signed=True))


def one_norm(layers: Layers) -> dict[str, Any]:
    return {"a": layers.conv(2, 3), "b": layers.conv(2, 3), "bn": nn.BatchNorm2d(3), "relu": layers.relu(),
            "q": layers.quantise(), "fc": layers.linear(48, 4)}  # fmt: skip


def norm_twice(net: Any, x: Tensor) -> Tensor:
    a, b = net.relu(net.bn(net.a(x))), net.relu(net.bn(net.b(x)))
    return net.fc(torch.flatten(net.q(net.add(a, b)), 1))


def test_one_batch_norm_used_twice() -> None:
    for kind in KINDS:
        equal_to_the_toolkit(kind, prepared(kind, one_norm, norm_twice))


# --- everything else is one line --------------------------------------------------------------------------------------

ODD: dict[str, Callable[[Any, Tensor], Any]] = {
    "named arguments": lambda net, x: torch.cat(tensors=[net.q(net.conv(x)), net.q(net.conv(x))], dim=1),
    "mean of everything": lambda net, x: net.q(net.conv(x)).mean(),
    "mean by name": lambda net, x: torch.mean(net.q(net.conv(x)), dim=(2, 3), keepdim=True),
    "the input": lambda net, x: x,
    "times a parameter": lambda net, x: net.q(net.conv(x)) * net.p,
    "a number": lambda net, x: torch.add(net.q(net.conv(x)), 2),
    "a number before it": lambda net, x: 1 - net.q(net.conv(x)),
    "nothing": lambda net, x: None,
    "a constant": lambda net, x: net.p * 1,
    "a tuple": lambda net, x: (net.conv(x), 1),
    "a dictionary": lambda net, x: {"out": net.conv(x)},
    "a turned image": lambda net, x: net.conv(x.transpose(2, 3)),
    "a part": lambda net, x: net.q(net.conv(x))[:, :1],
    "reshape to other maps": lambda net, x: torch.reshape(net.q(net.conv(x)), (-1, 4, 4, 2)),
    "concatenation of a number": lambda net, x: torch.cat([net.q(net.conv(x)), net.p.expand(4, 2, 4, 4)], 1),
    "softplus": lambda net, x: F.softplus(net.q(net.conv(x))),
    "linear of a map": lambda net, x: net.square(net.q(net.conv(x))),
}
REFUSED = {"mean of everything", "nothing", "a constant", "a tuple", "concatenation of a number", "softplus"}


def odd(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 2), "q": layers.quantise(), "square": layers.linear(4, 4),
            "p": nn.Parameter(torch.rand(1, 2, 1, 1))}  # fmt: skip


@pytest.mark.parametrize("kind", ["brevitas", "eager"])
@pytest.mark.parametrize("case", ODD)
def test_whatever_it_is_it_is_converted_or_there_is_one_line(kind: str, case: str) -> None:
    """Never an AttributeError, a KeyError, an AssertionError or a RuntimeError."""
    torch.manual_seed(3)
    net: Any = Net(kind, odd, ODD[case]).train()
    x = pixels(4, SHAPE, signed=True)
    if kind == "eager":
        net.dequant = nn.Identity()
        net.qconfig = qconfig()
        net = ao.prepare_qat(net)
    net(x)
    if case not in REFUSED:
        assert convert(kind, net.eval(), x).checked is not None
        return
    with pytest.raises(ConversionError) as raised:
        convert(kind, net.eval(), x)
    assert len(str(raised.value).splitlines()) == 1
    assert "not known" not in raised.value.found  # each has words of its own


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_inference_mode(kind: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.fc(torch.flatten(torch.relu_(net.q(net.conv(x))), 1))

    model = prepared(kind, conv_and_linear, forward)
    x = pixels(4, SHAPE, signed=True)
    expected = convert(kind, model, x)
    with torch.inference_mode():
        twin = copy.deepcopy(model)
        inside = convert(kind, model, x * 1)
    for q in (inside, convert(kind, twin, x)):
        assert q.checked == expected.checked
        assert all(torch.equal(a.threshold, b.threshold) for a, b in zip(q.layers, expected.layers, strict=True))
