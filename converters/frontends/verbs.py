"""The verbs of a front-end: what every toolkit's networks are made of, said once.

A front-end reads its toolkit's names, scales and arguments, and says for each operation one of these: this weighted
layer, this pool, this addition, this ReLU, this quantiser behind it. Values that no quantiser has seen yet are
:class:`Pending`; geometry, batch-norm folding, clamps, unequal scales and all errors about them stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.graph_builder import GraphBuilder, Value
from converters.operations import Conv2d, Operation, Shape, SumPool2d
from converters.operations.weights import Weighted

__all__ = ["Grid", "Pending", "Raw", "Verbs", "Weight", "convolution", "describe", "pair"]


@dataclass(frozen=True)
class Grid:
    """Where a fake-quantiser rounds to: ``y_min`` to ``y_max`` times ``scale``, the zero point removed."""

    scale: float
    y_min: int
    y_max: int


@dataclass(frozen=True)
class Raw:
    """The network's input before it is quantised; ``shape`` without the batch."""

    shape: Shape
    flat: bool = False


@dataclass(frozen=True)
class Weight:
    """Integer weights, and ``scale``: float64 of shape ``(1,)`` or ``(C,)``."""

    integers: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Pending:
    """A real-valued expression that no quantiser has seen yet, clamped to ``low`` and ``high``.

    Attributes
    ----------
    name : str
        Of the layer that it becomes.
    inputs : tuple of (Value, Operation)
        A sum of operations on values: ``unit / area * sum_k op_k(n_k) + bias``.
    unit : float or float64 tensor ``(C,)``
    area : int
        Of a pool; a whole number, apart from the unit, so that it is never rounded.
    bias : float or float64 tensor ``(C,)``
    terms : tuple of (Value, float)
        Instead of inputs, for an addition: quantised values and their factors.
    parts : tuple of Value
        Instead of inputs, for a concatenation of values whose scales differ.
    divided : tensor ``(C,)``, optional
        A factor per channel that the toolkit has divided by, and that a batch norm is going to take back.
    flat, shape
        Whether it has been flattened, and the shape of an image before that.
    base : Value, optional
        Set where a value on a grid is merely clamped: its ReLU is on that grid again, and may do without a quantiser.
    """

    name: str
    inputs: tuple[tuple[Value, Operation], ...] = ()
    unit: Tensor | float = 1.0
    area: int = 1
    bias: Tensor | float = 0.0
    terms: tuple[tuple[Value, float], ...] = ()
    parts: tuple[Value, ...] = ()
    divided: Tensor | None = None
    low: float = -math.inf
    high: float = math.inf
    flat: bool = False
    shape: Shape = ()
    base: Value | None = None

    @property
    def clamped(self) -> bool:
        return self.low > -math.inf or self.high < math.inf

    @property
    def weighted(self) -> bool:
        """Whether it is one layer with weights, not yet clamped: what a batch norm can stand behind."""
        return len(self.inputs) == 1 and isinstance(self.inputs[0][1], Weighted) and not self.clamped


class Verbs(GraphBuilder):
    """A :class:`~converters.graph_builder.GraphBuilder` that front-ends talk to.

    Every verb takes ``name``, the place in the user's model for the layer and for errors, and operands as they were
    read: a :class:`~converters.graph_builder.Value`, a :class:`Pending`, or the :class:`Raw` input.
    """

    def __init__(self, source: str, *, activation: str, unquantised_input: str) -> None:
        """``activation`` and ``unquantised_input``: what the toolkit's user does about an operand without quantiser."""
        super().__init__(source=source)
        self.advice = {"activation": activation, "input": unquantised_input}
        self._rectified: dict[int, tuple[Pending, Value]] = {}

    # --- operands -----------------------------------------------------------------------------------

    def value(self, name: str, x: Any) -> Value:
        """``x`` as a quantised value, which it must be by now: an operand of ``name``."""
        if type(x) is Value:
            return x
        if type(x) is Pending and x.base is not None and x.high == math.inf:
            if id(x) not in self._rectified:
                low, high = self.range_of(x.base)
                y = self.emit(x, Grid(x.base.scale, max(low, 0), max(high, 1)))
                self._rectified[id(x)] = x, y
            return self._rectified[id(x)][1]
        if type(x) is Pending:
            raise ConversionError(x.name, f"an unquantised activation, used by {name}", self.advice["activation"])
        if type(x) is Raw:
            raise ConversionError(name, "the unquantised input", self.advice["input"])
        if isinstance(x, Tensor | Weight):
            shape = tuple((x.integers if isinstance(x, Weight) else x).shape)
            raise ConversionError(
                name,
                f"a constant of shape {shape} as an operand",
                "let it be the bias of the layer before it, or of a batch norm",
            )
        raise ConversionError(name, f"the operand {describe(x)}", "only quantised activations can spike")

    def operands(self, name: str, *given: Any) -> list[Value]:
        """All operands of ``name`` as quantised values; what can never be one is refused first."""
        order = sorted(given, key=lambda x: type(x) in (Value, Pending, Raw))
        found = {id(x): self.value(name, x) for x in order}
        return [found[id(x)] for x in given]

    def range_of(self, value: Value) -> tuple[int, int]:
        """The smallest and the largest count that ``value`` can hold."""
        ranges = {layer.name: (layer.y_min, layer.y_max) for layer in self.layers}
        if self.spec is not None:
            ranges[self.spec.name] = self.spec.q_min, self.spec.q_max
        found = [ranges[name] for name, _ in value.parts]
        return min(low for low, _ in found), max(high for _, high in found)

    def on_grid(self, value: Value, grid: Grid) -> bool:
        """Whether rounding ``value`` to ``grid`` would leave it as it is."""
        low, high = self.range_of(value)
        return value.scale == grid.scale and grid.y_min <= low and high <= grid.y_max

    # --- weighted layers ----------------------------------------------------------------------------

    def weigh(self, name: str, x: Any, op: Weighted, scale: Tensor, bias: Tensor | None) -> Pending:
        """A convolution or dense layer: ``scale`` of its integer weights and ``bias`` in real units, per channel."""
        value = self.value(name, x)
        b = torch.zeros(1, dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        return Pending(name, ((value, op),), scale.double().cpu() * value.scale, bias=b)

    def batch_norm(
        self, name: str, x: Any, mean: Tensor | None, variance: Tensor | None, eps: float, gamma: Any, beta: Any
    ) -> Pending:
        """Behind the accumulator, in float64: ``gamma (z - mean) / sqrt(variance + eps) + beta``.

        Merged into the weights it would change what they round to. Gamma and beta are tensors or None.
        """
        if type(x) is not Pending or not x.weighted:
            raise ConversionError(
                name, "a batch norm that follows no unquantised convolution or linear layer", "move it there"
            )
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
        bias = (torch.as_tensor(x.bias) - mean) * factor
        if beta is not None:
            bias = bias + beta.detach().double().cpu()
        if x.divided is not None:  # by the same factor in the toolkit's own precision, which is then 1 exactly
            short = (torch.ones_like(variance) if gamma is None else gamma.detach().cpu()) / torch.sqrt(variance + eps)
            factor = torch.where(short == x.divided, 1.0, factor / x.divided.double())
        return replace(_times(x, factor), bias=bias)

    def divide(self, name: str, x: Any, factor: Any) -> Pending:
        """A division per channel, which a batch norm behind it takes back."""
        if type(x) is not Pending or not isinstance(factor, Tensor) or x.divided is not None:
            raise ConversionError(name, "a division", "scale the weights instead")
        by = factor.detach().cpu().flatten()
        return replace(x, bias=torch.as_tensor(x.bias) / by.double(), divided=by)

    def shift(self, name: str, x: Any, constant: Tensor) -> Pending:
        """A constant per channel, added to a layer that has no quantiser yet: part of its bias."""
        if type(x) is not Pending or not x.inputs or x.clamped:
            raise ConversionError(
                name,
                f"a constant of shape {tuple(constant.shape)} as an operand",
                "let it be the bias of the layer before it, or of a batch norm",
            )
        return replace(x, bias=torch.as_tensor(x.bias) + constant.flatten().double())

    # --- pools --------------------------------------------------------------------------------------

    def average_pool(
        self,
        name: str,
        x: Any,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Pending:
        """An average pool (equation 6): weights 1, the division left to the threshold."""
        sides, pad = pair(kernel), pair(padding)
        steps = sides if stride is None or stride == [] else pair(stride)
        if ceil_mode:
            raise ConversionError(name, "an average pool with ceil_mode", "pad the image instead")
        if not count_include_pad and any(pad) and not divisor:
            raise ConversionError(name, "an average pool with count_include_pad=False", "count the padding")
        value = self.value(name, x)
        return Pending(name, ((value, SumPool2d(sides, steps, pad)),), value.scale, area=divisor or sides[0] * sides[1])

    def adaptive_pool(self, name: str, x: Any, size: Any) -> Pending:
        """An average pool to ``size``, which must divide the size that there is."""
        value = self.value(name, x)
        if value.flat or len(value.shape) != 3:
            raise ConversionError(name, f"a pool of shape {value.shape}", "it needs channels, height and width")
        here = value.shape[1:]
        target = tuple(s if w is None else int(w) for s, w in zip(here, pair(size), strict=True))
        if any(s % t for s, t in zip(here, target, strict=True)):
            raise ConversionError(
                name, f"an adaptive pool from {here} to {target}", "let the input be a multiple of the output"
            )
        return self.average_pool(name, value, (here[0] // target[0], here[1] // target[1]))

    def mean(self, name: str, x: Any, axes: Any, *, keepdim: bool) -> Pending:
        """A mean over ``axes`` of a batch ``(N, C, H, W)``: over height and width it is a pool."""
        value = self.value(name, x)
        rank = len(value.shape) + 1
        given = [axes] if isinstance(axes, int) else list(axes or ())  # none at all are all of them
        if rank != 4 or sorted(int(d) % rank for d in given) != [2, 3]:
            what = f"the axes {given}" if given else "all axes, that of the batch too"
            raise ConversionError(name, f"a mean over {what}", "average over height and width: dim=(2, 3)")
        pooled = self.adaptive_pool(name, value, 1)
        return pooled if keepdim else replace(pooled, flat=True, shape=(value.shape[0], 1, 1))

    # --- sums, concatenations, clamps, shapes ---------------------------------------------------------

    def add(self, name: str, *terms: tuple[Any, float]) -> Pending:
        """A sum of operands times real factors."""
        values = self.operands(name, *(x for x, _ in terms))
        for v in values[1:]:
            if v.shape != values[0].shape:
                raise ConversionError(
                    name, f"an addition of shapes {values[0].shape} and {v.shape}", "add equal shapes"
                )
        return Pending(name, terms=tuple((v, float(f)) for v, (_, f) in zip(values, terms, strict=True)))

    def concatenate(self, name: str, operands: Sequence[Any], axis: int, rank: int) -> Value | Pending:
        """Along channels; where scales differ, the quantiser behind it puts all on one."""
        if axis % rank != 1:
            raise ConversionError(name, f"a concatenation along axis {axis}", "concatenate channels: dim=1")
        values = self.operands(name, *operands)
        if len({v.scale for v in values}) == 1:
            return self.concat(name, values)
        return Pending(name, parts=tuple(values))

    def rectify(self, name: str, x: Any, high: float = math.inf) -> Value | Pending:
        """ReLU, or ReLU6 with ``high``."""
        if type(x) is Pending:
            return replace(x, low=max(x.low, 0.0), high=min(x.high, high))
        value = self.value(name, x)
        if high == math.inf and self.range_of(value)[0] >= 0:
            return value
        maps = value.unflattened if value.flat else None  # layers of maps can become maps again
        flat, base = maps is not None, maps or value
        return Pending(
            name, terms=((base, 1.0),), low=0.0, high=high, flat=flat, shape=base.shape if flat else (), base=base
        )

    def reshape(self, name: str, x: Any, before: Shape, after: Shape) -> Any:
        """From shape ``before`` to ``after``, batch included: it flattens images, puts them back, or does nothing."""
        if before == after:
            return x
        x = x if type(x) in (Raw, Pending) else self.value(name, x)
        if before[0] == after[0] and len(after) == 2:
            if type(x) is Value:
                return self.flatten(x) if len(x.shape) > 1 else x
            return replace(x, flat=True, **({"shape": tuple(before[1:])} if type(x) is Pending and not x.flat else {}))
        if before[0] == after[0] and x.flat:
            plain = x.unflattened if type(x) is Value else replace(x, flat=False)
            if plain is not None and plain.shape == tuple(after[1:]):
                return plain
        kept = before[0] == after[0]  # a batch of any size has none to show
        what = f"a change of shape from {tuple(before[kept:])} to {tuple(after[kept:])}"
        raise ConversionError(name, what if kept else f"{what}, batch included", "only flatten images")

    # --- quantisers, outputs ------------------------------------------------------------------------

    def quantise(
        self, name: str, x: Any, grid: Grid, levels: Callable[[float], int], layer: str | None = None
    ) -> Value:
        """``x`` on a grid; ``levels`` gives the toolkit's own level of a real bound, ``layer`` a layer's name.

        ``name`` is the place of what is quantised, for a value that is only moved to another grid.
        """
        if type(x) is Raw:
            y = self.input(x.shape, scale=grid.scale, q_min=grid.y_min, q_max=grid.y_max)
            return self.flatten(y) if x.flat else y
        if type(x) is Pending:
            low = grid.y_min if x.low == -math.inf else max(grid.y_min, levels(x.low))
            high = grid.y_max if x.high == math.inf else min(grid.y_max, levels(x.high))
            return self.emit(replace(x, name=layer or x.name), Grid(grid.scale, low, high))
        value = self.value(name, x)
        if self.on_grid(value, grid):
            return value  # a quantiser shared with the input
        return self._moved(layer or name, [(value, 1.0)], grid)

    def emit(self, x: Pending, grid: Grid) -> Value:
        """The layer of a pending expression and the quantiser behind it (equation 5)."""
        if x.parts:
            parts = [
                v if self.on_grid(v, grid) else self._moved(f"{x.name}_{k}", [(v, 1.0)], grid)
                for k, v in enumerate(x.parts)
            ]
            y = self.concat(x.name, parts)
        elif x.terms:
            y = self._moved(x.name, x.terms, grid)
        else:
            y = self._summed(x, grid, spiking=True)
        return self.flatten(y) if x.flat else y

    def output(self, x: Any) -> Value:
        """What the network returns: quantised, or read from the membranes of the last layer."""
        if type(x) in (tuple, list, dict):
            raise ConversionError("output", f"a {type(x).__name__}", "let the model return one tensor")
        if type(x) is Pending and x.inputs and not x.clamped:
            unit = torch.as_tensor(x.unit, dtype=torch.float64)
            y = self._summed(x, Grid(float(unit.max()), 0, 0), spiking=False)
            return self.flatten(y) if x.flat else y
        return self.value("output", x)

    def _moved(self, name: str, terms: Sequence[tuple[Value, float]], grid: Grid) -> Value:
        return self.requantise(name, terms, y_min=grid.y_min, y_max=grid.y_max, scale=grid.scale)

    def _summed(self, x: Pending, grid: Grid, *, spiking: bool) -> Value:
        if x.divided is not None:
            x = _times(x, 1 / x.divided.double())
        unit, bias = (torch.as_tensor(t, dtype=torch.float64) for t in (x.unit, x.bias))
        if unit.numel() == 1:  # rounded once, so a pool's threshold is its area where the scales are shared
            ratio = Fraction(grid.scale) / Fraction(float(unit))
            threshold = torch.tensor([float(x.area * ratio)], dtype=torch.float64)
        else:
            threshold = x.area * grid.scale / unit
        return self.layer(
            x.name,
            list(x.inputs),
            threshold=threshold,
            bias=bias / unit * x.area,
            y_min=grid.y_min,
            y_max=grid.y_max,
            scale=grid.scale,
            spiking=spiking,
        )


def _times(x: Pending, factor: Tensor) -> Pending:
    """A weighted sum times a float64 factor per channel, its bias left alone. A negative one turns the row round."""
    ((value, op),) = x.inputs
    if not isinstance(op, Weighted):
        raise ConversionError(x.name, "a batch norm that follows no convolution or linear layer", "move it there")
    sign = torch.sign(factor)  # 0 cuts the row off
    weight = op.weight * sign.to(op.weight.dtype).reshape(-1, *[1] * (op.weight.ndim - 1))
    unit = torch.where(sign == 0, 1.0, factor.abs()) * x.unit
    return replace(x, inputs=((value, op.with_weight(weight)),), unit=unit, divided=None)


def convolution(name: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Conv2d:
    """A convolution of integer ``weight``, with padding in numbers or by name."""
    by = pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(by, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise ConversionError(name, 'padding="same" with an even kernel', "use an odd kernel or numbers")
        padding = (total[0] // 2, total[1] // 2)
    return Conv2d(weight, pair(stride), pair(padding), by, groups)


def pair(value: Any) -> tuple[Any, Any]:
    """One number for both axes, or one for each."""
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values[0], values[-1]


def describe(x: Any) -> str:
    """What an operand is, for a message."""
    return type(x).__name__ if not isinstance(x, int | float) else repr(x)
