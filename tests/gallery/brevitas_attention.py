"""Small networks of Brevitas' attention: its projections, quantisers and masks, and an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat
from torch import Tensor, nn

from tests.gallery.brevitas_cases import Network, linear, quant

__all__ = ["ATTENTION"]

TOKENS, LENGTH, FEATURES, HEADS = (5, 8), 5, 8, 2


class Fixed(Int8ActPerTensorFloat):
    """Of a range that is no statistic: scores with minus infinity among them have none."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 2.0


def causal() -> Tensor:
    return torch.full((LENGTH, LENGTH), -math.inf).triu(1)


def spread(layer: nn.Module) -> nn.Module:
    """Weights large enough for results that differ from one another behind a softmax."""
    with torch.no_grad():
        for p in layer.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.6)
    return layer


class Attention(nn.Module):
    """``QuantMultiheadAttention`` of quantised tokens with themselves, or with some of them."""

    def __init__(
        self, call: dict[str, Any] | None = None, part: slice | None = None, mask: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.input = qnn.QuantIdentity(bit_width=8, return_quant_tensor=part is None)
        self.a = spread(qnn.QuantMultiheadAttention(FEATURES, HEADS, batch_first=True, **options))
        self.call, self.part = {"need_weights": False, **(call or {})}, part

    def forward(self, x: Tensor) -> Any:
        y = self.input(x)
        other = y if self.part is None else y[:, self.part]
        out, weights = self.a(y, other, other, attn_mask=self.mask, **self.call)
        return weights if self.call["need_weights"] else out


class Encoder(nn.Module):
    """Attention, two layers with weights, and shortcuts, with norms in front."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.n1, self.n2 = quant(8), nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.a = spread(qnn.QuantMultiheadAttention(FEATURES, HEADS, batch_first=True))
        self.q1, self.q2, self.s = (qnn.QuantIdentity(bit_width=8) for _ in range(3))
        self.up, self.act, self.down = linear(FEATURES, 12), qnn.QuantReLU(bit_width=8), linear(12, FEATURES)

    def forward(self, x: Tensor) -> Any:
        x = self.input(x)
        y = self.q1(self.n1(x))
        x = self.s(x + self.s(self.a(y, y, y, need_weights=False)[0]))
        return x + self.s(self.down(self.act(self.up(self.q2(self.n2(x))))))


class Scores(nn.Module):
    """``QuantScaledDotProductAttention`` of the heads of one layer."""

    def __init__(self, call: dict[str, Any] | None = None, groups: int = HEADS, **options: Any) -> None:
        super().__init__()
        self.input = quant(8)
        self.q, self.k, self.v = (spread(linear(FEATURES, 4 * n, 8)) for n in (HEADS, groups, groups))
        self.a, self.call = qnn.QuantScaledDotProductAttention(**options), call or {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        heads = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out: Tensor = self.a(*heads, **self.call).transpose(1, 2).flatten(2)
        return out


def of(make: Callable[..., nn.Module], **options: Any) -> Network:
    return Network(lambda: make(**options), TOKENS)


_SEPARATE = {"packed_in_proj": False}
_NUMBERS = torch.linspace(-1, 1, LENGTH**2).view(LENGTH, LENGTH)

ATTENTION = {
    "attention": of(Attention),
    "attention, separate projections": of(Attention, **_SEPARATE),
    "attention of some tokens": of(Attention, part=slice(1, 4), **_SEPARATE),
    "attention, weights per channel": of(Attention, in_proj_weight_quant=Int8WeightPerChannelFloat, bias=False),
    "attention, quantised projections": of(Attention, in_proj_output_quant=Int8ActPerTensorFloat),
    "attention, quantised scores": of(Attention, softmax_input_quant=Int8ActPerTensorFloat),
    "attention, quantised output": of(Attention, out_proj_output_quant=Int8ActPerTensorFloat, **_SEPARATE),
    "attention without a quantiser in front": of(Attention, in_proj_input_quant=None),
    "attention of few bits": of(
        Attention, in_proj_input_bit_width=4, q_scaled_bit_width=4, k_transposed_bit_width=3, v_bit_width=4,
        attn_output_weights_bit_width=5),
    "attention and its weights": of(Attention, call={"need_weights": True}),
    "attention and the weights of each head": of(
        Attention, call={"need_weights": True, "average_attn_weights": False}, part=slice(0, 3), **_SEPARATE),
    "attention, causal": of(Attention, mask=causal()),
    "attention, causal in booleans": of(Attention, mask=causal() != 0),
    "attention, causal, quantised scores": of(Attention, mask=causal(), softmax_input_quant=Fixed),
    "attention with a bias, quantised scores": of(Attention, mask=_NUMBERS, softmax_input_quant=Fixed),
    "attention with bias tokens": of(Attention, add_bias_kv=True, add_zero_attn=True, mask=causal()),
    "attention with bias tokens, quantised projections": of(
        Attention, add_bias_kv=True, in_proj_output_quant=Int8ActPerTensorFloat, **_SEPARATE),
    "an encoder": of(Encoder),
    "scaled dot product": of(Scores),
    "scaled dot product, causal": of(Scores, call={"is_causal": True}, sdpa_output_quant=Int8ActPerTensorFloat),
    "scaled dot product with a mask": of(
        Scores, call={"attn_mask": causal() == 0, "scale": 0.7}, softmax_input_quant=Fixed),
    "scaled dot product in groups": of(Scores, call={"enable_gqa": True}, groups=1),
}  # fmt: skip
