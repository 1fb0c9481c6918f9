"""All linear verbs against PyTorch's own functions in float64, and as spikes on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import converters
from converters.frontends.verbs import Grid, Verbs, Weight, convolution, transposed
from converters.graph_builder import Value
from converters.operations import Linear
from converters.quantised import QuantGraph
from converters.results import compare_counts

GRID = Grid(0.0371234, -99, 99)
STEP = 0.5
HALF = Grid(0.31, -9, 9)
ONE = torch.ones(1)
BACKENDS = ("snntorch", "fast", "closed_form", "brian2")


def integers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def reals(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case(NamedTuple):
    """What a verb does to a value of ``shape``, and PyTorch to a tensor."""

    shape: tuple[int, ...]
    verb: Callable[[Verbs, Value], Any]
    torch: Callable[[Tensor], Tensor]


def conv(shape: tuple[int, ...], weight: tuple[int, ...], mode: str = "zeros", **how: Any) -> Case:
    """Through ``nn.ConvNd``, whatever its padding mode, with a scale and a bias per channel."""
    w, scale, bias = integers(*weight), reals(weight[0]).abs(), reals(weight[0], seed=2)

    def theirs(x: Tensor) -> Tensor:
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(weight) - 3]
        module = kind(
            weight[1] * how.get("groups", 1), weight[0], weight[2:], padding_mode=mode, dtype=torch.float64, **how
        )
        module.weight.data = w.double() * scale.reshape(-1, *[1] * (w.ndim - 1))
        module.bias.data = bias
        with torch.no_grad():
            out: Tensor = module(x)
        return out

    return Case(shape, lambda b, x: b.convolve("y", x, Weight(w, scale), bias, mode=mode, **how), theirs)


def spread(shape: tuple[int, ...], weight: tuple[int, ...], groups: int = 1, **how: Any) -> Case:
    """A transposed convolution."""
    w, rank = integers(*weight), len(weight) - 2
    bias = reals(weight[1] * groups)
    act: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    given = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1} | how

    def verb(b: Verbs, x: Value) -> Any:
        op = transposed("y", w, given["stride"], given["padding"], given["output_padding"], given["dilation"], groups)
        return b.weigh("y", x, op, ONE, bias)

    return Case(shape, verb, lambda x: act(x, w.double(), bias, groups=groups, **given))


def pool(shape: tuple[int, ...], kernel: Any, stride: Any = None, padding: Any = 0, **how: Any) -> Case:
    act: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(shape) - 2]
    theirs = {k: v for k, v in how.items() if k != "divisor"}
    if "divisor" in how:
        theirs["divisor_override"] = how["divisor"]
    return Case(
        shape,
        lambda b, x: b.average_pool("y", x, kernel, stride, padding, **how),
        lambda x: act(x, kernel, stride, padding, **theirs),
    )


def adaptive(shape: tuple[int, ...], size: Any) -> Case:
    act: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(shape) - 2]
    return Case(shape, lambda b, x: b.adaptive_pool("y", x, size), lambda x: act(x, size))


def grow(shape: tuple[int, ...], mode: str, size: Any = None, corners: bool | None = None, **how: Any) -> Case:
    return Case(
        shape,
        lambda b, x: b.interpolate("y", x, size, mode, corners, **how),
        lambda x: F.interpolate(x, size, mode=mode, align_corners=corners, **how),
    )


def reduce(shape: tuple[int, ...], axes: Any, keepdim: bool, what: str = "mean") -> Case:
    return Case(
        shape,
        lambda b, x: getattr(b, what)("y", x, axes, keepdim=keepdim),
        lambda x: getattr(x, what)(axes, keepdim=keepdim),
    )


def constant(shape: tuple[int, ...], *sizes: int) -> Case:
    """Times one constant and plus another, which broadcast."""
    by, more = reals(*sizes), reals(*sizes, seed=2)
    return Case(
        shape,
        lambda b, x: b.shift("add", b.scale("mul", x, by), more),
        lambda x: x * by + more,
    )


def norm(shape: tuple[int, ...], before: Callable[[Verbs, Value], Any], real: Callable[[Tensor], Tensor]) -> Case:
    """A batch norm behind anything."""

    def parameters(x: Tensor) -> tuple[Tensor, ...]:
        c = x.shape[1]
        gamma = reals(c)
        gamma[0] = 0.0
        return reals(c, seed=4), reals(c, seed=5).abs(), gamma, reals(c, seed=6)

    def verb(b: Verbs, x: Value) -> Any:
        y = before(b, x)
        mean, variance, gamma, beta = parameters(torch.empty(1, *y.shape))
        return b.batch_norm("bn", y, mean, variance, 1e-3, gamma, beta)

    def theirs(x: Tensor) -> Tensor:
        y = real(x)
        mean, variance, gamma, beta = parameters(y)
        return F.batch_norm(y, mean, variance, gamma, beta, False, 0.1, 1e-3)

    return Case(shape, verb, theirs)


def tokens(shape: tuple[int, ...], view: Callable[[Tensor], Tensor], features: int) -> Case:
    """A dense layer on the last axis of a view."""
    w, scale, bias = integers(3, features), reals(3).abs(), reals(3, seed=2)
    return Case(
        shape,
        lambda b, x: b.weigh("fc", b.move("view", x, view), Linear(w), scale, bias),
        lambda x: F.linear(view(x), w.double() * scale[:, None], bias),
    )


W = integers(3, 2, 3, 3)


def _conv_then(b: Verbs, x: Value) -> Any:
    return b.weigh("conv", x, convolution("conv", W, 1, 1, 1, 1), ONE, None)


CASES = {
    "conv1d": conv((4, 9), (6, 2, 3), stride=2, padding=1, dilation=2, groups=2),
    "conv2d": conv((4, 5, 6), (6, 2, 3, 2), stride=(2, 1), padding=(1, 0), groups=2),
    "conv3d": conv((2, 4, 3, 4), (3, 2, 2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), dilation=(2, 1, 1)),
    "depthwise 1d": conv((3, 7), (3, 1, 3), groups=3),
    "same, even": conv((2, 5, 6), (3, 2, 2, 4), padding="same", dilation=(3, 1)),
    "same, even, 1d": conv((2, 7), (3, 2, 4), padding="same"),
    "reflect": conv((2, 4, 5), (3, 2, 3, 3), "reflect", padding=(1, 2)),
    "replicate 3d": conv((2, 3, 4, 3), (2, 2, 3, 2, 3), "replicate", padding=1),
    "circular 1d": conv((2, 6), (3, 2, 4), "circular", padding="same"),
    "transposed 1d": spread((4, 5), (4, 3, 3), 2, stride=2, padding=1, output_padding=1),
    "transposed 2d": spread((2, 3, 4), (2, 3, 2, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    "transposed 3d": spread((2, 2, 3, 2), (2, 2, 2, 2, 3), stride=2, output_padding=(1, 0, 1)),
    "output padding beyond the stride": spread((2, 4), (2, 3, 2), dilation=3, output_padding=2),
    "pool 1d": pool((2, 9), 3, 2, 1),
    "pool 3d": pool((2, 4, 5, 4), (2, 3, 2), (2, 1, 2), (1, 1, 0)),
    "ceil": pool((2, 6, 7), 3, 2, 1, ceil_mode=True),
    "ceil 1d, padding not counted": pool((2, 8), 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "padding not counted": pool((2, 5, 6), (3, 2), 1, (1, 1), count_include_pad=False),
    "padding not counted 3d": pool((2, 4, 3, 4), 3, 2, 1, count_include_pad=False, ceil_mode=True),
    "a divisor": pool((2, 5, 6), 2, 2, 1, divisor=7, ceil_mode=True),
    "adaptive": adaptive((2, 5, 7), (3, 4)),
    "adaptive, larger": adaptive((2, 2, 1), (3, 4)),
    "adaptive 1d": adaptive((3, 8), 4),
    "adaptive 3d": adaptive((2, 3, 4, 5), (2, 4, None)),
    "mean of all places": reduce((3, 4, 5), (2, 3), False),
    "mean of all places 3d": reduce((2, 2, 3, 4), (-1, -2, -3), True),
    "mean of channels": reduce((3, 4, 5), 1, True),
    "mean of height": reduce((3, 4, 5), [2], False),
    "mean of tokens": reduce((5, 4), 1, False),
    "mean of a vector": reduce((5,), -1, True),
    "sum": reduce((3, 4, 5), (1, 3), False, "sum"),
    "sum over time": reduce((3, 4), 2, False, "sum"),
    "nearest": grow((2, 3, 4), "nearest", scale_factor=2.0),
    "nearest-exact": grow((2, 5), "nearest-exact", 7),
    "linear": grow((2, 5), "linear", 8),
    "bilinear": grow((2, 3, 4), "bilinear", scale_factor=2.0),
    "bilinear, corners": grow((2, 3, 4), "bilinear", (5, 7), True),
    "bilinear, smaller": grow((2, 7, 6), "bilinear", (3, 4), False, antialias=True),
    "bilinear, scale": grow((2, 5, 4), "bilinear", scale_factor=(1.7, 0.9)),
    "bicubic": grow((2, 3, 4), "bicubic", scale_factor=2.0),
    "trilinear": grow((2, 2, 3, 2), "trilinear", (3, 4, 5)),
    "area": grow((2, 5, 7), "area", (2, 3)),
    "times a number": Case((3, 4), lambda b, x: b.scale("y", x, -0.7), lambda x: x * -0.7),
    "plus a number": Case((3, 4), lambda b, x: b.shift("y", x, 0.3), lambda x: x + 0.3),
    "constants per channel": constant((3, 4, 2), 3, 1, 1),
    "constants along the last axis": constant((3, 4, 2), 2),
    "constants per place": constant((3, 4, 2), 1, 4, 2),
    "constants per channel and place": constant((3, 4, 2), 1, 3, 4, 2),
    "constants of a vector": constant((4,), 4),
    "constants on tokens": Case(
        (3, 2, 2),
        lambda b, x: b.shift("add", b.scale("mul", b.move("view", x, _tokens), reals(3)), reals(4, 1)),
        lambda x: _tokens(x) * reals(3) + reals(4, 1),
    ),
    "norm of the input": norm((3, 2, 2), lambda b, x: x, lambda x: x),
    "norm of a vector": norm((4,), lambda b, x: x, lambda x: x),
    "norm of a pool": norm((3, 4, 4), lambda b, x: b.average_pool("pool", x, 2), lambda x: F.avg_pool2d(x, 2)),
    "norm of a sum": norm(
        (3, 4),
        lambda b, x: b.add("add", (x, 1.0), (b.move("flip", x, lambda t: t.flip(2)), -1.0)),
        lambda x: x - x.flip(2),
    ),
    "norm behind an upsampled convolution": norm(
        (2, 2, 2),
        lambda b, x: b.interpolate("up", _conv_then(b, x), scale_factor=2),
        lambda x: F.interpolate(F.conv2d(x, W.double(), padding=1), scale_factor=2),
    ),
    "norm of a concatenation": norm(
        (3, 2, 2),
        lambda b, x: b.concatenate("cat", [x, b.move("flip", x, lambda t: t.flip(3))], 1, 4),
        lambda x: torch.cat([x, x.flip(3)], 1),
    ),
    "norm of a concatenation of unequal scales": norm(
        (3, 2, 2),
        lambda b, x: b.concatenate("cat", [x, b.quantise("q", b.scale("half", x, 0.5), HALF, round)], 1, 4),
        lambda x: torch.cat([x, torch.round(x / 2 / HALF.scale) * HALF.scale], 1),
    ),
    "two norms": norm(
        (2, 3, 3),
        lambda b, x: b.shift("c", b.scale("s", _conv_then(b, x), reals(3, 1, 1)), reals(1, 3, 3)),
        lambda x: F.conv2d(x, W.double(), padding=1) * reals(3, 1, 1) + reals(1, 3, 3),
    ),
    "dense on tokens": tokens((4, 3), lambda x: x, 3),
    "dense on channels last": tokens((4, 2, 3), lambda x: x.permute(0, 2, 3, 1), 4),
    "dense on tokens of a map": tokens((4, 2, 3), lambda x: x.flatten(2).transpose(1, 2), 4),
    "dense on another axis": tokens((4, 2, 3), lambda x: x.transpose(2, 3), 2),
    "dense on a slice": tokens((4, 2, 3), lambda x: x[:, 1:, :, 1:], 2),
}


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def network(case: Case, low: int = -3, high: int = 3) -> tuple[QuantGraph, Value]:
    b = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
    x = b.input(case.shape, scale=STEP, q_min=low, q_max=high)
    y = case.verb(b, x)
    value = y if type(y) is Value else b.quantise("y", y, GRID, round)
    return b.build(value), value


def images(case: Case, n: int) -> Tensor:
    counts = torch.randint(-3, 4, (n, *case.shape), generator=torch.Generator().manual_seed(7))
    return counts.double() * STEP


def expected(case: Case, x: Tensor, value: Value) -> Tensor:
    return torch.round(case.torch(x) / value.scale).clamp(GRID.y_min, GRID.y_max)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_counts_are_pytorchs(name: str) -> None:
    case = CASES[name]
    q, value = network(case)
    x = images(case, 8)
    counts = q.execute(x)
    seen = torch.cat([counts[part].flatten(1) for part in value.sources], 1)[:, value.index.clamp(min=0)]
    assert torch.equal(torch.where(value.index < 0, 0, seen).double(), expected(case, x, value))
    assert len(seen.unique()) > 3


@pytest.mark.parametrize("name", CASES)
def test_spikes_are_the_counts(name: str, tmp_path: Path) -> None:
    """Through a file, and every backend; Brian2 on one case in 16."""
    case = CASES[name]
    q, _ = network(case)
    x = images(case, 2)
    right = q.execute(x)
    converters.write(tmp_path / "net.nir", converters.to_nir(q))
    graph = converters.read(tmp_path / "net.nir")
    backends = BACKENDS if list(CASES).index(name) % 16 == 0 else BACKENDS[:-1]
    for backend in backends:
        r = converters.run(graph, x, backend=backend)
        assert sum(row.differing for row in compare_counts(r, right)) == 0, backend


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_brian2_ends_on_the_counts(name: str) -> None:
    q, _ = network(CASES[name])
    x = images(CASES[name], 2)
    r = converters.run(converters.to_nir(q), x, backend="brian2")
    assert sum(row.differing for row in compare_counts(r, q.execute(x))) == 0


@pytest.mark.parametrize("name", CASES)
def test_matrices_and_costs(name: str) -> None:
    """What edges, bit widths and costs are made of, from the operations' own shorter ways, against basis vectors."""
    q, _ = network(CASES[name])
    shapes = q.shapes
    for layer in q.layers:
        for synapse in layer.synapses:
            here = start = shapes[synapse.source]
            basis = torch.eye(math.prod(here)).double().reshape(-1, *here)
            for op in synapse.ops:
                matrix = torch.from_numpy(op.matrix(here).toarray()).double()
                assert torch.equal(matrix, op(torch.eye(math.prod(here)).double().reshape(-1, *here)).flatten(1).T)
                assert int(matrix.abs().sum(1).max()) <= op.gain
                low = -torch.arange(math.prod(here)).double()
                a, b = op.interval((low.reshape(here), (1 - low).reshape(here)))
                up, down = matrix.clamp(min=0), matrix.clamp(max=0)
                assert torch.equal(a.reshape(-1), up @ low + down @ (1 - low))
                assert torch.equal(b.reshape(-1), up @ (1 - low) + down @ low)
                basis, here = op(basis), op.output_shape(here)
                assert a.shape == here
            whole = torch.from_numpy(synapse.matrix(start).toarray())
            assert torch.equal(whole.double(), basis.flatten(1).T)
            (leaving,) = synapse.fan_out(start)
            assert bool((leaving.reshape(-1) >= (whole != 0).sum(0)).all())
            rows = torch.arange(whole.shape[0])[::3]
            assert torch.equal(synapse.rows(start, rows).flatten(1), whole[rows])
