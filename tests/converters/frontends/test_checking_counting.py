"""The comparison with a model, for layers whose charge counts: what it lets through and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.checking import Shown, check_layers
from converters.graph_builder import GraphBuilder
from converters.operations import Levels, Linear, LocalResponse, MaxPool, Normalise, Operation, Product, Softmax
from converters.quantised import QuantGraph

SCALE = 0.125


def network(op: Operation, unit: float, y_scale: float, *, levels: int = 40) -> QuantGraph:
    """Vectors of 8 counts, an operation that counts behind a layer of them, thresholds for its unit."""
    b = GraphBuilder("test")
    x = b.input((8,), scale=SCALE, q_min=-levels, q_max=levels)
    table = type(op) is Levels
    y = b.layer("op", [(x, op)], threshold=1.0 if table else y_scale / unit, bias=0.0 if table else 0.01 / unit,
                y_min=-60, y_max=60, scale=y_scale)  # fmt: skip
    return b.build(y)


def images(n: int = 60) -> Tensor:
    g = torch.Generator().manual_seed(2)
    every = torch.arange(-40, 41).repeat(8, 1).T  # each count in each place
    more = torch.randint(-40, 41, (n, 8), generator=g)
    return torch.cat([every, more]).float() * SCALE


FORMS: dict[str, tuple[Callable[[], tuple[Operation, float]], Callable[[Tensor], Tensor], float]] = {
    "silu": (
        lambda: (Levels.of("silu", units=(SCALE,), offsets=(0.01,), scale=0.05, y_min=-60, y_max=60, limit=40), 1.0),
        lambda x: F.silu(x + 0.01),
        0.05,
    ),
    "gelu": (
        lambda: (Levels.of("gelu", units=(SCALE,), offsets=(0.01,), scale=0.05, y_min=-60, y_max=60, limit=40), 1.0),
        lambda x: F.gelu(x + 0.01),
        0.05,
    ),
    "layer norm": (
        lambda: (Normalise((0,), 8, eps=1e-3 / SCALE**2), 2.0**-24),
        lambda x: F.layer_norm(x, (8,), eps=1e-3) + 0.01,
        0.03,
    ),
    "rms norm": (
        lambda: (Normalise((0,), 8, centred=False, eps=1e-3 / SCALE**2), 2.0**-24),
        lambda x: F.rms_norm(x, (8,), eps=1e-3) + 0.01,
        0.03,
    ),
    "local response": (
        lambda: (LocalResponse(3, alpha=0.2 * SCALE**2), SCALE * 2.0**-20),
        lambda x: F.local_response_norm(x[:, :, None], 3, alpha=0.2)[:, :, 0] + 0.01,
        0.05,
    ),
    "softmax": (
        lambda: (Softmax.of(scale=SCALE, axis=0, largest=80), 2.0**-24),
        lambda x: torch.softmax(x, 1) + 0.01,
        0.017,
    ),
}


def shown(q: QuantGraph, x: Tensor, function: Callable[[Tensor], Tensor]) -> Shown:
    """A toolkit in float32: its own function on quantised inputs, and a fake-quantiser behind it."""
    inputs = (x / SCALE).round().clamp(-40, 40) * SCALE
    scale = q.output.scale
    y = (function(inputs) / scale).round().clamp(-60, 60) * scale
    return Shown([("input", inputs), ("op", y)], y)


@pytest.mark.parametrize("form", FORMS)
def test_a_toolkit_in_float32_is_the_same_but_for_near_ties(form: str) -> None:
    make, function, scale = FORMS[form]
    q = network(*make(), scale)
    found = check_layers(q, images(4000), shown(q, images(4000), function))
    assert found.layers == {"input", "op"}
    assert found.near_ties < 60  # of 32,648 places: a level is a millionth as wide as all values together
    assert len(q.execute(images())["op"].unique()) > 10


@pytest.mark.parametrize("function", ["silu", "gelu", "identity", "square", "sigmoid"])
@pytest.mark.parametrize(("aside", "allowed"), [(1e-9, True), (1e-3, False)])
def test_a_near_tie_is_let_through_and_a_level_aside_is_not(function: str, aside: float, allowed: bool) -> None:
    """One count whose level lies ``aside`` of a tie, which the toolkit rounds the other way."""
    form: dict[str, Any] = {"units": (SCALE,), "offsets": (0.0,), "y_min": -60, "y_max": 60, "limit": 40}
    count = 7
    real = float(Levels.of(function, scale=1.0, **form).real(torch.tensor([[[count]]])))
    op = Levels.of(function, scale=real / 4.5 * (1 + aside), **form)  # 4.5 levels less a bit: 4
    q = network(op, 1.0, op.scale)
    x = torch.full((1, 8), count * SCALE)
    assert q.execute(x)["op"].unique().tolist() == [4]
    theirs = torch.full((1, 8), 4.0)
    theirs[0, 3] = 5.0
    given_ = Shown([("input", x), ("op", theirs * op.scale)], theirs * op.scale)
    if allowed:
        assert check_layers(q, x, given_).near_ties == 1
    else:
        with pytest.raises(ConversionError, match=r"^op: found that 1 of 8 integers differ"):
            check_layers(q, x, given_)


def tampered(op: Levels, **tables: Tensor) -> Levels:
    """A table that is not its function's, behind the back of the check."""
    wrong = object.__new__(Levels)
    for f in fields(op):
        object.__setattr__(wrong, f.name, tables.get(f.name, getattr(op, f.name)))
    return wrong


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["silu", "gelu"]), st.integers(0, 200), st.sampled_from([-1, 1]), st.booleans())
def test_a_breakpoint_off_by_one_is_found(form: str, which: int, by: int, values: bool) -> None:
    make, function, scale = FORMS[form]
    op, unit = make()
    assert isinstance(op, Levels)
    tables = {"breakpoints": op.breakpoints.clone(), "values": op.values.clone()}
    table = tables["values" if values else "breakpoints"]
    table[0, which % table.shape[1]] += by
    if bool((tables["breakpoints"].diff() < 0).any()):
        tables["breakpoints"] = tables["breakpoints"].sort().values
    q, wrong = network(op, unit, scale), network(tampered(op, **tables), unit, scale)
    x = images()
    same = torch.equal(q.execute(x)["op"], wrong.execute(x)["op"])
    given_ = shown(q, x, function)
    if same:
        check_layers(wrong, x, given_)
    else:
        with pytest.raises(ConversionError, match=r"^op: found that .* differ on the model's own inputs"):
            check_layers(wrong, x, given_)


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "eps of another scale": ("layer norm", {"eps": 1e-3}),
    "eps forgotten": ("rms norm", {"eps": 0.0}),
    "the mean left in": ("layer norm", {"centred": False}),
    "bits of another unit": ("layer norm", {"bits": 23}),
    "alpha of another scale": ("local response", {"alpha": 0.2}),
    "another exponent": ("local response", {"beta": 0.5}),
    "a window less": ("local response", {"size": 2}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_norms_are_found(fault: str) -> None:
    form, change = FAULTS[fault]
    make, function, scale = FORMS[form]
    op, unit = make()
    q = network(replace(op, **change), unit, scale)  # type: ignore[type-var]
    with pytest.raises(ConversionError, match=r"^op: found that"):
        check_layers(q, images(), shown(q, images(), function))


def test_a_softmax_of_another_scale_is_found() -> None:
    _, function, scale = FORMS["softmax"]
    q = network(Softmax.of(scale=SCALE * 1.02, axis=0, largest=80), 2.0**-24, scale)
    with pytest.raises(ConversionError, match=r"^op: found that"):
        check_layers(q, images(), shown(q, images(), function))


@pytest.mark.parametrize("fault", [None, "threshold", "window"])
def test_products_and_maxima(fault: str | None) -> None:
    g = torch.Generator().manual_seed(1)
    b = GraphBuilder("test")
    x = b.input((1, 8), scale=SCALE, q_min=-20, q_max=20)
    pool = MaxPool((2,), (1,), (0,), (1,)) if fault == "window" else MaxPool((3,), (1,), (1,), (1,))
    h = b.layer("max", [(x, pool)], threshold=1.0, y_min=-20, y_max=20, scale=SCALE)
    flat = b.flatten(h)
    size = flat.shape[0]
    w = torch.randint(-4, 5, (4, 8), generator=g)
    one = b.layer("one", [(flat, Linear(w[:, :size]))], threshold=6.0, y_min=-20, y_max=20, scale=0.75)
    unit = 0.75 * 0.75 * (1.01 if fault == "threshold" else 1.0)
    b.layer("two", [((one, one), Product())], threshold=0.5 / unit, y_min=0, y_max=20, scale=0.5)
    q = b.build(type(one)((type(one.parts[0])("two", (4,)),), 0.5))
    pixels = torch.randint(-20, 21, (200, 1, 8), generator=g).float() * SCALE
    pooled = F.max_pool1d(pixels, 3, 1, 1)
    a = (F.linear(pooled.flatten(1), w.float()) / 6.0 / SCALE).round().clamp(-20, 20) * 0.75
    y = (a * a / 0.5).round().clamp(0, 20) * 0.5
    given_ = Shown([("max", pooled), ("one", a), ("two", y)], y)
    if fault is None:
        assert check_layers(q, pixels, given_).layers == {"max", "one", "two"}
    else:
        where = "max" if fault == "window" else "two"
        with pytest.raises(ConversionError, match=rf"^{where}: found"):
            check_layers(q, pixels, given_)
