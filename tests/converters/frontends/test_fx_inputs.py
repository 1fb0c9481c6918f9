"""Models of several inputs of Brevitas and torch.ao: the inputs' names and order are those of forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends.torch_ao_trace import quiet
from converters.quantised import QuantGraph

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]
LEFT, RIGHT = (torch.rand(8, 4, generator=torch.Generator().manual_seed(k))[:, :n] for k, n in ((0, 4), (1, 2)))
X = (LEFT, 5 * RIGHT - 2)


class Layers(nn.Module):
    """The second input is quantised first, and both have the names of layers."""

    def __init__(self, quantised: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        linear: Any = nn.Linear
        self.first: nn.Module = nn.Identity()
        self.second: nn.Module = nn.Identity()
        self.act: nn.Module = nn.ReLU()
        self.same: nn.Module = nn.Identity()
        if quantised:
            import brevitas.nn as qnn

            linear = qnn.QuantLinear
            self.first, self.second = (qnn.QuantIdentity(return_quant_tensor=True) for _ in range(2))
            self.act, self.same = (qnn.QuantReLU(return_quant_tensor=True) for _ in range(2))
        self.left, self.right, self.fc = linear(4, 3, bias=True), linear(2, 3, bias=True), linear(3, 2, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        b = self.act(self.right(self.second(right)))
        return self.fc(self.same(self.act(self.left(self.first(left))) + b))


class OneAlone(Layers):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(self.act(self.right(self.second(right))))


class Starred(Layers):
    def forward(self, *images: Tensor) -> Tensor:
        return super().forward(images[0], images[1])


def ready(toolkit: str, kind: type[Layers] = Layers) -> tuple[nn.Module, Any]:
    model: Any = kind(toolkit == "brevitas")
    if toolkit == "brevitas":
        model(*X)
        return model.eval(), converters.from_brevitas
    with quiet():
        from torch.ao.quantization import QConfigMapping, get_default_qat_qconfig
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        model = prepare_qat_fx(model.train(), QConfigMapping().set_global(get_default_qat_qconfig("x86")), X)
        model(*X)
    return model, converters.from_torch_ao


@pytest.mark.parametrize("toolkit", ["brevitas", "torch_ao"])
def test_integers_and_spikes(toolkit: str) -> None:
    model, read = ready(toolkit)
    by_name = {"right": X[1], "left": X[0]}
    found: list[QuantGraph] = [read(model, X), read(model, by_name, check=X)]
    for q in found:
        assert [(spec.name, spec.shape) for spec in q.inputs] == [("left", (4,)), ("right", (2,))]
        assert q.checked is not None
        assert q.checked.layers > 3
    with torch.no_grad(), quiet():
        expected = model.apply(torch.ao.quantization.disable_observer).eval()(*X)
    for backend in ("snntorch", "fast", "closed_form"):
        r = converters.run(converters.to_nir(found[0]), by_name, backend=backend)
        torch.testing.assert_close(r.outputs, expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("toolkit", ["brevitas", "torch_ao"])
def test_what_does_not_fit(toolkit: str) -> None:
    model, read = ready(toolkit)
    for example, message in (
        (X[0], "example: found 1 for forward"),
        ((X[0], X[1][:3]), "example: found 8 of left, 3 of right"),
        ((X[0], X[1].double()), "example: found torch.float64 for a model in torch.float32"),
        ((X[1], X[0]), r"does not run on shape \(8, 2\), \(8, 4\)"),
    ):
        with pytest.raises(ConversionError, match=message) as caught:
            read(model, example)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConversionError, match="check: found 1 for 2 inputs"):
        read(model, X, check=X[0])
    alone, read = ready(toolkit, OneAlone)
    with pytest.raises(ConversionError, match="forward: found that no output depends on the values of its input left"):
        read(alone, X)


def test_parameters_without_a_name() -> None:
    model, read = ready("brevitas", Starred)
    with pytest.raises(ConversionError, match=r"forward: found a parameter \*images; give each tensor a parameter"):
        read(model, X)
