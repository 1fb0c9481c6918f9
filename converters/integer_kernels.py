"""Integer convolutions and dense layers on bytes, by PyTorch's own oneDNN kernels.

Bytes stand for signed numbers: ``x - zero_point``. Sums are kept in int32 and put out as float32, so they are exact
below 2**24, and beyond it still on the right side of any smaller number. Channels last throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from converters.operations import Conv2d, Shape

__all__ = ["convolution", "dense", "int8_kernels", "reordered"]

Kernel = Callable[[Tensor], Tensor]


def int8_kernels() -> bool:
    """Whether the processor multiplies bytes (VNNI); without it float kernels are the faster ones."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)  # private: its absence means float kernels
    return bool(probe is not None and probe() and hasattr(torch.ops.onednn, "qconv2d_pointwise"))


def convolution(op: Conv2d, zero_point: int) -> Kernel:
    """Uint8 ``(N, H, W, C)`` to float32 of the same layout; ``op`` has int8 weights."""
    packed: dict[tuple[int, ...], tuple[Tensor, int, tuple]] = {}

    def pack(shape: tuple[int, ...]) -> tuple[Tensor, int, tuple]:
        images, height, width, channels = shape
        n = _columns_at_once(op, width)
        weight = op.weight if n == 1 else _for_columns(op.weight, n)
        out = len(weight)
        view = [images, channels * n, height, width // n]
        geometry = (list(op.stride), list(op.padding), list(op.dilation), op.groups)
        ones, zeros = torch.ones(out, dtype=torch.float32), torch.zeros(out, dtype=torch.int64)
        prepacked = torch.ops.onednn.qconv_prepack(weight, ones, 1.0, zero_point, *geometry, view)
        return prepacked, n, (ones, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], "")

    def run(x: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in packed:
            packed[key] = pack(key)
        weight, n, rest = packed[key]
        if n > 1:
            x = x.view(key[0], key[1], key[2] // n, key[3] * n)
        # NCHW by name, channels last in memory
        y = torch.ops.onednn.qconv2d_pointwise(x.permute(0, 3, 1, 2), 1.0, zero_point, weight, *rest)
        y = y.permute(0, 2, 3, 1)
        return y if n == 1 else y.reshape(*y.shape[:2], y.shape[2] * n, y.shape[3] // n)

    return run


COLUMNS = 4


def _columns_at_once(op: Conv2d, width: int) -> int:
    """How many columns to take as channels: with a channel or two, the kernels' products of four are mostly empty."""
    kw, channels = op.weight.shape[3], op.weight.shape[1]
    plain = op.groups == 1 and op.stride == op.dilation == (1, 1) and op.padding[1] == 0
    if not plain or channels > 2 or width % COLUMNS or (width - kw + 1) % COLUMNS:
        return 1
    return COLUMNS


def _for_columns(weight: Tensor, n: int) -> Tensor:
    """The same convolution on ``n`` neighbouring columns as channels, to ``n`` columns of outputs as channels."""
    out, channels, kh, kw = weight.shape
    wide = torch.zeros(n, out, n, channels, kh, (n + kw - 2) // n + 1, dtype=weight.dtype)
    for p in range(n):
        for j in range(kw):
            block, place = divmod(p + j, n)
            wide[p, :, place, :, :, block] = weight[:, :, :, j]
    return wide.reshape(n * out, n * channels, kh, -1)


def dense(weight: Tensor, zero_point: int) -> Kernel:
    """Uint8 ``(N, in)`` to float32 ``(N, out)``; ``weight`` int8 ``(out, in)``."""
    out = len(weight)
    ones, zeros = torch.ones(out, dtype=torch.float32), torch.zeros(out, dtype=torch.int64)
    packed: dict[int, Tensor] = {}

    def run(x: Tensor) -> Tensor:
        if len(x) not in packed:
            packed[len(x)] = torch.ops.onednn.qlinear_prepack(weight.contiguous(), list(x.shape))
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, zero_point, packed[len(x)], ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return run


def reordered(weight: Tensor, shape: Shape) -> Tensor:
    """A dense layer's columns from channels first to channels last, for an input of ``shape``."""
    return weight.reshape(len(weight), *shape).movedim(1, -1).reshape(len(weight), -1)
