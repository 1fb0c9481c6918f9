"""Stopping early: how many steps a margin saves and what it loses, and after how many steps a class is certain.

    python tutorials/early_stopping.py docs/results/early_stopping.json docs/pictures/early_stopping.png [NETWORK ...]

Margins are chosen on test images, without their labels, of which they may lose 0, 0.5 or 1 %; all that is shown is of
others. (A network is surer of the images that it was trained on: margins chosen on those lose more than they may.)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from sensitivity import drawn, kept_rows

import converters
from converters.measuring.certainty import certain_after
from converters.measuring.margins import MarginRule, Traces, choose_margin, traces
from converters.zoo.named import load_checkpoint

# images that margins are chosen on, others that are tested, and those of them whose certainty is computed
NETWORKS = {
    "lenet5-mnist-8": (1000, 2000, 50),
    "resnet11h-cifar10-8": (400, 800, 50),
    "lenet5-mnist-127": (1000, 2000, 50),
    "resnet11h-cifar10-127": (200, 400, 40),
    "vgg9-cifar10-127": (200, 400, 40),
    "resnet11h-cifar100-8": (400, 800, 50),
    "vgg9-cifar100-127": (200, 400, 40),
}
LOSSES = (0.0, 0.005, 0.01)
PATIENCES = (1, 2, 4, 8)


def mean(x: torch.Tensor) -> float:
    return float(x.double().mean())


def chosen(found: Traces, loss: float) -> MarginRule:
    """Of the rules that lose no more, one for each patience, the one that stops first."""
    rules = [choose_margin(found, loss=loss, patience=patience) for patience in PATIENCES]
    return min(rules, key=lambda rule: mean(rule.stop(found)[0]))


def judged(rule: MarginRule, found: Traces, labels: torch.Tensor) -> dict[str, float]:
    steps, classes = rule.stop(found)
    return {
        "margin": rule.margin,
        "patience": rule.patience,
        "steps": mean(steps),
        "accuracy": mean(classes == labels),
        "changed": mean(classes != found.classes),
    }


def measured(name: str) -> dict[str, Any]:
    q, notes = load_checkpoint(name)
    network = converters.to_nir(q, coding=q.coding_for())
    number, tested, certain = NETWORKS[name]
    test, others = drawn(notes["dataset"], tested, number)
    before, found = traces(network, others.pixels), traces(network, test.pixels)
    assert torch.equal(found.classes, q.predict(test.pixels))
    margins = found.leads.flatten().quantile(torch.linspace(0, 1, 40).double()).unique().tolist()
    steps, classes = certain_after(network, test.pixels[:certain])
    return {
        "window": q.levels_of(q.coding_for()),
        "chosen_on": number,
        "tested_on": tested,
        "accuracy": mean(found.classes == test.labels),
        "latency": mean(found.latency),
        "rules": {f"{100 * loss:g} %": judged(chosen(before, loss), found, test.labels) for loss in LOSSES},
        "curve": [judged(MarginRule(margin), found, test.labels) for margin in margins],
        "anytime": [mean(leading == test.labels) for leading in found.leading],
        "certain": {
            "images": certain,
            "steps": mean(steps),
            "least": int(steps.min()),
            "differing": int((classes != found.classes[:certain]).sum()),
        },
    }


def table(kept: dict[str, Any]) -> str:
    lines = [
        "| network | full | certain | "
        + " | ".join(f"margin, {100 * loss:g} % of those chosen on" for loss in LOSSES)
        + " |"
    ]
    lines.append("|---|--:|--:|" + "--:|" * len(LOSSES))
    for name, row in kept.items():
        cells = [f"{100 * row['accuracy']:.1f} %, {row['latency']:.1f} steps", f"{row['certain']['steps']:.1f} steps"]
        for rule in row["rules"].values():
            cells.append(
                f"{100 * rule['accuracy']:.1f} %, {rule['steps']:.1f} steps ({100 * rule['changed']:.1f} % changed)"
            )
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


def draw(kept: dict[str, Any], path: Path) -> None:
    """Accuracy against the mean number of steps: one step for all images, or a margin."""
    from matplotlib.figure import Figure

    from calif_plugins.plots_style import NEGATIVE, POSITIVE

    columns = min(3, len(kept))
    lines = -(-len(kept) // columns)
    figure = Figure(figsize=(3.8 * columns, 3.0 * lines), layout="constrained")
    for k, (name, row) in enumerate(kept.items()):
        ax = figure.add_subplot(lines, columns, k + 1)
        anytime = [100 * a for a in row["anytime"]]
        ax.plot(range(1, len(anytime) + 1), anytime, color=NEGATIVE, label="the same step for all")
        curve = sorted((point["steps"], 100 * point["accuracy"]) for point in row["curve"])
        ax.plot(*zip(*curve, strict=True), color=POSITIVE, label="a margin")
        ax.axvline(row["certain"]["steps"], color="#777777", linestyle=":", label="certain")
        ax.axvline(row["latency"], color="#777777", linewidth=0.8, label="quiet")
        ax.set(title=name, xlabel="steps, mean of images", ylim=(max(0, min(anytime)), 101))
        ax.spines[["top", "right"]].set_visible(False)
        if k % columns == 0:
            ax.set_ylabel("accuracy (%)")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def main(out: str, picture: str, *names: str) -> None:
    kept = kept_rows(Path(out), names or NETWORKS, measured)
    print(table(kept))
    draw(kept, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
