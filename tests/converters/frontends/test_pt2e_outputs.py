"""Models that return several tensors, and functions behind the last quantiser: through training to spikes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends.checking import Shown, check_layers
from converters.ports.outputs import Output, described, places
from converters.ports.tails import Tail
from converters.quantised import QuantGraph


class Segmentation(nn.Module):
    """A map that is enlarged, its arg max, a hidden layer that feeds others, and logits with functions behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.fc = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = F.relu(self.stem(x))
        small, logits = self.head(hidden), self.fc(hidden.flatten(1))
        out = F.interpolate(small, scale_factor=2, mode="bilinear")
        return OrderedDict(
            out=out,
            hidden=(hidden, None),
            label=out.argmax(1),
            p=logits.softmax(1),
            turned=out.argmax(1).permute(0, 2, 1),
            square=F.log_softmax(logits, -1).unflatten(1, (2, 2)),
            raw=[logits, small],
        )


@pytest.fixture(scope="module", params=[True, False], ids=["quantised", "open"])
def trained(request: pytest.FixtureRequest) -> tuple[Any, QuantGraph, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(8, 1, 6, 6)
    model = converters.prepare_qat(Segmentation(), x, levels=8, quantise_output=request.param)
    for _ in range(3):
        model(x)
    return model.eval(), converters.from_pt2e(model), x


def test_every_output_in_its_structure(trained: Any) -> None:
    model, q, x = trained
    assert described(q.outputs) == [
        "out: head -> interpolate(size=(8, 8), mode=bilinear, align_corners=False)",
        "hidden.0: stem",
        "label: head -> interpolate(size=(8, 8), mode=bilinear, align_corners=False) -> argmax(dim=1)",
        "p: fc -> softmax(dim=1)",
        "turned: head -> interpolate(size=(8, 8), mode=bilinear, align_corners=False) -> argmax(dim=1) -> "
        "permute(dims=(1, 0))",
        "square: fc -> log_softmax(dim=-1) -> reshape(shape=(2, 2))",
        "raw.0: fc",
        "raw.1: head",
    ]
    assert sorted(layer.name for layer in q.layers) == ["fc", "head", "stem"], "no function is a layer"
    with torch.no_grad():
        expected = model(x)
    graph = converters.to_nir(q)
    for backend in ("fast", "snntorch", "closed_form"):
        r = converters.run(graph, x, backend=backend)
        for (a, found), (b, theirs) in zip(places(r.outputs), places(expected), strict=True):
            assert a == b
            if found.is_floating_point():
                torch.testing.assert_close(found, theirs.double(), rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(found, theirs)


def test_the_comparison_looks_behind_the_functions(trained: Any) -> None:
    """A softmax over another axis, another size, a wrong arg max, an output too few: each is found."""
    model, q, x = trained
    with torch.no_grad():
        shown = Shown([], model(x))
    assert q.checked is not None
    check_layers(q, x, shown)

    def changed(**outputs: Any) -> QuantGraph:
        return replace(q, outputs={**q.outputs, **outputs})

    larger = Tail("interpolate", {"size": [8, 8], "mode": "bilinear", "align_corners": True})
    for wrong in (
        changed(p=Output("fc", (Tail("softmax", {"dim": 1}), Tail("mul", {"other": 1.01})))),
        changed(p=Output("fc", (Tail("log_softmax", {"dim": 1}),))),
        changed(out=Output("head", (larger,))),
        changed(label=Output("head", (larger, Tail("argmin", {"dim": 1})))),
        changed(square=Output("fc", (Tail("log_softmax", {"dim": 1}),))),
        changed(raw=[Output("fc")]),
        changed(raw=["head", "fc"]),
    ):
        with pytest.raises(ConversionError):
            check_layers(wrong, x, shown)


class Returns(nn.Module):
    def __init__(self, returns: Any) -> None:
        super().__init__()
        self.fc, self.returns = nn.Linear(4, 3), returns

    def forward(self, x: Tensor) -> Any:
        return self.returns(self.fc(x))


@pytest.mark.parametrize(
    ("returns", "shape"),
    [
        (lambda y: (y,), ["0: fc"]),
        (lambda y: [y, [y]], ["0: fc", "1.0: fc"]),
        (lambda y: y.softmax(-1), ["fc -> softmax(dim=-1)"]),
        (lambda y: {"a": {"b": y.argmax(1, keepdim=True)}}, ["a.b: fc -> argmax(dim=1, keepdim=True)"]),
        (lambda y: y.softmax(1).argmax(1), ["fc -> softmax(dim=1) -> argmax(dim=1)"]),
        (lambda y: y.softmax(1).unsqueeze(1).transpose(1, 2), None),
    ],
)
def test_structures(returns: Any, shape: list[str] | None) -> None:
    torch.manual_seed(1)
    x = torch.rand(6, 4)
    model = converters.prepare_qat(Returns(returns), x, levels=7)
    model(x)
    q = converters.from_pt2e(model)
    if shape is not None:
        assert described(q.outputs) == shape
    with torch.no_grad():
        expected = model.eval()(x)
    found = converters.run(converters.to_nir(q), x).outputs
    for (a, ours), (b, theirs) in zip(places(found), places(expected), strict=True):
        assert a == b
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (nn.Sigmoid(), "fc -> sigmoid()"),
        (nn.Tanh(), "fc -> tanh()"),
        (nn.ReLU(), "fc -> relu()"),
        (nn.ReLU6(), "fc -> clamp(min=0.0, max=6.0)"),
        (nn.Hardtanh(-0.2, 0.1), "fc -> clamp(min=-0.2, max=0.1)"),
        (nn.Threshold(0.0, 0.0), None),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_a_function_behind_an_open_last_layer_runs_in_float(function: nn.Module, said: str | None) -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 6)
    net = nn.Sequential(OrderedDict(hidden=nn.Linear(6, 5), relu=nn.ReLU(), fc=nn.Linear(5, 4), function=function))
    if said is None:
        with pytest.raises(ConversionError, match=r"^fc: found an unquantised activation, used by output; .*quantise"):
            converters.prepare_qat(net, x, levels=8, quantise_output=False)
        return
    model = converters.prepare_qat(net, x, levels=8, quantise_output=False)
    model(x)
    q = converters.from_pt2e(model.eval())
    assert described(q.outputs) == [said]
    assert [layer.spiking for layer in q.layers] == [True, False]
    with torch.no_grad():
        expected = model(x).double()
    for backend in ("fast", "closed_form"):
        r = converters.run(converters.to_nir(q), x, backend=backend)
        torch.testing.assert_close(r.outputs, expected, rtol=1e-5, atol=1e-5)
    assert len(expected.unique()) > 3


def test_what_cannot_be_returned() -> None:
    x = torch.rand(6, 4)
    for returns, message in ((lambda y: (y, 3), "among its outputs"), (lambda y: y.argmax(), "argmax")):
        with pytest.raises(ConversionError, match=message) as caught:
            converters.prepare_qat(Returns(returns), x, levels=7)
        assert "\n" not in str(caught.value)
