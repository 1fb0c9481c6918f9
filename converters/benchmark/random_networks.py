"""Networks of random integers, of a real network's sizes: where time and memory matter and accuracy does not."""

from __future__ import annotations

from typing import Any

import torch

from converters.operations import Conv2d, Linear, SumPool2d
from converters.quantised import GraphBuilder, QuantGraph

__all__ = ["random_vgg", "vgg9", "vgg16"]


def random_vgg(plan: list[int], hidden: int, side: int) -> QuantGraph:
    """Convolutions of 3 x 3 with ``plan`` channels (0: a pool), two dense layers; ``side`` is what the pools leave.

    Thresholds keep layers about as active as trained ones.
    """
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    value = b.input((3, 32, 32), scale=1 / 127, q_min=0, q_max=127)
    channels = 3
    clip: dict[str, Any] = {"y_min": 0, "y_max": 127, "scale": 1.0}
    for k, out in enumerate(plan):
        if out:
            w = torch.randint(-127, 128, (out, channels, 3, 3), generator=gen, dtype=torch.int8)
            op = Conv2d(w, padding=(1, 1))
            value = b.layer(f"conv{k}", [(value, op)], threshold=73.0 * (9 * channels) ** 0.5 * 0.9, **clip)
            channels = out
        else:
            value = b.layer(f"pool{k}", [(value, SumPool2d((2, 2), (2, 2)))], threshold=4.0, **clip)
    features = channels * side * side
    w = torch.randint(-127, 128, (hidden, features), generator=gen, dtype=torch.int8)
    value = b.layer("fc1", [(b.flatten(value), Linear(w))], threshold=73.0 * features**0.5, **clip)
    w = torch.randint(-127, 128, (10, hidden), generator=gen, dtype=torch.int8)
    out_clip: dict[str, Any] = {"y_min": -127, "y_max": 127, "scale": 1.0}
    return b.build(b.layer("fc2", [(value, Linear(w))], threshold=73.0 * hidden**0.5, **out_clip))


def vgg9() -> QuantGraph:
    """VGG-9's sizes for 32 x 32 x 3: 6 million weights."""
    return random_vgg([64, 64, 0, 128, 128, 0, 256, 256, 256, 0], 1024, 4)


def vgg16() -> QuantGraph:
    """VGG-16's sizes for 32 x 32 x 3: 15 million weights."""
    return random_vgg([64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0], 512, 1)
