"""What each stock NIR node does in one step, in float64: what :mod:`converters.graphs.stock_simulation` runs.

A value is a number over a whole divisor that its node is known to have: an average pool sends sums, and multiplies the
divisor; thresholds, biases and resting potentials are multiplied by it once. So sums of whole numbers stay whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.pooling import STOCK_POOLS, stock_pool

__all__ = ["MAKE", "REASONS", "SPIKING", "Node", "Place"]


def _tensor(value: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float64)).to(device)


Node: TypeAlias = Callable[[Tensor], Tensor]
Made: TypeAlias = tuple[Node, int]  # with the divisor of what it sends


class Place(NamedTuple):
    """A node, how it is to be run, and the divisor of what arrives at it."""

    name: str
    node: Any
    dt: float
    strict: bool
    device: torch.device
    divisor: int

    def tensor(self, value: Any) -> Tensor:
        return _tensor(value, self.device)

    def times(self, value: Any) -> Tensor:
        """A potential, or another constant that is added to or compared with what arrives, in its units."""
        return _tensor(value, self.device) * self.divisor

    def per_step(self, r: Any) -> Tensor:
        """``r dt``, and exactly 1 where the step is the inverse of r, which no float may be."""
        r = np.asarray(r, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return self.tensor(np.where(1 / r == self.dt, 1.0, r * self.dt))


def _affine(p: Place) -> Made:
    weight = p.tensor(p.node.weight)
    bias = p.times(p.node.bias) if type(p.node) is nir.Affine else None
    return lambda x: F.linear(x, weight, bias), p.divisor


def _conv(p: Place) -> Made:
    node = p.node
    weight, bias = p.tensor(node.weight), p.times(np.broadcast_to(node.bias, np.shape(node.weight)[:1]))
    stride, dilation = _pair(node.stride), _pair(node.dilation)
    padding = node.padding if isinstance(node.padding, str) else _pair(node.padding)
    groups = int(np.asarray(node.groups).item())
    return lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups), p.divisor


def _pool(p: Place) -> Made:
    pool = stock_pool(p.node)
    if p.divisor * pool.divisor >= _LARGEST_DIVISOR:  # a chain of averages: round here, as everybody does
        return pool.averages, p.divisor
    return pool.sums, p.divisor * pool.divisor


def _flatten(p: Place) -> Made:
    start, end = (int(d) + 1 if int(d) >= 0 else int(d) for d in (p.node.start_dim, p.node.end_dim))  # NIR has no batch
    return lambda x: x.flatten(start, end), p.divisor


def _scale(p: Place) -> Made:
    scale = p.tensor(p.node.scale)
    return lambda x: x * scale, p.divisor


def _threshold(p: Place) -> Made:
    threshold, strict = p.times(p.node.threshold), p.strict
    return lambda x: (x > threshold if strict else x >= threshold).to(x.dtype), 1


def _integrator(p: Place) -> Made:
    return _Membrane(r=p.per_step(p.node.r)), p.divisor


def _leaky(p: Place) -> Made:
    k = _decay(p)
    return _Membrane(r=p.tensor(p.node.r) * k, decay=k, rest=p.times(p.node.v_leak)), p.divisor


def _if(p: Place) -> Made:
    node = p.node
    membrane = _Membrane(
        r=p.per_step(node.r), threshold=p.times(node.v_threshold), reset=p.times(node.v_reset), strict=p.strict
    )
    return membrane, 1


def _lif(p: Place) -> Made:
    k, node = _decay(p), p.node
    membrane = _Membrane(
        r=p.tensor(node.r) * k,
        decay=k,
        rest=p.times(node.v_leak),
        threshold=p.times(node.v_threshold),
        reset=p.times(node.v_reset),
        strict=p.strict,
    )
    return membrane, 1


def _decay(p: Place) -> Tensor:
    tau = p.tensor(p.node.tau)
    if not bool((tau > 0).all()) or bool((p.dt > tau * (1 + 1e-6)).any()):
        raise ConversionError(
            p.name,
            f"a time constant of {float(tau.min()):g} s with steps of {p.dt:g} s",
            "Euler steps must be shorter; give dt",
        )
    return p.dt / tau


class _Membrane:
    """``v <- v + decay (rest - v) + r x``; with a threshold it fires and resets, without it is read."""

    def __init__(
        self,
        r: Tensor,
        decay: Tensor | None = None,
        rest: Tensor | None = None,
        threshold: Tensor | None = None,
        reset: Tensor | None = None,
        strict: bool = True,
    ) -> None:
        self.r, self.decay, self.rest = r, decay, rest
        self.threshold, self.reset, self.strict = threshold, reset, strict
        self.v: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        if self.decay is not None and self.rest is not None:
            v = v + self.decay * (self.rest - v)
        v = v + self.r * x
        if v.shape != x.shape:
            raise RuntimeError(f"its parameters have shape {tuple(self.r.shape)}")
        if self.threshold is None or self.reset is None:
            self.v = v
            return v
        fires = v > self.threshold if self.strict else v >= self.threshold
        self.v = torch.where(fires, self.reset.expand_as(v), v)
        return fires.to(x.dtype)


def _pair(value: Any) -> tuple[int, int]:
    array = np.broadcast_to(np.asarray(value).reshape(-1), (2,))
    return int(array[0]), int(array[1])


_LARGEST_DIVISOR = 2**40  # and 13 bits of float64 are left for sums
SPIKING = (nir.IF, nir.LIF, nir.Threshold)
MAKE: dict[type, Callable[[Place], Made]] = {
    nir.Affine: _affine,
    nir.Linear: _affine,
    nir.Conv2d: _conv,
    **dict.fromkeys(STOCK_POOLS, _pool),
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
    nir.I: _integrator,
    nir.LI: _leaky,
    nir.IF: _if,
    nir.LIF: _lif,
}
_TWO_STATES = "tools disagree on whether current or membrane moves first in a step; use IF or LIF"
REASONS: dict[type, str] = {
    nir.CubaLIF: _TWO_STATES,
    nir.CubaLI: _TWO_STATES,
    nir.Delay: "delays of a fraction of a step have no agreed meaning; use a feed-forward graph without them",
    nir.Conv1d: "no converter of this package writes or reads one; give it as a Conv2d",
}
