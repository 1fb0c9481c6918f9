"""Verbs of layers with weights, and of constants that are added and multiplied."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.moving_verbs import MovingVerbs
from converters.frontends.pending import Pending, Weight, compact, numbers, spread, times, unmoved
from converters.graph_builder import Value
from converters.operations import Linear, Mix, Operation
from converters.operations.activations import behind
from converters.operations.convolution import Conv1d, Conv2d, Conv3d, Kernels, convolution_of
from converters.operations.moving import index_of, move_of
from converters.operations.transposed import from_pytorch, transposed_of
from converters.operations.weights import Weighted

__all__ = ["WeightedVerbs", "convolution", "transposed"]


class WeightedVerbs(MovingVerbs):
    """Layers with weights, batch norms, constants."""

    def weigh(self, name: str, x: Any, op: Weighted, scale: Tensor, bias: Tensor | None) -> Pending:
        """A convolution or dense layer: ``scale`` of its integer weights and ``bias`` in real units, per row of them.

        A dense layer acts on the last axis of an image of any rank.
        """
        value = self.value(name, x)
        b = torch.zeros(1, dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        move: Operation | None = None
        if type(op) is Linear and len(value.shape) > 1:
            value, op, move = _along_last(value, op)
        unit = scale.double().cpu() * value.scale
        if op.rows:
            rank = len(value.shape)
            unit, b = (spread(t, rank).movedim(0, op.rows) for t in (unit, b))
        return Pending(name, ((value, op),), unit, bias=b, move=move)

    def convolve(
        self,
        name: str,
        x: Any,
        weight: Weight,
        bias: Tensor | None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        mode: str = "zeros",
    ) -> Pending:
        """A convolution of one to three axes, padded in numbers or by name, in any of PyTorch's padding modes."""
        rank = weight.integers.ndim - 2
        around = _around(name, weight.integers, padding, numbers(name, dilation, rank))
        if mode == "zeros" and all(a == b for a, b in around):
            inside = tuple(a for a, _ in around)
        else:
            inside = (0,) * rank
            amounts = [n for pair in reversed(around) for n in pair]
            how = "constant" if mode == "zeros" else mode
            x = self.move(name, x, lambda t: F.pad(t, amounts, mode=how))
        op = convolution(name, weight.integers, stride, inside, dilation, groups)
        return self.weigh(name, x, op, weight.scale, bias)

    # --- constants ----------------------------------------------------------------------------------

    def batch_norm(
        self, name: str, x: Any, mean: Tensor | None, variance: Tensor | None, eps: float, gamma: Any, beta: Any
    ) -> Pending:
        """Behind the accumulator, in float64: ``gamma (z - mean) / sqrt(variance + eps) + beta``.

        Merged into the weights it would change what they round to. Gamma and beta are tensors or None. Behind a ReLU or
        another pointwise function that no quantiser has seen, it becomes part of that function.
        """
        if mean is None or variance is None:
            raise ConversionError(
                name,
                "a batch norm without running statistics, whose output depends on the batch",
                "build it with track_running_stats=True",
            )
        mean, variance = mean.detach().double().cpu(), variance.detach().cpu()
        factor = 1 / torch.sqrt(variance.double() + float(eps))
        if gamma is not None:
            factor = factor * gamma.detach().double().cpu()
        offset = torch.zeros_like(factor) if beta is None else beta.detach().double().cpu()
        if _is_function(x):
            return self._behind(name, x, factor, offset - mean * factor)
        x = self.lifted(name, x)
        if x.divided is not None and x.move is not None:
            x = times(x, 1 / x.divided.double())
        if x.move is None:
            bias = (torch.as_tensor(x.bias) - mean) * factor + offset if _per_channel(x) else None
        if x.move is not None or bias is None:
            rows = [t.reshape(-1, *[1] * (len(x.shape) - 1)) for t in (mean, factor, offset)]
            return self.shift(name, self.scale(name, self.shift(name, x, -rows[0]), rows[1]), rows[2])
        if x.divided is not None:  # by the same factor in the toolkit's own precision, which is then 1 exactly
            short = (torch.ones_like(variance) if gamma is None else gamma.detach().cpu()) / torch.sqrt(variance + eps)
            factor = torch.where(short == x.divided, 1.0, factor / x.divided.double())
        return replace(times(x, factor), bias=bias)

    def divide(self, name: str, x: Any, factor: Any) -> Pending:
        """A division per channel, which a batch norm behind it takes back."""
        if type(x) is not Pending or not isinstance(factor, Tensor) or x.divided is not None or x.function or x.then:
            raise ConversionError(name, "a division", "scale the weights instead")
        by = factor.detach().cpu().flatten()
        return replace(x, bias=torch.as_tensor(x.bias) / by.double(), divided=by)

    def scale(self, name: str, x: Any, constant: Tensor | float) -> Pending:
        """Times a constant: a number, or a tensor that broadcasts to a batch of ``x``."""
        if _is_function(x):
            return self._behind(name, x, self._constant(name, x, constant, 1.0), torch.zeros(1, dtype=torch.float64))
        x = self.lifted(name, x)
        if x.divided is not None:
            x = times(x, 1 / x.divided.double())
        factor = self._constant(name, x, constant, 1.0)
        rank = len(x.layer_shape)
        bias = compact(spread(x.bias, rank) * spread(factor, rank))
        return replace(times(x, factor), bias=bias)

    def shift(self, name: str, x: Any, constant: Tensor | float) -> Pending:
        """Plus a constant: a number, or a tensor that broadcasts to a batch of ``x``. It becomes bias."""
        if _is_function(x):
            return self._behind(name, x, torch.ones(1, dtype=torch.float64), self._constant(name, x, constant, 0.0))
        x = self.lifted(name, x)
        if x.divided is not None and torch.as_tensor(constant).numel() > 1 and x.move is not None:
            x = times(x, 1 / x.divided.double())
        more = self._constant(name, x, constant, 0.0)
        if more.ndim < 2 and torch.as_tensor(x.bias).ndim < 2:
            return replace(x, bias=torch.as_tensor(x.bias, dtype=torch.float64) + more)
        rank = len(x.layer_shape)
        return replace(x, bias=compact(spread(x.bias, rank) + spread(more, rank)))

    def _behind(self, name: str, x: Pending, gain: Tensor, offset: Tensor) -> Pending:
        """A pointwise function times a gain, plus an offset, as one: of one number each, or one per channel."""
        per_channel = {t.numel() for t in (gain, offset)} <= {1, x.layer_shape[0]} and gain.ndim == offset.ndim == 1
        if not per_channel or x.move is not None:
            raise ConversionError(x.name, f"an unquantised activation, used by {name}", self.advice["activation"])
        free = replace(x, low=-math.inf, high=math.inf, function="", parameters=(), base=None)
        if x.clamped and bool((gain > 0).all()) and not bool(offset.any()):
            bounds = {x.low, x.high}
            if bounds <= {0.0, math.inf} or gain.numel() == 1:  # c clamp(z, a, b) = clamp(c z, c a, c b): a range still
                by = 1.0 if gain.numel() > 1 else float(gain)
                scaled = self.scale(name, free, spread(gain, len(x.shape)))
                return replace(scaled, low=x.low * by, high=x.high * by)
        function, parameters = x.function, x.parameters
        if x.clamped:
            function = _CLAMPED[x.low > -math.inf, x.high < math.inf]
            parameters = tuple((bound,) for bound in (x.low, x.high) if not math.isinf(bound))
        function, parameters = behind(function, parameters, gain, offset)
        return replace(self.lifted(name, free), function=function, parameters=parameters)

    def _constant(self, name: str, x: Pending, constant: Tensor | float, elsewhere: float) -> Tensor:
        """A constant that broadcasts to what is seen of ``x``, for the layer that ``x`` becomes, as a unit is."""
        shape, own = x.shape, x.layer_shape
        given = torch.as_tensor(constant).detach().double().cpu()
        inner = given[0] if given.ndim == len(shape) + 1 and given.shape[0] == 1 else given
        fits = inner.ndim <= len(shape) and all(
            n in (1, m) for n, m in zip(inner.shape[::-1], shape[::-1], strict=False)
        )
        if not fits or not bool(torch.isfinite(inner).all()):
            what = f"a constant of shape {tuple(given.shape)} as an operand"
            raise ConversionError(name, what, f"give a finite one that broadcasts to {shape}")
        if inner.numel() == 1 and not (elsewhere == 0 and x.move is not None):
            return inner.reshape(1)
        inner = inner.reshape(*[1] * (len(shape) - inner.ndim), *inner.shape)
        if x.move is None:
            return compact(inner)
        index, every = index_of(x.move, own).reshape(-1), inner.expand(shape).reshape(-1)
        found = torch.full((math.prod(own),), elsewhere, dtype=torch.float64)
        found[index[index >= 0]] = every[index >= 0]
        back = torch.where(index < 0, elsewhere if elsewhere == 0 else every, found[index.clamp(min=0)])
        if not torch.equal(back, every):
            todo = self.advice["activation"]
            raise ConversionError(x.name, f"a padded or repeated sum, to which {name} adds a constant", todo)
        return compact(found.reshape(own))


_CLAMPED = {(True, True): "clamp", (True, False): "clamp_min", (False, True): "clamp_max"}
"""The function that a range is, by whether it has a lower and an upper bound."""


def _is_function(x: Any) -> bool:
    """Whether it is a pointwise function, or a range, that no quantiser has seen yet."""
    return type(x) is Pending and (bool(x.function) != x.clamped) and not x.then and not x.parts


def _per_channel(x: Pending) -> bool:
    return torch.as_tensor(x.bias).ndim < 2 and torch.as_tensor(x.unit).ndim < 2


def _along_last(value: Value, op: Linear) -> tuple[Value, Weighted, Operation | None]:
    """A dense layer on the last axis: the value and the operation that it is, and what the result is seen through.

    Tokens that are a feature map with its channels last take it as a convolution of one place.
    """
    base, move = unmoved(value)
    last = len(value.shape) - 1
    if move is not None and len(base.shape) in (2, 3, 4):
        places = index_of(move, base.shape).movedim(-1, 0)
        if len(places) == base.shape[0] and torch.equal(places.reshape(-1), torch.arange(places.numel())):
            rank, out = len(base.shape) - 1, op.weight.shape[0]
            one = op.weight.reshape(*op.weight.shape, *[1] * rank)
            after = (out, *base.shape[1:])
            index = torch.arange(math.prod(after)).reshape(out, *places.shape[1:]).movedim(0, -1)
            ones, zeros = (1,) * rank, (0,) * rank
            return base, convolution_of(rank, one, ones, zeros, ones, 1), move_of(index, after)
    return value, Mix(op.weight, last), None


def convolution(
    name: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Conv1d | Conv2d | Conv3d:
    """A convolution of integer ``weight``, with padding in numbers or by name, the same on both sides."""
    rank = weight.ndim - 2
    by = numbers(name, dilation, rank)
    around = _around(name, weight, padding, by)
    if any(a != b for a, b in around):
        raise ConversionError(name, 'padding="same" with an even kernel', "use an odd kernel or numbers")
    return convolution_of(rank, weight, numbers(name, stride, rank), tuple(a for a, _ in around), by, groups)


def transposed(
    name: str, weight: Tensor, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Kernels:
    """A transposed convolution of integer ``weight`` as PyTorch has it, ``(C_in, C_out / groups, *kernel)``."""
    rank = weight.ndim - 2
    given = (numbers(name, v, rank) for v in (stride, padding, dilation))
    return transposed_of(rank, from_pytorch(weight, groups), *given, groups, numbers(name, output_padding, rank))


def _around(name: str, weight: Tensor, padding: Any, dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Padding before and behind each axis."""
    if padding == "valid":
        padding = 0
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in numbers(name, padding, weight.ndim - 2)]
