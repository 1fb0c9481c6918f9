"""The snnTorch backend: Ca-LIF layers stepping together within each time step, batch by batch.

Charges are sums of small integers, computed in a type that holds them (:mod:`converters.charges`); membranes live on
the network's lattice in float64. So every number here is exact, on any device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calif_plugins.multistep import lost_in_fork
from calif_plugins.snntorch import calif_step
from converters.backends import snntorch_fast
from converters.charges import DTYPES, Charges
from converters.errors import ConversionError, MissingExtraError
from converters.exact_sums import add_up
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage, float64
from converters.results import RunResult, read_out

if TYPE_CHECKING:
    from converters.backends import Options

__all__ = ["simulate"]


def simulate(network: Network, integers: Tensor, options: Options) -> RunResult:
    """Every spike of every layer, for input ``integers`` of shape ``(N, *input shape)``.

    Own option ``fast``: True for :mod:`converters.backends.snntorch_fast`, False for the step loop below; by
    default the fast path wherever it runs, but not for spike trains, which are there to be compared. ``dtype``, of
    the step loop: the arithmetic of charges, one of :data:`converters.charges.DTYPES`; float32 by default. Layers whose
    sums it does not hold exactly take a larger one, so the results are the same.
    """
    fast, dtype = options.own.get("fast"), options.own.get("dtype")
    if dtype is not None and (dtype not in DTYPES or fast):
        raise ConversionError(
            "dtype",
            f"{dtype!r}{' with fast=True' if fast else ''}",
            f"use one of {', '.join(DTYPES)}, in the step loop",
        )
    if fast is None:
        fast = dtype is None and options.record != "spikes" and snntorch_fast.usable(integers.device)
    elif fast and lost_in_fork():
        found = "a process forked after Numba had started its threads"
        raise ConversionError("fast", found, "spawn it, set NUMBA_THREADING_LAYER=workqueue, or leave fast out")
    elif fast and not snntorch_fast.usable(integers.device):
        raise MissingExtraError("numba", "fast", f"on {integers.device}, the fast path runs on a CPU with Numba")
    if fast and len(integers):
        return snntorch_fast.simulate(network, integers, options)
    n, device, window = len(integers), integers.device, network.window
    source = InputSpikes(network, integers)
    layers = [_Layer(network, stage, n, device, dtype or "float32") for stage in network.stages]
    quiet_from = torch.zeros(n, dtype=torch.int64, device=device)
    trains: dict[str, list[Tensor]] = {name: [] for name in network.shapes}
    last = {"settle": None, "paper": window + 1, "none": window}[options.phase]
    t = 0
    while last is None or t < last:
        spikes = {source.name: source.at(t)}
        active = torch.zeros(n, dtype=torch.bool, device=device)
        for layer in layers:
            s = layer.step(
                spikes, source.direct(layer.stage.name, t), half=t >= options.settle_from, leaking=t < window
            )
            spikes[layer.stage.name] = s
            if t >= window:
                active |= s.flatten(1).any(1)
        if t >= window:
            if not bool(active.any()):
                break
            quiet_from[active] = t + 1 - window
        if options.record == "spikes":
            for name, s in spikes.items():
                trains[name].append(s.to(torch.int8))
        t += 1
    return _result(network, integers, options, layers, quiet_from, trains)


class _Layer:
    """State of one layer: membrane, count, and how often each neuron fired."""

    def __init__(self, network: Network, stage: Stage, n: int, device: torch.device, dtype: str) -> None:
        self.stage = stage
        p = stage.parameters.for_shape(stage.shape)

        self.threshold, self.leak = float64(p.threshold, device), float64(p.leak, device)
        self.y_min, self.y_max, self.tie = float64(p.y_min, device), float64(p.y_max, device), p.tie
        self.v = float64(p.v_init, device).expand(n, *stage.shape).contiguous()
        self.y = torch.zeros_like(self.v)
        self.fired = torch.zeros(n, *stage.shape, dtype=torch.float32, device=device)
        self.charges = Charges(network, stage, dtype, device)

    def step(self, spikes: dict[str, Tensor], direct: Tensor | None, *, half: bool, leaking: bool) -> Tensor:
        charge = self.charges(spikes)
        if direct is not None:
            charge = add_up((charge, direct), self.stage.name)
        self.v, self.y, s = calif_step(
            self.v,
            self.y,
            charge,
            self.threshold,
            self.leak,
            self.y_min,
            self.y_max,
            tie=self.tie,
            half=half,
            leaking=leaking,
        )
        s = s.to(torch.float32)
        self.fired += s.abs()
        return s


def _result(
    network: Network,
    integers: Tensor,
    options: Options,
    layers: list[_Layer],
    extra_steps: Tensor,
    trains: dict[str, list[Tensor]],
) -> RunResult:
    coded_directly = network.encoder.coding == "direct"
    emitted = {} if coded_directly else {network.encoder_name: (integers.abs().to(torch.float64), integers)}
    emitted |= {k.stage.name: (k.fired.to(torch.float64), k.y) for k in layers}
    positive, negative = {}, {}
    sops = torch.zeros(len(integers), dtype=torch.float64, device=integers.device)
    for name, (fired, net) in emitted.items():
        positive[name] = ((fired + net) / 2).flatten(1).sum(1).to(torch.int64)
        negative[name] = ((fired - net) / 2).flatten(1).sum(1).to(torch.int64)
        sops += (fired * network.fan_out[name].to(fired.device)).flatten(1).sum(1)
    macs = torch.zeros_like(sops)
    if coded_directly:
        macs = ((integers != 0) * network.fan_out[network.encoder_name].to(integers.device)).flatten(1).sum(1)
    out = layers[-1]
    kept = layers if options.record != "output" else layers[-1:]
    with_membrane = layers if options.record == "spikes" else layers[-1:]
    return RunResult(
        backend="snntorch",
        phase=options.phase,
        window=network.window,
        output_name=out.stage.name,
        counts={k.stage.name: k.y.to(torch.int32) for k in kept if not k.stage.readout},
        membranes={k.stage.name: k.v for k in with_membrane},
        logits=read_out(out.stage, out.y, out.v),
        positive=positive,
        negative=negative,
        extra_steps=extra_steps,
        sops=sops,
        macs=macs,
        spikes={k: torch.stack(v) for k, v in trains.items()} if options.record == "spikes" else None,
        route="step loop",
    )
