"""Networks of one or two quantised layers, in the words of any toolkit: what a planted fault is sought in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from brevitas.inject.enum import FloatToIntImplType
from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias, ShiftedUint8ActPerTensorFloat, TruncTo8bit
from torch import Tensor, nn

from tests.converters.frontends.test_fx_frontends import Layers

__all__ = ["NETS"]


def conv(layers: Layers) -> dict[str, Any]:
    first = layers.conv(2, 4, 3, padding=1, stride=(2, 1), bias=True)
    last = layers.conv(4, 4, 3, padding=2, dilation=2, groups=2, bias=True)
    return {"conv": first, "q": layers.quantise(), "out": last, "q2": layers.quantise()}


def per_channel(layers: Layers) -> dict[str, Any]:
    """Brevitas: scales per channel, an integer bias."""
    options = {"weight_quant": Int8WeightPerChannelFloat, "bias_quant": Int32Bias, "return_quant_tensor": False}
    return {
        "wrapped": qnn.QuantIdentity(return_quant_tensor=True),
        "conv": qnn.QuantConv2d(2, 4, 3, padding=1, bias=True, **options),
        "q": qnn.QuantIdentity(),
    }


def shifted(layers: Layers) -> dict[str, Any]:
    """Brevitas: an activation with a zero point."""
    return {"first": layers.conv(2, 4), "zero": qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat),
            "conv": layers.conv(4, 3, padding=1), "q": qnn.QuantIdentity()}  # fmt: skip


def norm(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 4, bias=False), "bn": nn.BatchNorm2d(4, eps=0.2), "relu": layers.relu(),
            "fc": layers.linear(64, 4)}  # fmt: skip


def pair_of(layers: Layers) -> dict[str, Any]:
    return {"a": layers.conv(2, 3, padding=1), "b": layers.conv(2, 3, padding=1), "qa": layers.quantise(),
            "qb": layers.quantise(), "sum": layers.quantise(), "shared": layers.quantise(),
            "fc": layers.linear(108, 4)}  # fmt: skip


def pool(layers: Layers) -> dict[str, Any]:
    return {"pool": nn.AvgPool2d(3, (3, 1), 1), "q": layers.quantise(), "fc": layers.linear(24, 4)}


def averaged(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 3), "q": layers.quantise(), "mean": layers.quantise(), "fc": layers.linear(3, 4)}


def six(layers: Layers) -> dict[str, Any]:
    wide: Any = layers.conv(2, 3)
    with torch.no_grad():
        wide.weight *= 20  # so that six is reached
    return {"conv": wide, "six": nn.ReLU6(), "q": layers.quantise(), "fc": layers.linear(48, 4)}


def curved(layers: Layers) -> dict[str, Any]:
    return {"conv": layers.conv(2, 4), "curve": nn.LeakyReLU(0.2), "q": layers.quantise(), "pool": nn.MaxPool2d(2),
            "fc": layers.linear(16, 4)}  # fmt: skip


def _curved(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.flatten(net.pool(net.q(net.curve(net.conv(x)))).flip(3), 1))


def truncating(rounding: str) -> Callable[[Layers], dict[str, Any]]:
    def build(layers: Layers) -> dict[str, Any]:
        kind = {"float_to_int_impl_type": FloatToIntImplType.FLOOR} if rounding == "floor" else {}
        return {
            "first": qnn.QuantIdentity(return_quant_tensor=True, bit_width=5),
            "pool": qnn.TruncAvgPool2d(2, trunc_quant=TruncTo8bit, bit_width=5, **kind),
        }

    return build


def _both(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return net.qa(net.a(x)), net.qb(net.b(x))


def _sum(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.flatten(net.sum(net.add(*_both(net, x))), 1))


def _difference(net: Any, x: Tensor) -> Tensor:
    a, b = _both(net, x)
    return net.fc(torch.flatten(net.sum(torch.sub(a, b, alpha=2)), 1))


def _cat(net: Any, x: Tensor) -> Tensor:
    a, b = _both(net, x)
    if isinstance(net.shared, qnn.QuantIdentity):
        a, b = net.shared(a), net.shared(b)
    return net.cat([a, b])


def _in_place(net: Any, x: Tensor) -> Tensor:
    a, b = _both(net, x)
    F.relu_(a)
    return net.fc(torch.flatten(net.sum(net.add(a, b)), 1))


def _coarse(net: Any, x: Tensor) -> Tensor:
    return net.fc(torch.flatten(net.qb(net.qa(net.a(x))), 1))


def coarse(layers: Layers) -> dict[str, Any]:
    return {"a": layers.conv(2, 3, padding=1), "qa": qnn.QuantIdentity(return_quant_tensor=False),
            "qb": qnn.QuantIdentity(return_quant_tensor=False, bit_width=3), "fc": layers.linear(108, 4)}  # fmt: skip


class FunctionalConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=1)


NETS: dict[str, tuple[Callable[[Layers], dict[str, Any]], Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "conv": (conv, lambda net, x: net.q2(net.out(net.q(net.conv(x)))), {}),
    "per channel": (per_channel, lambda net, x: net.q(net.conv(net.wrapped(x))), {}),
    "shifted": (shifted, lambda net, x: net.q(net.conv(net.zero(net.first(x)))), {}),
    "norm": (norm, lambda net, x: net.fc(torch.flatten(net.relu(net.bn(net.conv(x))), 1)),
             {"fuse": [["conv", "bn", "relu"]]}),
    "sum": (pair_of, _sum, {}),
    "difference": (pair_of, _difference, {}),
    "cat": (pair_of, _cat, {}),
    "in place": (pair_of, _in_place, {}),
    "pool": (pool, lambda net, x: net.fc(torch.flatten(net.q(net.pool(x)), 1)), {}),
    "mean": (averaged, lambda net, x: net.fc(net.mean(net.q(net.conv(x)).mean((2, 3)))), {}),
    "six": (six, lambda net, x: net.fc(torch.flatten(net.q(net.six(net.conv(x))), 1)), {}),
    "coarse": (coarse, _coarse, {}),
    "curved": (curved, _curved, {}),
    "trunc": (truncating("floor"), lambda net, x: net.pool(net.first(x)), {}),
    "round": (truncating("round"), lambda net, x: net.pool(net.first(x)), {}),
    "functional": (lambda layers: {"conv": FunctionalConv()}, lambda net, x: net.conv(x), {}),
}  # fmt: skip
