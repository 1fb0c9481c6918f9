"""Faults planted in the front-ends: the conversion goes through, and its comparison with the model alone finds each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.frontends import (
    brevitas_layers,
    brevitas_quantisers,
    checking,
    torch_ao,
    torch_ao_quantisers,
    torch_ao_weights,
    tracing,
)
from converters.frontends.verbs import Grid, Verbs
from converters.frontends.walker import Walker
from converters.graph_builder import GraphBuilder
from converters.quantised import QuantGraph
from tests.converters.frontends.fault_networks import NETS
from tests.converters.frontends.planting import argument, differ, keywords, result, wrap
from tests.converters.frontends.test_fx_frontends import SHAPE, convert, prepared
from tests.converters.frontends.verb_faults import VERB_FAULTS
from tests.converters.frontends.verb_faults import VerbFault as Fault
from tests.networks import pixels

pytestmark = [
    pytest.mark.filterwarnings("ignore:Named tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max to specify the range:UserWarning"),
]

# --- faults of one toolkit's reader -----------------------------------------------------------------------------------


def weights(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda w: replace(w, integers=change(w.integers))


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


def in_place_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes without users are dropped as if values were immutable."""
    monkeypatch.setattr(tracing.Effects, "none", property(lambda self: True))


def turned_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(where: str, fake: Any) -> Grid:
        zero, bounds = int(fake.zero_point), fake.activation_post_process
        return Grid(
            float(fake.scale), min(0, int(bounds.quant_min) - 255 + zero), int(bounds.quant_max) - 255 + zero or 1
        )

    monkeypatch.setattr(torch_ao_quantisers, "read_grid", planted)


_B, _F, _AO, _EVERY = ("brevitas",), ("fx",), ("eager", "fx"), ("brevitas", "eager", "fx")

FAULTS = [
    *VERB_FAULTS,
    Fault("a zero point forgotten", "shifted",
          result(brevitas_quantisers, "grid_of", lambda g: replace(g, y_min=0, y_max=g.y_max - g.y_min)), _B),
    Fault("a bias in the units of the weights alone", "per channel",
          wrap(brevitas_layers, "bias_of", lambda f: lambda m, given, scale, x: f(m, given, scale, x) / x.scale), _B),
    Fault("a pool that rounds where it truncates", "trunc", keywords(GraphBuilder, "layer", bias=lambda _: 0.0), _B),
    Fault("a zero point with the wrong sign", "conv", turned_grid, _AO),
    Fault("weights quantised before the batch norm", "norm",
          wrap(torch_ao_weights, "_fold", lambda f: lambda where, m: (m.weight, f(where, m)[1])), _AO),
    Fault("a bias without the batch norm", "norm",
          wrap(torch_ao_weights, "_fold", lambda f: lambda where, m: (f(where, m)[0], m.bn.bias)), _AO),
    Fault("weights of the toolkit rounded down", "norm",
          result(torch_ao_weights, "quantise_weight", weights(lambda w: w - (w > 0).to(w.dtype))), _AO),
    Fault("a function's input channels turned round", "functional",
          argument(Verbs, "convolve", lambda s, n, x, w, b: (s, n, x, weights(lambda t: t.flip(1))(w), b)), _F),
    Fault("two layers with each other's weights", "sum", other_module, _EVERY),
    Fault("in-place operations dropped", "in place", in_place_ignored, _EVERY),
]  # fmt: skip

CASES = [(fault, kind) for fault in FAULTS for kind in fault.kinds if kind != "pt2e"]


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


@pytest.mark.parametrize(("fault", "kind"), CASES, ids=[f"{kind}-{fault.name}" for fault, kind in CASES])
def test_without_the_comparison_it_would_have_been_converted(
    fault: Fault, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that each fault is one: another network than the sound conversion's."""
    plain = sound(kind, fault.net)
    torch_ao._modules.cache_clear()
    fault.plant(monkeypatch)
    assert differ(plain, convert(kind, model_of(kind, fault.net), pixels(4, SHAPE, signed=True), check=False))


def test_there_are_enough_of_them() -> None:
    assert len({fault.name for fault, _ in CASES}) >= 50
    assert {kind for _, kind in CASES} == {"brevitas", "eager", "fx"}
