"""Transposed convolutions, of one to three axes: every count spreads over a window of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from converters.errors import ConversionError
from converters.operations.contract import Operation, Shape, register
from converters.operations.convolution import Kernels, Pair, Triple, convolution_of

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "from_pytorch", "transposed_of"]


class _Transposed(Kernels):
    """Of any rank. PyTorch's own weights have the channels that come in first: see :func:`from_pytorch`."""

    output_padding: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (max(s, d) for s, d in zip(self.stride, self.dilation, strict=True))
        if len(self.output_padding) != self.rank or not all(
            0 <= p < most for p, most in zip(self.output_padding, bounds, strict=True)
        ):
            found = f"output_padding {self.output_padding}"
            raise ConversionError(type(self).__name__, found, "it must be smaller than stride or dilation")

    def sizes(self, here: Shape) -> Shape:
        return tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + more + 1
            for n, s, p, d, k, more in zip(
                here, self.stride, self.padding, self.dilation, self.weight.shape[2:], self.output_padding, strict=True
            )
        )

    def __call__(self, *counts: Tensor) -> Tensor:
        (x,) = counts
        key = "pytorch", x.dtype, x.device
        if key not in self._copies:
            self._copies[key] = _regrouped(self.weight_as(x), self.groups)
        return self._act(x, self._copies[key], **self._geometry)

    def matrix(self, shape: Shape) -> sparse.csr_array:
        if any(more >= s for more, s in zip(self.output_padding, self.stride, strict=True)):
            return Operation.matrix(self, shape)
        back = convolution_of(
            self.rank, _regrouped(self.weight, self.groups), self.stride, self.padding, self.dilation, self.groups
        )
        return sparse.csr_array(back.matrix(self.output_shape(shape)).T)  # of which this is the transpose

    @property
    def _geometry(self) -> dict[str, Any]:
        return {**super()._geometry, "output_padding": self.output_padding}

    def _laid_out(self) -> Tensor:
        return _regrouped(self.weight, self.groups)


def _regrouped(weight: Tensor, groups: int) -> Tensor:
    """``(C_out, C_in / groups, ...)`` to ``(C_in, C_out / groups, ...)``, or back."""
    first, second, *kernel = weight.shape
    turned = weight.reshape(groups, first // groups, second, *kernel).transpose(1, 2)
    return turned.reshape(groups * second, first // groups, *kernel).contiguous()


def from_pytorch(weight: Tensor, groups: int) -> Tensor:
    """Weights of an ``nn.ConvTranspose``, ``(C_in, C_out / groups, *kernel)``, with the channels that go out first.

    Examples
    --------
    >>> import torch
    >>> from_pytorch(torch.zeros(4, 6, 3), 2).shape
    torch.Size([12, 2, 3])
    """
    return _regrouped(weight, groups)


@register
@dataclass(frozen=True, eq=False)
class ConvTranspose1d(_Transposed):
    """1-d transposed convolution; ``weight`` of shape ``(C_out, C_in / groups, k)``."""

    weight: Tensor
    stride: tuple[int] = (1,)
    padding: tuple[int] = (0,)
    dilation: tuple[int] = (1,)
    groups: int = 1
    output_padding: tuple[int] = (0,)

    rank, _act, _module = 1, F.conv_transpose1d, nn.ConvTranspose1d


@register
@dataclass(frozen=True, eq=False)
class ConvTranspose2d(_Transposed):
    """2-d transposed convolution; ``weight`` of shape ``(C_out, C_in / groups, kH, kW)``."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    output_padding: Pair = (0, 0)

    rank, _act, _module = 2, F.conv_transpose2d, nn.ConvTranspose2d


@register
@dataclass(frozen=True, eq=False)
class ConvTranspose3d(_Transposed):
    """3-d transposed convolution; ``weight`` of shape ``(C_out, C_in / groups, kD, kH, kW)``."""

    weight: Tensor
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1
    output_padding: Triple = (0, 0, 0)

    rank, _act, _module = 3, F.conv_transpose3d, nn.ConvTranspose3d


def transposed_of(rank: int, weight: Tensor, *geometry: Any) -> _Transposed:
    """The transposed convolution of a ``rank`` from 1 to 3, of ``stride``, ``padding``, ``dilation``, ``groups`` and
    ``output_padding``; ``weight`` with the channels that go out first."""
    kinds: dict[int, Any] = {1: ConvTranspose1d, 2: ConvTranspose2d, 3: ConvTranspose3d}
    found: _Transposed = kinds[rank](weight, *geometry)
    return found
