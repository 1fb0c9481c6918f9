"""The picture of speed in the README, from what ``calif bench --full --out tutorials/speed.json`` measured.

python tutorials/speed_picture.py tutorials/speed.json docs/pictures/speed.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from calif_plugins.plots_style import GREY, NEGATIVE, POSITIVE, RIVAL

CASES = {  # network, T: how it is called
    ("lenet5-mnist-4", 4): "LeNet-5\nT = 4",
    ("lenet5-mnist-8", 8): "LeNet-5\nT = 8",
    ("resnet11h-cifar10-8", 8): "ResNet-11H\nT = 8",
    ("vgg9-cifar10-127", 8): "VGG-9\nT = 8",
    ("lenet5-mnist-127", 128): "LeNet-5\nT = 128",
    ("vgg9-cifar10-127", 128): "VGG-9\nT = 128",
}
ROWS = {
    "calif_fast": ("this package, every spike", POSITIVE),
    "spikingjelly_single": ("SpikingJelly", RIVAL),
    "norse": ("Norse", NEGATIVE),
    "snntorch_loop": ("snnTorch", GREY),
}


def ratios(data: dict[str, Any], batch: int) -> dict[str, list[float]]:
    """Time of every simulator over that of T float passes, case by case; NaN where it was not measured."""
    seconds = {(r["network"], r["T"], r["batch"], r["name"]): r["seconds"] for r in data["rows"]}
    floor = [seconds[(*case, batch, "float_passes_T")] for case in CASES]
    return {
        name: [seconds.get((*case, batch, name), float("nan")) / f for case, f in zip(CASES, floor, strict=True)]
        for name in ROWS
    }


def draw(found: dict[str, list[float]], batch: int) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    ax = figure.add_subplot()
    width = 0.8 / len(ROWS)
    for k, (name, (label, colour)) in enumerate(ROWS.items()):
        places = [x + (k - (len(ROWS) - 1) / 2) * width for x in range(len(CASES))]
        bars = ax.bar(places, found[name], width, label=label, color=colour)
        ax.bar_label(bars, fmt="%.2g", fontsize=8, padding=1)
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(CASES)), list(CASES.values()), fontsize=9)
    ax.set_ylabel("time / T float passes")
    ax.set_title(f"{batch} images: time in float passes of the same network, lower is faster", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9, ncols=len(ROWS), loc="upper right")
    ax.set_ylim(top=1.2 * max(max(values) for values in found.values()))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    a = parser.parse_args()
    found = ratios(json.loads(a.measured.read_text()), a.batch)
    draw(found, a.batch).savefig(a.picture, dpi=110, metadata={"Software": None})
    Image.open(a.picture).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(a.picture, optimize=True)
    for name, values in found.items():
        print(f"{name:20}", " ".join(f"{x:5.2f}" for x in values))


if __name__ == "__main__":
    main()
