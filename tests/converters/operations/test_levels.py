"""Activations as tables of levels: by PyTorch's float64 functions at every accumulator, and on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError, FileFormatError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.operations import Conv2d, Levels, Linear
from converters.operations.activations import ACTIVATIONS, register_activation
from converters.quantised import GraphBuilder, QuantGraph, Synapse
from tests.converters.operations.everywhere import integers, simulated, written_and_read

MODULES: dict[str, tuple[nn.Module, tuple[float, ...]]] = {
    "celu": (nn.CELU(0.7), (0.7,)),
    "elu": (nn.ELU(1.5), (1.5,)),
    "gelu": (nn.GELU(), ()),
    "gelu_tanh": (nn.GELU("tanh"), ()),
    "hardshrink": (nn.Hardshrink(0.6), (0.6,)),
    "hardsigmoid": (nn.Hardsigmoid(), ()),
    "hardswish": (nn.Hardswish(), ()),
    "clamp": (nn.Hardtanh(-1.3, 0.8), (-1.3, 0.8)),
    "leaky_relu": (nn.LeakyReLU(0.1), (0.1,)),
    "logsigmoid": (nn.LogSigmoid(), ()),
    "mish": (nn.Mish(), ()),
    "relu": (nn.ReLU(), ()),
    "relu6": (nn.ReLU6(), ()),
    "selu": (nn.SELU(), ()),
    "sigmoid": (nn.Sigmoid(), ()),
    "silu": (nn.SiLU(), ()),
    "softplus": (nn.Softplus(2.0, 15.0), (2.0, 15.0)),
    "softshrink": (nn.Softshrink(0.4), (0.4,)),
    "softsign": (nn.Softsign(), ()),
    "tanh": (nn.Tanh(), ()),
    "tanhshrink": (nn.Tanhshrink(), ()),
    "threshold": (nn.Threshold(0.3, -1.0), (0.3, -1.0)),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: module for name, (module, _) in MODULES.items()},
    "abs": torch.abs,
    "clamp_max": lambda x: x.clamp(max=0.5),
    "clamp_min": lambda x: x.clamp(min=-0.5),
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "identity": lambda x: x,
    "sign": torch.sign,
    "sin": torch.sin,
    "square": torch.square,
}
PARAMETERS = {**{name: p for name, (_, p) in MODULES.items()}, "clamp_max": (0.5,), "clamp_min": (-0.5,)}


def by_function(name: str, x: Tensor, scale: float, y_min: int, y_max: int) -> Tensor:
    """The levels of real float64 numbers, by PyTorch's own module."""
    return (FUNCTIONS[name](x) / scale).round().clamp(y_min, y_max).long()


def test_every_function_is_tried() -> None:
    assert set(FUNCTIONS) == {name for name in ACTIVATIONS if not name.startswith("tests.")}  # which tests registered


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(-3, 3)), min_size=1, max_size=3),
    st.sampled_from([0.25, 0.05, 0.013]),
    st.integers(-40, 0),
    st.integers(1, 60),
)
def test_a_table_is_its_function_at_every_integer(
    name: str, rows: list[tuple[float, float]], scale: float, y_min: int, y_max: int
) -> None:
    limit = 150
    units, offsets = zip(*rows, strict=True)
    op = Levels.of(
        name, parameters=PARAMETERS.get(name, ()), units=units, offsets=offsets, scale=scale, y_min=y_min, y_max=y_max,
        limit=limit,
    )  # fmt: skip
    z = torch.arange(-limit, limit + 1)
    x = torch.stack([torch.tensor(u, dtype=torch.float64) * z + o for u, o in rows])
    wanted = by_function(name, x, scale, y_min, y_max)
    ties = (FUNCTIONS[name](x) / scale).frac().abs()
    clear = (ties - 0.5).abs() > 1e-9  # two forms of one function may part at a tie, by one level
    given_ = z.expand(1, len(rows), -1)
    for dtype in (torch.int64, torch.float64):
        found = op(given_.to(dtype))[0].long()
        assert torch.equal(found[clear], wanted[clear])
        assert int((found - wanted).abs().max()) <= 1
    assert op.reach(limit) == int(op.values.abs().max())
    low, high = op.interval((torch.full((len(rows), 1), -150.0), torch.full((len(rows), 1), 150.0)))
    assert bool((low[:, 0] <= wanted.amin(1)).all())
    assert bool((high[:, 0] >= wanted.amax(1)).all())


@pytest.mark.parametrize("name", ["identity", "leaky_relu", "abs", "clamp", "relu"])
def test_exact_ties_go_to_even(name: str) -> None:
    """Units and scales are powers of two: half of all integers lie on a tie."""
    parameters = {"leaky_relu": (0.5,), "clamp": (-3.0, 2.5)}.get(name, ())
    op = Levels.of(name, parameters=parameters, units=(0.25,), offsets=(0.0,), scale=0.5, y_min=-9, y_max=9, limit=64)
    z = torch.arange(-64, 65)
    x = z.double() * 0.25
    real = {
        "identity": x, "leaky_relu": nn.LeakyReLU(0.5)(x), "abs": x.abs(), "clamp": x.clamp(-3.0, 2.5), "relu": x.relu()
    }[name]  # fmt: skip
    wanted = [max(-9, min(9, round(Fraction(float(v)) / Fraction(1, 2)))) for v in real]
    assert op(z[None, None])[0, 0].tolist() == wanted
    assert int(((real / 0.5).frac().abs() == 0.5).sum()) > 10


@pytest.mark.parametrize("name", ["relu", "silu", "clamp", "leaky_relu"])
@settings(deadline=None, max_examples=8)
@given(st.lists(st.tuples(st.sampled_from([-2.0, -0.7, 0.0, 0.3, 1.6]), st.floats(-2, 2)), min_size=3, max_size=3))
def test_a_function_times_a_gain_and_an_offset(name: str, affine: list[tuple[float, float]]) -> None:
    """Of each channel its own; the table, its file and the table for a shorter window are those of the whole."""
    gains, offsets = zip(*affine, strict=True)
    form: dict[str, Any] = {"units": (0.05, -0.02, 0.1), "offsets": (0.2,), "scale": 0.11}
    op = Levels.of(
        f"affine({name})", parameters=(*PARAMETERS[name], gains, offsets), y_min=-30, y_max=30, limit=150, **form
    )
    z = torch.arange(-150, 151).expand(1, 3, -1)
    for table, factor, most in ((op, 1, 30), (op.coarsened(Fraction(1, 3)), 3, 10)):
        x = factor * torch.tensor(form["units"], dtype=torch.float64)[:, None] * z[0] + 0.2
        real = torch.tensor(gains, dtype=torch.float64)[:, None] * FUNCTIONS[name](x)
        real = (real + torch.tensor(offsets, dtype=torch.float64)[:, None]) / (factor * 0.11)
        clear = (real.frac().abs() - 0.5).abs() > 1e-9
        assert torch.equal(table(z)[0][clear], real.round().clamp(-most, most).long()[clear])


def test_an_affine_function_of_what_is_none() -> None:
    for name in ("affine(nope)", "affine(affine(relu))", "affine()", "affine(relu", "affine"):
        with pytest.raises(ConversionError, match="the unknown function"):
            Levels.of(name, parameters=(1.0, 0.0), units=(1.0,), offsets=(0.0,), scale=1.0, y_min=0, y_max=1, limit=9)


def test_parameters_of_each_channel() -> None:
    slopes = [0.3, -0.2, 0.3, 1.5]
    op = Levels.of(
        "leaky_relu", parameters=(slopes,), units=(0.1, 0.1, -0.1, 0.05), offsets=(0.0,), scale=0.2, y_min=-9, y_max=9,
        limit=99,
    )  # fmt: skip
    z = torch.arange(-99, 100)
    x = torch.tensor([0.1, 0.1, -0.1, 0.05], dtype=torch.float64)[:, None] * z
    prelu = nn.PReLU(4, dtype=torch.float64)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor(slopes, dtype=torch.float64))
        wanted = (prelu(x.T).T / 0.2).round().clamp(-9, 9).long()
    found = op(z.expand(1, 4, -1))[0]
    assert int((found != wanted).sum()) <= 2
    assert int((found - wanted).abs().max()) <= 1
    assert op.output_shape((4, 3)) == (4, 3)
    with pytest.raises(ConversionError, match="the table has 4 channels"):
        op.output_shape((3, 3))


def test_far_ranges_and_saturated_tables() -> None:
    """Integers far beyond the last step, where naive functions overflow; a channel that is cut off."""
    op = Levels.of("silu", units=(1e-3, 0.0), offsets=(0.0, 2.0), scale=0.1, y_min=-3, y_max=20, limit=2**40)
    z = torch.tensor([-(2**40), -(10**6), -1300, 0, 10**6, 2**40])
    wanted = by_function("silu", z.double() * 1e-3, 0.1, -3, 20)
    assert torch.equal(op(z.expand(1, 2, -1))[0, 0], wanted)
    assert op(z.expand(1, 2, -1))[0, 1].tolist() == [18] * 6  # 2 sigmoid(2) = 1.7616
    assert (wanted == 20).sum() >= 2
    assert wanted[2] == -3  # the valley


def test_a_constant_function_and_steps_that_no_integer_takes() -> None:
    op = Levels.of("sigmoid", units=(1e-6,), offsets=(0.0,), scale=0.25, y_min=0, y_max=4, limit=10)
    assert op.breakpoints.numel() == 0
    assert op(torch.arange(-10, 11)[None, None]).unique().tolist() == [2]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"function": "nope"}, "unknown function 'nope'; register it: converters.register_activation"),
        ({"scale": 0.0}, "not finite"),
        ({"scale": float("nan")}, "not finite"),
        ({"units": ()}, "numbers for"),
        ({"units": (1.0, 2.0), "offsets": (1.0, 2.0, 3.0)}, "numbers for"),
        ({"y_min": 1, "y_max": 3}, "must contain 0"),
        ({"y_min": 0, "y_max": 0}, "must contain 0"),
        ({"limit": 2**60}, "exact up to"),
        ({"function": "log"}, "a value that is no number"),
        ({"function": "wild", "limit": 10**6}, "a smaller range"),
    ],
)
def test_what_has_no_table_is_said(changes: dict[str, Any], match: str) -> None:
    form: dict[str, Any] = {
        "function": "tanh", "units": (0.1,), "offsets": (0.0,), "scale": 0.1, "y_min": -9, "y_max": 9, "limit": 99
    }  # fmt: skip
    own: dict[str, Callable[..., Tensor]] = {"log": torch.log, "wild": lambda x: torch.sin(1e4 * x * x)}
    for name, function in own.items():
        register_activation(name, function)
    try:
        with pytest.raises(ConversionError, match=match):
            Levels.of(**{**form, **changes})
    finally:
        for name in own:
            del ACTIVATIONS[name]


def test_names_of_functions() -> None:
    for name, match in (("silu", "of this package"), ("a b", "use letters"), ("", "use letters")):
        with pytest.raises(ConversionError, match=match):
            converters.register_activation(name, torch.sin)
    with pytest.raises(ConversionError, match="give a function"):
        converters.register_activation("mine", 3)


def network(function: str = "silu", *, seed: int = 0, y_min: int = -3, **more: Any) -> QuantGraph:
    """A convolution with an activation in one layer, a table on counts alone, a dense layer with another one."""
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 4, 4), scale=0.25, q_min=-6, q_max=6)
    conv = Conv2d(torch.randint(-4, 5, (3, 2, 2, 2), generator=g))
    one = Levels.of(
        function, units=(0.02, -0.03, 0.05), offsets=(0.1, -0.4, 0.0), scale=0.1, y_min=y_min, y_max=7, limit=8 * 24,
        **more,
    )  # fmt: skip
    common: dict[str, Any] = {"threshold": 1.0, "y_min": y_min, "y_max": 7, "scale": 0.1}
    h = b.layer("conv", [(x, conv)], **common)
    b.layers[0] = replace(b.layers[0], synapses=(Synapse(("input",), (conv, one)),))
    two = Levels.of("abs", units=(0.1,), offsets=(-0.15,), scale=0.1, y_min=0, y_max=7, limit=7)
    h = b.layer("table", [(h, two)], **{**common, "y_min": 0})
    dense = Linear(torch.randint(-3, 4, (2, 27), generator=g))
    y = b.layer("fc", [(b.flatten(h), dense)], threshold=5.0, bias=1.0, y_min=-7, y_max=7, scale=0.5)
    return b.build(y)


@pytest.mark.parametrize(("window", "coding"), [(None, "isi"), (12, "isi"), (3, "isi"), (None, "direct")])
def test_every_backend(window: int | None, coding: str) -> None:
    q = network()
    x = integers(q, 16)
    runs = simulated(q, x, window=window, coding=coding)
    trains = runs["snntorch"].spikes
    assert trains is not None
    assert int((trains["conv"] < 0).sum()) > 5
    counts = runs["closed_form"].counts
    assert {int(counts["conv"].min()), int(counts["conv"].max())} == {-3, 7} or window == 3  # saturated at both ends
    assert bool((trains["table"] < 0).any()), "levels that are left again"


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 10_000), st.integers(1, 16))
def test_any_function_on_any_window(name: str, seed: int, window: int) -> None:
    q = network(name, seed=seed, parameters=PARAMETERS.get(name, ()))
    simulated(q, integers(q, 3, seed), window=window, brian=0)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_shorter_windows_have_the_table_of_the_larger_scales(window: int) -> None:
    q = network()
    f = Fraction(window, q.levels)
    op = q.at_window(window).layers[0].synapses[0].ops[1]
    assert isinstance(op, Levels)
    low, high = op.y_min, op.y_max
    assert (low, high) == (q.at_window(window).layers[0].y_min, q.at_window(window).layers[0].y_max)
    z = torch.arange(-60, 61)
    for c, (unit, offset) in enumerate(zip((0.02, -0.03, 0.05), (0.1, -0.4, 0.0), strict=True)):
        x = z.double() * float(Fraction(unit) / f) + offset
        wanted = by_function("silu", x, 0.1 / float(f), low, high)
        assert torch.equal(op(z.expand(1, 3, -1))[0, c], wanted)


AFFINE: dict[str, Any] = {"parameters": ((1.5, -0.5, 0.0), (-0.25, 0.125, 0.5))}


def test_an_affine_function_on_every_backend() -> None:
    q = network("affine(relu)", **AFFINE)
    runs = simulated(q, integers(q, 16), window=5)
    assert len(runs["closed_form"].counts["conv"].unique()) > 4


@pytest.mark.parametrize(("function", "more"), [("gelu", {}), ("affine(silu)", AFFINE)])
def test_files(function: str, more: dict[str, Any], tmp_path: Path) -> None:
    q = network(function, **more)
    back = written_and_read(q, integers(q, 5), tmp_path)
    a, b = (k.layers[0].synapses[0].ops[1] for k in (q, back))
    assert isinstance(a, Levels)
    assert isinstance(b, Levels)
    assert (a.function, a.units, a.offsets, a.scale) == (b.function, b.units, b.offsets, b.scale)


@pytest.mark.parametrize("what", ["breakpoint", "value", "order", "function"])
def test_a_file_whose_table_is_another_one_is_refused(what: str, tmp_path: Path) -> None:
    q = network()
    op = q.layers[0].synapses[0].ops[1]
    assert isinstance(op, Levels)
    tables = {"breakpoints": op.breakpoints.clone(), "values": op.values.clone()}
    form = {}
    if what == "breakpoint":
        tables["breakpoints"][0, 2] += 1
    elif what == "value":
        tables["values"][1, 3] += 1
    elif what == "order":
        tables["breakpoints"][0, 2] = 190
    else:
        form = {"function": "mish"}
    wrong = object.__new__(Levels)
    for name in ("function", "parameters", "units", "offsets", "scale", "y_min", "y_max", "limit"):
        object.__setattr__(wrong, name, form.get(name, getattr(op, name)))
    for name, table in tables.items():
        object.__setattr__(wrong, name, table)
    layer = replace(q.layers[0], synapses=(Synapse(("input",), (q.layers[0].synapses[0].ops[0], wrong)),))
    save_quantised(tmp_path / "q.safetensors", replace(q, layers=(layer, *q.layers[1:])))
    with pytest.raises(FileFormatError, match=r"a table that is not that of|in disorder"):
        load_quantised(tmp_path / "q.safetensors")


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    register_activation("test.bumps", lambda x, k: torch.sin(k * x) * torch.exp(-x.abs()))
    try:
        q = network("test.bumps", parameters=(5.0,))
        x = integers(q, 6)
        simulated(q, x)
        acc = q.layers[0].synapses[0].ops[0](x.double())
        real = acc * torch.tensor([0.02, -0.03, 0.05]).double()[:, None, None]
        real = real + torch.tensor([0.1, -0.4, 0.0]).double()[:, None, None]
        wanted = (torch.sin(5 * real) * torch.exp(-real.abs()) / 0.1).round().clamp(-3, 7).long()
        assert torch.equal(q.execute(integers=x)["conv"], wanted)
        assert len(wanted.unique()) > 6
        written_and_read(q, x, tmp_path)
    finally:
        del ACTIVATIONS["test.bumps"]
    with pytest.raises(FileFormatError, match=r"unknown function 'test.bumps'; register it"):
        load_quantised(tmp_path / "q.safetensors")


def test_the_table_does_not_depend_on_the_limit() -> None:
    """The same steps where they lie within a smaller range of integers."""
    form: dict[str, Any] = {"units": (0.01,), "offsets": (0.2,), "scale": 0.05, "y_min": -20, "y_max": 20}
    small, large = (Levels.of("hardswish", limit=n, **form) for n in (300, 10**7))
    z = torch.arange(-300, 301)[None, None]
    assert torch.equal(small(z), large(z))
    assert np.isin(small.breakpoints.numpy(), large.breakpoints.numpy()).all()
