"""Small networks, one for each kind of thing that feed-forward networks are made of: a module and an input shape.

They are plain PyTorch, so that every front-end can try them. Most begin with a convolution, so that what they show
acts on counts of both signs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import StochasticDepth

from tests.gallery.attention import ATTENTION
from tests.gallery.cases import (
    CUBE,
    IMAGE,
    ROW,
    TOKENS,
    VECTOR,
    Case,
    Shape,
    Step,
    applied,
    behind,
    c,
    conv,
    norm,
    parameter,
    step,
    then,
)

__all__ = ["GALLERY", "Case"]

RANKS: tuple[tuple[int, Shape], ...] = ((1, ROW), (2, IMAGE), (3, CUBE))
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_ADAPTIVE_MAX_POOLS = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def ranked(name: str, *layers: Callable[[int], nn.Module], **options: Any) -> dict[str, Case]:
    """One case for each number of axes, of layers that are made for it."""
    return {
        f"{name} {rank}d": behind(*(partial(layer, rank) for layer in layers), shape=shape, **options)
        for rank, shape in RANKS
    }


WEIGHTED = {
    **ranked("conv", lambda r: conv(r, 4, 3, stride=2), signed=True),
    **ranked("conv dilated", lambda r: conv(r, 4, 4, dilation=2, groups=2, padding=2)),
    **ranked("conv same", lambda r: conv(r, 4, 3, 2, padding="same")),
    **ranked("conv transposed", lambda r: _TRANSPOSED[r - 1](4, 2, 3, 2, 1, 1)),
    "conv2d transposed in groups": behind(
        lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2, bias=False), nn.ReLU, bits=3
    ),
    "conv2d valid": behind(lambda: conv(2, 4, 3, padding="valid"), nn.ReLU),
    **{
        f"conv2d padding {mode}": behind(partial(conv, 2, 4, 3, padding_mode=mode))
        for mode in ("reflect", "replicate", "circular")
    },
    "conv2d depthwise separable": behind(
        lambda: conv(2, 4, 4, groups=4, bias=False), lambda: norm(2, 4), nn.ReLU6, lambda: conv(2, 4, 5, 1)
    ),
    "linear": behind(nn.ReLU, lambda: nn.Linear(8, 3), shape=VECTOR, signed=True, levels=15),
    "linear on tokens": Case(lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), TOKENS, signed=True),
    "linear on maps": behind(lambda: nn.Linear(6, 4), nn.ReLU),
    "matmul with a parameter": step(
        lambda n, x: F.relu(n.fc(x)) @ n.w, fc=lambda: nn.Linear(8, 6), w=parameter(6, 3), shape=TOKENS
    ),
    "weight norm": behind(lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3)), nn.ReLU),
    "spectral norm": behind(lambda: parametrizations.spectral_norm(nn.Conv2d(4, 3, 3)), nn.ReLU),
    "orthogonal": behind(lambda: parametrizations.orthogonal(nn.Linear(8, 8)), nn.ReLU, shape=VECTOR),
    "one layer twice": step(lambda n, x: n.a(F.relu(n.a(x))), a=c(3, 3), bits=4),
    "two bits": behind(nn.ReLU, lambda: conv(2, 4, 3), bits=2, levels=3),
    "three bits": behind(nn.Tanh, lambda: conv(2, 4, 3), bits=3, levels=3),
}

BATCH_NORM = {
    **ranked("batch norm", lambda r: norm(r, 4), lambda r: nn.ReLU(), lambda r: conv(r, 4, 2)),
    "batch norm of a vector": behind(lambda: norm(1, 8), nn.ReLU, lambda: nn.Linear(8, 3), shape=VECTOR),
    "batch norm of the input": Case(lambda: nn.Sequential(norm(2, 3), conv(2, 3, 4)), signed=True),
    "batch norm behind a ReLU": behind(nn.ReLU, lambda: norm(2, 4), lambda: conv(2, 4, 3)),
    "batch norm behind an addition": step(lambda n, x: n.bn(n.a(x) + n.b(x)), a=c(), b=c(), bn=lambda: norm(2, 4)),
    "batch norm behind a concatenation": step(
        lambda n, x: n.d(F.relu(n.bn(torch.cat([n.a(x), x], 1)))), a=c(), bn=lambda: norm(2, 7), d=c(7, 3)
    ),
    "batch norm behind a pool": behind(lambda: nn.AvgPool2d(2), lambda: norm(2, 4), nn.ReLU),
    "batch norm twice": behind(lambda: norm(2, 4), lambda: norm(2, 4), nn.ReLU),
    "batch norm and GELU": behind(lambda: norm(2, 4), nn.GELU, lambda: conv(2, 4, 3)),
}

FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "CELU": nn.CELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "Sigmoid": nn.Sigmoid,
    "Hardsigmoid": nn.Hardsigmoid,
    "Tanh": nn.Tanh,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Hardtanh": nn.Hardtanh,
    "LogSigmoid": nn.LogSigmoid,
    "RReLU": nn.RReLU,
    "PReLU of one": nn.PReLU,
    "Hardtanh of other bounds": lambda: nn.Hardtanh(-0.2, 0.7),
    "clamp from below": lambda: Step(lambda _, x: x.clamp(min=-0.3)),
    "abs": lambda: Step(lambda _, x: x.abs()),
    "square": lambda: Step(lambda _, x: x**2),
    "exp": lambda: Step(lambda _, x: x.exp()),
}
ACTIVATIONS = {
    **{name: behind(make, lambda: conv(2, 4, 3, 1)) for name, make in FUNCTIONS.items()},
    **{
        f"{name} alone": behind(nn.ReLU, lambda: nn.AvgPool2d(2), FUNCTIONS[name], signed=True, levels=15)
        for name in ("SiLU", "GELU", "Hardswish", "Sigmoid", "LeakyReLU", "Tanh")
    },
    "PReLU per channel": behind(lambda: nn.PReLU(4), lambda: conv(2, 4, 3, 1), signed=True),
    "PReLU of a row": behind(lambda: nn.PReLU(4), shape=ROW),
    "SiLU of a cube": behind(nn.SiLU, shape=CUBE),
    "GELU of tokens": Case(lambda: nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 4)), TOKENS),
    "SiLU of the input": Case(lambda: nn.Sequential(nn.SiLU(), conv(2, 3, 4)), signed=True),
    "SiLU behind an addition": step(lambda n, x: F.silu(n.a(x) + n.b(x)), a=c(), b=c()),
    "SiLU with two levels": behind(nn.SiLU, lambda: conv(2, 4, 3), levels=2, bits=4),
    "SiLU saturated": step(lambda n, x: F.silu(40 * n.a(x)), a=c(), levels=3),
    "sigmoid saturated": step(lambda n, x: torch.sigmoid(40 * n.a(x)), a=c(), levels=3),
    "SiLU in place": behind(lambda: nn.SiLU(inplace=True), lambda: conv(2, 4, 3)),
}

MAXIMA = {
    **ranked("max pool", lambda r: _MAX_POOLS[r - 1](2), lambda r: conv(r, 4, 2)),
    **ranked("adaptive max pool", lambda r: _ADAPTIVE_MAX_POOLS[r - 1](3)),
    "max pool padded": behind(lambda: nn.MaxPool2d(3, 2, 1), lambda: conv(2, 4, 3)),
    "max pool dilated": behind(lambda: nn.MaxPool2d(2, 1, dilation=2), lambda: conv(2, 4, 3)),
    "max pool in ceil mode": behind(nn.ReLU, lambda: nn.MaxPool2d(4, 3, ceil_mode=True), lambda: conv(2, 4, 3)),
    "max pool of the input": Case(lambda: nn.Sequential(nn.MaxPool2d(2), conv(2, 3, 4)), signed=True),
    "max pool in front of a ReLU": behind(lambda: norm(2, 4), lambda: nn.MaxPool2d(2), nn.ReLU, lambda: conv(2, 4, 3)),
    "max pool at the end": behind(lambda: nn.MaxPool2d(2)),
    "max pools in a row": behind(lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.MaxPool2d(2), lambda: conv(2, 4, 3)),
    "max pool with indices": then(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "max over channels": then(lambda x: x.amax(1, keepdim=True)),
    "max over an axis": then(lambda x: x.max(2)[0]),
    "max over the map": then(lambda x: x.amax((2, 3))),
    "min over an axis": then(lambda x: x.min(dim=3).values),
    "min over channels": then(lambda x: x.amin(1)),
    "maximum of two": step(lambda n, x: n.d(torch.maximum(n.a(x), F.relu(n.b(x)))), a=c(), b=c(), d=c(4, 3)),
    "minimum of two": step(lambda n, x: torch.minimum(n.a(x), n.b(x)), a=c(), b=c()),
    "maximum with the input": step(lambda n, x: torch.max(n.a(x), x), a=c(3, 3)),
    "maxout": behind(lambda: Step(lambda _, x: x.unflatten(1, (2, 2)).amax(2)), lambda: conv(2, 2, 3)),
    "max and mean": step(
        lambda n, x: n.d(torch.cat([n.a(x).amax(1, keepdim=True), n.a(x).mean(1, keepdim=True)], 1)), a=c(), d=c(2, 1)
    ),
    "inception": step(
        lambda n, x: n.d(torch.cat([F.relu(n.a(x)), F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1)], 1)),
        a=c(),
        d=c(10, 4),
        signed=True,
    ),
}

POOLS = {
    **ranked("average pool", lambda r: _POOLS[r - 1](2)),
    **ranked("adaptive average pool", lambda r: _ADAPTIVE_POOLS[r - 1](3)),
    "average pool in ceil mode": behind(lambda: nn.AvgPool2d(4, 3, ceil_mode=True), lambda: conv(2, 4, 3)),
    "average pool without padding": behind(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "average pool of another divisor": behind(lambda: nn.AvgPool2d(2, divisor_override=3)),
    "adaptive average pool to more": behind(lambda: nn.AdaptiveAvgPool2d((4, 8))),
    "global average pool": behind(
        nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, lambda: nn.Linear(4, 3), levels=15
    ),
    "mean over channels": then(lambda x: x.mean(1)),
    "mean over all axes": then(lambda x: x.mean((1, 2, 3), keepdim=True)),
    "mean over tokens": step(
        lambda n, x: n.b(F.relu(n.a(x)).mean(1)), a=lambda: nn.Linear(8, 6), b=lambda: nn.Linear(6, 2), shape=TOKENS
    ),
    "sum over an axis": then(lambda x: x.sum(2)),
}

SUMS = {
    "residual": step(lambda n, x: F.relu(n.b(F.relu(n.a(x))) + x), a=c(), b=c(4, 3)),
    "residual of both signs": step(lambda n, x: n.a(x) + x, a=c(3, 3), signed=True),
    "difference": step(lambda n, x: n.a(x) - n.b(x), a=c(), b=c()),
    "a multiple added": step(lambda n, x: torch.add(n.a(x), n.b(x), alpha=2), a=c(), b=c()),
    "channels added to a map": step(lambda n, x: n.a(x) + n.b(x).mean((2, 3), keepdim=True), a=c(), b=c()),
    "a number added": then(lambda x: x + 0.5),
    "a number less": then(lambda x: x - 0.25),
    "from one": then(lambda x: 1 - x),
    "a number added to the input": step(lambda n, x: n.a(x - 0.5), a=c()),
    "a parameter per channel added": step(lambda n, x: F.relu(n.a(x) + n.p), a=c(), p=parameter(4, 1, 1)),
    "position embedding": step(
        lambda n, x: n.b(n.a(x) + n.p),
        a=lambda: nn.Linear(8, 6),
        b=lambda: nn.Linear(6, 2),
        p=parameter(5, 6),
        shape=TOKENS,
    ),
    "a number times": then(lambda x: x * 2.5),
    "a negative number times": step(lambda n, x: n.d(-n.a(x)), a=c(), d=c(4, 3)),
    "divided by a number": then(lambda x: x / 3),
    "layer scale": step(lambda n, x: x + n.g * n.a(x), a=c(3, 3), g=parameter(3, 1, 1)),
    "layer scale of tokens": step(
        lambda n, x: x + n.g * n.a(x), a=lambda: nn.Linear(8, 8), g=parameter(8), shape=TOKENS
    ),
    "scaled ReLU": step(lambda n, x: n.b(0.7 * F.relu(n.a(x))), a=c(), b=c(4, 2)),
    "a dense block": step(
        lambda n, x: n.d(torch.cat([x, (y := F.relu(n.a(x))), F.relu(n.b(torch.cat([x, y], 1)))], 1)),
        a=c(3, 4),
        b=c(7, 2),
        d=c(9, 3),
    ),
    "unequal scales added": step(lambda n, x: 100 * n.a(x) + F.relu(n.b(x)), a=c(), b=c(), levels=15),
}


def squeeze_and_excite(net: Any, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    gate = torch.sigmoid(net.up(F.relu(net.down(y.mean((2, 3), keepdim=True)))))
    return torch.as_tensor(net.d(y * gate))


def squeeze_and_excite_hard(net: Any, x: Tensor) -> Tensor:
    y = F.hardswish(net.a(x))
    return y * F.hardsigmoid(net.up(F.relu(net.down(F.adaptive_avg_pool2d(y, 1)))))


PRODUCTS = {
    "product of two": step(lambda n, x: n.a(x) * n.b(x), a=c(), b=c()),
    "product with the input": step(lambda n, x: n.a(x) * x, a=c(3, 3), signed=True),
    "x sigmoid(x)": then(lambda x: x * torch.sigmoid(x)),
    "x relu6(x + 3) / 6": then(lambda x: x * F.relu6(x + 3) / 6),
    "gated linear unit": behind(lambda: nn.GLU(1), lambda: conv(2, 2, 3)),
    "squeeze and excite": step(squeeze_and_excite, a=c(), down=c(4, 2, 1), up=c(2, 4, 1), d=c(4, 3)),
    "squeeze and excite, hard": step(squeeze_and_excite_hard, a=c(), down=c(4, 2, 1), up=c(2, 4, 1)),
    "spatial gate": step(lambda n, x: n.a(x) * torch.sigmoid(n.b(x)), a=c(), b=c(3, 1)),
    "product of a vector": step(
        lambda n, x: n.a(x) * n.b(x), a=lambda: nn.Linear(10, 4), b=lambda: nn.Linear(10, 4), shape=VECTOR
    ),
    "product and ReLU": step(lambda n, x: n.d(F.relu(n.a(x) * n.b(x))), a=c(), b=c(), d=c(4, 2)),
    "product of a cube": step(
        lambda n, x: n.a(x) * n.b(x), a=lambda: conv(3, 2, 2), b=lambda: conv(3, 2, 1), shape=CUBE
    ),
}

NORMS = {
    "layer norm of tokens": step(
        lambda n, x: n.b(n.n(n.a(x))),
        a=lambda: nn.Linear(8, 6),
        n=lambda: nn.LayerNorm(6),
        b=lambda: nn.Linear(6, 3),
        shape=TOKENS,
    ),
    "layer norm of maps": behind(lambda: nn.LayerNorm([4, 6, 6]), lambda: conv(2, 4, 3)),
    "layer norm of a vector": behind(lambda: nn.LayerNorm(8), nn.ReLU, lambda: nn.Linear(8, 3), shape=VECTOR),
    "layer norm without weights": behind(lambda: nn.LayerNorm(6, elementwise_affine=False)),
    "layer norm, channels last": behind(
        lambda: Step(lambda n, x: n.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(4)),
        lambda: conv(2, 4, 2),
    ),
    "group norm": behind(lambda: nn.GroupNorm(2, 4), nn.ReLU, lambda: conv(2, 4, 2)),
    "group norm of a row": behind(lambda: nn.GroupNorm(2, 4), shape=ROW),
    "group norm and SiLU": behind(lambda: nn.GroupNorm(1, 4), nn.SiLU),
    **ranked("instance norm", lambda r: _INSTANCE_NORMS[r - 1](4, affine=r > 1)),
    "instance norm with statistics": behind(lambda: nn.InstanceNorm2d(4, track_running_stats=True), nn.ReLU),
    "RMS norm": behind(lambda: nn.RMSNorm(8, eps=1e-5), lambda: nn.Linear(8, 3), shape=VECTOR),
    "RMS norm of tokens": Case(lambda: nn.Sequential(nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 2)), TOKENS),
    "local response norm": behind(nn.ReLU, lambda: nn.LocalResponseNorm(3, alpha=0.5, k=2.0), lambda: conv(2, 4, 2)),
    "softmax over channels": behind(lambda: nn.Softmax(1), lambda: conv(2, 4, 2)),
    "softmax of a vector": behind(lambda: nn.Softmax(1), lambda: nn.Linear(8, 3), shape=VECTOR, levels=15),
    "softmax of logits, in float": behind(lambda: nn.Softmax(1), shape=VECTOR),
    "softmin": behind(lambda: nn.Softmin(1), lambda: conv(2, 4, 3)),
}


def shuffled(x: Tensor) -> Tensor:
    n = x.shape[0]
    return x.view(n, 2, 2, 6, 6).transpose(1, 2).contiguous().view(n, 4, 6, 6)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "reshape": lambda x: x.reshape(x.shape[0], 2, -1, 6),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(2),
    "slice": lambda x: x[:, 1:3, ::2, -4:],
    "select": lambda x: x[:, 2],
    "channels by number": lambda x: x[:, [2, 0, 2]],
    "narrow": lambda x: x.narrow(2, 1, 3),
    "flip": lambda x: x.flip(1, 3),
    "roll": lambda x: x.roll((1, -2), (1, 2)),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat each": lambda x: x.repeat_interleave(2, 3),
    "pad": lambda x: F.pad(x, (1, 0, 2, 1)),
    "crop": lambda x: F.pad(x, (-1, -1, -2, 0)),
    "pad reflected": lambda x: F.pad(x, (1, 2, 1, 0), "reflect"),
    "pad replicated": lambda x: F.pad(x, (1, 2, 1, 0), "replicate"),
    "pad circular": lambda x: F.pad(x, (1, 2, 1, 0), "circular"),
    "pad with channels": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "channel shuffle written out": shuffled,
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest exact": lambda x: F.interpolate(x, size=(4, 9), mode="nearest-exact"),
    "windows": lambda x: F.unfold(x, 2, stride=2),
    "windows along an axis": lambda x: x.unfold(2, 3, 2),
    "a half": lambda x: x.chunk(2, 1)[1],
    "a part": lambda x: x.split([1, 3], 1)[0],
    "one of all": lambda x: x.unbind(1)[3],
    "lower triangle": lambda x: x.tril(),
}
JOINS = {
    "stack": lambda x: torch.stack([x, x.flip(2)], 1),
    "concatenation of rows": lambda x: torch.cat([x, x[:, :, :2]], 2),
    "concatenation of columns": lambda x: torch.cat([x, x.flip(3)], -1),
    "halves changed": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "halves added": lambda x: (lambda a, b: a + b)(*x.chunk(2, 1)),
}
INTERPOLATIONS = {
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=(4, 9), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "area": lambda x: F.interpolate(x, size=(4, 4), mode="area"),
}
PLACES = {
    **{name: then(function) for name, function in (MOVES | JOINS).items()},
    **{
        name: behind(partial(Step, partial(applied, function)), partial(conv, 2, 4, 3))
        for name, function in INTERPOLATIONS.items()
    },
    **{
        f"{name} and on": behind(partial(Step, partial(applied, MOVES[name])), partial(conv, 2, a, 2), nn.ReLU)
        for name, a in (
            ("flip", 4),
            ("pad", 4),
            ("pixel shuffle", 1),
            ("channel shuffle", 4),
            ("nearest", 4),
            ("permute", 6),
            ("channels by number", 3),
        )
    },
    "linear 1d": behind(lambda: nn.Upsample(scale_factor=2, mode="linear"), nn.ReLU, shape=ROW),
    "trilinear 3d": behind(lambda: nn.Upsample(size=(3, 5, 6), mode="trilinear"), nn.ReLU, shape=CUBE),
    "nearest 1d": behind(lambda: nn.Upsample(scale_factor=2), shape=ROW),
    "nearest 3d": behind(lambda: nn.Upsample(size=(3, 5, 6)), shape=CUBE),
    "moves of the input": step(lambda n, x: n.a(x.flip(2).transpose(2, 3)), a=c(), signed=True),
    "sub-pixel convolution": behind(lambda: conv(2, 4, 8), lambda: nn.PixelShuffle(2), nn.ReLU, lambda: conv(2, 2, 2)),
    "concatenation of unequal scales": step(
        lambda n, x: n.d(torch.cat([20 * n.a(x), F.max_pool2d(F.relu(n.b(x)), 3, 1, 1)], 1)), a=c(), b=c(), d=c(8, 2)
    ),
}

BLOCKS = {
    "dropouts": behind(
        nn.Dropout, nn.ReLU, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, lambda: conv(2, 4, 2)
    ),
    "stochastic depth": step(lambda n, x: x + n.drop(n.a(x)), a=c(3, 3), drop=lambda: StochasticDepth(0.3, "row")),
    "stochastic depth of batches": step(
        lambda n, x: n.drop(n.a(x)) + x, a=c(3, 3), drop=lambda: StochasticDepth(0.3, "batch")
    ),
    "auxiliary head": step(
        lambda n, x: (lambda y, z: (z, n.aux(y)) if n.training else z)(F.relu(n.a(x)), n.b(F.relu(n.a(x)))),
        a=c(),
        b=c(4, 2),
        aux=c(4, 1),
    ),
    "inverted residual": step(
        lambda n, x: x + n.project(F.relu6(n.bn2(n.depth(F.relu6(n.bn1(n.expand(x))))))),
        expand=c(3, 6, 1, bias=False),
        bn1=lambda: norm(2, 6),
        depth=c(6, 6, 3, groups=6),
        bn2=lambda: norm(2, 6),
        project=c(6, 3, 1),
    ),
    "ConvNeXt block": step(
        lambda n, x: x + n.g * n.down(F.gelu(n.up(n.n(n.a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        a=c(3, 3, 3, groups=3),
        n=lambda: nn.LayerNorm(3),
        up=lambda: nn.Linear(3, 6),
        down=lambda: nn.Linear(6, 3),
        g=parameter(3, 1, 1),
        signed=True,
        levels=15,
    ),
    "ShuffleNet block": step(
        lambda n, x: (lambda y: F.channel_shuffle(torch.cat([y.chunk(2, 1)[0], F.relu(n.b(y.chunk(2, 1)[1]))], 1), 2))(
            F.relu(n.a(x))
        ),
        a=c(),
        b=c(2, 2),
    ),
    "U-Net": step(
        lambda n, x: n.out(torch.cat([F.relu(n.up(F.relu(n.mid(F.max_pool2d(y := F.relu(n.a(x)), 2))))), y], 1)),
        a=c(),
        mid=c(4, 5),
        up=lambda: nn.ConvTranspose2d(5, 4, 2, 2),
        out=c(8, 2, 1),
    ),
    "mixer": step(
        lambda n, x: x + n.t(n.n(x).transpose(1, 2)).transpose(1, 2),
        n=lambda: nn.LayerNorm(8),
        t=lambda: nn.Linear(5, 5),
        shape=TOKENS,
        signed=True,
    ),
}

GALLERY: dict[str, Case] = {
    **WEIGHTED,
    **BATCH_NORM,
    **ACTIVATIONS,
    **MAXIMA,
    **POOLS,
    **SUMS,
    **PRODUCTS,
    **NORMS,
    **PLACES,
    **BLOCKS,
    **ATTENTION,
}
