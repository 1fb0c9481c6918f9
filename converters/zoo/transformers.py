"""Small vision transformers, as plain PyTorch modules: what a network without convolutions in its body is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ViT6", "ViT6W"]


class _Attention(nn.Module):
    """Multi-head self-attention: ``softmax(q k / sqrt(d)) v`` for each head, and a projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, tokens, width)`` to the same."""
        images, tokens, width = x.shape
        q, k, v = (
            part.reshape(images, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(images, tokens, width))


class _Block(nn.Module):
    """Attention, then two dense layers per token, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT6(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) of six blocks, width 96, four heads, 192 hidden neurons a token.

    Not one of the paper's networks. One token for each 4 x 4 pixels, and a class token that the head reads. Two
    convolutions of stride 2 make the tokens, so that patches overlap: it trains in far fewer epochs for it (Xiao et
    al. 2021). Norms stand in front (pre-norm), and hidden neurons are ReLU, as in SpikeZIP-TF (You et al. 2024).
    """

    width, heads, hidden, depth = 96, 4, 192, 6
    stem: tuple[int, ...] = (32,)
    """Channels of the convolutions of stride 2 in front of the one that makes the tokens, each with batch norm."""

    def __init__(self, in_channels: int = 1, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        width = self.width
        layers: list[nn.Module] = []
        for channels in self.stem:
            layers += [nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        self.patch_embed = nn.Sequential(*layers, nn.Conv2d(in_channels, width, 3, 2, 1))
        tokens = (-(-size // 2 ** (len(self.stem) + 1))) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + tokens, width))
        self.blocks = nn.Sequential(*(_Block(width, self.heads, self.hidden) for _ in range(self.depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = F.pad(tokens, (0, 0, 1, 0)) + (self.pos_embed + F.pad(self.cls_token, (0, 0, 0, tokens.shape[1])))
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class ViT6W(ViT6):
    """:class:`ViT6` of width 128 with 384 hidden neurons, and a third convolution in front: 8 x 8 pixels a token.

    A million weights, more than twice as many as :class:`ViT6`, on a quarter of its tokens: an image takes half of the
    multiplications.
    """

    width, hidden = 128, 384
    stem = (32, 64)
