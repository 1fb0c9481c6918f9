"""Small quantised networks with random integers, for the tests of everything behind the front-ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from calif_plugins.parameters import TieRule
from converters.operations import Conv2d, Linear
from converters.quantised import GraphBuilder, QuantGraph, average_pool


def _conv(gen: torch.Generator, out: int, inp: int, k: int, **kw: Any) -> Conv2d:
    return Conv2d(torch.randint(-7, 8, (out, inp, k, k), generator=gen, dtype=torch.int8), **kw)


def _rand(gen: torch.Generator, n: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=gen, dtype=torch.float64)


def lenet(levels: int = 15, seed: int = 0, tie: TieRule = "even") -> QuantGraph:
    """Convolution, pool with a shared scale (so with exact ties), dense layers, signed output."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((1, 8, 8), scale=1 / levels, q_min=0, q_max=levels)
    c = b.layer(
        "conv", [(x, _conv(gen, 4, 1, 3))], threshold=_rand(gen, 4, 5, 20), bias=_rand(gen, 4, -40, 40),
        y_min=0, y_max=levels, scale=0.1, tie=tie,
    )  # fmt: skip
    p = average_pool(b, "pool", c, (2, 2), (2, 2), (0, 0), scale=0.1, y_min=0, y_max=levels, tie=tie)
    w = torch.randint(-7, 8, (12, 36), generator=gen, dtype=torch.int8)
    h = b.layer(
        "fc1", [(b.flatten(p), Linear(w))], threshold=_rand(gen, 12, 8, 30), bias=_rand(gen, 12, -40, 40),
        y_min=0, y_max=levels, scale=0.1, tie=tie,
    )  # fmt: skip
    w = torch.randint(-7, 8, (5, 12), generator=gen, dtype=torch.int8)
    o = b.layer("fc2", [(h, Linear(w))], threshold=13.7, bias=3.3, y_min=-levels, y_max=levels, scale=0.1, tie=tie)
    return b.build(o)


def residual(levels: int = 15, seed: int = 1, shared: bool = True) -> QuantGraph:
    """Signed branches into an addition, a 1 x 1 shortcut with stride, global pool."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 8, 8), scale=1 / levels, q_min=0, q_max=levels)
    stem = b.layer(
        "stem", [(x, _conv(gen, 4, 2, 3, padding=(1, 1)))], threshold=_rand(gen, 4, 20, 40),
        bias=_rand(gen, 4, -30, 60), y_min=0, y_max=levels, scale=0.2,
    )  # fmt: skip
    main = b.layer(
        "main.conv", [(stem, _conv(gen, 6, 4, 3, padding=(1, 1), stride=(2, 2)))], threshold=_rand(gen, 6, 20, 60),
        bias=_rand(gen, 6, -30, 30), y_min=-levels, y_max=levels, scale=0.3,
    )  # fmt: skip
    short = b.layer(
        "shortcut", [(stem, _conv(gen, 6, 4, 1, stride=(2, 2)))], threshold=_rand(gen, 6, 5, 15),
        bias=0.0, y_min=-levels, y_max=levels, scale=0.3 if shared else 0.17,
    )  # fmt: skip
    add = b.requantise("add", [(main, 1.0), (short, 1.0)], y_min=0, y_max=levels, scale=0.3)
    pool = average_pool(b, "gap", add, (4, 4), (4, 4), (0, 0), scale=0.11, y_min=0, y_max=levels)
    w = torch.randint(-7, 8, (5, 6), generator=gen, dtype=torch.int8)
    o = b.layer("fc", [(b.flatten(pool), Linear(w))], threshold=4.1, bias=-1.7, y_min=-levels, y_max=levels, scale=0.3)
    return b.build(o)


def depthwise(levels: int = 15, seed: int = 2) -> QuantGraph:
    """Depthwise and grouped convolutions, dilation, padding, odd strides."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((3, 9, 7), scale=1 / levels, q_min=0, q_max=levels)
    d = b.layer(
        "dw", [(x, _conv(gen, 6, 1, 3, padding=(1, 1), groups=3))], threshold=_rand(gen, 6, 10, 20),
        bias=_rand(gen, 6, -30, 30), y_min=0, y_max=levels, scale=0.2,
    )  # fmt: skip
    p = b.layer(
        "pw", [(d, _conv(gen, 4, 6, 1))], threshold=_rand(gen, 4, 10, 20), bias=_rand(gen, 4, -30, 30),
        y_min=0, y_max=levels - 4, scale=0.2,
    )  # fmt: skip
    g = b.layer(
        "dil", [(p, _conv(gen, 4, 2, 3, dilation=(2, 1), stride=(2, 3), padding=(2, 0), groups=2))],
        threshold=_rand(gen, 4, 10, 20), bias=_rand(gen, 4, -30, 30), y_min=-levels, y_max=levels, scale=0.2,
    )  # fmt: skip
    w = torch.randint(-7, 8, (5, 4 * 5 * 2), generator=gen, dtype=torch.int8)
    return b.build(
        b.layer("fc", [(b.flatten(g), Linear(w))], threshold=20.3, bias=5.1, y_min=-levels, y_max=levels, scale=0.3)
    )


def concat(levels: int = 15, seed: int = 3) -> QuantGraph:
    """Two branches concatenated, into a pool and into a convolution."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((1, 8, 8), scale=1 / levels, q_min=0, q_max=levels)
    kw: dict[str, Any] = {"y_min": 0, "y_max": levels, "scale": 0.2}
    u = b.layer("a", [(x, _conv(gen, 3, 1, 3, padding=(1, 1)))], threshold=12.3, bias=_rand(gen, 3, -9, 30), **kw)
    v = b.layer("b", [(x, _conv(gen, 2, 1, 1))], threshold=5.0, bias=2.0, **kw)
    both = b.concat("cat", [u, v])
    c = b.layer("c", [(both, _conv(gen, 4, 5, 3))], threshold=_rand(gen, 4, 20, 60), bias=1.0, **kw)
    p = average_pool(b, "pool", both, (2, 2), (2, 2), (0, 0), scale=0.2, y_min=0, y_max=levels)
    flat = b.concat("flat", [b.flatten(c), b.flatten(p)])
    w = torch.randint(-7, 8, (5, 4 * 36 + 5 * 16), generator=gen, dtype=torch.int8)
    return b.build(b.layer("fc", [(flat, Linear(w))], threshold=30.3, bias=0.5, y_min=-levels, y_max=levels, scale=0.3))


def signed_input(levels: int = 15, seed: int = 4) -> QuantGraph:
    """Signed pixels, ties that go up, and a membrane as output."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 6, 6), scale=1 / levels, q_min=-levels, q_max=levels)
    c = b.layer(
        "conv", [(x, _conv(gen, 4, 2, 3))], threshold=8.0, bias=4.0, y_min=-levels, y_max=levels, scale=0.2, tie="up"
    )
    w = torch.randint(-7, 8, (5, 64), generator=gen, dtype=torch.int8)
    return b.build(
        b.layer("fc", [(b.flatten(c), Linear(w))], threshold=9.7, bias=0.5, y_min=0, y_max=0, scale=1.0, spiking=False)
    )


GRAPHS: dict[str, Callable[..., QuantGraph]] = {
    "lenet": lenet,
    "residual": residual,
    "residual_unequal": lambda levels=15: residual(levels, shared=False),
    "depthwise": depthwise,
    "concat": concat,
    "signed_input": signed_input,
}


def images(q: QuantGraph, n: int, seed: int = 0) -> torch.Tensor:
    """Random pixels over the whole input range, with silent ones among them."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *q.input.shape, generator=gen)
    if q.input.q_min < 0:
        x = 2 * x - 1
    return x * (torch.rand(n, *q.input.shape, generator=gen) < 0.8)
