"""Any pointwise activation, exactly: a quantised one is a step function of the integer accumulator.

The neuron behind it keeps the level that it has sent as its count ``y``, and fires +1 where ``F(z) > y`` and -1 where
``F(z) < y``: its thresholds depend on its calcium. A ReLU is the case of equally spaced thresholds. Where the steps are
is worked out once, at conversion (:mod:`converters.operations.level_tables`), and stored as integers of the
accumulator: integers decide, and no platform's ``exp`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.activations import activation
from converters.operations.coarsening import coarsened_range
from converters.operations.contract import Operation, Range, Shape, register
from converters.operations.counting import Counting
from converters.operations.level_tables import Rounded, Steps, first_integers_at, patched, steps
from converters.operations.weighing import Scale

__all__ = ["Levels"]

LevelAt: TypeAlias = Callable[[np.ndarray], np.ndarray]

_FARTHEST = 2**52
_CLOSE = 1e-9  # of a level, relative to its size: what two libraries' functions may differ by at a tie
_NOISE = 1e-9  # of a level: what is no turn of a function
_SAMPLES = 64
_DIFFERENCE = 1e-6  # of the sizes that are added up: over which a slope is taken


@register
@dataclass(frozen=True, eq=False)
class Levels(Counting):
    """``F(z) = clip(round(f(unit z + offset) / scale), y_min, y_max)`` of integers ``(C, ...)``, ties to even.

    Attributes
    ----------
    function : str
        ``f``, a name of :data:`converters.operations.activations.ACTIVATIONS`.
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
        breakpoints, values = _table(*form, y_min, y_max, limit)
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
            return values[0][torch.bucketize(z.contiguous(), breakpoints[0], right=True)]
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


def _table(
    function: str, parameters: tuple[tuple[float, ...], ...], units: tuple[float, ...], offsets: tuple[float, ...],
    scale: float, y_min: int, y_max: int, limit: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Breakpoints ``(C, K)`` and values ``(C, K + 1)``."""
    act = activation(function)
    channels = max(len(units), len(offsets), *(len(p) for p in parameters), 1)

    def spread(v: Sequence[float]) -> np.ndarray:
        return np.broadcast_to(np.array(v, dtype=np.float64), channels)

    unit, offset = spread(units), spread(offsets)
    given = np.array([spread(p) for p in parameters]).reshape(len(parameters), channels)
    distinct, row_of = np.unique(given, axis=1, return_inverse=True)  # functions that differ by their parameters
    row_of = row_of.reshape(-1) if len(parameters) else np.zeros(channels, dtype=np.int64)
    rows = distinct.shape[1] if len(parameters) else 1

    def real(x: np.ndarray, row: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            y = act(torch.from_numpy(x), *(torch.from_numpy(p[row]) for p in distinct))
        return np.asarray(y.numpy())

    def rounded(x: np.ndarray, row: np.ndarray) -> np.ndarray:
        y = real(x, row)
        if np.isnan(y).any():
            raise ConversionError("Levels", f"{function} with a value that is no number", "keep it where it has one")
        return np.clip(np.rint(y / scale), y_min, y_max).astype(np.int64)

    span = np.abs(unit) * limit
    found = steps(
        lambda x, row: np.clip(real(x, row), (y_min - 1) * scale, (y_max + 1) * scale),
        rounded, float((offset - span).min()), float((offset + span).max()), rows, _NOISE * scale,
    )  # fmt: skip
    made = []
    for c in range(channels):
        row, own = found[row_of[c]], partial(_level_at, rounded, unit[c], offset[c], row_of[c])
        table = _corrected(*_of_channel(row, unit[c], offset[c], limit, own), limit, own)
        made.append(patched(*table, *_at_turns(row.turns, unit[c], offset[c], limit, own)))
    most = max(len(b) for b, _ in made)
    breakpoints = np.stack([np.pad(b, (0, most - len(b)), constant_values=limit + 1) for b, _ in made])
    values = np.stack([np.pad(v, (0, most - len(b)), mode="edge") for b, v in made])
    return _trimmed(breakpoints, values, limit)


def _level_at(rounded: Rounded, unit: float, offset: float, row: int, z: np.ndarray) -> np.ndarray:
    """The levels of integers of one channel, by the function."""
    return rounded(unit * z + offset, np.full(z.shape, row))


def _corrected(
    breakpoints: np.ndarray, values: np.ndarray, limit: int, level_at: LevelAt
) -> tuple[np.ndarray, np.ndarray]:
    """At a tie neighbouring floats may differ in the last bit of the function: the integers themselves decide."""
    after, rising = values[1:], values[1:] > values[:-1]

    def reached(z: np.ndarray) -> np.ndarray:
        return np.where(rising, level_at(z) >= after, level_at(z) <= after)

    inside = (breakpoints > -limit) & (breakpoints <= limit)
    earlier = inside & reached(breakpoints - 1)
    later = inside & ~earlier & ~reached(breakpoints)
    return np.maximum.accumulate(breakpoints - earlier + later), values


def _at_turns(
    turns: np.ndarray, unit: float, offset: float, limit: int, level_at: LevelAt
) -> tuple[np.ndarray, np.ndarray]:
    """The integers next to where the function turns, and their levels."""
    if unit == 0 or not len(turns):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    with np.errstate(over="ignore"):
        middle = np.rint((turns - offset) / unit)
    z = np.unique(np.concatenate([middle - 1, middle, middle + 1]))
    z = z[np.abs(z) <= limit].astype(np.int64)
    return z, level_at(z)


def _of_channel(row: Steps, unit: float, offset: float, limit: int, level_at: LevelAt) -> tuple[np.ndarray, np.ndarray]:
    """A channel's breakpoints and values, from the steps of its function in real units."""
    if unit == 0:  # cut off: the offset alone
        return np.zeros(0, dtype=np.int64), level_at(np.zeros(1))
    if unit > 0:
        return first_integers_at(row.at, unit, offset, limit), row.levels
    # x falls as z grows: where it is below a step is one behind where -z is the last to be at or above it
    return (1 - first_integers_at(row.at, -unit, offset, limit))[::-1], row.levels[::-1]


def _trimmed(breakpoints: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Without the steps that no integer within the limit takes; one row where all are alike."""
    start = int((breakpoints <= -limit).all(0).sum())
    stop = breakpoints.shape[1] - int((breakpoints > limit).all(0).sum())
    breakpoints, values = breakpoints[:, start : max(start, stop)], values[:, start : max(start, stop) + 1]
    if len(values) > 1 and (breakpoints == breakpoints[:1]).all() and (values == values[:1]).all():
        breakpoints, values = breakpoints[:1], values[:1]
    return np.ascontiguousarray(breakpoints), np.ascontiguousarray(values)
