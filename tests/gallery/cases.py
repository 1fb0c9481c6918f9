"""What networks of the gallery are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CUBE",
    "IMAGE",
    "ROW",
    "TOKENS",
    "VECTOR",
    "Case",
    "Shape",
    "Step",
    "applied",
    "behind",
    "c",
    "conv",
    "norm",
    "parameter",
    "step",
    "then",
]

Shape = tuple[int, ...]
IMAGE: Shape = (3, 6, 6)
ROW: Shape = (3, 9)
CUBE: Shape = (2, 4, 4, 4)
VECTOR: Shape = (10,)
TOKENS: Shape = (5, 8)


@dataclass(frozen=True)
class Case:
    """A network and what it is given: images of ``shape``, of both signs where ``signed``."""

    make: Callable[[], nn.Module]
    shape: Shape = IMAGE
    signed: bool = False
    levels: int = 7
    bits: int = 8


class Step(nn.Module):
    """A function of the input and of layers by name."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(rank: int, a: int, b: int, kernel: int = 3, **options: Any) -> nn.Module:
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    return make(a, b, kernel, **{"padding": kernel // 2, **options})


def norm(rank: int, channels: int) -> nn.Module:
    """A batch norm whose numbers are none of those that it begins with."""
    layer = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1](channels)
    with torch.no_grad():
        layer.weight.uniform_(-1.5, 1.5)
        layer.bias.uniform_(-0.5, 0.5)
        layer.running_mean.uniform_(-0.2, 0.2)
        layer.running_var.uniform_(0.5, 2)
    return layer


def behind(*layers: Callable[[], nn.Module], shape: Shape = IMAGE, **options: Any) -> Case:
    """Layers behind a convolution with four channels, or a linear layer with eight features."""

    def make() -> nn.Module:
        rank = len(shape) - 1
        first = nn.Linear(shape[0], 8) if rank == 0 else conv(rank, shape[0], 4)
        return nn.Sequential(first, *(layer() for layer in layers))

    return Case(make, shape, **options)


def applied(function: Callable[[Tensor], Any], _: nn.Module, x: Tensor) -> Any:
    return function(x)


def then(function: Callable[[Tensor], Any], shape: Shape = IMAGE, **options: Any) -> Case:
    """A function behind a convolution."""
    return behind(partial(Step, partial(applied, function)), shape=shape, **options)


def step(
    function: Callable[[Any, Tensor], Any],
    *,
    shape: Shape = IMAGE,
    signed: bool = False,
    levels: int = 7,
    bits: int = 8,
    **layers: Callable[[], Any],
) -> Case:
    """A function of the input and of layers that are made anew for each network."""
    return Case(lambda: Step(function, **{k: v() for k, v in layers.items()}), shape, signed, levels, bits)


def c(a: int = 3, b: int = 4, kernel: int = 3, **options: Any) -> Callable[[], nn.Module]:
    return lambda: conv(2, a, b, kernel, **options)


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(*shape))
