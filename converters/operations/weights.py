"""What operations with stored integer weights share."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation

__all__ = ["Weighted", "float_parameter", "for_node"]


class Weighted(Operation):
    """Integer weights, and their float copies, made once per dtype and device."""

    weight: Tensor

    @property
    def rows(self) -> int:
        """The axis of the result, of one image, along which its rows of weights lie."""
        return 0

    def check_weight(self, ndim: int) -> None:
        """Raise a ConversionError unless the weights are integers with ``ndim`` axes."""
        kind = self.weight.dtype
        if self.weight.ndim != ndim or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise ConversionError(
                type(self).__name__,
                f"weights of shape {tuple(self.weight.shape)} and type {self.weight.dtype}",
                f"give integers with {ndim} axes",
            )

    @cached_property
    def _copies(self) -> dict[Any, Tensor]:
        return {}

    def weight_as(self, x: Tensor) -> Tensor:
        """The weights in the dtype and on the device of ``x``."""
        key = x.dtype, x.device
        if key not in self._copies:
            self._copies[key] = self.weight.to(x.device, x.dtype)
        return self._copies[key]

    @cached_property
    def gain(self) -> int:
        return int(self.weight.to(torch.int64).abs().flatten(1).sum(1).max()) if self.weight.numel() else 0

    @abstractmethod
    def with_weight(self, weight: Tensor) -> Weighted:
        """The same operation with other integer weights of that shape."""

    @property
    def stored(self) -> Tensor:
        return self.weight


def for_node(op: Weighted) -> np.ndarray:
    """Weights as float32, for a NIR node: whole numbers, exact up to 2^24, and what other readers expect."""
    if op.weight.numel() and int(op.weight.to(torch.int64).abs().max()) >= 2**24:
        raise ConversionError(type(op).__name__, "weights of more than 24 bits", "float32 cannot hold them exactly")
    return op.weight.cpu().numpy().astype(np.float32)


def float_parameter(weight: Tensor) -> torch.nn.Parameter:
    """Integer weights as a parameter that learns, float64: other types may not hold them, whatever the default is."""
    return torch.nn.Parameter(weight.detach().to(torch.float64))
