"""Layers of PyTorch between two neurons: whole-number synapses, and what one unit of their charge is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.snntorch_obstacles import NEURONS, obstacle
from converters.errors import ConversionError
from converters.operations import Conv2d, Flatten, Linear, Operation, SumPool2d

__all__ = ["Chain"]

_BITS = 23  # of a weight, besides its sign: what float32 holds of the largest


class Chain:
    """Synapses on their way to a neuron.

    Attributes
    ----------
    ops : list
        Whole-number operations, in order.
    unit : Fraction
        Real value of one unit of charge, exactly: powers of two, and the areas of pools.
    bias : tensor or None
    path : str
        Of the last module.
    """

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self.unit = Fraction(1)
        self.bias: Tensor | None = None
        self.path = ""

    def add(self, path: str, module: nn.Module) -> None:
        """Append a layer, or raise a ConversionError that names it and the way out."""
        self.path = path
        handler = _SYNAPSES.get(type(module))
        if handler is None:
            todo = "use Linear, Conv2d, AvgPool2d, Flatten and CaLIF in an nn.Sequential"
            if any(True for _ in module.children()) and type(module).__module__ != "torch.nn":
                todo = "put its layers, in their order, into an nn.Sequential"
            if isinstance(module, NEURONS):
                reason = obstacle(module)
                todo = f"it {reason}" if reason else "replace it with swap_neurons(model) first"
            raise ConversionError(path or "model", f"a {type(module).__name__}", todo)
        if self.bias is not None and handler is not _same and not _averages(module):
            raise ConversionError(
                path, "a layer behind a bias, without neurons between them", "put a CaLIF between them"
            )
        handler(self, path, module)

    def weigh(self, path: str, weight: Tensor, make: Callable[[Tensor], Operation]) -> None:
        w = weight.detach().double().cpu()
        if not bool(torch.isfinite(w).all()):
            raise ConversionError(path, "weights that are not finite", "check the training run")
        largest = float(w.abs().max()) if w.numel() else 0.0
        unit = 2.0 ** (math.frexp(largest)[1] - _BITS) if largest else 1.0
        whole = torch.round(w / unit).to(torch.int64)
        while bool((whole % 2 == 0).all()) and bool(whole.any()):  # as small as they can be
            whole, unit = whole // 2, unit * 2
        self.ops.append(make(whole.to(torch.int32)))
        self.unit *= Fraction(unit)


def _linear(chain: Chain, path: str, m: Any) -> None:
    chain.weigh(path, m.weight, Linear)
    chain.bias = m.bias


def _conv(chain: Chain, path: str, m: Any) -> None:
    if m.padding_mode != "zeros" or isinstance(m.padding, str):
        raise ConversionError(path, f"padding {m.padding!r}, {m.padding_mode!r}", "pad with zeros, in numbers")
    chain.weigh(path, m.weight, lambda w: Conv2d(w, m.stride, m.padding, m.dilation, m.groups))
    chain.bias = m.bias


def _pool(chain: Chain, path: str, m: Any) -> None:
    kernel, stride, padding = (_pair(v) for v in (m.kernel_size, m.stride, m.padding))
    if m.ceil_mode or (padding != (0, 0) and not m.count_include_pad and not m.divisor_override):
        raise ConversionError(path, "a pool whose windows have different divisors", "use the plain one")
    chain.ops.append(SumPool2d(kernel, stride, padding))
    chain.unit /= m.divisor_override or kernel[0] * kernel[1]


def _averages(m: Any) -> bool:
    """Whether it leaves a bias in front of it as it is: the average of one value, nothing padded, is that value."""
    return type(m) is nn.AvgPool2d and _pair(m.padding) == (0, 0) and not m.divisor_override


def _flatten(chain: Chain, path: str, m: Any) -> None:
    if m.start_dim != 1 or m.end_dim != -1:
        raise ConversionError(path, f"a flatten from {m.start_dim} to {m.end_dim}", "flatten all but the batch")
    chain.ops.append(Flatten())


def _same(chain: Chain, path: str, m: Any) -> None:
    """Nothing to do when the network runs."""


_SYNAPSES: dict[type, Callable[[Chain, str, Any], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.AvgPool2d: _pool,
    nn.Flatten: _flatten,
    nn.Dropout: _same,
    nn.Dropout1d: _same,
    nn.Dropout2d: _same,
    nn.Identity: _same,
}


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, tuple | list) else (int(value), int(value))
