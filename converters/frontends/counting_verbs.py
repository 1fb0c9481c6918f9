"""Verbs of what counts: maxima, which are layers of their own on their source's scale; functions, products, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.pending import Pending
from converters.frontends.weighted_verbs import WeightedVerbs
from converters.graph_builder import Value
from converters.operations import (
    AdaptiveMaxPool,
    LocalResponse,
    MatMul,
    Maximum,
    MaxOver,
    MaxPool,
    Minimum,
    Normalise,
    Operation,
    Product,
    Softmax,
)
from converters.operations.activations import activation

__all__ = ["CountingVerbs"]


class CountingVerbs(WeightedVerbs):
    """Maxima and minima of quantised values, pointwise functions, products and norms."""

    def max_pool(
        self,
        name: str,
        x: Any,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        *,
        ceil_mode: bool = False,
    ) -> Value:
        """A max pool over one to three axes."""
        value = self.value(name, x)
        rank = len(value.shape) - 1
        sides = _each(kernel, rank)
        steps = sides if stride is None or stride == [] else _each(stride, rank)
        op = MaxPool(sides, steps, _each(padding, rank), _each(dilation, rank), bool(ceil_mode))
        return self._passed(name, (value,), op)

    def adaptive_max_pool(self, name: str, x: Any, size: Any) -> Value:
        """A max pool to ``size``; None keeps that of an axis."""
        value = self.value(name, x)
        here = value.shape[1:]
        given = list(size) if isinstance(size, tuple | list) else [size] * len(here)
        if len(given) != len(here):
            raise ConversionError(name, f"{len(given)} sizes for {len(here)} axes", "give one, or one for each")
        sizes = tuple(n if s is None else int(s) for s, n in zip(given, here, strict=True))
        return self._passed(name, (value,), AdaptiveMaxPool(sizes))

    def amax(self, name: str, x: Any, axes: Any, *, keepdim: bool = False) -> Value:
        """The largest over ``axes`` of a batch, that of the images not among them."""
        return self._extremum(name, x, axes, keepdim, smallest=False)

    def amin(self, name: str, x: Any, axes: Any, *, keepdim: bool = False) -> Value:
        """The smallest over ``axes`` of a batch, that of the images not among them."""
        return self._extremum(name, x, axes, keepdim, smallest=True)

    def maximum(self, name: str, a: Any, b: Any) -> Value:
        """The larger of two, place by place; shapes broadcast."""
        return self._of_two(name, a, b, Maximum())

    def minimum(self, name: str, a: Any, b: Any) -> Value:
        """The smaller of two, place by place; shapes broadcast."""
        return self._of_two(name, a, b, Minimum())

    def activate(self, name: str, x: Any, function: str, parameters: Sequence[float | Tensor] = ()) -> Pending:
        """A pointwise function by name (:data:`converters.operations.activations.ACTIVATIONS`).

        Of an open sum it becomes one layer with it, of a quantised value a layer of its own. Parameters are numbers, or
        tensors of one number for each channel.
        """
        try:
            activation(function)
        except ConversionError:
            raise ConversionError(
                name, f"the activation {function}", "register it: converters.register_activation"
            ) from None
        given = tuple(_numbers(p) for p in parameters)
        found = self.lifted(name, x)
        if len(found.inputs) != 1:
            raise ConversionError(found.name, f"an unquantised sum, used by {name}", self.advice["activation"])
        return replace(found, function=function, parameters=given)

    # --- products, norms ------------------------------------------------------------------------------

    def multiply(self, name: str, a: Any, b: Any) -> Pending:
        """A product of two, place by place; shapes broadcast."""
        values = tuple(self.operands(name, a, b))
        return Pending(name, ((values, Product()),), values[0].scale * values[1].scale)

    def matmul(self, name: str, a: Any, b: Any) -> Pending:
        """Matrix products over the last two axes."""
        values = tuple(self.operands(name, a, b))
        return Pending(name, ((values, MatMul(values[0].shape[-1])),), values[0].scale * values[1].scale)

    def layer_norm(
        self, name: str, x: Any, axes: Sequence[int], gamma: Tensor | None, beta: Tensor | None, eps: float
    ) -> Pending:
        """A layer norm over ``axes`` of a batch, which ``gamma`` and ``beta`` have."""
        return self._normalised(name, x, axes, eps, gamma, beta)

    def rms_norm(self, name: str, x: Any, axes: Sequence[int], gamma: Tensor | None, eps: float) -> Pending:
        """A norm by the root of the mean square over ``axes`` of a batch, which ``gamma`` has."""
        return self._normalised(name, x, axes, eps, gamma, None, centred=False)

    def group_norm(
        self, name: str, x: Any, groups: int, gamma: Tensor | None, beta: Tensor | None, eps: float
    ) -> Pending:
        """A norm over channels in ``groups``, and all places; ``gamma`` and ``beta`` are per channel."""
        value = self.value(name, x)
        axes, rows = range(1, len(value.shape) + 1), [_rows(t, len(value.shape)) for t in (gamma, beta)]
        return self._normalised(name, value, axes, eps, *rows, groups=groups)

    def instance_norm(self, name: str, x: Any, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Pending:
        """A norm of each channel over its places; ``gamma`` and ``beta`` are per channel."""
        value = self.value(name, x)
        axes, rows = range(2, len(value.shape) + 1), [_rows(t, len(value.shape)) for t in (gamma, beta)]
        return self._normalised(name, value, axes, eps, *rows)

    def _normalised(
        self, name: str, x: Any, axes: Sequence[int], eps: float, gamma: Tensor | None, beta: Tensor | None,
        *, groups: int = 1, centred: bool = True,
    ) -> Pending:  # fmt: skip
        value = self.value(name, x)
        inner = self._inner(name, value, axes, "a norm")
        size = math.prod(value.shape[a] for a in inner) // groups
        op = Normalise(inner, size, groups, centred, eps / value.scale**2)
        found = Pending(name, ((value, op),), 2.0**-op.bits)
        if gamma is not None:
            found = self.scale(name, found, gamma)
        return found if beta is None else self.shift(name, found, beta)

    def local_response_norm(self, name: str, x: Any, size: int, alpha: float, beta: float, k: float) -> Pending:
        """``x / (k + alpha / size * sum x^2) ^ beta``, the sum over ``size`` channels around each one."""
        value = self.value(name, x)
        try:
            op = LocalResponse(size, alpha * value.scale**2, beta, k)
        except ConversionError as error:
            raise ConversionError(name, error.found, error.todo) from None
        return Pending(name, ((value, op),), value.scale * 2.0**-op.bits)

    def softmax(self, name: str, x: Any, axis: int) -> Pending:
        """A softmax over an axis of a batch, that of the images excepted."""
        value = self.value(name, x)
        (inner,) = self._inner(name, value, (axis,), "a softmax")
        low, high = self.range_of(value)
        op = Softmax.of(scale=value.scale, axis=inner, largest=high - low)
        return Pending(name, ((value, op),), 2.0**-op.bits)

    # --- what they share ------------------------------------------------------------------------------

    def _inner(self, name: str, value: Value, axes: Any, what: str) -> tuple[int, ...]:
        """Axes of one image, in order, from those of a batch."""
        rank = len(value.shape) + 1
        given = [axes] if isinstance(axes, int) else list(axes or range(rank))
        inner = tuple(sorted(int(a) % rank - 1 for a in given))
        if inner and inner[0] < 0:
            raise ConversionError(name, f"{what} over the batch", "leave the axis of the images alone")
        return inner

    def _extremum(self, name: str, x: Any, axes: Any, keepdim: bool, *, smallest: bool) -> Value:
        value = self.value(name, x)
        return self._passed(name, (value,), MaxOver(self._inner(name, value, axes, "an extremum"), keepdim, smallest))

    def _of_two(self, name: str, a: Any, b: Any, op: Operation) -> Value:
        values = tuple(self.operands(name, a, b))
        if values[0].scale != values[1].scale:
            found = f"operands with the scales {values[0].scale} and {values[1].scale}"
            raise ConversionError(name, found, "share one quantiser between them")
        return self._passed(name, values, op)

    def _passed(self, name: str, values: tuple[Value, ...], op: Operation) -> Value:
        """A layer of threshold 1, on its sources' scale, whose neurons pass spikes on."""
        ranges = [self.range_of(v) for v in values]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        operands = values[0] if len(values) == 1 else values
        return self.layer(name, [(operands, op)], threshold=1.0, y_min=low, y_max=high, scale=values[0].scale)


def _rows(parameter: Tensor | None, rank: int) -> Tensor | None:
    """One number per channel of images with ``rank`` axes."""
    return None if parameter is None else parameter.reshape(-1, *[1] * (rank - 1))


def _each(value: Any, count: int) -> tuple[int, ...]:
    """One number for every axis, or one for each."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    return tuple(int(v) for v in (values * count if len(values) == 1 else values))


def _numbers(parameter: float | Tensor) -> tuple[float, ...]:
    if isinstance(parameter, Tensor):
        return tuple(parameter.detach().double().flatten().tolist())
    return (float(parameter),)
