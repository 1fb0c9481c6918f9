"""Blocks of steps of a :class:`~converters.backends.snntorch_network.SpikingNetwork`: many of them, layer by layer.

A layer's spikes depend on earlier layers alone, so a block can go through the first layer, then through the second. An
accelerator has large products to do then, instead of many small ones, and its neurons keep their state in registers.
Every number is that of single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converters.backends.snntorch_network import SpikingNetwork
from converters.input_spikes import InputSpikes
from converters.network import Network

__all__ = ["Ran", "block_size", "run_blocks", "take_block"]

_NUMBERS = 2**29  # spikes of a block, of all layers: two gigabytes
_MOST, _SETTLING = 32, 8  # steps


@dataclass
class Ran:
    """What a run has seen.

    Attributes
    ----------
    fired : dict of float32 tensors ``(N, *shape)``
        How often each neuron fired.
    extra : int64 tensor ``(N,)``
        Steps after the window up to and including the last spike.
    trains : dict of lists of int8 tensors ``(steps, N, *shape)``
        Of the input and all layers, where they are kept.
    """

    fired: dict[str, Tensor]
    extra: Tensor
    trains: dict[str, list[Tensor]] = field(default_factory=dict)


def block_size(network: Network, images: int) -> int:
    """How many steps at a time, so that their spikes take two gigabytes at most."""
    return max(1, min(_MOST, _NUMBERS // max(1, images * sum(stage.size for stage in network.stages))))


def take_block(
    net: SpikingNetwork, given: Mapping[str, Tensor], steps: int, observe: Callable[[str, Tensor], None]
) -> None:
    """A block of steps none of which differs from the others in leak or thresholds.

    Parameters
    ----------
    net : SpikingNetwork
    given : mapping of tensors
        Each input's spikes ``(steps, N, *shape)``; coded directly its integers ``(N, *shape)``, the same at each step.
    steps : int
    observe : callable ``(name, spikes)``
        Is shown the spikes of each layer in turn, ``(steps, N, *shape)``; those that no later layer takes are dropped.
    """
    network, t = net.network, net.t
    direct, leaking = network.coding == "direct", t < net.window
    spikes = {name: x.new_zeros(1).expand(steps, *x.shape) if direct else x for name, x in given.items()}
    key = tuple(given.values())
    for k, stage in enumerate(network.stages):
        layer = net.layer(stage.name)
        layer.neurons.leaking, layer.neurons.halved = leaking, t >= net.settle_from
        share = None
        if direct and leaking:
            shares = [layer.share(key, given, t + step, net.window) for step in range(steps)]
            share = None if shares[0] is None else torch.stack([one for one in shares if one is not None])
        spikes[stage.name] = layer.steps(spikes, share)
        observe(stage.name, spikes[stage.name])
        wanted = {name for later in network.stages[k + 1 :] for s in later.synapses for name in s.sources}
        spikes = {name: x for name, x in spikes.items() if name in wanted}
    net.t += steps


def run_blocks(net: SpikingNetwork, integers: Tensor, size: int, last: int | None, trains: bool) -> Ran:
    """The whole run of a batch of input ``integers``, as :meth:`Network.accept` has them, from the reset on.

    ``last`` is the number of steps; None: until a step after the window in which no neuron fires.
    """
    network, n, device = net.network, len(integers), integers.device
    source = InputSpikes(network, integers)
    ran = Ran({}, torch.zeros(n, dtype=torch.int64, device=device))
    edges = sorted({net.window, net.settle_from, *([] if last is None else [last])})
    while last is None or net.t < last:
        t, over = net.t, net.t >= net.window
        steps = min([min(size, _SETTLING) if over else size, *(edge - t for edge in edges if edge > t)])
        block = source.at(t).expand(steps, *integers.shape) if over else source.block(t, steps)
        seen = network.by_input(block)
        active = torch.zeros(steps, n, dtype=torch.bool, device=device)

        def observe(name: str, s: Tensor, active: Tensor = active, seen: dict[str, Tensor] = seen) -> None:
            total = torch.linalg.vector_norm(s, ord=1, dim=0)
            ran.fired[name] = ran.fired[name] + total if name in ran.fired else total
            if over:  # noqa: B023  in this block
                active |= s.flatten(2).any(2)
            if trains:
                seen[name] = s

        take_block(net, network.by_input(integers if network.coding == "direct" else block), steps, observe)
        kept = steps
        if over:
            awake = active.any(1)
            number = torch.arange(t + 1 - net.window, t + 1 - net.window + steps, device=device)
            ran.extra = torch.maximum(ran.extra, (active * number[:, None]).amax(0))
            kept = int(awake.cumprod(0).sum())
        if trains:
            for name, s in seen.items():
                ran.trains.setdefault(name, []).append(s[:kept].to(torch.int8))
        if kept < steps:
            break
    return ran
