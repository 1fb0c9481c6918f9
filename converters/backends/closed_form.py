"""Final counts without simulating a spike: the right-hand side of the theorem, layer by layer.

Labelled as what it is: the result's ``exact_from`` says ``closed form``, and it has no spikes, no latency
and no synaptic operations. It knows only the phase ``settle``; the others have no closed form.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calif_plugins import multistep
from converters.backends.charges import on_bytes, takes_bytes
from converters.backends.closed_form_integers import IntegerLayer, integer_layers
from converters.backends.contract import Backend, Settings
from converters.exact.rounding import exact_round
from converters.exact.sums import add_up, whole_dtype
from converters.exact.whole_charges import whole_charge
from converters.network import Network, Stage, float64
from converters.results import RunResult, read_out

__all__ = ["BACKEND", "ClosedForm", "final_counts", "net_charge"]


@dataclass(frozen=True)
class ClosedFormOptions:
    """Options of backend ``closed_form``.

    Attributes
    ----------
    on_bytes : bool
        Whether layers may take integer kernels where the processor has them; the counts are the same.
    """

    on_bytes: bool = True


class ClosedForm(Backend):
    """Counts of all layers by ``clip(round(z / Vth))`` (equation 4)."""

    name = "closed_form"
    own_options = ClosedFormOptions
    phases = ("settle",)
    records = ("output", "counts")

    def simulate(self, network: Network, integers: Tensor, settings: Settings, options: ClosedFormOptions) -> RunResult:
        on_bytes = options.on_bytes and integers.device.type == "cpu" and len(integers) > 0
        integer = integer_layers(network) if on_bytes else {}
        with multistep.one_at_a_time() if integer else nullcontext():
            return _counts(network, integers, settings, integer)


def _counts(network: Network, integers: Tensor, options: Settings, integer: dict[str, IntegerLayer]) -> RunResult:
    signed: dict[str, Tensor] = network.by_input(integers)
    membranes: dict[str, Tensor] = {}
    bytes_: dict[str, Tensor] = {}

    def values(name: str) -> Tensor:
        if name not in signed:
            signed[name] = integer[name].counts_of(bytes_[name])
        return signed[name]

    read = network.output_stages
    for stage in network.stages:
        layer = integer.get(stage.name)
        if stage.name in bytes_ and stage not in read:
            continue  # a pool, with the convolution before it
        if layer is not None and (stage not in read or layer.exact):
            if layer.source not in bytes_:
                bytes_[layer.source] = layer.bytes_of(values(layer.source))
            if layer.pooled and not {stage.name, layer.pooled} & {s.name for s in read}:
                pool = integer[layer.pooled]
                bytes_[stage.name], bytes_[layer.pooled] = layer.with_pool(bytes_[layer.source], pool)
                continue
            bytes_[stage.name], sums = layer(bytes_[layer.source])
            if stage in read and sums is not None:
                z, v = net_charge(network, stage, layer.channels_first(sums))
                membranes[stage.name] = z - values(stage.name) * v
            continue
        given = {name: values(name) for s in stage.synapses for name in s.sources}
        acc = _sums(network, stage, given)
        signed[stage.name] = final_counts(network, stage, acc)
        if stage in read:
            z, v = net_charge(network, stage, acc)
            membranes[stage.name] = z - values(stage.name) * v
    out = network.output
    kept = network.stages if options.record != "output" else read
    outputs = {s.name: read_out(s, values(s.name), membranes[s.name]) for s in read}
    counts = {s.name: values(s.name).to(torch.int32) for s in kept if not s.readout}
    return RunResult(
        backend="closed_form",
        phase=options.phase,
        window=network.window,
        output_name=out.name,
        counts=counts,
        membranes=membranes,
        logits=outputs[out.name],
        exact_from="closed form",
        output_values=outputs,
        output_structure=network.outputs,
    )


def _sums(network: Network, stage: Stage, given: dict[str, Tensor]) -> Tensor:
    """The whole charge: whole numbers in a type that holds them.

    On CUDA sums that float32 would not hold are those of int8 products, which float64's are many times slower than.
    """
    device = next(iter(given.values())).device
    if device.type == "cuda" and takes_bytes_alone(network, stage, device):
        return sums_of_bytes(stage, given)
    return whole_charge(stage.synapses, given, network.reach, stage.name)


def sums_of_bytes(stage: Stage, given: dict[str, Tensor]) -> Tensor:
    """The whole charge, int64, by matrix products of int8 with int32 sums."""
    return add_up((on_bytes(s, given[s.source].to(torch.int8)).to(torch.int64) for s in stage.synapses), stage.name)


def takes_bytes_alone(network: Network, stage: Stage, device: torch.device) -> bool:
    """Whether a layer is all products of int8 weights and of counts that fit a byte, and too large for float32."""
    reach = network.reach

    def make() -> bool:
        if not all(
            takes_bytes(s) and reach[s.source] <= 127 and s.reach(reach[s.source]) < 2**31 for s in stage.synapses
        ):
            return False
        bound = sum(s.reach(reach[s.source]) for s in stage.synapses)
        factor = max(s.largest_factor(reach[s.source]) for s in stage.synapses)
        return whole_dtype(bound, device, factor=factor) is torch.float64

    return network.keep(("takes_bytes_alone", stage.name, device), make)


def _rows(network: Network, stage: Stage, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bias and threshold of each channel, float64."""
    p = stage.parameters

    def row(value: Any) -> Tensor:
        return float64(value, device).reshape(-1).expand(stage.shape[0])

    def make() -> tuple[Tensor, Tensor]:
        return row(p.v_init) - network.window * row(p.leak), row(p.threshold)  # on the lattice, so exact

    return network.keep(("closed_form", stage.name, device), make)


def net_charge(network: Network, stage: Stage, acc: Tensor) -> tuple[Tensor, Tensor]:
    """``z`` and the threshold, ready to broadcast against it."""
    bias, threshold = _rows(network, stage, acc.device)
    view = (1, -1) + (1,) * (acc.ndim - 2)
    return acc.to(torch.float64) + bias.view(view), threshold.view(view)


def final_counts(network: Network, stage: Stage, acc: Tensor) -> Tensor:
    """The counts of a stage that has received the whole charges ``acc`` ``(N, *stage.shape)``: int64, equation 4."""
    p = stage.parameters
    bias, threshold = _rows(network, stage, acc.device)
    low, high = int(p.y_min.min()), int(p.y_max.max())
    return exact_round(acc.to(torch.int64), bias, threshold, p.tie, low, high)


BACKEND = ClosedForm()
