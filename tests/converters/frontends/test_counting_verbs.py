"""All verbs that count against PyTorch's own functions in float64, and as spikes on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.frontends.verbs import Grid, Verbs, convolution
from converters.graph_builder import Value
from converters.operations import Levels, Linear, Normalise
from converters.quantised import QuantGraph
from converters.results import compare_counts

GRID = Grid(0.0371234, -99, 99)
COARSE = Grid(0.31, -12, 12)
STEP = 0.5
ONE = torch.ones(1)
W = torch.randint(-4, 5, (3, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int8)


def reals(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case(NamedTuple):
    """What a verb does to a value of ``shape``, and PyTorch to a tensor."""

    shape: tuple[int, ...]
    verb: Callable[[Verbs, Value], Any]
    torch: Callable[[Tensor], Tensor]


def rounded(x: Tensor, grid: Grid) -> Tensor:
    return torch.round(x / grid.scale).clamp(grid.y_min, grid.y_max) * grid.scale


def conv(b: Verbs, x: Value) -> Any:
    """A convolution with a scale per channel and a bias, that nothing has quantised."""
    return b.weigh("conv", x, convolution("conv", W, 1, 1, 1, 1), reals(3).abs() * 0.2, reals(3, seed=2))


def convolved(x: Tensor) -> Tensor:
    return F.conv2d(x, W.double() * (reals(3).abs() * 0.2)[:, None, None, None], reals(3, seed=2), padding=1)


def inner(b: Verbs, x: Value) -> Value:
    """The same behind a quantiser of its own."""
    return b.quantise("conv", conv(b, x), COARSE, round)


def quantised(x: Tensor) -> Tensor:
    return rounded(convolved(x), COARSE)


def other(b: Verbs, x: Value) -> Value:
    """Another layer on another grid."""
    return b.quantise("other", b.average_pool("other", inner(b, x), 3, 1, 1), Grid(0.17, -20, 20), round)


def averaged(x: Tensor) -> Tensor:
    return rounded(F.avg_pool2d(quantised(x), 3, 1, 1), Grid(0.17, -20, 20))


def active(name: str, theirs: Callable[[Tensor], Tensor], *parameters: Any) -> Case:
    return Case((2, 4, 4), lambda b, x: b.activate("y", conv(b, x), name, parameters), lambda x: theirs(convolved(x)))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def normed(shape: tuple[int, ...], verb: Callable[[Verbs, Value], Any], theirs: Callable[[Tensor], Tensor]) -> Case:
    return Case(shape, verb, theirs)


SLOPES = torch.tensor([0.3, -0.2, 1.4], dtype=torch.float64)
G, B = reals(3, 4, 4, seed=5), reals(3, 4, 4, seed=6)
G[0, 1, 2] = 0.0

CASES = {
    "max pool": Case((2, 6, 6), lambda b, x: b.max_pool("y", inner(b, x), 2), lambda x: F.max_pool2d(quantised(x), 2)),
    "max pool, padded": Case(
        (2, 5, 6),
        lambda b, x: b.max_pool("y", inner(b, x), (3, 2), 2, (1, 0), 1, ceil_mode=True),
        lambda x: F.max_pool2d(quantised(x), (3, 2), 2, (1, 0), 1, ceil_mode=True),
    ),
    "max pool of the input, 1d": Case(
        (3, 9), lambda b, x: b.max_pool("y", x, 3, 2, 1), lambda x: F.max_pool1d(x, 3, 2, 1)
    ),
    "max pool 3d": Case((2, 3, 4, 5), lambda b, x: b.max_pool("y", x, (2, 1, 2)), lambda x: F.max_pool3d(x, (2, 1, 2))),
    "max pool in front of the quantiser": Case(
        (2, 6, 6), lambda b, x: b.max_pool("y", conv(b, x), 2), lambda x: F.max_pool2d(convolved(x), 2)
    ),
    "max pool behind a ReLU, moved, in front of the quantiser": Case(
        (2, 6, 6),
        lambda b, x: b.amax("z", b.move("m", b.max_pool("y", b.rectify("r", conv(b, x)), 2), tokens), 2, keepdim=True),
        lambda x: tokens(F.max_pool2d(F.relu(convolved(x)), 2)).amax(2, keepdim=True),
    ),
    "max pool of a concatenation": Case(
        (2, 4, 4),
        lambda b, x: b.max_pool("y", b.concatenate("c", [inner(b, x), b.move("f", inner(b, x), lambda t: t.flip(2))],
                                                   1, 4), 2),
        lambda x: F.max_pool2d(torch.cat([quantised(x), quantised(x).flip(2)], 1), 2),
    ),
    "adaptive max pool": Case(
        (2, 5, 7),
        lambda b, x: b.adaptive_max_pool("y", inner(b, x), (3, None)),
        lambda x: F.adaptive_max_pool2d(quantised(x), (3, 7)),
    ),
    "adaptive max pool, 1d": Case(
        (3, 8), lambda b, x: b.adaptive_max_pool("y", x, 4), lambda x: F.adaptive_max_pool1d(x, 4)
    ),
    "amax": Case((2, 4, 5), lambda b, x: b.amax("y", inner(b, x), (2, -1)), lambda x: quantised(x).amax((2, 3))),
    "amin": Case(
        (2, 4, 5), lambda b, x: b.amin("y", inner(b, x), [1], keepdim=True), lambda x: quantised(x).amin([1], True)
    ),
    "amax of tokens": Case(
        (2, 4, 5),
        lambda b, x: b.amax("y", b.move("t", inner(b, x), tokens), 1),
        lambda x: tokens(quantised(x)).amax(1),
    ),
    "maximum": Case(
        (2, 4, 4),
        lambda b, x: b.maximum("y", inner(b, x), b.move("f", inner(b, x), lambda t: t.flip(3))),
        lambda x: torch.maximum(quantised(x), quantised(x).flip(3)),
    ),
    "minimum of unequal scales": Case(
        (2, 4, 4),
        lambda b, x: b.minimum("y", inner(b, x), other(b, x)),
        lambda x: torch.minimum(rounded(quantised(x), GRID), rounded(averaged(x), GRID)),
    ),
    "clamp": Case(
        (2, 4, 4), lambda b, x: b.clamp("y", conv(b, x), -1.3, 0.9), lambda x: convolved(x).clamp(-1.3, 0.9)
    ),
    "clamp of a value": Case(
        (2, 4, 4), lambda b, x: b.clamp("y", inner(b, x), -1.3, None), lambda x: quantised(x).clamp(min=-1.3)
    ),
    "clamp without 0": Case(
        (2, 4, 4), lambda b, x: b.clamp("y", conv(b, x), 0.4, 2.0), lambda x: convolved(x).clamp(0.4, 2.0)
    ),
    "clamp below 0": Case(
        (2, 4, 4), lambda b, x: b.clamp("y", inner(b, x), None, -0.4), lambda x: quantised(x).clamp(max=-0.4)
    ),
    "hardtanh": active("clamp", F.hardtanh, -1.0, 1.0),
    "silu": active("silu", F.silu),
    "gelu, clamped": Case(
        (2, 4, 4),
        lambda b, x: b.clamp("c", b.activate("y", conv(b, x), "gelu"), -0.1, 1.5),
        lambda x: F.gelu(convolved(x)).clamp(-0.1, 1.5),
    ),
    "prelu": active("leaky_relu", lambda x: F.prelu(x, SLOPES), SLOPES),
    "hardswish, moved": Case(
        (2, 4, 4),
        lambda b, x: b.activate("y", b.move("m", conv(b, x), tokens), "hardswish"),
        lambda x: F.hardswish(tokens(convolved(x))),
    ),
    "mish behind constants per place": Case(
        (2, 4, 4),
        lambda b, x: b.activate("y", b.shift("s", b.scale("m", conv(b, x), G), B), "mish"),
        lambda x: F.mish(convolved(x) * G + B),
    ),
    "sigmoid of a value": Case(
        (2, 4, 4), lambda b, x: b.activate("y", inner(b, x), "sigmoid"), lambda x: torch.sigmoid(quantised(x))
    ),
    "elu of a pool": Case(
        (2, 4, 4),
        lambda b, x: b.activate("y", b.average_pool("p", inner(b, x), 2), "elu", (1.0,)),
        lambda x: F.elu(F.avg_pool2d(quantised(x), 2)),
    ),
    "tanh of a sum": Case(
        (2, 4, 4),
        lambda b, x: b.activate("y", b.add("a", (inner(b, x), 1.0), (other(b, x), -2.0)), "tanh"),
        lambda x: torch.tanh(quantised(x) - 2 * averaged(x)),
    ),
    "silu of a product": Case(
        (2, 4, 4),
        lambda b, x: b.activate("y", b.multiply("m", inner(b, x), other(b, x)), "silu"),
        lambda x: F.silu(quantised(x) * averaged(x)),
    ),
    "max pool of an activation": Case(
        (2, 4, 4),
        lambda b, x: b.max_pool("p", b.activate("y", conv(b, x), "silu"), 2),
        lambda x: F.max_pool2d(F.silu(convolved(x)), 2),
    ),
    "product": Case(
        (2, 4, 4), lambda b, x: b.multiply("y", inner(b, x), other(b, x)), lambda x: quantised(x) * averaged(x)
    ),
    "gate per channel": Case(
        (2, 4, 4),
        lambda b, x: b.multiply("y", inner(b, x), b.amax("g", other(b, x), (2, 3), keepdim=True)),
        lambda x: quantised(x) * averaged(x).amax((2, 3), keepdim=True),
    ),
    "times a constant": Case((2, 4, 4), lambda b, x: b.multiply("y", conv(b, x), G), lambda x: convolved(x) * G),
    "product plus a constant": Case(
        (2, 4, 4),
        lambda b, x: b.shift("s", b.multiply("y", inner(b, x), other(b, x)), reals(3, 1, 1)),
        lambda x: quantised(x) * averaged(x) + reals(3, 1, 1),
    ),
    "matrix product": Case(
        (2, 4, 4),
        lambda b, x: b.matmul("y", inner(b, x), other(b, x)),
        lambda x: quantised(x) @ averaged(x),
    ),
    "attention scores": Case(
        (2, 4, 4),
        lambda b, x: b.scale("s", b.matmul("y", inner(b, x), b.move("t", other(b, x), lambda t: t.mT)), 0.25),
        lambda x: quantised(x) @ averaged(x).mT * 0.25,
    ),
    "layer norm": Case(
        (2, 4, 4),
        lambda b, x: b.layer_norm("y", inner(b, x), (1, 2, 3), G, B, 1e-3),
        lambda x: F.layer_norm(quantised(x), (3, 4, 4), G, B, 1e-3),
    ),
    "layer norm of tokens": Case(
        (2, 4, 4),
        lambda b, x: b.layer_norm("y", b.move("t", inner(b, x), tokens), -1, reals(3), reals(3, seed=2), 1e-5),
        lambda x: F.layer_norm(tokens(quantised(x)), (3,), reals(3), reals(3, seed=2), 1e-5),
    ),
    "layer norm without gains": Case(
        (2, 4, 4),
        lambda b, x: b.layer_norm("y", inner(b, x), (3,), None, None, 1e-5),
        lambda x: F.layer_norm(quantised(x), (4,), eps=1e-5),
    ),
    "group norm": Case(
        (4, 3, 3),
        lambda b, x: b.group_norm("y", x, 2, reals(4), reals(4, seed=3), 1e-3),
        lambda x: F.group_norm(x, 2, reals(4), reals(4, seed=3), 1e-3),
    ),
    "group norm, silu": Case(
        (4, 3, 3),
        lambda b, x: b.activate("a", b.group_norm("y", x, 2, reals(4), reals(4, seed=3), 1e-3), "silu"),
        lambda x: F.silu(F.group_norm(x, 2, reals(4), reals(4, seed=3), 1e-3)),
    ),
    "instance norm": Case(
        (4, 3, 3),
        lambda b, x: b.instance_norm("y", x, reals(4), None, 1e-3),
        lambda x: F.instance_norm(x, weight=reals(4), eps=1e-3),
    ),
    "rms norm": Case(
        (4, 3, 3),
        lambda b, x: b.rms_norm("y", x, (2, 3), G[0, 1:, 1:], 1e-3),
        lambda x: F.rms_norm(x, (3, 3), G[0, 1:, 1:], 1e-3),
    ),
    "unit length": Case(
        (5, 3), lambda b, x: b.unit_length("y", x, 1, 2.0, 1e-12), lambda x: F.normalize(x, dim=1)
    ),
    "unit length of tokens": Case(
        (2, 4, 4),
        lambda b, x: b.unit_length("y", b.move("t", inner(b, x), tokens), (-1,), 2.0, 0.0),
        lambda x: F.normalize(tokens(quantised(x)), dim=-1),
    ),
    "local response": Case(
        (5, 3, 3),
        lambda b, x: b.local_response_norm("y", x, 3, 0.4, 0.75, 1.0),
        lambda x: F.local_response_norm(x, 3, 0.4, 0.75, 1.0),
    ),
    "softmax": Case((5, 3), lambda b, x: b.softmax("y", x, 1), lambda x: torch.softmax(x, 1)),
    "softmax of tokens": Case(
        (2, 4, 4),
        lambda b, x: b.softmax("y", b.move("t", inner(b, x), tokens), -1),
        lambda x: torch.softmax(tokens(quantised(x)), -1),
    ),
    "softmax of a product": Case(
        (4, 3),
        lambda b, x: b.softmax("y", b.matmul("p", x, b.move("t", x, lambda t: t.mT)), -1),
        lambda x: torch.softmax(x @ x.mT, -1),
    ),
    "softmax of a product that is seen otherwise": Case(
        (4, 3),
        lambda b, x: b.softmax("y", b.move("u", b.scale("s", b.multiply("p", x, x), 0.7), lambda t: t.mT), 1),
        lambda x: torch.softmax(0.7 * (x * x).mT, 1),
    ),
    "softmax of a masked product": Case(
        (4, 3),
        lambda b, x: b.softmax("y", b.mask("m", b.multiply("p", x, x), torch.eye(4, 3).bool()), -1),
        lambda x: torch.softmax((x * x).masked_fill(torch.eye(4, 3).bool(), -math.inf), -1),
    ),
}  # fmt: skip


def verbs(shape: tuple[int, ...]) -> tuple[Verbs, Value]:
    b = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
    return b, b.input(shape, scale=STEP, q_min=-3, q_max=3)


def network(case: Case) -> tuple[QuantGraph, Value]:
    b, x = verbs(case.shape)
    y = case.verb(b, x)
    value = y if type(y) is Value else b.quantise("y", y, GRID, lambda v: round(v / GRID.scale))
    return b.build(value), value


def images(case: Case, n: int) -> Tensor:
    counts = torch.randint(-3, 4, (n, *case.shape), generator=torch.Generator().manual_seed(7))
    return counts.double() * STEP


def seen(counts: dict[str, Tensor], value: Value) -> Tensor:
    every = torch.cat([counts[part].flatten(1) for part in value.sources], 1)[:, value.index.clamp(min=0)]
    return torch.where(value.index < 0, 0, every)


@pytest.mark.parametrize("name", CASES)
def test_counts_are_pytorchs(name: str) -> None:
    """Equal, but at most where the real level lies within a millionth of a tie."""
    case = CASES[name]
    q, value = network(case)
    x = images(case, 12)
    found = seen(q.execute(x), value).double()
    levels = case.torch(x) / value.scale
    grid = GRID if value.scale == GRID.scale else Grid(value.scale, -1000, 1000)
    wanted = levels.round().clamp(grid.y_min, grid.y_max)
    assert found.shape == wanted.shape
    assert found.unique().numel() > 3
    differs = found != wanted
    near = ((levels.frac().abs() - 0.5).abs() < 1e-5) & ((found - wanted).abs() == 1)
    assert not bool((differs & ~near).any()), (int(differs.sum()), differs.numel())
    assert int(differs.sum()) <= 2


@pytest.mark.parametrize("name", CASES)
def test_spikes_are_the_counts(name: str) -> None:
    case = CASES[name]
    q, _ = network(case)
    x = images(case, 2)
    right = q.execute(x)
    graph = converters.to_nir(q)
    backends = ("fast", "snntorch", "closed_form", "brian2")
    for backend in backends if list(CASES).index(name) % 9 == 0 else backends[:3]:
        r = converters.run(graph, x, backend=backend)
        assert sum(row.differing for row in compare_counts(r, right)) == 0, backend
    short = q.at_window(20)
    r = converters.run(converters.to_nir(q, T=20), x)
    assert sum(row.differing for row in compare_counts(r, short.execute(x))) == 0


def test_layers_that_do_two_things_at_once_are_one() -> None:
    """A convolution and its activation; a norm and its activation; a max pool that waited for its quantiser."""
    for name, layers in (
        ("silu", ["conv"]),
        ("group norm, silu", ["y"]),
        ("max pool in front of the quantiser", ["conv", "y"]),
        ("hardtanh", ["conv"]),
        ("attention scores", ["conv", "conv_2", "other", "y"]),
    ):
        q, _ = network(CASES[name])
        assert [k.name for k in q.layers] == layers, name
    q, _ = network(CASES["hardtanh"])
    assert [type(op).__name__ for op in q.layers[0].synapses[0].ops] == ["Conv2d"], "a clamp is a range of counts"
    q, _ = network(CASES["group norm, silu"])
    assert {Normalise, Levels} <= {type(op) for op in q.layers[0].synapses[0].ops}


def _refusals() -> dict[str, tuple[tuple[int, ...], Callable[[Verbs, Value], Any], str]]:
    return {
        "batch": ((3, 4), lambda b, x: b.amax("y", x, 0), r"y: found the axes \[0\] of a batch with 3; leave"),
        "twice": ((3, 4), lambda b, x: b.amax("y", x, (1, -2)), r"y: found the axes \[1, -2\]"),
        "all": ((3, 4), lambda b, x: b.amax("y", x, None), "y: found the axes"),
        "axis": ((3, 4), lambda b, x: b.softmax("y", x, 3), r"y: found the axes \[3\]"),
        "sizes": ((3, 4, 4), lambda b, x: b.adaptive_max_pool("y", x, (1, 2, 3)), "y: found 3 sizes for 2 axes"),
        "kernel": ((3, 4, 4), lambda b, x: b.max_pool("y", x, 5), "y: found an axis of size 4; it is smaller"),
        "waiting": (
            (2, 4, 4), lambda b, x: b.max_pool("y", conv(b, x), 5), "y: found an axis of size 4; it is smaller"
        ),
        "unknown": ((3,), lambda b, x: b.activate("y", x, "nope"), "y: found the activation nope; register it"),
        "twice active": (
            (3,),
            lambda b, x: b.activate("z", b.activate("y", x, "silu"), "tanh"),
            "y: found an unquantised activation, used by z; quantise it",
        ),
        "active behind a waiting maximum": (
            (2, 4, 4),
            lambda b, x: b.activate("z", b.max_pool("y", conv(b, x), 2), "silu"),
            "conv: found an unquantised activation, used by z; quantise it",
        ),
        "norm behind a waiting maximum": (
            (2, 4, 4),
            lambda b, x: b.scale("z", b.max_pool("y", conv(b, x), 2), 2.0),
            "conv: found an unquantised activation, used by z",
        ),
        "slopes": (
            (3, 4),
            lambda b, x: b.activate("y", b.move("t", x, lambda t: t.mT), "leaky_relu", (torch.ones(4) * 0.1,)),
            "y: found leaky_relu with parameters of 4 channels",
        ),
        "padded": (
            (2, 4, 4),
            lambda b, x: b.activate("y", b.move("t", conv(b, x), lambda t: F.pad(t, [1, 1])), "sigmoid"),
            "y: found sigmoid of a padded sum",
        ),
        "operand": (
            (2, 4, 4), lambda b, x: b.multiply("y", conv(b, x), conv(b, x)), "conv: found an unquantised activation"
        ),
        "shapes": (
            (3, 4),
            lambda b, x: b.multiply("y", x, b.move("t", x, lambda t: t.mT)),
            r"y: found sources of shapes \(3, 4\), \(4, 3\)",
        ),
        "maximum of shapes": (
            (3, 4), lambda b, x: b.maximum("y", x, b.move("t", x, lambda t: t.flatten(1))), "y: found sources of shapes"
        ),
        "matrices": ((3,), lambda b, x: b.matmul("y", x, x), "y: found a matrix product of shapes"),
        "matrices that do not fit": ((3, 4), lambda b, x: b.matmul("y", x, x), "y: found sources of shapes"),
        "groups": ((3, 4), lambda b, x: b.group_norm("y", x, 2, None, None, 1e-5), "y: found 3 channels in 2 groups"),
        "instance": ((3,), lambda b, x: b.instance_norm("y", x, None, None, 1e-5), "y: found an instance norm"),
        "beta": ((3, 4), lambda b, x: b.local_response_norm("y", x, 3, beta=0.6), "beta = 0.6"),
        "unquantised": (
            (3,),
            lambda b, x: b.value("z", b.softmax("y", x, 1)),
            "y: found an unquantised activation, used by z; quantise it",
        ),
        "length": ((3, 4), lambda b, x: b.unit_length("y", x, 1, 1.0, 1e-12), "y: found a norm of order 1; the Eucl"),
        "length of at least": ((3, 4), lambda b, x: b.unit_length("y", x, 1, 2.0, 9.0), "y: found an eps of 9 for len"),
        "softmax of a sum with a bias": (
            (3, 4),
            lambda b, x: b.softmax("y", b.shift("z", b.multiply("p", x, x), torch.arange(4.0)), 1),
            "p: found an unquantised activation, used by y; quantise it",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", _refusals())
def test_what_has_no_form_is_said(case: str) -> None:
    shape, verb, match = _refusals()[case]
    b, x = verbs(shape)
    with pytest.raises(ConversionError, match=match):
        verb(b, x)


def test_an_output_may_be_read_from_the_membrane_of_a_norm() -> None:
    b, x = verbs((4,))
    y = b.output(b.layer_norm("y", x, -1, reals(4), reals(4, seed=2), 1e-5))
    q = b.build(y)
    pixels = torch.randint(-3, 4, (6, 4), generator=torch.Generator().manual_seed(7)).double() * STEP
    wanted = F.layer_norm(pixels, (4,), reals(4), reals(4, seed=2), 1e-5)
    assert torch.allclose(q.logits(q.execute(pixels)), wanted, rtol=0, atol=1e-6)
    r = converters.run(converters.to_nir(q), pixels)
    assert torch.allclose(r.logits, wanted, rtol=0, atol=1e-6)


def test_a_dense_layer_with_an_activation() -> None:
    b, x = verbs((4,))
    w = torch.randint(-4, 5, (3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    y = b.activate("a", b.weigh("fc", x, Linear(w), reals(3).abs(), reals(3, seed=2)), "elu", (1.0,))
    q = b.build(b.quantise("q", y, COARSE, round))
    pixels = torch.randint(-3, 4, (50, 4), generator=torch.Generator().manual_seed(7)).double() * STEP
    real = F.elu(F.linear(pixels, w.double() * reals(3).abs()[:, None], reals(3, seed=2)))
    assert torch.equal(q.execute(pixels)["fc"].double(), (real / COARSE.scale).round().clamp(-12, 12))
