"""Layers of PyTorch between two neurons: whole-number synapses, and what one unit of their charge is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calif_plugins.snntorch_obstacles import NEURONS
from converters.errors import ConversionError
from converters.frontends.snntorch_batch_norm import Joined
from converters.frontends.snntorch_tracing import Called, way_of
from converters.operations import Flatten, Linear, Mix, Operation, Shape
from converters.operations.convolution import convolution_of
from converters.operations.moving import move_of
from converters.operations.pooling import pool_of
from converters.operations.transposed import from_pytorch, transposed_of
from converters.values import places

__all__ = ["Chain"]

_BITS = 23  # of a weight, besides its sign: what float32 holds of the largest


class Chain:
    """Synapses on their way to a neuron, from what has ``shape``.

    Attributes
    ----------
    ops : list
        Whole-number operations, in order.
    shape : tuple of int
        Of an image behind them.
    unit : Fraction
        Real value of one unit of charge, exactly: powers of two, and the areas of pools.
    bias : float64 tensor that broadcasts to ``shape``, or None
    path : str
        Of the last module.
    """

    def __init__(self, shape: Shape) -> None:
        self.ops: list[Operation] = []
        self.shape = shape
        self.unit = Fraction(1)
        self.bias: Tensor | None = None
        self.path = ""

    def add(self, path: str, module: nn.Module) -> None:
        """Append a layer, or raise a ConversionError that names it and the way out."""
        self.path = path
        known = _SYNAPSES.get(type(module))
        if known is None:
            todo = "use Linear, convolutions, batch norms, average pools, Flatten and CaLIF in an nn.Sequential"
            if any(True for _ in module.children()) and type(module).__module__ != "torch.nn":
                todo = "put its layers, in their order, into an nn.Sequential"
            if isinstance(module, NEURONS):
                todo = way_of(module)
            raise ConversionError(path or "model", f"a {type(module).__name__}", todo)
        if self.bias is not None and not known.behind_bias(module):
            raise ConversionError(
                path, "a layer behind a bias, without neurons between them", "put a CaLIF between them"
            )
        known.append(self, path, module)

    def append(self, path: str, op: Operation) -> None:
        try:
            self.shape = op.output_shape(self.shape)
        except ConversionError as error:
            raise ConversionError(path, error.found, error.todo) from None
        self.ops.append(op)

    def move(self, path: str, function: Callable[[Tensor], Tensor]) -> None:
        """Whatever takes each result from one place, a bias with it."""
        index, constants = places(path, self.shape, function)
        if bool((constants != 0).any()):
            raise ConversionError(path, "a padding with another value than 0", "pad with zeros")
        if self.bias is not None:
            own = self.bias.expand(self.shape).reshape(-1)
            self.bias = torch.where(index < 0, 0.0, own[index.clamp(min=0)])
        if type(function) is nn.Flatten and function.start_dim == 1 and function.end_dim == -1:
            self.append(path, Flatten())
        else:
            moved = move_of(index, self.shape)
            if moved is not None:  # nothing has moved: a flatten of what is flat
                self.ops.append(moved)
            self.shape = tuple(index.shape)

    @property
    def bias_of_rows(self) -> Tensor:
        """The bias of each channel, float64 ``(C,)`` or ``(1,)``; a leak is one for all places of a channel, too."""
        if self.bias is None:
            return torch.zeros(1, dtype=torch.float64)
        rows = self.bias.expand(self.shape).flatten(1) if len(self.shape) > 1 else self.bias.reshape(-1, 1)
        if not bool((rows == rows[:, :1]).all()):
            raise ConversionError(self.path, "a bias that differs from place to place", "give the layer bias=False")
        return rows[:, 0]

    def weigh(self, path: str, weight: Tensor, make: Callable[[Tensor], Operation]) -> None:
        w = weight.detach().double().cpu()
        if not bool(torch.isfinite(w).all()):
            raise ConversionError(path, "weights that are not finite", "check the training run")
        largest = float(w.abs().max()) if w.numel() else 0.0
        unit = 2.0 ** (math.frexp(largest)[1] - _BITS) if largest else 1.0
        whole = torch.round(w / unit).to(torch.int64)
        while bool((whole % 2 == 0).all()) and bool(whole.any()):  # as small as they can be
            whole, unit = whole // 2, unit * 2
        self.append(path, make(whole.to(torch.int32)))
        self.unit *= Fraction(unit)

    def shift(self, bias: Tensor | None, axis: int = 0) -> None:
        """The bias of a layer with weights, along an axis of :attr:`shape`."""
        if bias is not None:
            shape = [1] * len(self.shape)
            shape[axis] = -1
            self.bias = bias.detach().double().cpu().reshape(shape)


def _linear(chain: Chain, path: str, m: Any) -> None:
    last = len(chain.shape) - 1
    chain.weigh(path, m.weight, Linear if last == 0 else lambda w: Mix(w, last))
    chain.shift(m.bias, last)


def _conv(chain: Chain, path: str, m: Any) -> None:
    padding, rank = m.padding, m.weight.ndim - 2
    if m.padding_mode != "zeros" or isinstance(padding, str):
        amounts = [n for side in reversed(_sides(m)) for n in side]
        chain.move(path, lambda x: F.pad(x, amounts, mode=m.padding_mode.replace("zeros", "constant")))
        padding = (0,) * rank
    chain.weigh(path, m.weight, lambda w: convolution_of(rank, w, m.stride, padding, m.dilation, m.groups))
    chain.shift(m.bias)


def _sides(m: Any) -> list[tuple[int, int]]:
    """Padding before and behind each axis."""
    if m.padding == "same":
        totals = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(0, 0)] if m.padding == "valid" else [(p, p) for p in m.padding]


def _transposed(chain: Chain, path: str, m: Any) -> None:
    rank = m.weight.ndim - 2
    geometry = m.stride, m.padding, m.dilation, m.groups, m.output_padding
    chain.weigh(path, from_pytorch(m.weight, m.groups), lambda w: transposed_of(rank, w, *geometry))
    chain.shift(m.bias)


def _joined(chain: Chain, path: str, m: Joined) -> None:
    """A batch norm, which the layer in front has taken in: if the channels of both are the same axis."""
    if m.layer is nn.Linear and len(chain.shape) > 1:
        raise ConversionError(
            path, "a batch norm of axis 1 behind a Linear of the last axis", "flatten the image, or take a convolution"
        )


def _pool(chain: Chain, path: str, m: Any) -> None:
    rank = _rank(m)
    kernel, stride, padding = (_numbers(v, rank) for v in (m.kernel_size, m.stride, m.padding))
    divisor = getattr(m, "divisor_override", None)
    if m.ceil_mode or (any(padding) and not m.count_include_pad and not divisor):
        raise ConversionError(path, "a pool whose windows have different divisors", "use the plain one")
    chain.append(path, pool_of(kernel, stride, padding))
    chain.unit /= divisor or math.prod(kernel)


def _adaptive_pool(chain: Chain, path: str, m: Any) -> None:
    here = chain.shape[1:]
    given = m.output_size if isinstance(m.output_size, tuple | list) else [m.output_size] * _rank(m)
    target = [n if t is None else int(t) for n, t in zip(here, given, strict=False)]
    if len(here) != _rank(m) or any(n % t for n, t in zip(here, target, strict=True)):
        raise ConversionError(
            path, f"a pool of shape {chain.shape} to {m.output_size}", "let the output divide the input"
        )
    kernel = tuple(n // t for n, t in zip(here, target, strict=True))
    chain.append(path, pool_of(kernel, kernel, (0,) * len(kernel)))
    chain.unit /= math.prod(kernel)


def _averages(m: Any) -> bool:
    """Whether it leaves a bias in front of it as it is: the average of one value, nothing padded, is that value."""
    return not any(_numbers(m.padding, _rank(m))) and not getattr(m, "divisor_override", None)


def _max_pool(chain: Chain, path: str, m: Any) -> None:
    """The largest spike of each step adds up to more than the largest count: two neurons that fire in turn give 2."""
    raise ConversionError(
        path or "model",
        f"a {type(m).__name__}, which takes the maximum of each step, where a network of counts takes that of counts",
        "use an average pool; max pools of quantised networks are exact: train one (converters.prepare_qat)",
    )


def _same(chain: Chain, path: str, m: Any) -> None:
    """Nothing to do when the network runs."""


@dataclass(frozen=True)
class _Known:
    """How a kind of module is appended, and whether one may stand behind a bias."""

    append: Callable[[Chain, str, Any], None]
    behind_bias: Callable[[Any], bool] = lambda m: False


def _always(m: Any) -> bool:
    return True


_PADS = [
    getattr(nn, f"{m}Pad{r}d") for m in ("Zero", "Constant", "Reflection", "Replication", "Circular") for r in (1, 2, 3)
]
_MOVES = (
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Upsample,
    nn.UpsamplingNearest2d, *_PADS, Called,
)  # fmt: skip

_SYNAPSES: dict[type, _Known] = {
    Joined: _Known(_joined, _always),
    nn.Linear: _Known(_linear),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _Known(_conv)),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _Known(_transposed)),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _Known(_pool, _averages)),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _Known(_adaptive_pool, _always)
    ),
    **dict.fromkeys(_MOVES, _Known(lambda chain, path, m: chain.move(path, m), _always)),
    **dict.fromkeys(
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        _Known(_max_pool, _always),
    ),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity), _Known(_same, _always)),
}


def _rank(m: nn.Module) -> int:
    """Axes of a pool, by its name."""
    return int(type(m).__name__[-2])


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value),) * rank
