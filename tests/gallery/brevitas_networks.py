"""Small networks of Brevitas' own layers, one for each kind of thing that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import brevitas.nn as qnn
import torch
import torch.nn.functional as F
from brevitas.inject.enum import FloatToIntImplType
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int32Bias, TruncTo8bit
from torch import nn

from tests.gallery.brevitas_attention import ATTENTION
from tests.gallery.brevitas_cases import (
    MAPS,
    Network,
    bare,
    conv,
    linear,
    norm,
    quant,
    relu,
    row,
    shifted,
    step,
    transposed,
)

__all__ = ["NETWORKS"]

RANKS = ((1, (3, 9)), (2, MAPS), (3, (3, 4, 4, 4)))
CHANNELS = {"weight_quant": Int8WeightPerChannelFloat}

WEIGHTED = {
    **{
        f"convolution {r}d": row(partial(conv, rank=r), relu, partial(conv, 4, 2, 2, rank=r, stride=2), shape=s)
        for r, s in RANKS
    },
    **{
        f"transposed {r}d": row(
            partial(transposed, 3, 2, 3, 2, 1, 1, rank=r), relu, partial(conv, 2, 2, rank=r), shape=s
        )
        for r, s in RANKS
    },
    "transposed per channel": row(lambda: transposed(3, 4, 2, 2, **CHANNELS), relu, lambda: conv(4, 2)),
    "transposed in groups": row(
        conv, bare, lambda: transposed(4, 6, 2, 2, groups=2, bias=True), relu, lambda: conv(6, 2)),
    "an integer bias": row(lambda: transposed(3, 4, 2, 2, bias=True, bias_quant=Int32Bias), relu, lambda: conv(4, 2)),
    "same with a stride": row(lambda: conv(padding="same", stride=2, kernel=2), relu, lambda: conv(4, 2)),
    "same with an even kernel": row(lambda: conv(padding="same", kernel=2), relu, lambda: conv(4, 2)),
    "reflected": row(lambda: conv(padding_mode="reflect"), relu, lambda: conv(4, 2, padding_mode="circular")),
    "dilated, in groups": row(conv, relu, lambda: conv(4, 4, dilation=2, groups=2, padding=2, **CHANNELS), quant),
    "linear on tokens": row(lambda: linear(6, 5), relu, lambda: linear(5, 3), shape=(4, 6)),
    "two bits": row(lambda: conv(bits=2), lambda: relu(2), lambda: conv(4, 3, bits=2), lambda: quant(2)),
    "eight bits": row(lambda: conv(bits=8), lambda: relu(8), lambda: conv(4, 3, bits=8), lambda: quant(8)),
    "an output quantiser": row(
        lambda: conv(output_quant=Int8ActPerTensorFloat, output_bit_width=3, return_quant_tensor=True),
        lambda: conv(4, 2)),
    "a zero point": row(conv, shifted, lambda: conv(4, 2)),
    "batch norm": row(lambda: conv(bias=False), lambda: norm(4), relu, lambda: conv(4, 2)),
    "batch norm of the input": row(lambda: norm(3), quant, lambda: conv()),
    "batch norm behind a pool": row(lambda: nn.AvgPool2d(2), lambda: norm(3), relu, lambda: conv(3, 2)),
    "batch norm 1d": row(
        lambda: conv(rank=1), lambda: norm(4, nn.BatchNorm1d), relu, lambda: conv(4, 2, rank=1), shape=(3, 9)),
    "scale and bias": row(lambda: qnn.QuantScaleBias(3, True, weight_bit_width=4), quant, lambda: conv()),
    "batch norm as scale and bias": row(
        conv, quant, lambda: qnn.BatchNorm2dToQuantScaleBias(4), quant, lambda: conv(4, 2)),
}  # fmt: skip


def act(make: Callable[[], Any]) -> Network:
    """An activation with a quantiser in it."""
    return row(conv, make, lambda: conv(4, 2))


def plain(make: Callable[[], Any]) -> Network:
    """An activation of PyTorch, and a quantiser behind it."""
    return row(conv, make, quant, lambda: conv(4, 2))


OPTIONS: dict[str, Any] = {"bit_width": 4, "return_quant_tensor": True}
ACTIVATIONS = {
    "QuantSigmoid": act(lambda: qnn.QuantSigmoid(**OPTIONS)),
    "QuantTanh": act(lambda: qnn.QuantTanh(**OPTIONS)),
    "QuantHardTanh": act(lambda: qnn.QuantHardTanh(min_val=-0.5, max_val=0.5, **OPTIONS)),
    "QuantHardSwish": act(lambda: qnn.QuantHardSwish(**OPTIONS)),
    "SiLU": plain(nn.SiLU),
    "GELU": plain(nn.GELU),
    "LeakyReLU": plain(lambda: nn.LeakyReLU(0.2)),
    "PReLU per channel": plain(lambda: nn.PReLU(4)),
    "Hardtanh": plain(lambda: nn.Hardtanh(-0.3, 0.6)),
    "ELU of the input": row(nn.ELU, quant, conv),
    "clamped at zero": plain(lambda: nn.Hardtanh(0.0, 0.4)),
}

MOVES = {
    "max pool": row(conv, quant, lambda: nn.MaxPool2d(3, 2, 1), lambda: conv(4, 2)),
    "max pool 1d": row(lambda: conv(rank=1), relu, lambda: nn.MaxPool1d(2), lambda: conv(4, 2, rank=1), shape=(3, 9)),
    "max pool with a zero point": row(
        conv, shifted, lambda: nn.MaxPool2d(3, 1, 1), lambda: conv(4, 2)),
    "adaptive max pool": row(conv, quant, lambda: nn.AdaptiveMaxPool2d(4), lambda: conv(4, 2)),
    "padding": row(lambda: nn.ReflectionPad2d(1), conv, quant, lambda: nn.ZeroPad2d((1, 0, 2, 0)), lambda: conv(4, 2)),
    "pixel shuffle": row(conv, relu, lambda: nn.PixelShuffle(2), lambda: conv(1, 2)),
    "channels last": step(lambda n, x: n.b(n.r(n.a(x.permute(0, 2, 3, 1)))), a=lambda: linear(3, 5), r=relu,
                          b=lambda: linear(5, 2)),
    "chunks exchanged": step(
        lambda n, x: n.b(torch.cat(n.r(n.a(x)).chunk(2, 1)[::-1], 1)), a=conv, r=bare, b=lambda: conv(4, 2)),
    "a part": step(lambda n, x: n.b(n.r(n.a(x))[:, 1:, ::2]), a=conv, r=bare, b=lambda: conv(3, 2)),
    "nearest": row(conv, relu, lambda: qnn.QuantUpsamplingNearest2d(scale_factor=2), lambda: conv(4, 2)),
    "nearest by name": row(conv, relu, lambda: qnn.QuantUpsample(size=(9, 7)), lambda: conv(4, 2)),
    "interpolated": row(conv, relu, lambda: nn.Upsample(scale_factor=2, mode="bilinear"), quant, lambda: conv(4, 2)),
}  # fmt: skip

SUMS = {
    "QuantEltwiseAdd": step(
        lambda n, x: n.r(n.s(n.a(x), n.b(x))), a=conv, b=conv, r=relu,
        s=lambda: qnn.QuantEltwiseAdd(input_bit_width=5, output_quant=None)),
    "equal scales": step(lambda n, x: n.r(n.q(n.a(x)) + n.q(n.b(x))), a=conv, b=conv, q=quant, r=relu),
    "unequal scales": step(
        lambda n, x: n.r(n.p(n.a(x)) + n.q(n.b(x))), a=conv, b=conv, r=relu,
        p=lambda: qnn.QuantIdentity(bit_width=3), q=lambda: qnn.QuantIdentity(bit_width=5)),
    "a sum without a quantiser": step(lambda n, x: n.c(n.q(n.a(x)) + n.q(n.b(x))), a=conv, b=conv, q=quant,
                                      c=lambda: conv(4, 2)),
    "a difference": step(lambda n, x: n.r(n.q(n.a(x)) - n.q(n.b(x))), a=conv, b=conv, q=quant, r=quant),
    "concatenation": step(
        lambda n, x: n.c(torch.cat([n.q(n.a(x)), n.q(n.b(x))], 1)), a=conv, b=lambda: conv(3, 2), q=quant,
        c=lambda: conv(6, 2)),
    "stacked": step(
        lambda n, x: n.c(torch.stack([n.q(n.a(x)), n.q(x)], 2).flatten(1, 2)), a=lambda: conv(3, 3), q=quant,
        c=lambda: conv(6, 2)),
    "a product": step(
        lambda n, x: n.c(n.r(n.q(n.a(x)) * n.p(n.b(x)))), a=conv, b=conv, q=quant, p=lambda: quant(3), r=quant,
        c=lambda: conv(4, 2)),
    "squeeze and excite": step(
        lambda n, x: n.r(x * n.g(n.f(n.p(torch.mean(x, (2, 3), keepdim=True))))), p=quant, f=lambda: conv(3, 3, 1),
        g=lambda: qnn.QuantSigmoid(**OPTIONS), r=quant),
    "a constant": step(lambda n, x: n.c(n.q(0.7 * n.r(n.a(x)) - 0.2)), a=conv, r=bare, q=quant, c=lambda: conv(4, 2)),
    "from one": step(lambda n, x: n.c(n.q(1 - n.r(n.a(x)))), a=conv, r=bare, q=quant, c=lambda: conv(4, 2)),
}  # fmt: skip

POOLS = {
    "TruncAvgPool2d": row(
        conv, relu,
        lambda: qnn.TruncAvgPool2d(
            2, trunc_quant=TruncTo8bit, bit_width=4, float_to_int_impl_type=FloatToIntImplType.FLOOR),
        lambda: conv(4, 2)),
    "TruncAdaptiveAvgPool2d": row(conv, relu, lambda: qnn.TruncAdaptiveAvgPool2d(2, bit_width=4), lambda: conv(4, 2)),
    "average pool in ceil mode": row(conv, relu, lambda: nn.AvgPool2d(4, 3, ceil_mode=True), quant, lambda: conv(4, 2)),
    "average pool 1d": row(
        lambda: conv(rank=1), relu, lambda: nn.AvgPool1d(2), quant, lambda: conv(4, 2, rank=1), shape=(3, 9)),
    "adaptive average pool": row(conv, relu, lambda: nn.AdaptiveAvgPool2d(4), quant, lambda: conv(4, 2)),
    "mean over tokens": step(
        lambda n, x: n.b(n.q(n.r(n.a(x)).mean(1))), (4, 6), a=lambda: linear(6, 5), r=bare, q=quant,
        b=lambda: linear(5, 3)),
}  # fmt: skip

NORMS = {
    "layer norm": row(lambda: linear(6, 5), quant, lambda: nn.LayerNorm(5), quant, lambda: linear(5, 3), shape=(4, 6)),
    "group norm": row(conv, quant, lambda: nn.GroupNorm(2, 4), quant, lambda: conv(4, 2)),
    "softmax": step(lambda n, x: n.b(n.q(F.softmax(n.p(n.a(x)), 1))), a=conv, p=quant, q=lambda: quant(4, signed=False),
                    b=lambda: conv(4, 2)),
}  # fmt: skip

NETWORKS: dict[str, Network] = {**WEIGHTED, **ACTIVATIONS, **MOVES, **SUMS, **POOLS, **NORMS, **ATTENTION}
