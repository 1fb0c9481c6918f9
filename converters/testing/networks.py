"""Small networks of random integers that have in them what backends get wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.network import Network
from converters.nir_export import to_nir
from converters.operations import (
    OPERATIONS,
    Add,
    Conv2d,
    Levels,
    Linear,
    MatMul,
    MaxOver,
    MaxPool,
    Minimum,
    Normalise,
    Operation,
    Product,
    Shape,
    Softmax,
    register,
)
from converters.ports.outputs import Output
from converters.ports.tails import Tail
from converters.ports.tokens import TokenTable
from converters.quantised import GraphBuilder, QuantGraph, average_pool

__all__ = ["LEVELS", "NETWORKS", "images", "network"]

LEVELS = 5
_SIGNED: dict[str, Any] = {"y_min": -LEVELS, "y_max": LEVELS, "scale": 0.3}
_GATED: dict[str, Any] = {"y_min": 0, "y_max": LEVELS, "scale": 0.3}


@dataclass(frozen=True, eq=False)
class LargerPlusOne(Operation):
    """The larger of the first and of the second half of the channels, plus 1: it remembers counts."""

    linear = False

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][0] % 2:
            raise ConversionError("LargerPlusOne", f"{shapes[0][0]} channels", "give an even number")
        return (shapes[0][0] // 2, *shapes[0][1:])

    def __call__(self, *counts: Tensor) -> Tensor:
        one, two = counts[0].chunk(2, dim=1)
        return torch.maximum(one, two) + 1

    def reach(self, *reach: int) -> int:
        return reach[0] + 1


class _Random:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def weights(self, *shape: int) -> Tensor:
        return torch.randint(-4, 5, shape, generator=self.generator, dtype=torch.int8)

    def between(self, n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=self.generator, dtype=torch.float64)


def dense() -> QuantGraph:
    """Dense layers with thresholds and biases of their own for each neuron; one of them ties often."""
    r, b = _Random(1), GraphBuilder()
    x = b.input((6,), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    h = b.layer(
        "fc1", [(x, Linear(r.weights(8, 6)))], threshold=r.between(8, 4, 12), bias=r.between(8, -9, 9), **_GATED
    )
    h = b.layer("fc2", [(h, Linear(r.weights(6, 8)))], threshold=4.0, bias=2.0, **_GATED)
    return b.build(b.layer("fc3", [(h, Linear(r.weights(4, 6)))], threshold=7.3, bias=1.3, **_SIGNED))


def pooled() -> QuantGraph:
    """A convolution, an average pool of one scale (so with exact ties), and a dense layer."""
    r, b = _Random(2), GraphBuilder()
    x = b.input((1, 6, 6), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    conv = Conv2d(r.weights(3, 1, 3, 3))
    c = b.layer("conv", [(x, conv)], threshold=r.between(3, 5, 15), bias=r.between(3, -20, 20), **_GATED)
    p = average_pool(b, "pool", c, (2, 2), (2, 2), (0, 0), scale=0.3, y_min=0, y_max=LEVELS)
    return b.build(b.layer("fc", [(b.flatten(p), Linear(r.weights(4, 12)))], threshold=5.5, **_SIGNED))


def residual() -> QuantGraph:
    """Two signed branches of unequal scales into an addition."""
    r, b = _Random(3), GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    stem = Conv2d(r.weights(3, 2, 3, 3), padding=(1, 1))
    s = b.layer("stem", [(x, stem)], threshold=r.between(3, 15, 25), bias=r.between(3, -9, 20), **_GATED)
    main = Conv2d(r.weights(3, 3, 3, 3), padding=(1, 1), stride=(2, 2))
    m = b.layer("main.conv", [(s, main)], threshold=r.between(3, 8, 20), **_SIGNED)
    short = b.layer(
        "main.short", [(s, Conv2d(r.weights(3, 3, 1, 1), stride=(2, 2)))], threshold=4.0, **{**_SIGNED, "scale": 0.17}
    )
    a = b.requantise("add", [(m, 1.0), (short, 1.0)], y_min=0, y_max=LEVELS, scale=0.3)
    return b.build(b.layer("fc", [(b.flatten(a), Linear(r.weights(3, 12)))], threshold=4.1, bias=-1.7, **_SIGNED))


def grouped() -> QuantGraph:
    """Depthwise and grouped convolutions with padding, stride and dilation that differ by axis; another range."""
    r, b = _Random(4), GraphBuilder()
    x = b.input((2, 5, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    depthwise = Conv2d(r.weights(4, 1, 3, 3), padding=(1, 1), groups=2)
    d = b.layer("depthwise", [(x, depthwise)], threshold=r.between(4, 5, 10), bias=r.between(4, -9, 9), **_GATED)
    some = Conv2d(r.weights(4, 2, 3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2)
    g = b.layer("grouped", [(d, some)], threshold=r.between(4, 5, 10), **{**_SIGNED, "y_max": LEVELS - 2})
    return b.build(b.layer("fc", [(b.flatten(g), Linear(r.weights(3, 4 * 3 * 3)))], threshold=8.3, **_SIGNED))


def concatenated() -> QuantGraph:
    """Two branches side by side, into a convolution."""
    r, b = _Random(5), GraphBuilder()
    x = b.input((1, 4, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    one = b.layer("one", [(x, Conv2d(r.weights(2, 1, 3, 3), padding=(1, 1)))], threshold=9.3, bias=2.5, **_GATED)
    two = b.layer("two", [(x, Conv2d(r.weights(1, 1, 1, 1) + 2))], threshold=2.0, **_GATED)
    both = b.concat("both", [one, two])
    c = b.layer("conv", [(both, Conv2d(r.weights(3, 3, 3, 3)))], threshold=r.between(3, 8, 20), bias=1.0, **_GATED)
    return b.build(b.layer("fc", [(b.flatten(c), Linear(r.weights(3, 12)))], threshold=6.3, **_SIGNED))


def membrane() -> QuantGraph:
    """Signed pixels, ties that go up, and an output that is read from its membrane."""
    r, b = _Random(6), GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS)
    c = b.layer("conv", [(x, Conv2d(r.weights(3, 2, 3, 3)))], threshold=8.0, bias=4.0, tie="up", **_SIGNED)
    out = Linear(r.weights(3, 12))
    return b.build(
        b.layer("fc", [(b.flatten(c), out)], threshold=9.7, bias=0.5, y_min=0, y_max=0, scale=1.0, spiking=False)
    )


def counting() -> QuantGraph:
    """An operation that remembers counts, of two layers, beside one that does not."""
    r, b = _Random(7), GraphBuilder()
    x = b.input((4,), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS)
    one = b.layer("one", [(x, Linear(r.weights(3, 4)))], threshold=4.0, bias=0.5, **_SIGNED)
    two = b.layer("two", [(x, Linear(r.weights(3, 4)))], threshold=[3.0, 4.5, 5.0], **_SIGNED)
    larger = b.layer(
        "larger", [(b.concat("both", [one, two]), LargerPlusOne()), (one, Linear(r.weights(3, 3)))],
        threshold=2.0, **_SIGNED
    )  # fmt: skip
    return b.build(b.layer("fc", [(larger, Linear(r.weights(3, 3)))], threshold=3.0, **_SIGNED))


def heads() -> QuantGraph:
    """Several outputs: a layer that feeds others too, an addition, a membrane, and functions behind some of them."""
    r, b = _Random(8), GraphBuilder()
    x = b.input((1, 4, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    stem = b.layer("stem", [(x, Conv2d(r.weights(2, 1, 3, 3)))], threshold=[5.0, 6.5], bias=2.5, **_SIGNED)
    one = b.layer("one", [(b.flatten(stem), Linear(r.weights(3, 8)))], threshold=6.0, bias=0.5, **_SIGNED)
    again = b.layer("again", [(one, Linear(r.weights(3, 3)))], threshold=4.0, **{**_SIGNED, "scale": 0.17})
    both = b.requantise("sum", [(one, 1.0), (again, -1.0)], y_min=-LEVELS, y_max=LEVELS, scale=0.3)
    raw = b.layer(
        "raw", [(both, Linear(r.weights(4, 3)))], threshold=3.7, bias=1.0, y_min=0, y_max=0, scale=0.2, spiking=False
    )
    outputs = {
        "classes": Output(raw.parts[0][0], (Tail("softmax", {"dim": 1}),)),
        "maps": ["stem", Output("stem", (Tail("permute", {"dims": [1, 2, 0]}), Tail("argmax", {"dim": -1})))],
        "none": None,
        "rest": ("one", "sum"),
    }
    return QuantGraph(b.build(raw).input, tuple(b.layers), outputs=outputs)


def two_inputs() -> QuantGraph:
    """Two inputs of other shapes and scales, one of them signed: each into a layer, and both into one, twice."""
    r, b = _Random(9), GraphBuilder()
    x = b.input((1, 4, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS, name="picture")
    y = b.input((3,), scale=0.4, q_min=-LEVELS, q_max=LEVELS - 2, name="about")
    c = b.layer("conv", [(x, Conv2d(r.weights(2, 1, 3, 3)))], threshold=[5.0, 6.5], bias=2.5, **_SIGNED)
    parts = [(b.flatten(c), Linear(r.weights(4, 8))), (y, Linear(r.weights(4, 3))), (y, Linear(r.weights(4, 3)))]
    joined = b.layer("joined", parts, threshold=r.between(4, 5, 9), bias=-1.0, **_SIGNED)
    last = [(joined, Linear(r.weights(3, 4))), (b.flatten(x), Linear(r.weights(3, 16)))]
    return b.build(b.layer("fc", last, threshold=7.3, **_SIGNED))


def maxima() -> QuantGraph:
    """Max pools that overlap, of signed counts with padding; a minimum of two layers; a maximum over places."""
    r, b = _Random(9), GraphBuilder()
    x = b.input((2, 5, 4), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS)
    c = b.layer("conv", [(x, Conv2d(r.weights(3, 2, 2, 2)))], threshold=r.between(3, 5, 9), bias=1.5, **_SIGNED)
    pool = MaxPool((3, 2), (2, 1), (1, 1), (1, 1), ceil_mode=True)
    p = b.layer("pool", [(c, pool)], threshold=1.0, **_SIGNED)
    d = b.layer("other", [(c, Conv2d(r.weights(3, 3, 2, 1), stride=(1, 1), padding=(0, 0)))], threshold=6.0, **_SIGNED)
    wide = b.layer("wide", [(d, MaxPool((1, 2), (1, 1), (0, 1), (1, 1)))], threshold=1.0, **_SIGNED)
    low = b.layer("lowest", [((p, wide), Minimum())], threshold=1.0, **_SIGNED)
    over = b.layer("over", [(low, MaxOver((1,)))], threshold=1.0, **_SIGNED)
    return b.build(b.layer("fc", [(b.flatten(over), Linear(r.weights(3, 12)))], threshold=4.3, bias=0.5, **_SIGNED))


def levels() -> QuantGraph:
    """Activations with a valley, of units and signs that differ by channel; one on counts alone; one behind a sum."""
    r, b = _Random(10), GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS)
    silu = Levels.of(
        "silu", units=(0.04, -0.05, 0.07), offsets=(0.2, -0.5, 0.0), scale=0.3, y_min=-1, y_max=LEVELS, limit=200
    )
    behind: dict[str, Any] = {"threshold": 1.0, "y_min": -1, "y_max": LEVELS, "scale": 0.3}
    c = b.layer("conv", [(x, (Conv2d(r.weights(3, 2, 3, 3)), silu))], **behind)
    square = Levels.of("square", units=(0.3,), offsets=(-0.4,), scale=0.3, y_min=0, y_max=LEVELS, limit=LEVELS)
    q = b.layer("square", [(c, square)], **{**behind, "y_min": 0})
    tanh = Levels.of("tanh", units=(0.1,), offsets=(0.0,), scale=0.25, y_min=-4, y_max=4, limit=4 * LEVELS)
    s = b.layer("sum", [((c, q), (Add((3, -1)), tanh))], threshold=1.0, y_min=-4, y_max=4, scale=0.25)
    return b.build(b.layer("fc", [(b.flatten(s), Linear(r.weights(3, 12)))], threshold=4.1, bias=-1.7, **_SIGNED))


def gated() -> QuantGraph:
    """A product of maps and of a gate for each channel, and a matrix product of a layer with itself."""
    r, b = _Random(11), GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    c = b.layer("conv", [(x, Conv2d(r.weights(3, 2, 3, 3)))], threshold=r.between(3, 5, 9), bias=1.5, **_SIGNED)
    g = b.layer("gate", [(c, Conv2d(r.weights(3, 3, 2, 2)))], threshold=4.0, **_GATED)
    y = b.layer("gated", [((c, g), Product())], threshold=2.5, bias=0.5, **_SIGNED)
    scores = b.layer("scores", [((y, y), MatMul(2, transposed=True))], threshold=4.0, **_SIGNED)
    return b.build(b.layer("fc", [(b.flatten(scores), Linear(r.weights(3, 12)))], threshold=5.3, bias=0.5, **_SIGNED))


def normed() -> QuantGraph:
    """A group norm with gains and biases of its own, with and without an activation behind it, and a softmax."""
    r, b = _Random(12), GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS)
    c = b.layer("conv", [(x, Conv2d(r.weights(4, 2, 3, 3)))], threshold=r.between(4, 5, 9), bias=1.5, **_SIGNED)
    norm = Normalise((0, 1, 2), 8, groups=2, eps=0.1, bits=16)
    n = b.layer("norm", [(c, norm)], threshold=r.between(4, 2e4, 4e4), bias=r.between(4, -3e4, 3e4), **_SIGNED)
    unit = 2.0**-16
    gelu = Levels.of("gelu", units=(unit,), offsets=(0.25,), scale=0.3, y_min=-1, y_max=LEVELS, limit=2**19)
    h = b.layer("active", [(n, (norm, gelu))], threshold=1.0, y_min=-1, y_max=LEVELS, scale=0.3)
    soft = Softmax.of(scale=0.3, axis=0, bits=16, largest=LEVELS + 1)
    s = b.layer("softmax", [(h, soft)], threshold=2.0**16 / 8, y_min=0, y_max=LEVELS, scale=1 / 8)
    return b.build(b.layer("fc", [(b.flatten(s), Linear(r.weights(3, 16)))], threshold=3.3, bias=0.5, **_SIGNED))


def tokens() -> QuantGraph:
    """Four tokens, each a row of integers of both signs, added to a constant, and a dense layer."""
    r, b = _Random(14), GraphBuilder()
    rows = torch.randint(-LEVELS, LEVELS + 1, (7, 3), generator=r.generator)
    x = b.input((4, 3), scale=1 / LEVELS, q_min=-LEVELS, q_max=LEVELS, table=TokenTable(rows))
    h = b.layer("placed", [(x, ())], threshold=0.8, bias=r.between(4, -2, 2), **_SIGNED)
    return b.build(b.layer("fc", [(b.flatten(h), Linear(r.weights(3, 12)))], threshold=5.3, bias=0.5, **_SIGNED))


NETWORKS: dict[str, Callable[[], QuantGraph]] = {
    "dense": dense,
    "pooled": pooled,
    "residual": residual,
    "grouped": grouped,
    "concatenated": concatenated,
    "membrane": membrane,
    "counting": counting,
    "heads": heads,
    "two inputs": two_inputs,
    "maxima": maxima,
    "levels": levels,
    "gated": gated,
    "normed": normed,
    "tokens": tokens,
}


def network(q: QuantGraph, window: int, coding: str) -> Network:
    """The spiking network of one of these."""
    with _known(LargerPlusOne):
        return Network.from_graph(to_nir(q, T=window, coding=coding))


@contextmanager
def _known(operation: type[Operation]) -> Iterator[None]:
    """With an operation on the table for as long as a graph is read, and not for users' files."""
    register(operation)
    try:
        yield
    finally:
        OPERATIONS.pop(operation.__name__, None)


def images(q: QuantGraph, n: int) -> Any:
    """Random pixels over the whole range; the first image is silent, the second as bright as can be.

    A tensor, or a tuple of one for each of several inputs. Of tokens, random ones: the first image has the first alone,
    the second the last.
    """
    found = []
    for k, spec in enumerate(q.inputs):
        generator = torch.Generator().manual_seed(n + 1000 * k)
        if spec.table is not None:
            last = spec.table.vocabulary - 1
            tokens = torch.randint(last + 1, (n, *spec.given), generator=generator)
            tokens[0], tokens[1] = 0, last
            found.append(tokens)
            continue
        x = torch.rand(n, *spec.shape, generator=generator)
        x = 2 * x - 1 if spec.q_min < 0 else x
        x[0], x[1] = 0.0, 1.0
        found.append(x)
    return found[0] if len(found) == 1 else tuple(found)
