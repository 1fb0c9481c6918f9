"""Norms over counts: integers in, integers out, with one square root and one division in float64 in between.

``2^bits (n - mean) / sqrt(variance + eps)``, rounded. With ``M`` counts of sum ``S`` and sum of squares ``Q``,
``M n - S`` and ``M Q - S^2`` are integers that float64 holds; what is left is
``(M n - S) / sqrt(M Q - S^2 + M^2 eps)``, which IEEE rounds the same everywhere. A norm does not see the scale of its
source, but its eps does, so that is in squared counts. Weights and bias behind it are thresholds and leaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Shape, check_steps, register
from converters.operations.counting import Counting, GroupSum, over_groups

__all__ = ["LocalResponse", "Normalise"]

_EXACT = 2**53
_MOST_BITS = 30


class _Norm(Counting):
    """Rounds ``2^bits`` times what it normalises."""

    slack: ClassVar[float] = 0.5
    evaluates: ClassVar[bool] = True

    @property
    def multiplies(self) -> bool:
        return True

    def multiplications(self, *shapes: Shape) -> int:
        return 2 * math.prod(shapes[0])  # a square and a quotient

    def degree(self, *degrees: int) -> int:
        return 0

    def __call__(self, *counts: Tensor) -> Tensor:
        return self.unrounded(*counts).round().to(counts[0].dtype)


def _check(kind: str, bits: int, **numbers: float) -> None:
    if not 0 <= bits <= _MOST_BITS:
        raise ConversionError(kind, f"{bits} bits", f"at most {_MOST_BITS}")
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConversionError(kind, f"{name} = {value}", "give a number of at least 0")


@register
@dataclass(frozen=True, eq=False)
class Normalise(_Norm):
    """``round(2^bits x)`` of counts ``x`` normalised over ``axes`` of an image (0: channels).

    Attributes
    ----------
    axes : tuple of int
    size : int
        How many counts are normalised together.
    groups : int
        Of axis 0, each by itself: LayerNorm has one, InstanceNorm as many as channels.
    centred : bool
        Whether the mean is taken off; without it this is the RMS norm.
    eps : float
        In squared counts.
    bits : int

    Where all counts are alike and eps is 0 the result is 0.

    Examples
    --------
    >>> norm = Normalise(axes=(0,), size=4, eps=0.0, bits=8)
    >>> norm(torch.tensor([[1, 2, 3, 4]])).tolist()
    [[-343, -114, 114, 343]]
    """

    axes: tuple[int, ...]
    size: int
    groups: int = 1
    centred: bool = True
    eps: float = 0.0
    bits: int = 24

    def __post_init__(self) -> None:
        check_steps("Normalise", size=((self.size,), 1), groups=((self.groups,), 1))
        _check("Normalise", self.bits, eps=self.eps)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if not self.axes or len(set(self.axes)) < len(self.axes) or not all(0 <= a < len(shape) for a in self.axes):
            raise ConversionError("Normalise", f"axes {self.axes} of shape {shape}", "name some of them, each once")
        if self.groups > 1 and (0 not in self.axes or shape[0] % self.groups):
            raise ConversionError("Normalise", f"{shape[0]} channels in {self.groups} groups", "divide evenly")
        found = math.prod(shape[a] for a in self.axes) // self.groups
        if found != self.size:
            raise ConversionError("Normalise", f"{found} counts together", f"it normalises {self.size}")
        return shape

    def unrounded(self, *counts: Tensor) -> Tensor:
        def act(x: Tensor, axes: list[int]) -> Tensor:
            m = float(self.size)
            total, squares = x.sum(axes, keepdim=True), (x * x).sum(axes, keepdim=True)
            if self.centred:
                above, below = m * x - total, m * squares - total * total + m * m * self.eps
            else:
                above, below = m * x, m * squares + m * m * self.eps
            return torch.where(below > 0, above / below.sqrt() * 2.0**self.bits, torch.zeros_like(above))

        return over_groups(counts[0].to(torch.float64), self.axes, self.groups, act)

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        """Of the quotient's terms: sums over the size that divides them, and as often the quotient itself."""
        (x,), (size,) = counts, sizes
        top = torch.maximum(size, x.abs())

        def spread(x: Tensor, axes: list[int]) -> Tensor:
            m = float(self.size)
            mean, squares = x.mean(axes, keepdim=True), (x * x).mean(axes, keepdim=True)
            below = squares - mean * mean if self.centred else squares
            return (below + self.eps).clamp(min=1 / m / m).sqrt().expand_as(x)

        def total(x: Tensor, axes: list[int]) -> Tensor:
            return (x.square().mean(axes, keepdim=True).sqrt() + x.abs()).expand_as(x)

        deviation = over_groups(x.double(), self.axes, self.groups, spread)
        terms = over_groups(top.double(), self.axes, self.groups, total) / deviation
        # the variance itself is a difference of such sizes: its error comes in with the quotient
        return (terms + terms * (self.unrounded(x) / 2.0**self.bits).abs()) * 2.0**self.bits

    def reach(self, *reach: int) -> int:
        largest = 2 * (self.size * max(reach)) ** 2
        if largest >= _EXACT:
            found = f"{self.size} counts of up to {max(reach)} together"
            raise ConversionError("Normalise", found, "float64 holds their squares below 2^53: use fewer levels")
        return math.ceil(2**self.bits * math.sqrt(self.size)) + 1

    def coarsened(self, factor: Fraction, degree: int = 1) -> Normalise:
        return replace(self, eps=self.eps * float(factor ** (2 * degree)))

    def structure(self, *shapes: Shape) -> Operation:
        return GroupSum(self.axes, self.groups)


@register
@dataclass(frozen=True, eq=False)
class LocalResponse(_Norm):
    """``round(2^bits n / (k + alpha / size * sum n^2) ^ beta)``, the sum over ``size`` channels around each one.

    ``alpha`` is for squared counts. ``n`` itself is not normalised, so the result grows with it; ``beta`` is a multiple
    of a quarter: products and square roots, which IEEE rounds the same everywhere.
    """

    size: int
    alpha: float
    beta: float = 0.75
    k: float = 1.0
    bits: int = 20

    def __post_init__(self) -> None:
        check_steps("LocalResponse", size=((self.size,), 1))
        _check("LocalResponse", self.bits, alpha=self.alpha, k=self.k)
        if not (0 <= self.beta <= 4 and float(4 * self.beta).is_integer()):
            raise ConversionError("LocalResponse", f"beta = {self.beta}", "use a multiple of 0.25, at most 4")
        if not self.k > 0:
            raise ConversionError("LocalResponse", f"k = {self.k}", "the sum must stay positive")

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def degree(self, *degrees: int) -> int:
        return degrees[0]

    def unrounded(self, *counts: Tensor) -> Tensor:
        x = counts[0].to(torch.float64)
        base = self.k + self.alpha * _around(x * x, self.size) / self.size
        root = base.sqrt()
        quarter = root.sqrt()
        power = torch.ones_like(base)
        for _ in range(round(4 * self.beta)):
            power = power * quarter
        return x / power * 2.0**self.bits

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        (x,), (size,) = counts, sizes
        top = torch.maximum(size, x.abs())
        base = self.k + self.alpha * _around(x.double() ** 2, self.size) / self.size
        more = (self.k + self.alpha * _around(top.double() ** 2, self.size) / self.size) / base
        return top / base**self.beta * (1 + 2 * self.beta * more) * 2.0**self.bits

    def reach(self, *reach: int) -> int:
        return math.ceil(max(reach) * max(1.0, self.k**-self.beta) * 2**self.bits) + 1

    def coarsened(self, factor: Fraction, degree: int = 1) -> LocalResponse:
        return replace(self, alpha=self.alpha / float(factor ** (2 * degree)))

    def structure(self, *shapes: Shape) -> Operation:
        return _Around(self.size)


@dataclass(frozen=True, eq=False)
class _Around(Operation):
    """The sum of channels around each one: the connections of :class:`LocalResponse`."""

    size: int

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        return _around(counts[0], self.size)

    @property
    def gain(self) -> int:
        return self.size


def _around(x: Tensor, size: int) -> Tensor:
    """Sums over ``size`` channels around each one."""
    rest = x.shape[2:]
    before, after = (x.new_zeros(len(x), n, *rest) for n in (size // 2, (size - 1) // 2))
    return torch.cat([before, x, after], dim=1).unfold(1, size, 1).sum(-1)
