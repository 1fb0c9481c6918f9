"""Verbs of what counts: maxima, which are layers of their own on their source's scale, and activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending
from converters.graph_builder import Value
from converters.operations import AdaptiveMaxPool, Maximum, MaxOver, MaxPool, Minimum, Operation, Scale
from converters.operations.activations import activation

__all__ = ["CountingVerbs"]


class CountingVerbs(BaseVerbs):
    """Maxima and minima of quantised values, and pointwise functions."""

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
        if type(x) is Pending:
            if x.clamped or x.function or len(x.inputs) != 1:
                raise ConversionError(x.name, f"an unquantised activation, used by {name}", self.advice["activation"])
            return replace(x, function=function, parameters=given)
        value = self.value(name, x)
        return Pending(name, ((value, Scale(1)),), value.scale, function=function, parameters=given)

    def _extremum(self, name: str, x: Any, axes: Any, keepdim: bool, *, smallest: bool) -> Value:
        value = self.value(name, x)
        rank = len(value.shape) + 1
        given = [axes] if isinstance(axes, int) else list(axes or range(rank))
        inner = tuple(sorted(int(a) % rank - 1 for a in given))
        if inner[0] < 0:
            raise ConversionError(name, "an extremum over the batch", "leave the axis of the images alone")
        return self._passed(name, (value,), MaxOver(inner, keepdim, smallest))

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


def _each(value: Any, count: int) -> tuple[int, ...]:
    """One number for every axis, or one for each."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    return tuple(int(v) for v in (values * count if len(values) == 1 else values))


def _numbers(parameter: float | Tensor) -> tuple[float, ...]:
    if isinstance(parameter, Tensor):
        return tuple(parameter.detach().double().flatten().tolist())
    return (float(parameter),)
