"""The picture at the top of the README: one neuron, and a network's counts with and without the rounding phase.

python tutorials/picture.py docs/picture.png
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure

import converters
from calif_plugins import CaLIFParameters, plots
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint

CHARGES = [-1.6, -1.2, 1.5, 2.0, 1.9, 1.4, -0.6, -2.2, -1.9, 0.4, 0.8, 0.5]


def main(path: str) -> None:
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[6, 5])
    left.suptitle("One Ca-LIF neuron", fontsize=11)
    right.suptitle("All 8,084 spiking neurons of a LeNet-5, 40 images, T = 8", fontsize=11)

    above, below = left.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    trace = plots.trace(CHARGES, CaLIFParameters(threshold=1.5, y_min=0, y_max=3))
    plots.membrane(trace, ax=above)
    plots.calcium(trace, ax=below)
    above.set_xlabel("")

    q, _ = load_checkpoint("lenet5-mnist-8")
    images = load("digits", "test").first(40).pixels
    graph, integers = converters.to_nir(q, T=8), q.execute(images)
    spiking = [layer.name for layer in q.layers if layer.spiking]
    for ax, (phase, title) in zip(
        right.subplots(1, 2, sharey=True),
        (("none", "stopped after the window:"), ("settle", "with the rounding phase:")),
        strict=True,
    ):
        counts = converters.run(graph, images, phase=phase).counts
        every = [np.concatenate([x[name].numpy().ravel() for name in spiking]) for x in (counts, integers)]
        plots.counts_against_integers(*every, ax=ax)
        ax.set_title(f"{title}\n{ax.get_title()}", fontsize=10)
        ax.legend(frameon=False, loc="upper left", fontsize=8)
        ax.set_xlabel("integer of the quantised network", fontsize=9)
    right.axes[1].set_ylabel("")
    for ax in (above, below, *right.axes):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1])
