"""Small networks of attention: heads, masks, tokens that are constants, encoder layers, windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)

from tests.gallery.cases import TOKENS, Case, Shape, Step, parameter, step

__all__ = ["ATTENTION"]

HEADS, FEATURES, LENGTH = 2, 8, 5
INFINITE = -math.inf


class Attention(nn.Module):
    """``nn.MultiheadAttention`` of the input with itself, or with some of it, and what is done to the result."""

    def __init__(self, first: bool = True, cross: bool = False, call: dict[str, Any] | None = None, **options: Any):
        super().__init__()
        self.a = nn.MultiheadAttention(FEATURES, HEADS, batch_first=first, **options)
        self.first, self.cross, self.call = first, cross, {"need_weights": False, **(call or {})}
        with torch.no_grad():
            for p in self.a.parameters():
                p.normal_(0, 0.5)

    def forward(self, x: Tensor) -> Any:
        other = x[:, 1:4] if self.cross else x
        if not self.first:
            x, other = x.transpose(0, 1), other.transpose(0, 1)
        y, weights = self.a(x, other, other, **self.call)
        y = y if self.first else y.transpose(0, 1)
        return y if weights is None else (y, weights)


def attention(**options: Any) -> Case:
    return Case(partial(Attention, **options), TOKENS, signed=True, levels=15)


def split(x: Tensor) -> list[Tensor]:
    """Query, key and value of heads, ``(N, heads, L, d)``."""
    y = x.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return [y[k] for k in range(3)]


def of_heads(act: Callable[[Tensor, Tensor, Tensor], Tensor], **layers: Any) -> Case:
    """A function of query, key and value behind one linear layer."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return torch.as_tensor(net.out(act(*split(net.qkv(x))).transpose(1, 2).flatten(2)))

    return step(forward, qkv=wide(3 * FEATURES), out=wide(FEATURES), shape=TOKENS, signed=True, levels=15, **layers)


def wide(features: int, given: int = FEATURES) -> Callable[[], nn.Module]:
    """A linear layer whose results are large enough to differ from one another behind a softmax."""

    def make() -> nn.Module:
        layer = nn.Linear(given, features)
        nn.init.normal_(layer.weight, 0, 0.6)
        return layer

    return make


def causal(n: int = LENGTH, value: float = INFINITE) -> Tensor:
    return torch.full((n, n), value).triu(1)


SCORES = {
    "attention": attention(),
    "attention without bias": attention(bias=False),
    "attention, images second": attention(first=False),
    "attention of some tokens": attention(cross=True),
    "attention of some tokens, images second": attention(first=False, cross=True),
    "attention and its weights": attention(call={"need_weights": True}),
    "attention and the weights of each head": attention(
        first=False, cross=True, call={"need_weights": True, "average_attn_weights": False}
    ),
    "attention of one head": Case(lambda: Encoder(nn.MultiheadAttention(FEATURES, 1, batch_first=True)), TOKENS, True),
    "attention with other features": Case(
        lambda: Other(nn.MultiheadAttention(FEATURES, HEADS, kdim=6, vdim=4, batch_first=True)), TOKENS, True, 15
    ),
    "attention with a mask": attention(call={"attn_mask": causal()}),
    "attention with a mask and weights": attention(call={"attn_mask": causal(), "need_weights": True}),
    "attention with a mask of booleans": attention(first=False, call={"attn_mask": causal() != 0}),
    "attention, causal": attention(call={"attn_mask": causal(), "is_causal": True}),
    "attention with bias tokens": attention(add_bias_kv=True),
    "scaled dot product": of_heads(F.scaled_dot_product_attention),
    "scaled dot product, causal": of_heads(partial(F.scaled_dot_product_attention, is_causal=True)),
    "scaled dot product, scaled": of_heads(partial(F.scaled_dot_product_attention, scale=0.7)),
    "scaled dot product with a bias": of_heads(
        partial(F.scaled_dot_product_attention, attn_mask=torch.linspace(-1, 1, 25).view(5, 5))
    ),
    "scaled dot product with a bias and a mask": of_heads(
        partial(F.scaled_dot_product_attention, attn_mask=torch.linspace(-1, 1, 25).view(5, 5) + causal())
    ),
    "scaled dot product with booleans": of_heads(
        partial(F.scaled_dot_product_attention, attn_mask=torch.eye(5).roll(1, 0).bool() | torch.eye(5).bool())
    ),
    "attention spelled out": of_heads(lambda q, k, v: (q @ k.mT / 2).softmax(-1) @ v),
    "attention, query scaled": of_heads(lambda q, k, v: (q * 0.5 @ (k * 0.9).transpose(-2, -1)).softmax(-1) @ v),
    "attention in einsum": of_heads(
        lambda q, k, v: torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).mul(0.5).softmax(-1), v)
    ),
    "attention in einsum, tokens first": of_heads(
        lambda q, k, v: torch.einsum(
            "bhij,bjhd->bhid", torch.einsum("bihd,bjhd->bhij", q.transpose(1, 2), k.transpose(1, 2)).softmax(-1),
            v.transpose(1, 2),
        )
    ),
    "filled": of_heads(lambda q, k, v: (q @ k.mT).masked_fill(causal() != 0, INFINITE).softmax(-1) @ v),
    "filled with a large number": of_heads(lambda q, k, v: (q @ k.mT).masked_fill(causal() != 0, -1e9).softmax(-1) @ v),
    "chosen": of_heads(lambda q, k, v: torch.where(causal() == 0, q @ k.mT, INFINITE).softmax(-1) @ v),
    "chosen from a tensor": of_heads(
        lambda q, k, v: torch.where(causal() == 0, q @ k.mT, torch.tensor(-1e4)).softmax(-1) @ v
    ),
    "masked twice": of_heads(lambda q, k, v: (q @ k.mT + causal() + causal().roll(1, 0).nan_to_num(0, 0, -100)
                                              .masked_fill(torch.eye(5).bool(), 0)).softmax(-1) @ v),
    "of channels": of_heads(lambda q, k, v: (q.mT @ k).softmax(-2).mT.matmul(v.mT).mT),
    "sum of matrices": step(
        lambda n, x: n.a(x) + torch.einsum("nld,ed->nle", n.b(x), n.w), a=wide(6), b=wide(8), w=parameter(6, 8),
        shape=TOKENS,
    ),
    "outer product": step(lambda n, x: torch.einsum("nl,nd->nld", n.a(x).mean(2), n.b(x).mean(1)), a=wide(4),
                          b=wide(3), shape=TOKENS),
}  # fmt: skip


class Encoder(nn.Module):
    def __init__(self, a: nn.MultiheadAttention) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.a(x, x, x, need_weights=False)[0] + x)


class Other(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.a(x, x[:, 1:, :6], x[:, 1:, 2:6], need_weights=False)[0])


class Classifier(nn.Module):
    """A class token, a position embedding, and an encoder layer; logits from the token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, FEATURES, 3, 3)
        self.token = nn.Parameter(torch.randn(1, 1, FEATURES))
        self.places = nn.Parameter(torch.randn(1, 5, FEATURES))
        self.layer = nn.TransformerEncoderLayer(
            FEATURES, HEADS, 16, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1) + self.places
        return torch.as_tensor(self.head(self.layer(y)[:, 0]))


def layer(**options: Any) -> Case:
    options = {"batch_first": True, **options}
    return Case(lambda: nn.TransformerEncoderLayer(FEATURES, HEADS, 12, **options), TOKENS, signed=True, levels=15)


def encoder(depth: int, **options: Any) -> nn.Module:
    one = nn.TransformerEncoderLayer(FEATURES, HEADS, 12, batch_first=True, norm_first=True, **options)
    return nn.TransformerEncoder(one, depth, norm=nn.LayerNorm(FEATURES), enable_nested_tensor=False)


def window(shift: int, size: int = 2) -> nn.Module:
    return SwinTransformerBlock(FEATURES, HEADS, [size, size], [shift, shift], 2.0)


def cosine_window(shift: int, size: int = 2) -> nn.Module:
    """Of Swin v2: queries and keys of unit length, times a number for each head; a bias that a network makes."""
    return SwinTransformerBlockV2(FEATURES, HEADS, [size, size], [shift, shift], 2.0)


WINDOWS: Shape = (4, 6, FEATURES)

ENCODERS = {
    "encoder layer": layer(),
    "encoder layer, GELU": layer(activation="gelu"),
    "encoder layer, norms first": layer(norm_first=True),
    "encoder layer, norms first, GELU": layer(norm_first=True, activation="gelu"),
    "encoder": Case(lambda: encoder(2), TOKENS, signed=True, levels=15),
    "encoder, causal": Case(
        lambda: Step(lambda n, x: n.e(x, mask=causal(), is_causal=True), e=encoder(1)), TOKENS, signed=True, levels=15
    ),
    "class token": Case(Classifier, (3, 6, 6), levels=15),
    "class token behind": step(
        lambda n, x: n.b(torch.cat([n.a(x), n.t.repeat(x.shape[0], 1, 1), x[:, :2]], 1)),
        a=wide(FEATURES), b=wide(4), t=parameter(1, 2, FEATURES), shape=TOKENS, signed=True,
    ),
    "stacked with a constant": step(
        lambda n, x: n.b(torch.stack([n.a(x), n.t.expand(x.shape[0], 5, FEATURES)], 1)),
        a=wide(FEATURES), b=wide(4), t=parameter(FEATURES), shape=TOKENS, signed=True,
    ),
    "vision transformer": Case(lambda: _headed(VisionTransformer(12, 4, 2, 2, 8, 16, num_classes=4)), (3, 12, 12)),
    "windows": Case(lambda: window(0), WINDOWS, signed=True, levels=15),
    "windows, shifted": Case(lambda: window(1), WINDOWS, signed=True, levels=15),
    "windows, padded": Case(lambda: window(1, 3), WINDOWS, signed=True, levels=15),
    "patches merged": Case(lambda: PatchMerging(FEATURES), WINDOWS, signed=True, levels=15),
    "windows of cosines": Case(lambda: cosine_window(0), WINDOWS, signed=True, levels=15),
    "windows of cosines, shifted and padded": Case(lambda: cosine_window(1, 3), WINDOWS, signed=True, levels=15),
    "Swin v2": Case(lambda: _small_swin(SwinTransformerBlockV2, PatchMergingV2), (3, 8, 8), levels=15),
}  # fmt: skip


def _headed(net: VisionTransformer) -> nn.Module:
    """With a head that is not all zeros, as torchvision begins with."""
    nn.init.normal_(net.heads.head.weight)
    return net


def _small_swin(block: Any, merging: Any) -> nn.Module:
    """Two stages of two blocks each, of windows of 2 x 2 places, the second shifted."""
    return SwinTransformer(
        [2, 2], FEATURES, [2, 2], [2, 4], [2, 2], 2.0, 0.0, 0.0, 0.0, 4, block=block, downsample_layer=merging
    )


ATTENTION: dict[str, Case] = {**SCORES, **ENCODERS}
