"""How the fast simulator computes each layer's charges: what does not depend on the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.backends.fast_counting import Counting
from converters.backends.fast_moves import Moves, dense_in_places, only_moves
from converters.backends.fast_state import Parameters
from converters.backends.integer_kernels import convolution, dense, int8_kernels, reordered
from converters.exact.sums import whole_dtype
from converters.network import Network, Stage
from converters.operations import Conv2d, Linear, Shape, Synapse
from converters.operations.contract import Window

__all__ = ["Input", "Plan", "PlannedLayer", "first", "last", "places"]

_EXACT = 2**24


Charge = Callable[[Tensor], Tensor]  # uint8 spikes + 1, (B, N, *shape, channels last) -> float (B, places, C)


@dataclass
class Input:
    """A synapse: what ``charge`` brings of its ``sources``' spikes."""

    sources: tuple[str, ...]
    charge: Charge | None
    synapse: Synapse
    counting: Counting | None = None


class Plan:
    """For every layer: how its charges are computed, and its parameters as the kernels take them.

    ``fan_out`` has connections as :mod:`calif_plugins.multistep_totals` takes them, ``done`` for each layer the sources
    that no later one hears.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.stages = [PlannedLayer(network, stage) for stage in network.stages]
        self.fan_out = {stage.name: _leaving(network.fan_out[stage.name]) for stage in network.stages}
        hears = {stage.name: {name for s in stage.synapses for name in s.sources} for stage in network.stages}
        last_heard = {name: stage for stage, sources in hears.items() for name in (*sources, stage)}
        self.done = {stage: [name for name, by in last_heard.items() if by == stage] for stage in hears}


def _leaving(fan_out: Tensor) -> Any:
    """``(C, ...)`` to int64 ``(places, C)``, or ``(places, 1)`` where all channels are one in memory."""
    alike = len(fan_out) == 1 or fan_out.stride(0) == 0
    kept = fan_out[:1] if alike else fan_out
    return kept.reshape(len(kept), -1).T.to(torch.int64).contiguous().numpy()


class PlannedLayer:
    def __init__(self, network: Network, stage: Stage) -> None:
        self.stage = stage
        self.change = change = network.changes[stage.name]
        portion = _portion(network, stage)
        self.dtype = torch.float32 if change < _EXACT else torch.float64
        self.portions = torch.int32 if portion < 2**31 else torch.int64
        self.pool: Window | None = None
        ops = [s.ops for s in stage.synapses]
        if len(ops) == 1 and len(ops[0]) == 1 and change < 2**15:
            self.pool = ops[0][0].window
        self.pool_events = None
        if self.pool is not None:
            self.pool_events = _PoolEvents.of(self.pool, network.shapes[stage.synapses[0].source], stage.shape)
        self.inputs = [self._input(s, network) for s in stage.synapses]
        # a row of the kernels is a row of the image, channels last: long enough to be vectorised
        repeat = stage.shape[-1] if len(stage.shape) > 1 else 1
        reach = sum(s.reach(*(network.reach[name] for name in s.sources)) for s in stage.synapses)
        self.parameters = Parameters.of(stage, repeat, network.window, change + portion, reach)
        self.moves = [self._moves(s, network) for s in stage.synapses]
        factors = tuple(_factor(s) for s in stage.synapses)
        self.factors = tuple(f for f in factors if f is not None) if None not in factors and change < 2**31 else None
        self.in_place = all(moves is None or moves.index is None for moves in self.moves)
        self.events = _Events.of(stage, network)

    @cached_property
    def sources(self) -> set[str]:
        """Inputs and layers that it hears."""
        return {name for given in self.inputs for name in given.sources}

    def _input(self, synapse: Synapse, network: Network) -> Input:
        shapes = [network.shapes[name] for name in synapse.sources]
        if synapse.linear:
            return Input(synapse.sources, self._charge(synapse, shapes[0], self.dtype), synapse)
        first_ops = synapse.parts[0]
        if not first_ops or len(shapes) > 1 or only_moves(first_ops):
            return Input(synapse.sources, None, synapse, Counting.of(synapse, network, self.change, None))
        lead = Synapse(synapse.sources, first_ops)
        charge = self._charge(lead, shapes[0], torch.float32 if lead.gain < _EXACT else torch.float64)
        return Input(synapse.sources, charge, synapse, Counting.of(synapse, network, self.change, lead))

    def _moves(self, synapse: Synapse, network: Network) -> Moves | None:
        """Of a synapse that adds spikes up as they are, in other places perhaps."""
        if not synapse.linear or not only_moves(synapse.ops):
            return None
        return Moves.of(synapse.ops, network.shapes[synapse.source])

    def _charge(self, synapse: Synapse, shape: Shape, dtype: torch.dtype) -> Charge:
        ops, factor = synapse.ops, _factor(synapse)
        if factor is not None:
            return _identity(factor, dtype, Moves.of(ops, shape) if only_moves(ops) else None)
        if dtype is torch.float32 and int8_kernels():
            if len(ops) == 1 and type(ops[0]) is Conv2d and ops[0].weight.dtype == torch.int8:
                return _conv(ops[0])
            if type(ops[-1]) is Linear and ops[-1].weight.dtype == torch.int8 and len(ops) <= 2:
                if len(ops) == 1:
                    return _linear(ops[-1].weight)
                if ops[0].rewires:
                    return _linear(reordered(ops[-1].weight, shape))
            tokens = dense_in_places(ops, shape)
            if tokens is not None:
                return tokens
        return _any(synapse, dtype)


def _factor(synapse: Synapse) -> int | None:
    """The whole number by which spikes are multiplied, in their places or others; None where more happens to them."""
    ops = synapse.ops
    if synapse.linear and only_moves(ops):
        return 1
    if not synapse.linear or len(ops) > 1 or (ops and ops[0].rewires):
        return None
    return ops[0].factor if ops else 1


def _portion(network: Network, stage: Stage) -> int:
    """What directly coded inputs bring in a step at the most."""
    if network.coding != "direct":
        return 0
    reach = network.reach
    return sum(
        2 * s.reach(*(reach[n] for n in s.sources)) // network.window + 1  # twice: less what silence brings
        for s in stage.synapses
        if set(s.sources) & set(network.specs)
    )


@dataclass
class _PoolEvents:
    """A pool whose windows do not overlap, spike by spike: ``target`` of ``pool_event_scan``."""

    arguments: tuple[Any, ...]
    share: float

    @classmethod
    def of(cls, window: Window, shape: Shape, out: Shape) -> _PoolEvents | None:
        kernel, stride, padding = window
        if any(s < k for s, k in zip(stride, kernel, strict=True)):
            return None
        h, w = (k.reshape(-1) for k in np.indices(shape[1:]))
        (y, below), (x, right) = (np.divmod(k + p, s) for k, p, s in zip((h, w), padding, stride, strict=True))
        inside = (y < out[1]) & (x < out[2]) & (below < kernel[0]) & (right < kernel[1])
        place = np.where(inside, (y * out[2] + x) * out[0], -1)[:, None]
        target = np.where(place < 0, -1, place + np.arange(shape[0])).astype(np.int32).reshape(-1)
        return cls((target,), POOL_SHARE)


@dataclass
class _Events:
    """A convolution or dense layer taken spike by spike, where that is less work than all its products.

    The tables of :func:`calif_plugins.multistep_kernels.event_scan`. Sums are of 16 bits where these hold at least
    those of some spikes, since an instruction adds twice as many of these as of 32.
    """

    arguments: tuple[Any, ...]
    share: float
    """Below this share of inputs that spike, adding up their weights one by one is faster."""

    @classmethod
    def of(cls, stage: Stage, network: Network) -> _Events | None:
        change = network.changes[stage.name]
        if len(stage.synapses) != 1 or not stage.linear or change >= 2**31:
            return None
        ops, shape = stage.synapses[0].ops, network.shapes[stage.synapses[0].source]
        op = ops[-1] if ops else None
        if len(ops) == 1 and type(op) is Conv2d and op.groups == 1 and op.dilation == (1, 1):
            sums, most = _sums(op.weight, change)
            # few input channels leave integer kernels idle
            share = EVENT_SHARE * max(1.0, 70 / op.weight[0].numel()) * (1.0 if sums.dtype == np.int16 else 0.5)
            return cls(_convolution(op, shape, stage.shape, sums, most), share)
        if type(op) is Linear and (len(ops) == 1 or (len(ops) == 2 and ops[0].rewires)):
            sums, most = _sums(op.weight, change)
            weight = _lines(reordered(op.weight, shape).T.numpy().astype(_narrowest(op.weight, sums)))
            features, size = weight.shape
            start = np.zeros(1, dtype=np.int32)
            tables = (start, start.astype(np.int64), weight.reshape(-1), sums, most)
            return cls((features, *tables, 1, size, 1, size, 0, 0), EVENT_SHARE * 0.7)
        return None


def _sums(weight: Tensor, gain: int) -> tuple[np.ndarray, int]:
    """``sums`` and ``most`` of ``event_scan``."""
    short: np.ndarray = np.empty(0, dtype=np.int16)
    if gain < 2**15:
        return short, 0
    sizes = weight.flatten(1).to(torch.int64).abs().sort(descending=True).values.cumsum(1)
    most = int((sizes < 2**15).sum(1).min())  # each of these spikes meets another weight of a neuron
    return (short, most) if most >= _SOME else (np.empty(0, dtype=np.int32), 0)


POOL_SHARE = 0.25
EVENT_SHARE = 0.2  # of inputs that spike in a step; measured on two AVX-512 cores
_SOME = 64  # spikes between two additions of all sums of 16 bits to those of 32, which cost as much as some spikes


def _convolution(op: Conv2d, shape: Shape, out: Shape, sums: np.ndarray, most: int) -> tuple[Any, ...]:
    """Arguments of ``event_scan``: a spike's weights are some lines of an image of charges with margins.

    Steps of a stride divide the sources into as many phases: each meets its own part of the kernel, every so many lines
    and columns of it. All have as many as the largest, of zeros where there are fewer.
    """
    channels, height, width = shape
    targets, phases = len(op.weight), [(a, b) for a in range(op.stride[0]) for b in range(op.stride[1])]
    kh, kw = (-(-k // s) for k, s in zip(op.weight.shape[2:], op.stride, strict=True))
    kind = _narrowest(op.weight, sums)
    weight: np.ndarray = np.zeros((len(phases), targets, channels, kh, kw), dtype=kind)
    for part, (a, b) in zip(weight, phases, strict=True):
        own = op.weight[:, :, a :: op.stride[0], b :: op.stride[1]].numpy()
        part[:, :, : own.shape[2], : own.shape[3]] = own
    # from bottom to top, in each the columns from right to left: a source at (y, x) of a phase reaches (y - i, x - j)
    lines = weight.transpose(0, 2, 3, 4, 1)[:, :, :, ::-1].reshape(len(phases) * channels * kh, kw * targets)
    lines = _lines(lines)
    size = lines.shape[1]
    y, x = (k.reshape(-1) for k in np.indices((height, width)))
    (y, a), (x, b) = (np.divmod(k + p, s) for k, p, s in zip((y, x), op.padding, op.stride, strict=True))
    top, side = kh - 1, kw - 1  # of the neurons within the image of charges
    tall, wide = max(int(y.max()) + kh, top + out[1]), max(int(x.max()) + kw, side + out[2]) * targets
    place = ((y + kh - 1) * wide + x * targets).astype(np.int32)
    line = (a * op.stride[1] + b).astype(np.int64) * (channels * kh * size)
    line[(a >= op.weight.shape[2]) | (b >= op.weight.shape[3])] = -1  # between the kernel's places
    return (channels, place, line, lines.reshape(-1), sums, most, kh, size, tall, wide, top, side * targets)


def _narrowest(weight: Tensor, sums: np.ndarray) -> Any:
    """Of weights of 8 bits twice as many fit into the cache, and they are widened as they are added."""
    return np.int8 if weight.dtype == torch.int8 else sums.dtype


def _lines(weight: np.ndarray) -> np.ndarray:
    """Lines filled up with zeros to a multiple of 32."""
    return np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % 32))))


def _identity(weight: int, dtype: torch.dtype, moves: Moves | None) -> Charge:
    def charge(x: Tensor) -> Tensor:
        s = (x if moves is None else moves(x)).to(dtype).sub_(1)
        return places(s if weight == 1 else s.mul_(weight))

    return charge


def _conv(op: Conv2d) -> Charge:
    kernel = convolution(op, 1)
    return lambda x: kernel(x.flatten(0, 1)).reshape(len(x), -1, len(op.weight))


def _linear(weight: Tensor) -> Charge:
    kernel = dense(weight, 1)
    return lambda x: kernel(x.reshape(-1, weight.shape[1])).reshape(len(x), -1, len(weight))


def _any(synapse: Synapse, dtype: torch.dtype) -> Charge:
    def charge(x: Tensor) -> Tensor:
        exactly = torch.promote_types(dtype, whole_dtype(synapse.gain, x.device))
        s = first(x.flatten(0, 1)).to(exactly).sub_(1)
        return places(last(synapse(s)).reshape(*x.shape[:2], *last(synapse(s[:1])).shape[1:]))

    return charge


def last(x: Tensor) -> Tensor:
    """``(N, C, ...)`` to channels last."""
    return x.movedim(1, -1)


def first(x: Tensor) -> Tensor:
    """Channels last to ``(N, C, ...)``."""
    return x.movedim(-1, 1)


def places(x: Tensor) -> Tensor:
    """``(B, N, ..., C)`` to ``(B, places, C)``."""
    return x.reshape(len(x), -1, x.shape[-1])
