"""Integer convolutions and dense layers on bytes, by PyTorch's own oneDNN kernels.

Bytes stand for signed numbers: ``x - zero_point``. Sums are kept in int32 and put out as float32, so they are exact
below 2**24, and beyond it still on the right side of any smaller number. Channels last throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from converters.synapses import Conv2d, Shape

__all__ = ["convolution", "dense", "int8_kernels", "reordered"]

Kernel = Callable[[Tensor], Tensor]


def int8_kernels() -> bool:
    """Whether the processor multiplies bytes (VNNI); without it float kernels are the faster ones."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)  # private: its absence means float kernels
    return bool(probe is not None and probe() and hasattr(torch.ops.onednn, "qconv2d_pointwise"))


def convolution(op: Conv2d, zero_point: int) -> Kernel:
    """Uint8 ``(N, H, W, C)`` to float32 of the same layout; ``op`` has int8 weights."""
    out = op.weight.shape[0]
    ones, zeros = torch.ones(out), torch.zeros(out, dtype=torch.int64)
    geometry = (list(op.stride), list(op.padding), list(op.dilation), op.groups)
    packed: dict[tuple[int, ...], Tensor] = {}

    def run(x: Tensor) -> Tensor:
        images = x.permute(0, 3, 1, 2)  # NCHW by name, channels last in memory
        key = tuple(images.shape)
        if key not in packed:
            packed[key] = torch.ops.onednn.qconv_prepack(op.weight, ones, 1.0, zero_point, *geometry, list(key))
        y = torch.ops.onednn.qconv2d_pointwise(
            images, 1.0, zero_point, packed[key], ones, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.permute(0, 2, 3, 1)

    return run


def dense(weight: Tensor, zero_point: int) -> Kernel:
    """Uint8 ``(N, in)`` to float32 ``(N, out)``; ``weight`` int8 ``(out, in)``."""
    out = len(weight)
    ones, zeros = torch.ones(out), torch.zeros(out, dtype=torch.int64)
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
    if len(shape) < 3:
        return weight
    return weight.reshape(len(weight), *shape).permute(0, 2, 3, 1).reshape(len(weight), -1)
