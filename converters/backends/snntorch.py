"""The snnTorch backend: the network as a module of PyTorch layers and snnTorch neurons, stepped and recorded.

It runs :class:`~converters.backends.snntorch_network.SpikingNetwork`, the very module that
:func:`converters.to_snntorch` hands out. Charges are sums of small integers, computed in a type that holds them
(:mod:`converters.backends.charges`); membranes live on the network's lattice in float64. So every number is exact, on
any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.backends.charges import DTYPES
from converters.backends.contract import Backend, Settings
from converters.backends.snntorch_blocks import Ran, block_size, run_blocks
from converters.backends.snntorch_network import SpikingNetwork
from converters.errors import ConversionError
from converters.exact.sums import whole_dtype
from converters.input_spikes import InputSpikes
from converters.network import Network
from converters.results import RunResult, emitted, make_result

__all__ = ["BACKEND", "SnnTorch"]


@dataclass(frozen=True)
class SnnTorchOptions:
    """Options of backend ``snntorch``.

    Attributes
    ----------
    dtype : {"int8", "bfloat16", "float16", "float32", "float64"}
        The arithmetic of charges. Layers whose sums it does not hold exactly take a larger one, so the results are
        the same.
    steps : int, optional
        How many steps go through a layer at once (:mod:`converters.backends.snntorch_blocks`); the results are the
        same. By default one on the CPU, and on other devices as many as take two gigabytes.
    """

    dtype: str = "float32"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConversionError("dtype", f"{self.dtype!r}", f"use one of {', '.join(DTYPES)}")
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise ConversionError("steps", f"{self.steps!r}", "give a whole number of at least 1")


class SnnTorch(Backend):
    """Steps ``snntorch.SpikingNeuron`` modules; runs on every device."""

    name = "snntorch"
    own_options = SnnTorchOptions

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: SnnTorchOptions) -> RunResult:
        n, device, window = len(integers), integers.device, network.window
        # modules hold state, so one that runs belongs to its thread alone
        key = ("snntorch", options.dtype, device, whole_dtype(1, device))  # PyTorch's settings decide the arithmetic
        idle: list[SpikingNetwork] = network.keep(key, list)
        net = idle.pop() if idle else SpikingNetwork(network, dtype=options.dtype, device=device, exact=True).eval()
        net.settle_from = settings.settle_from
        last = {"settle": None, "paper": window + 1, "none": window}[settings.phase]
        size = options.steps or (1 if device.type == "cpu" else block_size(network, n))
        trains = settings.record == "spikes"
        try:
            ran = run_blocks(net, integers, size, last, trains) if size > 1 else _run_steps(net, integers, last, trains)
            neurons = {s.name: net.layer(s.name).neurons for s in network.stages}
            return make_result(
                network,
                integers,
                backend=self.name,
                phase=settings.phase,
                record=settings.record,
                counts={k: layer.y for k, layer in neurons.items()},
                membranes={k: layer.v for k, layer in neurons.items()},
                sent={k: emitted(ran.fired[k], layer.y, network.fan_out[k]) for k, layer in neurons.items()},
                extra_steps=ran.extra,
                spikes={k: torch.cat(v) for k, v in ran.trains.items()} if trains else None,
            )
        finally:
            net.reset()  # its state belongs to the result now
            idle.append(net)


def _run_steps(net: SpikingNetwork, integers: Tensor, last: int | None, trains: bool) -> Ran:
    """As :func:`~converters.backends.snntorch_blocks.run_blocks`, one step of all layers after the other."""
    network, n, device, window = net.network, len(integers), integers.device, net.window
    inputs = _inputs(network, integers)
    fired = {s.name: torch.zeros(n, *s.shape, dtype=torch.float32, device=device) for s in network.stages}
    ran = Ran(fired, torch.zeros(n, dtype=torch.int64, device=device))
    while last is None or net.t < last:
        t = net.t
        spikes = net.step(next(inputs))
        if t >= window:
            active = torch.stack([spikes[s.name].flatten(1).any(1) for s in network.stages]).any(0)
            if not bool(active.any()):
                break
            ran.extra[active] = t + 1 - window
        for stage in network.stages:
            fired[stage.name] += spikes[stage.name].abs()
        if trains:
            for name, s in spikes.items():
                ran.trains.setdefault(name, []).append(s.to(torch.int8)[None])
    return ran


def _inputs(network: Network, integers: Tensor) -> Iterator[Tensor]:
    """What the network is fed with at each step, for ever."""
    if network.coding == "direct":
        while True:
            yield integers
    source = InputSpikes(network, integers)
    t = 0
    while True:
        yield source.at(t)
        t += 1


BACKEND = SnnTorch()
