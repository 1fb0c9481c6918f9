"""Maxima: each result is one of the counts, so a neuron of threshold 1 passes its spikes on in the same step.

If every count of a window moves by at most 1 in a step, so does their maximum: the charge of a step is -1, 0 or 1.
There is nothing to round, and nothing to wait for. Padding takes no part in a maximum. The minimum is ``-max(-n)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, check_steps, register
from converters.operations.counting import Counting, GroupSum, Spread, broadcast, real

__all__ = ["AdaptiveMaxPool", "MaxOver", "MaxPool", "Maximum", "Minimum"]

_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_ADAPTIVE = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class _Passing(Counting):
    """Each result is one of the counts."""

    passes: ClassVar[bool] = True

    def reach(self, *reach: int) -> int:
        return max(reach)

    def change(self, *reach: int) -> int:
        return 1

    def interval(self, *ranges: Range) -> Range:
        low, high = (self(*(r[k][None] for r in ranges))[0] for k in (0, 1))
        return low, high


@register
@dataclass(frozen=True, eq=False)
class MaxPool(_Passing):
    """Maximum of each window of maps ``(C, *spatial)`` with one to three spatial axes, as ``F.max_pool1d`` to ``3d``.

    Numbers are given for each spatial axis. With ``ceil_mode`` a window may reach beyond the end.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        check_steps("MaxPool", kernel=(self.kernel, 1), stride=(self.stride, 1))
        check_steps("MaxPool", padding=(self.padding, 0), dilation=(self.dilation, 1))
        rank = len(self.kernel)
        if rank not in (1, 2, 3) or {len(self.stride), len(self.padding), len(self.dilation)} != {rank}:
            raise ConversionError(
                "MaxPool", f"a kernel {self.kernel} with other numbers of axes", "give one to three each"
            )
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ConversionError("MaxPool", f"padding {self.padding}", "at most half of the window")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != len(self.kernel) + 1:
            raise ConversionError(
                "MaxPool", f"an input of shape {shape}", f"it needs channels and {len(self.kernel)} axes"
            )
        return (shape[0], *(self._size(axis, n) for axis, n in enumerate(shape[1:])))

    def _size(self, axis: int, n: int) -> int:
        k, s, p, d = self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
        room = n + 2 * p - d * (k - 1) - 1
        size = (-(-room // s) if self.ceil_mode else room // s) + 1
        if self.ceil_mode and (size - 1) * s >= n + p:  # the last window would begin beyond the padding
            size -= 1
        if size < 1:
            raise ConversionError("MaxPool", f"an axis of size {n}", f"it is smaller than the window {self.kernel}")
        if any(all(not 0 <= o * s - p + j * d < n for j in range(k)) for o in range(size)):
            raise ConversionError("MaxPool", f"a window of {self.kernel} in the padding alone", "it has no maximum")
        return size

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        pool = _POOLS[len(self.kernel) - 1]
        found: Tensor = pool(real(x), self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
        return found.to(x.dtype)

    def padded(self, x: Tensor) -> Tensor:
        """A batch with so many zeros around it that the last window lies within."""
        sides: list[int] = []
        for axis in reversed(range(len(self.kernel))):
            n, before = x.shape[2 + axis], self.padding[axis]
            last = (self._size(axis, n) - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            sides += [before, max(0, last - n - before)]
        return F.pad(x, sides)

    def cut(self, y: Tensor, x: Tensor) -> Tensor:
        """Results on :meth:`padded` maps, cut to those that there are for ``x``."""
        size = self.output_shape(tuple(x.shape[1:]))[1:]
        return y[(slice(None), slice(None), *(slice(n) for n in size))]

    def structure(self, *shapes: Shape) -> Operation:
        return _Windows(self)


@register
@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(_Passing):
    """Maximum of windows that divide maps ``(C, *spatial)`` into ``size``, as ``F.adaptive_max_pool1d`` to ``3d``."""

    size: tuple[int, ...]

    def __post_init__(self) -> None:
        check_steps("AdaptiveMaxPool", size=(self.size, 1))
        if len(self.size) not in (1, 2, 3):
            raise ConversionError("AdaptiveMaxPool", f"a size {self.size}", "give one to three numbers")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != len(self.size) + 1 or min(shape) < 1:
            what = f"it needs channels and {len(self.size)} axes"
            raise ConversionError("AdaptiveMaxPool", f"an input of shape {shape}", what)
        return (shape[0], *self.size)

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        found: Tensor = _ADAPTIVE[len(self.size) - 1](real(x), self.size)
        return found.to(x.dtype)

    def structure(self, *shapes: Shape) -> Operation:
        return _Parts(self.size)


@register
@dataclass(frozen=True, eq=False)
class MaxOver(_Passing):
    """Maximum, or with ``smallest`` minimum, over ``axes`` of an image (0 are channels), as ``torch.amax``."""

    axes: tuple[int, ...]
    keepdim: bool = False
    smallest: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not self.axes or len(set(self.axes)) < len(self.axes) or not all(0 <= a < len(shape) for a in self.axes):
            raise ConversionError("MaxOver", f"axes {self.axes} of shape {shape}", "name some of them, each once")
        left = GroupSum(self.axes, keep=False, squeeze=not self.keepdim).output_shape(shape)
        if not left:
            raise ConversionError("MaxOver", "an extremum over all axes of an image", "keep them: keepdim=True")
        return left

    def __call__(self, *counts: Tensor) -> Tensor:
        act = torch.amin if self.smallest else torch.amax
        return act(counts[0], [a + 1 for a in self.axes], keepdim=self.keepdim)

    def structure(self, *shapes: Shape) -> Operation:
        return GroupSum(self.axes, keep=False, squeeze=not self.keepdim)

    def absolute(self, *shapes: Shape) -> Operation:
        return MaxOver(self.axes, self.keepdim)


@register
@dataclass(frozen=True, eq=False)
class Maximum(_Passing):
    """The largest of several sources, place by place; axes of size 1 are stretched."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast("Maximum", shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        return reduce(torch.maximum, counts)

    def structure(self, *shapes: Shape) -> Operation:
        return Spread()


@register
@dataclass(frozen=True, eq=False)
class Minimum(_Passing):
    """The smallest of several sources, place by place; axes of size 1 are stretched."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return broadcast("Minimum", shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        return reduce(torch.minimum, counts)

    def structure(self, *shapes: Shape) -> Operation:
        return Spread()

    def absolute(self, *shapes: Shape) -> Operation:
        return Maximum()


@dataclass(frozen=True, eq=False)
class _Windows(Operation):
    """The sum of each window of a max pool: its connections."""

    pool: MaxPool

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.pool.output_shape(*shapes)

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        p, act = self.pool, _CONVOLUTIONS[len(self.pool.kernel) - 1]
        ones = torch.ones(x.shape[1], 1, *p.kernel, dtype=x.dtype, device=x.device)
        return p.cut(act(p.padded(x), ones, stride=p.stride, dilation=p.dilation, groups=x.shape[1]), x)

    @property
    def gain(self) -> int:
        return math.prod(self.pool.kernel)


@dataclass(frozen=True, eq=False)
class _Parts(Operation):
    """The sum of each window of an adaptive pool: its connections."""

    size: tuple[int, ...]

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], *self.size)

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        for axis, parts in enumerate(self.size, start=2):
            n = x.shape[axis]
            ends = [(k * n // parts, -(-(k + 1) * n // parts)) for k in range(parts)]
            x = torch.cat([x.narrow(axis, a, b - a).sum(axis, keepdim=True) for a, b in ends], dim=axis)
        return x

    @property
    def gain(self) -> int:
        raise NotImplementedError("a structure: it does not know the size of its windows")
