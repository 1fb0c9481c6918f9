"""What the spikes of a vision transformer cost beside one dense pass, by kind of layer: 45 nm, arithmetic alone.

    python tutorials/vit_energy.py runs/vit6-mnist-15.safetensors --images 4

Every spike of the first test images, until the network is quiet. An attention product adds the other operand's counts
on each spike of either; a norm and a softmax are computed anew in each step in which a spike arrives
(:mod:`converters.measuring.events`).
"""

from __future__ import annotations

import argparse

import converters
from converters.files.quantised_file import load_with_notes
from converters.measuring.events import LayerCost, layer_costs
from converters.network import Network
from converters.zoo.datasets import load

KINDS = {
    "weights": "layers with weights",
    "product": "attention products",
    "softmax": "softmaxes",
    "norm": "layer norms",
    "other": "additions",
}


def row(name: str, costs: list[LayerCost]) -> str:
    energy = [cost.energy() for cost in costs]
    spiking, dense = (sum(pair[k] for pair in energy) * 1e-6 for k in (0, 1))
    cells = [f"{sum(getattr(cost, what) for cost in costs):,.0f}" for what in ("dense", "additions", "anew")]
    ratio = f"{spiking / dense:.2f}" if dense else "-"
    dearer = sum(a > b for a, b in energy)
    return f"| {name} | {len(costs)} | {' | '.join(cells)} | {dense:.3g} | {spiking:.3g} | {ratio} | {dearer} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=int, default=4)
    given = parser.parse_args()
    q, notes = load_with_notes(given.checkpoint)
    network = Network.from_graph(converters.to_nir(q, T=q.levels))
    found: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for pixels in load(notes["dataset"], "test").first(given.images).pixels.split(1):
        for cost in layer_costs(network, converters.run(network, pixels, record="spikes")):
            kinds[cost.name] = cost.kind
            parts = [cost.additions, cost.anew, cost.dense, cost.dense_additions]
            before = found.setdefault(cost.name, [0.0] * 4)
            found[cost.name] = [a + b / given.images for a, b in zip(before, parts, strict=True)]
    costs = [LayerCost(name, kinds[name], *parts) for name, parts in found.items()]
    print(f"{given.checkpoint}, T = {network.window}, {given.images} images; an image, INT8:\n")
    print(
        "| | layers | dense MACs | additions of spikes | MACs computed anew | dense, µJ | spikes, µJ | ratio | dearer |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for kind, name in KINDS.items():
        some = [cost for cost in costs if cost.kind == kind]
        if some:
            print(row(name, some))
    print(row("**all**", costs))


if __name__ == "__main__":
    main()
