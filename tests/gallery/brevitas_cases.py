"""What networks of Brevitas' layers are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.quant import ShiftedUint8ActPerTensorFloat
from torch import Tensor, nn

__all__ = ["MAPS", "Network", "bare", "conv", "linear", "norm", "quant", "relu", "row", "shifted", "step", "transposed"]

Make = Callable[[], nn.Module]
MAPS = (3, 6, 6)


@dataclass(frozen=True)
class Network:
    make: Make
    shape: tuple[int, ...] = MAPS


def quant(bits: int = 4, **options: Any) -> Any:
    return qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True, **options)


def shifted() -> Any:
    """A quantiser with a zero point."""
    return qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat, bit_width=4)


def bare() -> Any:
    """A quantiser whose results are plain tensors, of which PyTorch's methods can be called."""
    return qnn.QuantReLU(bit_width=4)


def relu(bits: int = 4) -> Any:
    return qnn.QuantReLU(bit_width=bits, return_quant_tensor=True)


def conv(a: int = 3, b: int = 4, kernel: int = 3, *, rank: int = 2, bits: int = 4, **options: Any) -> Any:
    kinds = {1: qnn.QuantConv1d, 2: qnn.QuantConv2d, 3: qnn.QuantConv3d}
    return kinds[rank](a, b, kernel, weight_bit_width=bits, **{"padding": kernel // 2, "bias": True, **options})


def transposed(a: int, b: int, kernel: int, *geometry: int, rank: int = 2, **options: Any) -> Any:
    kinds = {1: qnn.QuantConvTranspose1d, 2: qnn.QuantConvTranspose2d, 3: qnn.QuantConvTranspose3d}
    return kinds[rank](a, b, kernel, *geometry, weight_bit_width=4, **options)


def linear(a: int, b: int, bits: int = 4, **options: Any) -> Any:
    return qnn.QuantLinear(a, b, bias=True, weight_bit_width=bits, **options)


def norm(channels: int, kind: Any = nn.BatchNorm2d) -> Any:
    """A batch norm whose numbers are none of those that it begins with."""
    layer = kind(channels)
    with torch.no_grad():
        layer.weight.uniform_(-1.5, 1.5)
        layer.bias.uniform_(-0.5, 0.5)
    return layer


def row(*layers: Callable[[], Any], shape: tuple[int, ...] = MAPS) -> Network:
    """Layers behind a quantised input, one after another."""
    return Network(lambda: nn.Sequential(quant(), *(layer() for layer in layers)), shape)


class Step(nn.Module):
    """A function of the quantised input and of layers by name."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.input, self.function = quant(), function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.input(x))


def step(function: Callable[[Any, Tensor], Any], shape: tuple[int, ...] = MAPS, **layers: Callable[[], Any]) -> Network:
    return Network(lambda: Step(function, **{name: layer() for name, layer in layers.items()}), shape)
