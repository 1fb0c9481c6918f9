"""Counts of other spiking rules against the quantised network's integers, layer by layer. Prints a Markdown table.

python tutorials/rules_compared.py [--images 200]     # MNIST where it is found, else the scikit-learn digits

The neurons are SpikingJelly's own (``pip install spikingjelly``), on the same integer weights, thresholds, biases and
input spikes; only the rule differs. It is not a benchmark of those projects' training recipes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from spikingjelly.activation_based import neuron

import converters
from converters.input_spikes import InputSpikes
from converters.network import Network, Stage, float64
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint

Counts = dict[str, torch.Tensor]


def integrate_and_fire(stage: Stage, images: int) -> neuron.IFNode:
    """Soft reset, positive spikes only."""
    return neuron.IFNode(v_threshold=1.0, v_reset=None)


def half_way(stage: Stage, images: int) -> neuron.IFNode:
    """The same, starting half a threshold up, as QCFS and RateCodingRecipe(half_threshold=True) do."""
    node = integrate_and_fire(stage, images)
    node.v = torch.full((images, *stage.shape), 0.5, dtype=torch.float64)
    return node


def st_bif(stage: Stage, images: int) -> neuron.STBIFNode:
    """SpikeZIP's: half a threshold up, negative spikes, clamped count."""
    low, high = int(stage.parameters.y_min.min()), int(stage.parameters.y_max.max())
    return neuron.STBIFNode(1.0, level=max(high - low + 1, 2), pos_max=high, neg_min=low)


@torch.no_grad()
def simulate(
    network: Network, integers: torch.Tensor, make: Callable[[Stage, int], torch.nn.Module], *, until_quiet: bool
) -> tuple[Counts, float, int]:
    """All layers within a step. Returns counts, membranes for a layer that never spikes; spikes per image; steps."""
    source = InputSpikes(network, integers, dtype=torch.float64)
    nodes = {s.name: make(s, len(integers)) for s in network.stages if not s.readout}
    total = {s.name: torch.zeros(len(integers), *s.shape, dtype=torch.float64) for s in network.stages}
    fired, t = 0.0, 0
    while until_quiet or t < network.window:
        now = {network.encoder_name: source.at(t)}
        for stage in network.stages:
            p = stage.parameters.for_shape(stage.shape)
            charge = stage.charge(now)
            if t < network.window:
                charge = charge - float64(p.leak) + (float64(p.v_init) if t == 0 else 0.0)
            if stage.readout:
                total[stage.name] += charge
            else:
                now[stage.name] = nodes[stage.name](charge / float64(p.threshold))
                total[stage.name] += now[stage.name]
        spikes = sum(float(s.abs().sum()) for s in now.values())
        if t >= network.window and not spikes:
            break
        fired, t = fired + spikes, t + 1
    return total, fired / len(integers), t


def ours(network: Network, images: torch.Tensor, **options) -> tuple[Counts, float, int]:
    """The same of Ca-LIF; steps until the slowest image is quiet."""
    r = converters.run(network, images, **options)
    out = network.output
    counts: Counts = {k: c.double() for k, c in r.counts.items() if not (out.readout and k == out.name)}
    if out.readout:
        counts[out.name] = r.membranes[out.name].double()
    return counts, r.spikes_per_image, int(r.latency.max())


def row(name: str, network: Network, found: tuple[Counts, float, int], exact: Counts, labels) -> str:
    counts, spikes, steps = found
    shares = [100 * float((counts[s.name] != exact[s.name]).double().mean()) for s in network.stages if not s.readout]
    out = network.output
    p = out.parameters.for_shape(out.shape)
    logits = counts[out.name] / float64(p.threshold) if out.readout else counts[out.name]
    right = 100 * float((logits.flatten(1).argmax(1) == labels).double().mean())
    wrong = sum(int((counts[s.name] != exact[s.name]).sum()) for s in network.stages if not s.readout)
    span = f"{min(shares):.1f} to {max(shares):.1f} %" if wrong else "0"
    return f"| {name} | {wrong:,} | {span} | {right:.1f} % | {spikes:,.0f} | {steps} |\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    for checkpoint, T in (("lenet5-mnist-8", 8), ("lenet5-mnist-127", 127)):
        q, _ = load_checkpoint(checkpoint)
        try:
            data, dataset = load("mnist", "test", download=False).first(count), "MNIST"
        except converters.ConversionError:
            data, dataset = load("digits", "test").first(count), "digits"
        network = Network.from_graph(converters.to_nir(q, T=T))
        integers, exact = q.input.quantise(data.pixels), q.at_window(T).execute(data.pixels)
        compared = sum(exact[s.name].numel() for s in network.stages if not s.readout)
        sys.stdout.write(
            f"{checkpoint}, T = {T}, {len(data)} {dataset} images, {compared:,} counts:\n\n"
            "| rule | wrong counts | by layer | accuracy | spikes per image | steps |\n|---|--:|--:|--:|--:|--:|\n"
        )
        for name, make, until_quiet in (
            ("integrate and fire", integrate_and_fire, False),
            ("integrate and fire from half a threshold", half_way, False),
            ("ST-BIF, stopped at T", st_bif, False),
            ("ST-BIF, until quiet", st_bif, True),
        ):
            sys.stdout.write(
                row(name, network, simulate(network, integers, make, until_quiet=until_quiet), exact, data.labels)
            )
        for name, options in (
            ("Ca-LIF, `none`", {"phase": "none"}),
            ("Ca-LIF, `paper`", {"phase": "paper"}),
            ("Ca-LIF, `settle`", {}),
            ("Ca-LIF, `settle`, `settle_from=0`", {"settle_from": 0}),
        ):
            sys.stdout.write(row(name, network, ours(network, data.pixels, **options), exact, data.labels))
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
