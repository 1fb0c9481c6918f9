"""Small quantised networks that are no classifiers: maps of classes, numbers, several outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from converters.operations import Conv2d, Linear
from converters.ports.outputs import Output, as_outputs, leaves
from converters.ports.tails import Tail
from converters.quantised import GraphBuilder, QuantGraph

LEVELS = 7


class UNet(nn.Module):
    """One level down by a max pool, one up by nearest neighbours, joined by concatenation: 3 classes of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x).relu()
        return self.head(torch.cat([self.up(self.two(self.pool(one)).relu()), one], 1))


def _weights(gen: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(-7, 8, shape, generator=gen, dtype=torch.int8)


def several(seed: int = 0) -> QuantGraph:
    """Three outputs by name: classes of an image behind a softmax, classes of each pixel, and numbers of a membrane."""
    gen, b = torch.Generator().manual_seed(seed), GraphBuilder()
    ranges: dict[str, Any] = {"y_min": -LEVELS, "y_max": LEVELS, "scale": 0.3}
    x = b.input((1, 6, 6), scale=1 / LEVELS, q_min=0, q_max=LEVELS)
    stem = b.layer("stem", [(x, Conv2d(_weights(gen, 2, 1, 3, 3), padding=(1, 1)))], threshold=9.5, bias=2.0, **ranges)
    b.layer("pixels", [(stem, Conv2d(_weights(gen, 3, 2, 1, 1)))], threshold=[5.0, 4.5, 6.0], bias=1.0, **ranges)
    b.layer("fc", [(b.flatten(stem), Linear(_weights(gen, 4, 72)))], threshold=21.3, **ranges)
    silent: dict[str, Any] = {"y_min": 0, "y_max": 0, "scale": 0.2, "spiking": False}
    last = b.layer("read", [(b.flatten(stem), Linear(_weights(gen, 2, 72)))], threshold=17.7, bias=3.0, **silent)
    outputs = {"label": Output("fc", (Tail("softmax", {"dim": 1}),)), "map": "pixels", "numbers": "read"}
    return QuantGraph(b.build(last).input, tuple(b.layers), outputs=outputs)


def of(q: QuantGraph, *names: str) -> QuantGraph:
    """The same network, returning some outputs of :func:`several` alone; of one, that itself."""
    kept = {name: q.outputs[name] for name in names}
    needed = {"stem", *(output.layer for output in leaves(as_outputs(kept)))}
    layers = tuple(layer for layer in q.layers if layer.name in needed)
    return QuantGraph(q.input, layers, outputs=kept if len(names) > 1 else kept[names[0]])
