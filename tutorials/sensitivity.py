"""Which layers need how many levels, and how many spikes a division of levels over the layers saves.

    python tutorials/sensitivity.py docs/results/sensitivity.json [NETWORK ...]

Each layer of a checkpoint with 127 levels alone gets fewer, without training; its range is the one with the least
squared error. Levels are then taken where they save most spikes for what they change, as long as so many images keep
their class. All is chosen on test images, without their labels; accuracy, spikes and counts are those of others. (A
network is surer of the images that it was trained on, and keeps their classes with levels that are too few for others.)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import converters
from converters.measuring.sensitivity import Allocation, allocations, best_tops, sensitivity
from converters.quantised import QuantGraph
from converters.requantising import requantised
from converters.results import compare_counts
from converters.zoo.datasets import Images, load
from converters.zoo.named import load_checkpoint


@dataclass(frozen=True)
class Sizes:
    """Images that levels are chosen on, others that are tested, those whose spikes are counted; levels that are tried;
    shares of the images chosen on that keep their class."""

    chosen_on: int = 300
    tested_on: int = 1000
    simulated: int = 8
    ladder: tuple[int, ...] = (3, 7, 15, 31, 63)
    kept: tuple[float, ...] = (0.995, 0.99, 0.98)


NETWORKS = {
    "lenet5-mnist-127": Sizes(chosen_on=1000, tested_on=9000),
    "resnet11h-cifar10-127": Sizes(),
    "vgg9-cifar10-127": Sizes(),
    "vgg9-cifar100-127": Sizes(chosen_on=500, tested_on=2000),
}


def drawn(dataset: str, *numbers: int) -> list[Images]:
    """So many test images each, drawn by chance, none of them twice."""
    data = load(dataset, "test")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return [data[part] for part in order[: sum(numbers)].split(list(numbers))]


def of_all(q: QuantGraph, images: Tensor, levels: int) -> QuantGraph:
    """As many levels in every layer."""
    tops = {name: top for (name, _), top in best_tops(q, images, [levels]).items()}
    return requantised(q, dict.fromkeys(tops, levels), tops)


def furthest(q: QuantGraph, images: Tensor, steps: list[Allocation], share: float) -> Allocation:
    """The last division, found by bisection, with which so many images keep their class."""
    was = q.predict(images)
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high + 1) // 2
        now = requantised(q, steps[middle].levels, steps[middle].tops).predict(images)
        if float((now == was).double().mean()) >= share:
            low = middle
        else:
            high = middle - 1
    return steps[low]


def tested(q: QuantGraph, test: Images, simulated: int) -> dict[str, Any]:
    """Accuracy, and of some images every spike."""
    accuracy = float((q.predict(test.pixels) == test.labels).double().mean())
    pixels = test.pixels[:simulated]
    r = converters.run(converters.to_nir(q), pixels)
    rows = compare_counts(r, q.execute(pixels))
    layers = [layer.name for layer in q.layers if layer.spiking]
    spikes = sum(int(r.positive[name].sum() + r.negative[name].sum()) for name in layers)
    assert r.sops is not None
    assert r.latency is not None
    return {
        "accuracy": accuracy,
        "spikes": spikes / len(pixels),
        "sops": float(r.sops.double().mean()),
        "latency": float(r.latency.double().mean()),
        "compared": sum(row.compared for row in rows),
        "differing": sum(row.differing for row in rows),
    }


def measured(name: str) -> dict[str, Any]:
    q, notes = load_checkpoint(name)
    sizes = NETWORKS[name]
    test, images = drawn(notes["dataset"], sizes.tested_on, sizes.chosen_on)
    start = time.process_time()
    rows = sensitivity(q, images.pixels, images.labels, levels=sizes.ladder)
    seconds = time.process_time() - start
    steps = list(allocations(rows))
    found: dict[str, Any] = {"rows": [asdict(row) for row in rows], "cpu_seconds": round(seconds, 1), "networks": {}}
    for title, network in [
        ("127 everywhere", q),
        *((f"{n} everywhere", of_all(q, images.pixels, n)) for n in (63, 31, 15)),
    ]:
        found["networks"][title] = tested(network, test, sizes.simulated)
    for share in sizes.kept:
        chosen = furthest(q, images.pixels, steps, share)
        network = requantised(q, chosen.levels, chosen.tops)
        found["networks"][f"divided, {100 * share:g} % keep"] = {
            **tested(network, test, sizes.simulated),
            "levels": chosen.levels,
        }
    return found


def two_digits(x: float) -> str:
    return f"{x:.2g}" if x < 99 else f"{x:.0f}"


def sensitivity_table(name: str, rows: list[dict[str, Any]]) -> str:
    """Divergence in thousandths of a nat: a row for each group of layers, a column for each number of levels."""
    groups = list(dict.fromkeys(tuple(row["layers"]) for row in rows if row["layers"]))
    whole = rows[0]
    ladder = NETWORKS[name].ladder
    lines = [f"| {name} | saved at 3 | " + " | ".join(map(str, ladder)) + " |", "|---|--:|" + "--:|" * len(ladder)]
    for group in groups:
        own = {row["levels"]: row for row in rows if tuple(row["layers"]) == group}
        least = own[min(own)]
        cells = [two_digits(1000 * own[n]["divergence"]) if n in own else "" for n in ladder]
        share = f"{100 * (1 - least['counts'] / whole['counts']):.1f} %"
        lines.append(" | ".join([f"| {', '.join(group)}", share, *cells]) + " |")
    return "\n".join(lines)


def network_table(name: str, networks: dict[str, Any]) -> str:
    whole = networks["127 everywhere"]
    lines = [f"| {name} | accuracy | spikes / image | | SOPs / image |", "|---|--:|--:|--:|--:|"]
    for title, row in networks.items():
        share = f"{100 * (row['spikes'] / whole['spikes'] - 1):+.0f} %" if row is not whole else ""
        cells = [f"{100 * row['accuracy']:.1f} %", f"{row['spikes']:,.0f}", share, f"{row['sops'] / 1e6:,.1f} M"]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def division(name: str, networks: dict[str, Any]) -> str:
    """Levels of the second division: those that are fewer."""
    title = [title for title in networks if title.startswith("divided")][1]
    levels = ", ".join(f"{layer} {number}" for layer, number in networks[title]["levels"].items())
    return f"* {name} ({title.removeprefix('divided, ')}): {levels}."


def kept_rows(path: Path, names: Iterable[str], measure: Callable[[str], Any]) -> dict[str, Any]:
    """All that a file has, and what it has not of these names, measured and kept one after the other."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        if name not in kept:
            kept[name] = measure(name)
            path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def main(out: str, *names: str) -> None:
    kept = kept_rows(Path(out), names or NETWORKS, measured)
    for name, found in kept.items():
        print(sensitivity_table(name, found["rows"]), end="\n\n")
        print(network_table(name, found["networks"]), end="\n\n")
    print("\n".join(division(name, found["networks"]) for name, found in kept.items()), end="\n\n")
    rows = [row for found in kept.values() for row in found["networks"].values()]
    print(f"{sum(r['differing'] for r in rows):,} of {sum(r['compared'] for r in rows):,} counts differ.")


if __name__ == "__main__":
    main(*sys.argv[1:])
