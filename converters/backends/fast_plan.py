"""How the fast simulator computes each layer's charges: what does not depend on the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from converters.backends.fast_counting import Counting
from converters.backends.fast_events import Events, Gathered, PoolEvents
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
            self.pool_events = PoolEvents.of(self.pool, network.shapes[stage.synapses[0].source], stage.shape)
        self.inputs = [self._input(s, network) for s in stage.synapses]
        # a row of the kernels is a row of the image, channels last: long enough to be vectorised
        repeat = stage.shape[-1] if len(stage.shape) > 1 else 1
        reach = sum(s.reach(*(network.reach[name] for name in s.sources)) for s in stage.synapses)
        self.parameters = Parameters.of(stage, repeat, network.window, change + portion, reach)
        self.moves = [self._moves(s, network) for s in stage.synapses]
        factors = tuple(_factor(s) for s in stage.synapses)
        self.factors = tuple(f for f in factors if f is not None) if None not in factors and change < 2**31 else None
        self.in_place = all(moves is None or moves.index is None for moves in self.moves)
        self._network = network

    @cached_property
    def sources(self) -> set[str]:
        """Inputs and layers that it hears."""
        return {name for given in self.inputs for name in given.sources}

    @cached_property
    def gathered(self) -> Gathered | None:
        return Gathered.of(self.stage, self._network)

    @cached_property
    def events(self) -> Events | None:
        return Events.of(self.stage, self._network)

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
