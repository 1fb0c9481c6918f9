"""The closed form on bytes: oneDNN's integer kernels for sums, one compiled pass for the rounding, all exact.

A layer takes this road if it is one convolution, dense layer or pool of int8 weights and its counts fit a byte. Sums
are int32 and come as float32; that is harmless beyond 2**24 as long as no decision lies there, which is looked up
(see :mod:`converters.backends.integer_kernels`). All other layers, and other devices, go the way of ``closed_form``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calif_plugins import multistep
from converters.backends.integer_kernels import Kernel, convolution, dense, int8_kernels, reordered
from converters.lattice import first_integers
from converters.network import Network, Stage, float64
from converters.operations import Conv2d, Linear

__all__ = ["IntegerLayer", "integer_layers"]

_EXACT = 2**24


def integer_layers(network: Network) -> dict[str, IntegerLayer]:
    """The layers that can go this way, made once per network."""
    if not multistep.available() or not int8_kernels():
        return {}
    return network.keep(("integer_layers",), lambda: _integer_layers(network))


def _integer_layers(network: Network) -> dict[str, IntegerLayer]:
    layers: dict[str, IntegerLayer] = {}
    ranges = {name: (spec.q_min, spec.q_max) for name, spec in network.specs.items()}
    for stage in network.stages:
        p = stage.parameters
        ranges[stage.name] = int(p.y_min.min()), int(p.y_max.max())
        layer = IntegerLayer.of(stage, network, ranges)
        if layer is not None:
            layers[stage.name] = layer
            before = layers.get(layer.source)
            if layer.pool and before is not None and before.kernel is not None and not before.pooled:
                before.pooled = stage.name
    return layers


@dataclass
class IntegerLayer:
    """One layer: uint8 counts less their lowest value, channels last, to the same of the next layer."""

    source: str
    zero_point: int
    """What a silent input is as a byte."""
    shape: tuple[int, ...]
    kernel: Kernel | None
    pool: tuple[Any, ...]
    rounding: tuple[Any, ...]
    low: int
    exact: bool
    """Whether its sums are exact themselves, and not just on the right side of every decision."""
    pooled: str = ""
    """A pool that takes these counts, to be computed at once."""

    @classmethod
    def of(cls, stage: Stage, network: Network, ranges: dict[str, tuple[int, int]]) -> IntegerLayer | None:
        p = stage.parameters
        low, high = ranges[stage.name]
        alike = p.y_min.min() == p.y_min.max() and p.y_max.min() == p.y_max.max()
        if len(stage.synapses) != 1 or not stage.linear or not alike or not 0 < high - low <= 255:
            return None
        synapse = stage.synapses[0]
        least, most = ranges[synapse.source]
        reach = synapse.reach(max(-least, most))
        if most - least > 255 or reach >= 2**31:
            return None
        rounding = _rounding(stage, network.window, low, high, reach)
        if rounding is None:
            return None
        ops, kernel = synapse.ops, None
        pool: tuple[Any, ...] = ()
        shape = (*stage.shape[1:], stage.shape[0])
        if len(ops) == 1 and type(ops[0]) is Conv2d and ops[0].weight.dtype == torch.int8:
            kernel = convolution(ops[0], -least)
        elif ops and type(ops[-1]) is Linear and ops[-1].weight.dtype == torch.int8 and (
            len(ops) == 1 or (len(ops) == 2 and ops[0].rewires)
        ):  # fmt: skip
            kernel = dense(reordered(ops[-1].weight, network.shapes[synapse.source]), -least)
        elif len(ops) == 1 and ops[0].window is not None:
            pool = (np.int32(-least), *(n for pair in ops[0].window for n in pair))
        else:
            return None
        return cls(synapse.source, -least, shape, kernel, pool, rounding, low, kernel is not None and reach < _EXACT)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Counts of the next layer, and its accumulator where it exists on its own."""
        from calif_plugins import rounding_kernels

        kernels: Any = rounding_kernels  # compiled: their signatures are not Python's
        out = torch.empty(len(x), *self.shape, dtype=torch.uint8)
        flat = out.reshape(-1).numpy()
        if self.kernel is None:
            kernels.pool_to_counts(x.reshape(-1).numpy(), self._pooled_shape(x), self.pool, self.rounding, flat)
            return out, None
        acc = self._sums(x)
        kernels.to_counts(acc.reshape(-1).numpy(), self.rounding, flat)
        return out, acc

    def _pooled_shape(self, x: Tensor) -> tuple[int, ...]:
        return *x.shape, *self.shape[:2]

    def _sums(self, x: Tensor) -> Tensor:
        assert self.kernel is not None
        return self.kernel(x if len(self.shape) > 1 else x.reshape(len(x), -1)).contiguous()

    def with_pool(self, x: Tensor, pool: IntegerLayer) -> tuple[Tensor, Tensor]:
        """Counts of this convolution and of the pool after it."""
        from calif_plugins import rounding_kernels

        kernels: Any = rounding_kernels
        out = torch.empty(len(x), *self.shape, dtype=torch.uint8)
        pooled = torch.empty(len(x), *pool.shape, dtype=torch.uint8)
        kernels.to_pooled_counts(
            self._sums(x).reshape(-1).numpy(), self.rounding, out.reshape(-1).numpy(),
            pool._pooled_shape(out), pool.pool, pool.rounding, pooled.reshape(-1).numpy(),
        )  # fmt: skip
        return out, pooled

    def bytes_of(self, counts: Tensor) -> Tensor:
        """Signed counts ``(N, C, ...)`` as this layer's input."""
        return (counts.movedim(1, -1) + self.zero_point).to(torch.uint8).contiguous()

    def counts_of(self, out: Tensor) -> Tensor:
        """What this layer put out as signed counts, float64 ``(N, C, ...)``."""
        return self.channels_first(out).to(torch.float64) + self.low

    def channels_first(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


def _rounding(stage: Stage, window: int, low: int, high: int, reach: int) -> tuple[Any, ...] | None:
    """Arguments of the rounding kernels, or None where float32 could be wrong and not know it."""
    p, channels = stage.parameters, stage.shape[0]
    threshold = float64(p.threshold).reshape(-1).expand(channels).numpy()
    bias = (float64(p.v_init).reshape(-1) - window * float64(p.leak).reshape(-1)).expand(channels).numpy()
    levels = np.arange(low, high)
    first = np.clip(first_integers(threshold, bias, levels, p.tie), -reach, reach + 1)
    if reach >= _EXACT and (np.abs(first[(first > -reach) & (first <= reach)]) > _EXACT).any():
        return None
    factor, offset = (1 / threshold).astype(np.float32), (bias / threshold).astype(np.float32)
    # within the range, both terms are at most the levels and the offset: a few roundings of that size
    doubt = np.float32((max(-low, high) + 2 + 2 * np.abs(offset).max()) * 2.0**-21)
    if not doubt < 0.1:
        return None
    places = stage.shape[-1] if len(stage.shape) > 1 else 1

    def row(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.tile(x, (places,) + (1,) * (x.ndim - 1)))

    return row(factor), row(offset), doubt, row(first), np.float32(low), np.float32(high)
