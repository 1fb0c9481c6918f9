"""Verbs of what counts: maxima, activations, products, norms, softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.joining_verbs import JoiningVerbs
from converters.frontends.pending import Masked, Pending, narrowed, numbers, unmoved
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
    Synapse,
)
from converters.operations.activations import activation
from converters.operations.moving import index_of

__all__ = ["CountingVerbs"]


class CountingVerbs(WeightedVerbs, JoiningVerbs):
    """Whatever remembers what its sources have sent.

    Maxima and minima of quantised values are quantised on the same scale; of a value that no quantiser has seen yet
    they wait for it, since they and rounding commute. All others need a quantiser behind them.
    """

    # --- maxima -------------------------------------------------------------------------------------

    def max_pool(
        self, name: str, x: Any, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *,
        ceil_mode: bool = False,
    ) -> Value | Pending:  # fmt: skip
        """A max pool over one to three axes: one number for all, or one for each; by default steps of the kernel."""
        x, shape = self._open(name, x)
        rank = len(shape) - 1
        sides = numbers(name, kernel, rank)
        steps = sides if stride is None or stride == [] else numbers(name, stride, rank)
        with _at(name):
            op = MaxPool(sides, steps, numbers(name, padding, rank), numbers(name, dilation, rank), bool(ceil_mode))
        return self._extreme(name, x, op)

    def adaptive_max_pool(self, name: str, x: Any, size: Any) -> Value | Pending:
        """A max pool to ``size``: one number, or one for each axis; None keeps that of an axis."""
        x, shape = self._open(name, x)
        given = list(size) if isinstance(size, tuple | list) else [size] * (len(shape) - 1)
        if len(given) != len(shape) - 1:
            raise ConversionError(name, f"{len(given)} sizes for {len(shape) - 1} axes", "give one, or one for each")
        sizes = tuple(n if s is None else int(s) for s, n in zip(given, shape[1:], strict=True))
        with _at(name):
            op = AdaptiveMaxPool(sizes)
        return self._extreme(name, x, op)

    def amax(self, name: str, x: Any, axes: Any, *, keepdim: bool = False) -> Value | Pending:
        """The largest over ``axes`` of a batch; not over its images."""
        x, shape = self._open(name, x)
        return self._extreme(name, x, MaxOver(_inner(name, axes, len(shape)), bool(keepdim)))

    def amin(self, name: str, x: Any, axes: Any, *, keepdim: bool = False) -> Value | Pending:
        """The smallest over ``axes`` of a batch; not over its images."""
        x, shape = self._open(name, x)
        return self._extreme(name, x, MaxOver(_inner(name, axes, len(shape)), bool(keepdim), smallest=True))

    def maximum(self, name: str, a: Any, b: Any) -> Value | Pending:
        """The larger of two, place by place; axes of size 1 are stretched. Where scales differ, the quantiser behind it
        puts both on one."""
        return self._of_two(name, a, b, Maximum())

    def minimum(self, name: str, a: Any, b: Any) -> Value | Pending:
        """The smaller of two, as :meth:`maximum`."""
        return self._of_two(name, a, b, Minimum())

    def _open(self, name: str, x: Any) -> tuple[Value | Pending, tuple[int, ...]]:
        found = x if type(x) is Pending else self.value(name, x)
        return found, found.shape

    def _extreme(self, name: str, x: Value | Pending, op: Operation) -> Value | Pending:
        if type(x) is Value:
            return self.passed(name, (x,), op)
        assert type(x) is Pending
        found = replace(x, then=(*x.then, (name, op)))
        with _at(name):
            _ = found.shape
        return found

    def _of_two(self, name: str, a: Any, b: Any, op: Operation) -> Value | Pending:
        values = tuple(self.operands(name, a, b))
        if values[0].scale == values[1].scale:
            return self.passed(name, values, op)
        found = Pending(name, parts=values, joined=op)
        with _at(name):
            _ = found.shape
        return found

    # --- clamps, activations ------------------------------------------------------------------------

    def clamp(self, name: str, x: Any, low: float | None, high: float | None) -> Value | Pending:
        """Between two bounds, of which one may be None.

        Where 0 lies between them it is a range of counts, as that of a ReLU is.
        """
        bounds = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        if bounds[0] == 0:
            return self.rectify(name, x, bounds[1])
        if not bounds[0] <= 0 <= bounds[1]:
            if math.isinf(bounds[1]):
                return self._function(name, x, "clamp_min", bounds[:1])
            if math.isinf(bounds[0]):
                return self._function(name, x, "clamp_max", bounds[1:])
            return self._function(name, x, "clamp", bounds)
        if type(x) is not Pending:
            base, move = unmoved(self.value(name, x))
            x = Pending(name, terms=((base, 1.0),), move=move)
        return replace(x, low=max(x.low, bounds[0]), high=min(x.high, bounds[1]), base=None)

    def activate(self, name: str, x: Any, function: str, parameters: Sequence[float | Tensor] = ()) -> Value | Pending:
        """A pointwise function by name (:data:`converters.operations.activations.ACTIVATIONS`).

        Of a sum that no quantiser has seen it becomes one layer with it, of a quantised value a layer of its own.
        Parameters are numbers, or tensors with one for each channel.
        """
        try:
            activation(function)
        except ConversionError as error:
            raise ConversionError(name, f"the activation {function}", error.todo) from None
        if function in ("relu", "relu6"):
            return self.rectify(name, x, 6.0 if function == "relu6" else math.inf)
        if function in _CLAMPS and all(isinstance(p, int | float) for p in parameters):
            low, high = _CLAMPS[function]
            return self.clamp(name, x, *(None if k is None else float(parameters[k]) for k in (low, high)))
        return self._function(name, x, function, parameters)

    def _function(self, name: str, x: Any, function: str, parameters: Sequence[float | Tensor]) -> Pending:
        x = self.lifted(name, x)
        given = tuple(_listed(p) for p in parameters)
        channels = {len(p) for p in given} - {1}
        if channels and (x.move is not None or channels != {x.layer_shape[0]}):
            found = f"{function} with parameters of {max(channels)} channels on shape {x.shape}"
            raise ConversionError(name, found, "give one for each channel, in front of permutations")
        if x.move is not None and bool((index_of(x.move, x.layer_shape) < 0).any()):
            raise ConversionError(name, f"{function} of a padded sum", self.advice["activation"])
        return replace(x, function=function, parameters=given, base=None)

    # --- products -----------------------------------------------------------------------------------

    def multiply(self, name: str, a: Any, b: Any) -> Pending:
        """A product, place by place; axes of size 1 are stretched. A constant factor is part of the scale."""
        for x, constant in ((a, b), (b, a)):
            if isinstance(constant, Tensor | int | float) and not isinstance(x, Tensor | int | float):
                return self.scale(name, x, constant)
        values = tuple(self.operands(name, a, b))
        found = Pending(name, ((values, Product()),), values[0].scale * values[1].scale)
        with _at(name):
            _ = found.shape
        return found

    def matmul(self, name: str, a: Any, b: Any) -> Pending:
        """The matrix product of two quantised tensors over their last two axes."""
        one, two = self.operands(name, a, b)
        if min(len(one.shape), len(two.shape)) < 2:
            raise ConversionError(name, f"a matrix product of shapes {one.shape} and {two.shape}", "give matrices")
        turned = self.moved(name, two, lambda t: t.mT)
        transposed = turned.plain  # as it stands, it need not be moved first
        op = MatMul(one.shape[-1], transposed)
        found = Pending(name, (((one, turned if transposed else two), op),), one.scale * two.scale)
        with _at(name):
            _ = found.shape
        return found

    # --- norms, softmax -----------------------------------------------------------------------------

    def layer_norm(self, name: str, x: Any, axes: Any, gamma: Any, beta: Any, eps: float) -> Pending:
        """Over ``axes`` of a batch; gamma and beta have the shape of these axes, or are None."""
        value = self.value(name, x)
        inner = _inner(name, axes, len(value.shape))
        given = [_placed(t, inner, value) for t in (gamma, beta)]
        return self._normalised(name, value, inner, 1, True, eps, *given)

    def rms_norm(self, name: str, x: Any, axes: Any, gamma: Any, eps: float) -> Pending:
        """As :meth:`layer_norm`, without taking off the mean."""
        value = self.value(name, x)
        inner = _inner(name, axes, len(value.shape))
        return self._normalised(name, value, inner, 1, False, eps, _placed(gamma, inner, value), None)

    def unit_length(self, name: str, x: Any, axes: Any, order: float, eps: float) -> Pending:
        """Over its Euclidean length along ``axes`` of a batch, which is taken for ``eps`` where it is less.

        Which no length of integers but 0 may be: it would divide all alike, and 0 is 0 by whatever it is divided.
        """
        value = self.value(name, x)
        inner = _inner(name, axes, len(value.shape))
        if order != 2:
            raise ConversionError(name, f"a norm of order {order:g}", "the Euclidean one, of order 2, is converted")
        if eps > value.scale:
            found = f"an eps of {eps:g} for lengths in steps of {value.scale:g}"
            raise ConversionError(name, found, "give one that is smaller than the scale of the input")
        y = self._normalised(name, value, inner, 1, False, 0.0, None, None)
        return self.scale(name, y, math.prod(value.shape[a] for a in inner) ** -0.5)

    def group_norm(self, name: str, x: Any, groups: int, gamma: Any, beta: Any, eps: float) -> Pending:
        """Over groups of channels and all places; gamma and beta have a number for each channel, or are None."""
        value = self.value(name, x)
        every = tuple(range(len(value.shape)))
        given = [_placed(t, (0,), value) for t in (gamma, beta)]
        return self._normalised(name, value, every, int(groups), True, eps, *given)

    def instance_norm(self, name: str, x: Any, gamma: Any, beta: Any, eps: float) -> Pending:
        """Over the places of each channel, with the statistics of each image."""
        value = self.value(name, x)
        if len(value.shape) < 2:
            raise ConversionError(name, f"an instance norm of shape {value.shape}", "it needs channels and places")
        inner = tuple(range(1, len(value.shape)))
        given = [_placed(t, (0,), value) for t in (gamma, beta)]
        return self._normalised(name, value, inner, 1, True, eps, *given)

    def _normalised(
        self, name: str, value: Value, axes: tuple[int, ...], groups: int, centred: bool, eps: float,
        gamma: Tensor | None, beta: Tensor | None,
    ) -> Pending:  # fmt: skip
        size = math.prod(value.shape[a] for a in axes) // groups
        with _at(name):
            op = Normalise(axes, size, groups, centred, float(eps) / value.scale**2)
        x = Pending(name, ((value, op),), 2.0**-op.bits)
        with _at(name):
            _ = x.shape
        if gamma is not None:
            x = self.scale(name, x, gamma)
        return x if beta is None else self.shift(name, x, beta)

    def local_response_norm(
        self, name: str, x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> Pending:
        """Over ``size`` channels around each one, as ``torch.nn.LocalResponseNorm``."""
        value = self.value(name, x)
        with _at(name):
            op = LocalResponse(int(size), float(alpha) * value.scale**2, float(beta), float(k))
        return Pending(name, ((value, op),), value.scale * 2.0**-op.bits)

    def softmax(self, name: str, x: Any, axis: int) -> Pending:
        """Over an axis of a batch; not over its images. What is masked gets nothing.

        Of a quantised value; or of a product, or another sum on one scale, that no quantiser has seen: its integers are
        looked up as they are.
        """
        operand = x.value if type(x) is Masked else x
        values, ops, scale, largest, shape = self._scores(name, operand)
        (inner,) = _inner(name, axis, len(shape))
        with _at(name):
            op = Softmax.of(scale=scale, axis=inner, largest=largest)
            if type(x) is Masked and bool(x.dropped.any()):
                op = op.masked(narrowed(~x.dropped).to(torch.int8))
        return Pending(name, ((values, (*ops, op)),), 2.0**-op.bits)

    def _scores(
        self, name: str, x: Any
    ) -> tuple[Value | tuple[Value, ...], tuple[Operation, ...], float, int, tuple[int, ...]]:
        """Integers that a softmax looks up: a chain of operations, their scale, how far they are apart at most, and
        their shape."""
        if type(x) is not Pending or not _on_one_grid(x):
            value = self.value(name, x)
            low, high = self.range_of(value)
            return value, (), value.scale, high - low, value.shape
        values, chain = self._one_chain(x)
        reach = [max(map(abs, self.range_of(v))) for v in (values if isinstance(values, tuple) else (values,))]
        ops = chain if x.move is None else (*chain, x.move)
        largest = 2 * Synapse(("x",) * len(reach), ops).reach(*reach)
        return values, ops, float(torch.as_tensor(x.unit)) / x.area, largest, x.shape


@contextmanager
def _at(name: str) -> Iterator[None]:
    """What an operation refuses is said of ``name``."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(name, error.found, error.todo) from None


_CLAMPS: dict[str, tuple[int | None, int | None]] = {"clamp": (0, 1), "clamp_min": (0, None), "clamp_max": (None, 0)}
"""Which parameters of these functions are their lower and upper bounds."""


def _on_one_grid(x: Pending) -> bool:
    """Whether it is a chain of operations times one number, without a bias, that nothing has clamped."""
    open_ended = not (x.clamped or x.function or x.then or x.divided is not None)
    one = torch.as_tensor(x.unit).numel() == 1 and not bool(torch.as_tensor(x.bias).any())
    return open_ended and len(x.inputs) == 1 and one


def _inner(name: str, axes: Any, rank: int) -> tuple[int, ...]:
    """Axes of a batch as those of one image of ``rank`` axes; None are all of them, and none may be the batch's."""
    given = [axes] if isinstance(axes, int) else list(range(rank + 1) if axes is None else axes)
    found = sorted({int(a) % (rank + 1) for a in given if -rank - 1 <= int(a) <= rank})
    if len(found) != len(given) or not found or found[0] == 0:
        raise ConversionError(
            name, f"the axes {given} of a batch with {rank + 1}", "leave the axis of the images alone"
        )
    return tuple(a - 1 for a in found)


def _placed(constant: Any, axes: tuple[int, ...], value: Value) -> Tensor | None:
    """Numbers along ``axes`` of an image, with all its axes."""
    if constant is None:
        return None
    return constant.detach().double().cpu().reshape([n if a in axes else 1 for a, n in enumerate(value.shape)])


def _listed(parameter: float | Tensor) -> tuple[float, ...]:
    if isinstance(parameter, Tensor):
        return tuple(parameter.detach().double().cpu().reshape(-1).tolist())
    return (float(parameter),)
