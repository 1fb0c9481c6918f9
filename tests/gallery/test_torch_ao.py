"""The gallery through torch.ao: FX mode prepares each network as it is; spikes count the prepared model's integers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization.quantize_fx import prepare_qat_fx

from converters import QuantGraph
from converters.errors import ConversionError
from converters.frontends.torch_ao import from_torch_ao
from tests.converters.frontends.test_in_place_models import qconfig
from tests.gallery.checks import counts_are_integers, signed_images
from tests.gallery.networks import GALLERY

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unlike other reduction functions:UserWarning"),
]

BACKENDS = ("closed_form", "fast", "snntorch")
BRIAN2 = ("conv 1d", "Hardswish", "max pool 2d", "product of two")

# what the toolkit itself does not prepare
UNPREPARED = {"weight norm", "spectral norm", "squeeze and excite", "halves changed", "halves added"}
_TRANSPOSED = "transposed convolution, whose weights the toolkit's QAT leaves as they are"
_BARE = "an unquantised activation"  # the toolkit's own table of what it quantises has no line for it
REFUSED = {
    **{f"conv transposed {r}d": _TRANSPOSED for r in (1, 2, 3)},
    "conv2d transposed in groups": _TRANSPOSED, "U-Net": _TRANSPOSED,
    "matmul with a parameter": "a matrix product with a constant", "orthogonal": "the module ParametrizedLinearReLU",
    "SiLU alone": _BARE, "GELU alone": _BARE, "SiLU of a cube": _BARE, "SiLU behind an addition": _BARE,
    "SiLU saturated": _BARE, "minimum of two": _BARE, "difference": _BARE, "group norm and SiLU": _BARE,
    "maximum with the input": "the unquantised input", "SiLU of the input": "the unquantised input",
    "a number added to the input": "the unquantised input", "gated linear unit": "the module GLU",
    "softmin": "the module Softmin", "stochastic depth": "the function stochastic_depth",
    "stochastic depth of batches": "the function stochastic_depth",
    "mixer": "an input with two quantisers that differ",
}  # fmt: skip
DEFAULT = (
    "conv 1d", "conv dilated 3d", "conv2d padding reflect", "linear on tokens", "two bits", "batch norm behind a pool",
    "LeakyReLU", "ELU", "Hardswish", "Sigmoid", "Tanh", "PReLU per channel", "Hardtanh of other bounds", "max pool 1d",
    "max pool 2d", "max over channels", "maximum of two", "inception", "average pool in ceil mode", "mean over tokens",
    "residual of both signs", "layer scale", "product of two", "squeeze and excite, hard", "layer norm of tokens",
    "group norm", "softmax over channels", "permute", "bilinear", "concatenation of unequal scales", "ConvNeXt block",
)  # fmt: skip
NAMES = [
    pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow])
    for name in GALLERY
    if name not in UNPREPARED and name not in REFUSED
]


def prepared(net: nn.Module, x: Tensor, *, eager: bool = False) -> Any:
    net.train()
    if eager:
        net.qconfig = qconfig()  # type: ignore[assignment]
        model = ao.prepare_qat(net)
    else:
        # with the fixed scales of sigmoid, tanh and softmax, which the toolkit has a table of
        mapping = ao.get_default_qat_qconfig_mapping("x86").set_global(qconfig())
        mapping.set_object_type(nn.PReLU, qconfig())  # for which it knows no training
        model = prepare_qat_fx(net, mapping, (x[:2],))
    model(x)
    model(x * 0.9)
    model.eval()
    model.apply(ao.disable_observer)
    return model


@cache
def converted(name: str) -> QuantGraph:
    torch.manual_seed(0)
    case = GALLERY[name]
    x = signed_images(case.shape, 6, 1)
    return from_torch_ao(prepared(case.make(), x), x[:4])


def agrees(q: QuantGraph) -> None:
    """As it was converted, every layer was compared with the toolkit's own; differences are near-ties, and few."""
    assert q.checked is not None
    assert q.checked.integers > 50
    assert q.checked.near_ties <= 0.1 * q.checked.integers  # pools that share their input's scale tie all the time


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_toolkits_integers(name: str) -> None:
    q = converted(name)
    agrees(q)
    counts_are_integers(q, signed_images(GALLERY[name].shape, 3, 4), BACKENDS)


@pytest.mark.parametrize("name", BRIAN2)
def test_counts_in_brian2(name: str) -> None:
    counts_are_integers(converted(name), signed_images(GALLERY[name].shape, 1, 4), ("brian2",))


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_leaves_unquantised_is_said(name: str) -> None:
    with pytest.raises(ConversionError) as error:
        converted(name)
    assert REFUSED[name] in error.value.found


def test_most_of_the_gallery_is_converted() -> None:
    assert len(NAMES) >= 200
    assert len(DEFAULT) >= 25
    assert set(DEFAULT) | set(BRIAN2) | set(REFUSED) | UNPREPARED <= set(GALLERY)


# --- in the toolkit's own words ---------------------------------------------------------------------------------------


class Weights(nn.Module):
    """Functions with parameters, which FX mode quantises: the one way to a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.randn(4, 3, 3)), nn.Parameter(torch.randn(4, 2, 3))
        self.b = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv1d(x, self.v, self.b, padding=1))
        return F.conv_transpose1d(x, self.w, None, 2, 1, 1, 2)


class Functional(nn.Module):
    """Eager mode: sums, products and concatenations are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 3)
        self.gate, self.pool = nn.Hardsigmoid(), nn.MaxPool2d(2)
        self.sum, self.product, self.cat = FloatFunctional(), FloatFunctional(), FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        a, b = self.a(x), self.b(x)
        y = self.product.mul(self.sum.add(a, b), self.gate(b))
        return self.dequant(self.c(self.pool(self.cat.cat([y, a], 1)).flip(2)))


@pytest.mark.parametrize(("make", "shape"), [(Weights, (3, 9)), (Functional, (3, 6, 6))])
def test_own_words(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = signed_images(shape, 6, 1)
    q = from_torch_ao(prepared(make(), x, eager=make is Functional), x[:4])
    agrees(q)
    counts_are_integers(q, signed_images(shape, 3, 4), BACKENDS)
