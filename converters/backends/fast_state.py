"""Neurons of one layer for the compiled kernels: in float64, or in int32 where that is proven the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import multistep
from converters.exact.sums import adds_exactly
from converters.network import Stage, float64
from converters.results import Emitted

__all__ = ["Parameters", "State"]

_CLEAR = 500  # thresholds this many times the doubtful distance: then exact decisions cost less than they save


@dataclass(frozen=True)
class Parameters:
    """A layer's parameters as :mod:`calif_plugins.multistep_rows` takes them.

    ``narrow`` is None where int32 could overflow, where rounding would leave too much in doubt, or
    where float64 is not exact itself, so that there is nothing to equal. Those layers are wide.
    """

    rows: int
    """Neurons per row: channels times ``repeat`` places."""
    wide: tuple[Any, ...]
    v_init: np.ndarray
    narrow: tuple[Any, ...] | None

    @cached_property
    def addresses(self) -> tuple[Any, ...]:
        """The narrow ones for a kernel."""
        return tuple(x.ctypes.data if isinstance(x, np.ndarray) else x for x in self.narrow or ())

    @classmethod
    def of(cls, stage: Stage, repeat: int, window: int, change: int, reach: int) -> Parameters:
        """``change`` bounds the charge of one step, ``reach`` all that has come at any time."""
        p = stage.parameters

        def row(value: Any) -> np.ndarray:
            one = float64(value).reshape(-1).expand(stage.shape[0]).repeat(repeat)
            return one.numpy()

        wide = row(p.threshold), row(p.leak), row(p.y_min), row(p.y_max)
        v_init = row(p.v_init)
        return cls(len(v_init), wide, v_init, _narrow(*wide, v_init, max(window * change, reach), window))


def _narrow(
    threshold: np.ndarray, leak: np.ndarray, y_min: np.ndarray, y_max: np.ndarray, v_init: np.ndarray, charge: int,
    window: int,
) -> tuple[Any, ...] | None:  # fmt: skip
    levels = int(max(-y_min.min(), y_max.max())) + 2
    alike = bool((y_min == y_min[0]).all() and (y_max == y_max[0]).all())
    if not alike or max(levels, window) >= 2**15:
        return None
    # any membrane, and any threshold times a count: these are paid for by charge and leak
    span = np.abs(v_init).max() + charge + window * np.abs(leak).max() + 2 * threshold.max()
    shift = 30 - int(np.ceil(np.log2(span)))
    if shift < 0 or not adds_exactly(span, threshold, leak, v_init):
        return None
    scaled = [np.ldexp(x, shift) for x in (threshold, leak, v_init)]
    units = [np.rint(x).astype(np.int32) for x in scaled]
    off = [float(np.abs(x - u).max()) for x, u in zip(scaled, units, strict=True)]
    doubt = levels * off[0] + window * off[1] + off[2]
    close = int(np.ceil(doubt)) + 1 if doubt else 0
    if units[0].min() < 1 or np.median(units[0]) < _CLEAR * close:
        return None
    limits = int(y_min[0]) * 65536, int(y_max[0]) * 65536
    return (units[0], units[1], *limits, units[2], shift, close, threshold, leak, v_init)


class State:
    """Membranes and counts of a layer for ``n`` images, channels last; narrow at first where that is possible."""

    def __init__(self, parameters: Parameters, shape: tuple[int, ...], n: int) -> None:
        self.parameters = parameters
        self.shape = (n, *shape[1:], shape[0])
        self.rows = math.prod(self.shape) // parameters.rows
        self.arrays: tuple[Tensor, ...] = ()
        self.reset()

    def reset(self) -> None:
        """To the state before the first step, in the same memory where that is possible."""
        narrow = self.parameters.narrow
        start = torch.from_numpy(self.parameters.v_init if narrow is None else narrow[4])
        kinds = (start.dtype, torch.float64, torch.int32) if narrow is None else (start.dtype, torch.int32)
        if len(self.arrays) != len(kinds):
            self.arrays = tuple(torch.empty(self.rows, len(start), dtype=kind) for kind in kinds)
        v, *others = self.arrays
        v[:] = start
        for x in others:
            x.zero_()
        self.last = np.ones(self.rows, dtype=np.int32)  # how many of a row fired in the step before
        self.arguments = self._arguments()

    def _arguments(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """State and parameters for a kernel."""
        if len(self.arrays) == 3 or self.parameters.narrow is None:
            return tuple(a.numpy() for a in self.arrays), self.parameters.wide
        return tuple(a.data_ptr() for a in self.arrays), self.parameters.addresses

    def widen(self, t: int) -> None:
        """In float64, after ``t`` leaks: membranes that int32 determines, exactly (see ``multistep_narrow``)."""
        if len(self.arrays) == 3:
            return
        narrow = self.parameters.narrow
        assert narrow is not None
        v, count = self.arrays
        wide = torch.empty(v.shape, dtype=torch.float64), torch.empty(v.shape, dtype=torch.float64), torch.empty_like(v)
        multistep.totals().widen(v.numpy(), count.numpy(), narrow, t, tuple(a.numpy() for a in wide))
        self.arrays = wide
        self.arguments = self._arguments()

    def emitted(self, fan_out: np.ndarray) -> Emitted:
        """What has been sent; ``fan_out`` as :mod:`calif_plugins.multistep_totals` takes it."""
        totals = torch.empty(3, self.shape[0], dtype=torch.int64)
        if len(self.arrays) == 2:
            multistep.totals().summed(self._flat(1), fan_out, totals.numpy())
        else:
            multistep.totals().wide_summed(self._flat(2), self._flat(1), fan_out, totals.numpy())
        return Emitted(*totals.unbind())

    def _flat(self, k: int) -> np.ndarray:
        """One of the arrays, ``(N, places, C)``."""
        return self.arrays[k].numpy().reshape(self.shape[0], -1 if self.shape[0] else 1, self.shape[-1])

    def counts(self, into: Tensor | None = None) -> Tensor:
        """Int32, channels first; ``into`` a contiguous tensor of that shape, if there is one."""
        n, *places, channels = self.shape
        counts = torch.empty(n, channels, *places, dtype=torch.int32) if into is None else into
        if len(self.arrays) == 3:
            return counts.copy_(self._first(self.arrays[1]))
        multistep.totals().counted(self._flat(1), counts.reshape(n, channels, math.prod(places)).numpy())
        return counts

    @property
    def membranes(self) -> Tensor:
        """Float64, channels first, not in the state's memory; the state is wide."""
        return self._first(self.arrays[0]).clone(memory_format=torch.contiguous_format)

    def _first(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape).movedim(-1, 1)
