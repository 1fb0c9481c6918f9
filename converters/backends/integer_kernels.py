"""Integer convolutions and dense layers on bytes, by PyTorch's own oneDNN kernels.

Bytes stand for signed numbers: ``x - zero_point``. Sums are kept in int32 and put out as float32, so they are exact
below 2**24, and beyond it still on the right side of any smaller number. Channels last throughout.

oneDNN's integer convolutions are wrong, or end the process, for some geometries: where a kernel lies wholly in the
padding, for one output column under unequal strides (tests/test_workarounds.py). So each geometry is
looked at, and tried against floats once per process, before it is trusted; the others are computed in floats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from converters.exact.sums import whole_dtype
from converters.operations import Conv2d, Shape
from converters.operations.convolution import Pair

__all__ = ["convolution", "dense", "int8_kernels", "reordered"]

Kernel = Callable[[Tensor], Tensor]


def int8_kernels() -> bool:
    """Whether the processor multiplies bytes (VNNI); without it float kernels are the faster ones."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)  # private: its absence means float kernels
    return bool(probe is not None and probe() and hasattr(torch.ops.onednn, "qconv2d_pointwise"))


def convolution(op: Conv2d, zero_point: int) -> Kernel:
    """Uint8 ``(N, H, W, C)`` to float32 of the same layout; ``op`` has int8 weights.

    Weights are packed once for each height and width, whatever the number of images.
    """
    packed: dict[tuple[int, ...], Kernel] = {}
    trusted: dict[tuple[int, ...], Kernel] = {}

    def pack(shape: tuple[int, ...]) -> Kernel:
        images, height, width, channels = shape
        geometry = _Geometry(op.stride, op.padding, op.dilation, op.groups)
        n = _columns_at_once(op, width)
        weight = op.weight if n == 1 else _for_columns(op.weight, n)
        if not _trusted((images, height, width // n, channels * n), tuple(weight.shape), zero_point, geometry):
            return lambda x: _in_floats(x, op, zero_point)
        if (height, width) not in packed:
            packed[height, width] = _onednn((images, height, width // n, channels * n), weight, zero_point, geometry)
        kernel = packed[height, width]
        if n == 1:
            return kernel

        def columns(x: Tensor) -> Tensor:
            y = kernel(x.view(images, height, width // n, channels * n))
            return y.reshape(*y.shape[:2], y.shape[2] * n, y.shape[3] // n)

        return columns

    def run(x: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in trusted:
            trusted[key] = pack(key)
        return trusted[key](x)

    return run


class _Geometry(NamedTuple):
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def _onednn(shape: tuple[int, ...], weight: Tensor, zero_point: int, geometry: _Geometry) -> Kernel:
    """oneDNN's kernel for uint8 of ``shape``, ``(N, H, W, C)``."""
    images, height, width, channels = shape
    out, lists = len(weight), (*(list(pair) for pair in geometry[:3]), geometry.groups)
    ones, zeros = torch.ones(out, dtype=torch.float32), torch.zeros(out, dtype=torch.int64)
    view = [images, channels, height, width]  # NCHW by name, channels last in memory
    packed = torch.ops.onednn.qconv_prepack(weight, ones, 1.0, zero_point, *lists, view)
    rest = (ones, zeros, None, *lists, 1.0, 0, torch.float32, "none", [], "")

    def kernel(x: Tensor) -> Tensor:
        y = torch.ops.onednn.qconv2d_pointwise(x.permute(0, 3, 1, 2), 1.0, zero_point, packed, *rest)
        return y.permute(0, 2, 3, 1)

    return kernel


def _in_floats(x: Tensor, op: Conv2d, zero_point: int) -> Tensor:
    """The same sums by PyTorch's float kernels: float32 ``(N, H, W, C)``."""
    dtype = whole_dtype(255 * op.gain, x.device)
    return op(x.permute(0, 3, 1, 2).to(dtype) - zero_point).permute(0, 2, 3, 1).to(torch.float32)


@lru_cache(maxsize=1024)
def _trusted(shape: tuple[int, ...], weights: tuple[int, ...], zero_point: int, geometry: _Geometry) -> bool:
    """Whether oneDNN's kernel of this geometry is right: in the first image and the last of a random batch."""
    for size, taps, padding, dilation in zip(shape[1:3], weights[2:], geometry.padding, geometry.dilation, strict=True):
        reach = dilation * (taps - 1)
        if reach >= size or padding > reach:  # these may end the process
            return False
    generator = torch.Generator().manual_seed(0)
    near = torch.randint(-1, 2, shape, generator=generator, dtype=torch.int16).add_(zero_point)
    x = near.clamp_(0, 255).to(torch.uint8)
    weight = torch.randint(-127, 128, weights, generator=generator, dtype=torch.int8)
    found = _onednn(shape, weight, zero_point, geometry)(x)
    ends = [0, -1] if len(x) > 1 else [0]
    return torch.equal(found[ends], _in_floats(x[ends], Conv2d(weight, *geometry), zero_point))


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
    """Uint8 ``(N, in)`` to float32 ``(N, out)``; ``weight`` int8 ``(out, in)``, packed at the first call."""
    out = len(weight)
    ones, zeros = torch.ones(out, dtype=torch.float32), torch.zeros(out, dtype=torch.int64)
    packed: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        if not packed:
            packed.append(torch.ops.onednn.qlinear_prepack(weight.contiguous(), list(x.shape)))
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, zero_point, packed[0], ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return run


def reordered(weight: Tensor, shape: Shape) -> Tensor:
    """A dense layer's columns from channels first to channels last, for an input of ``shape``."""
    return weight.reshape(len(weight), *shape).movedim(1, -1).reshape(len(weight), -1)
