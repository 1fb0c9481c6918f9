"""Any pointwise activation, exactly: a quantised one is a step function of the integer accumulator.

The neuron behind it keeps the level that it has sent as its count ``y``, and fires +1 where ``F(z) > y`` and -1 where
``F(z) < y``: its thresholds depend on its calcium. A ReLU is the case of equally spaced thresholds. Where the steps are
is worked out once, at conversion (:mod:`converters.operations.channel_tables`), and stored as integers of the
accumulator: integers decide, and no platform's ``exp`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.activations import activation
from converters.operations.channel_tables import channel_tables
from converters.operations.coarsening import coarsened_range
from converters.operations.contract import Operation, Range, Shape, register
from converters.operations.counting import Counting, looked_up
from converters.operations.weighing import Scale

__all__ = ["Levels"]

_FARTHEST = 2**52
_CLOSE = 1e-9  # of a level, relative to its size: what two libraries' functions may differ by at a tie
_SAMPLES = 64
_DIFFERENCE = 1e-6  # of the sizes that are added up: over which a slope is taken


@register
@dataclass(frozen=True, eq=False)
class Levels(Counting):
    """``F(z) = clip(round(f(unit z + offset) / scale), y_min, y_max)`` of integers ``(C, ...)``, ties to even.

    Attributes
    ----------
    function : str
        ``f``, a name of :data:`converters.operations.activations.ACTIVATIONS`, or ``affine(name)``: that function
        times a gain, plus an offset, which are the last two parameters.
    parameters : tuple of tuples of float
        Of the function, each one number for all channels or one for each.
    units, offsets : tuple of float
        Of the integers, in real units: one for all channels or one for each. An offset is a layer's bias.
    scale : float
        Real value of one level.
    y_min, y_max : int
    limit : int
        The largest size of an integer that comes; at most 2^52.
    breakpoints : int64 tensor ``(C or 1, K)``, ascending
    values : int64 tensor ``(C or 1, K + 1)``
        ``F(z)`` is the value whose number is that of the breakpoints up to ``z``, itself included.

    The table follows from the function (:meth:`of`), and files keep both; it is compared with the function again, up to
    near-ties, whenever one is made.
    """

    function: str
    parameters: tuple[tuple[float, ...], ...]
    units: tuple[float, ...]
    offsets: tuple[float, ...]
    scale: float
    y_min: int
    y_max: int
    limit: int
    breakpoints: Tensor
    values: Tensor

    pointwise: ClassVar[bool] = True
    looks_up: ClassVar[bool] = True
    limits: ClassVar[dict[str, int]] = {"breakpoints": _FARTHEST + 1, "limit": _FARTHEST}

    @classmethod
    def of(
        cls,
        function: str,
        *,
        parameters: Sequence[float | Sequence[float]] = (),
        units: Sequence[float],
        offsets: Sequence[float],
        scale: float,
        y_min: int,
        y_max: int,
        limit: int,
    ) -> Levels:
        """With the table that follows from the function.

        Raises
        ------
        ConversionError
            For an unknown function, one that is not finite where it is needed, or one that turns too often to follow.

        >>> op = Levels.of("silu", units=(0.5,), offsets=(0.0,), scale=0.25, y_min=-8, y_max=8, limit=40)
        >>> op(torch.arange(-8, 5)[None, None]).tolist()
        [[[0, 0, -1, -1, -1, -1, -1, -1, 0, 1, 3, 5, 7]]]
        """
        given = tuple(tuple(float(v) for v in (p if isinstance(p, Sequence) else (p,))) for p in parameters)
        form = (function, given, tuple(map(float, units)), tuple(map(float, offsets)), float(scale))
        _check_form(*form, y_min, y_max, limit)
        breakpoints, values = channel_tables(*form, y_min, y_max, limit)
        return cls(*form, y_min, y_max, limit, torch.from_numpy(breakpoints), torch.from_numpy(values))

    def __post_init__(self) -> None:
        _check_form(
            self.function, self.parameters, self.units, self.offsets, self.scale, self.y_min, self.y_max, self.limit
        )
        for name in ("breakpoints", "values"):  # files have them in smaller types
            object.__setattr__(self, name, getattr(self, name).to(torch.int64))
        b, v = self.breakpoints, self.values
        rows = {1, self.channels}
        if b.ndim != 2 or v.ndim != 2 or v.shape[1] != b.shape[1] + 1 or {len(b), len(v)} - rows:
            raise ConversionError(
                "Levels", f"tables of shapes {tuple(b.shape)} and {tuple(v.shape)}", "one value more than breakpoints"
            )
        if bool((b.diff(dim=1) < 0).any()) or bool((v < self.y_min).any()) or bool((v > self.y_max).any()):
            raise ConversionError("Levels", "breakpoints in disorder, or values out of range", "write it again")
        self._check_table()

    @property
    def channels(self) -> int:
        """Rows of the table that differ at the most: 1 where all channels are alike."""
        return max(len(self.units), len(self.offsets), *(len(p) for p in self.parameters), 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.channels not in (1, shapes[0][0]):
            raise ConversionError("Levels", f"an input of shape {shapes[0]}", f"the table has {self.channels} channels")
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        (z,) = counts
        breakpoints, values = self._copies(z.dtype, z.device)
        if len(breakpoints) == len(values) == 1:
            return looked_up(values[0], torch.bucketize(z.contiguous(), breakpoints[0], right=True))
        rows = z.movedim(1, 0)
        flat = rows.reshape(len(rows), -1).contiguous()
        one, other = (t.expand(len(rows), -1).contiguous() for t in (breakpoints, values))
        found = other.gather(1, torch.searchsorted(one, flat, right=True))
        return found.reshape(rows.shape).movedim(0, 1)

    def _copies(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        key = dtype, device
        if key not in self._kept:
            self._kept[key] = self.breakpoints.to(device, dtype), self.values.to(device, dtype)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[Any, tuple[Tensor, Tensor]]:
        return {}

    def reach(self, *reach: int) -> int:
        return int(self.values.abs().max())

    def interval(self, *ranges: Range) -> Range:
        shape = ranges[0][0].shape
        view = (-1, *[1] * (len(shape) - 1))
        low, high = (v.double().reshape(view).expand(shape).clone() for v in (self.values.amin(1), self.values.amax(1)))
        return low, high

    def structure(self, *shapes: Shape) -> Operation:
        return Scale(1)

    # --- its function -------------------------------------------------------------------------------

    def real(self, z: Tensor) -> Tensor:
        """``f(unit z + offset)`` of integers ``(N, C, ...)``, in float64."""
        view = (1, -1, *[1] * (z.ndim - 2))
        unit, offset, *parameters = (
            torch.tensor(v, dtype=torch.float64, device=z.device).view(view)
            for v in (self.units, self.offsets, *self.parameters)
        )
        return activation(self.function)(unit * z.double() + offset, *parameters)

    def unrounded(self, *counts: Tensor) -> Tensor:
        return self.real(counts[0]) / self.scale

    def magnitude(self, counts: Sequence[Tensor], sizes: Sequence[Tensor]) -> Tensor:
        """What it takes times its slope, and what it takes and gives: functions are computed from these."""
        (z,), (size,) = counts, sizes
        view = (1, -1, *[1] * (z.ndim - 2))
        unit, offset = (torch.tensor(v, dtype=torch.float64).view(view) for v in (self.units, self.offsets))
        unit = torch.where(unit == 0, 1e-300, unit)
        terms = unit.abs() * size + offset.abs() + 1e-300
        step = _DIFFERENCE * terms / unit
        here, before, after = self.real(z), self.real(z - step), self.real(z + step)
        slope = torch.maximum((after - here).abs(), (here - before).abs()) / (_DIFFERENCE * terms)
        return (slope * terms + (unit * z + offset).abs() + here.abs()) / self.scale

    def degree(self, *degrees: int) -> int:
        return 1

    def coarsened(self, factor: Fraction, degree: int = 1) -> Levels:
        low, high = coarsened_range(self.y_min, self.y_max, factor)
        return Levels.of(
            self.function,
            parameters=self.parameters,
            units=[float(Fraction(u) / factor**degree) for u in self.units],
            offsets=self.offsets,
            scale=float(Fraction(self.scale) / factor),
            y_min=low,
            y_max=high,
            limit=self.limit,
        )

    def regridded(self, factor: Fraction, y_min: int, y_max: int) -> Levels:
        """The same function with levels that are ``1 / factor`` times as far apart, on the range ``y_min .. y_max``."""
        return Levels.of(
            self.function,
            parameters=self.parameters,
            units=self.units,
            offsets=self.offsets,
            scale=float(Fraction(self.scale) / factor),
            y_min=y_min,
            y_max=y_max,
            limit=self.limit,
        )

    def _check_table(self) -> None:
        """Raise a ConversionError unless the table is the function's: at all steps, between them, at other integers."""
        b = self.breakpoints.clamp(-self.limit, self.limit)
        edge = b.new_full((len(b), 1), self.limit)
        ends = torch.cat([-edge, b, edge], dim=1)
        middle = ends[:, :-1] + (ends[:, 1:] - ends[:, :-1]) // 2
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(len(b), _SAMPLES, generator=generator, dtype=torch.float64) * 2 - 1
        others = (share * share.abs() * self.limit).round().long()  # more of the small ones
        z = torch.cat([ends, (ends - 1).clamp(min=-self.limit), middle, others], dim=1)
        z = z.expand(self.channels, -1)[None]
        real = self.real(z) / self.scale
        if not bool(torch.isfinite(real.clamp(self.y_min - 1, self.y_max + 1)).all()):
            raise ConversionError(
                "Levels", f"{self.function} with a value that is no number", "keep it where it has one"
            )
        noise = _CLOSE * (1 + real.abs())
        low, high = ((real + s * noise).round().clamp(self.y_min, self.y_max) for s in (-1, 1))
        found = self(z).double()
        if bool(((found < low) | (found > high)).any()):
            raise ConversionError(
                "Levels",
                f"a table that is not that of {self.function}",
                "write it again; a function that turns often needs a smaller range",
            )


def _check_form(
    function: str, parameters: tuple[tuple[float, ...], ...], units: tuple[float, ...], offsets: tuple[float, ...],
    scale: float, y_min: int, y_max: int, limit: int,
) -> None:  # fmt: skip
    activation(function)
    rows = {len(units), len(offsets), *map(len, parameters)}
    if 0 in rows or len(rows - {1}) > 1:
        raise ConversionError("Levels", f"numbers for {sorted(rows)} channels", "one for each channel, or one for all")
    numbers = np.array([scale, *units, *offsets, *(v for p in parameters for v in p)])
    if not np.isfinite(numbers).all() or not scale > 0:
        raise ConversionError("Levels", "a unit, offset, scale or parameter that is not finite", "check the scales")
    if not y_min <= 0 <= y_max or y_min == y_max:
        raise ConversionError("Levels", f"the range [{y_min}, {y_max}]", "it must contain 0 and another level")
    if not 0 < limit <= _FARTHEST:
        raise ConversionError("Levels", f"integers of up to {limit}", "they are exact up to 2**52")
