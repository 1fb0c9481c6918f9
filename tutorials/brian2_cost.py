"""What a network costs in Brian2: build time, run time per image, synapses, peak memory. Prints a Markdown table.

python tutorials/brian2_cost.py            # numpy code generation
python tutorials/brian2_cost.py --compiled # and cython, cpp_standalone: minutes of compilation
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

import converters
from converters.backends import brian2 as backend
from converters.network import Network
from converters.operations import Conv2d, Linear
from converters.quantised import GraphBuilder, QuantGraph, average_pool
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint


def lenet_of_width(width: int) -> QuantGraph:
    """LeNet-5's topology with random integers, ``width`` times the channels (over 6)."""
    gen = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randint(-20, 21, shape, generator=gen, dtype=torch.int8)

    b = GraphBuilder()
    clip = {"y_min": 0, "y_max": 127, "scale": 1.0}
    x = b.input((1, 32, 32), scale=1 / 127, q_min=0, q_max=127)
    c = b.layer("c1", [(x, Conv2d(weights(width, 1, 5, 5)))], threshold=90.0, **clip)
    c = average_pool(b, "p1", c, (2, 2), (2, 2), (0, 0), **clip)
    c = b.layer("c2", [(c, Conv2d(weights(2 * width, width, 5, 5)))], threshold=300.0, **clip)
    c = b.flatten(average_pool(b, "p2", c, (2, 2), (2, 2), (0, 0), **clip))
    c = b.layer("f1", [(c, Linear(weights(120, 50 * width)))], threshold=400.0, **clip)
    return b.build(b.layer("f2", [(c, Linear(weights(10, 120)))], threshold=200.0, y_min=-127, y_max=127, scale=1.0))


def measure(network: str, window: int, images: int, target: str, reuse: bool) -> dict:
    """One row, in a process of its own."""
    if network.startswith("width"):
        q = lenet_of_width(int(network[5:]))
        x = torch.rand(images, 1, 32, 32, generator=torch.Generator().manual_seed(1)).round()
    else:
        q, notes = load_checkpoint(network)
        x = (
            load(notes["dataset"], "test").first(images).pixels
            if HAVE_MNIST
            else load("digits", "test").first(images).pixels
        )
    graph = converters.to_nir(q, T=window)
    n = Network.from_graph(graph)
    row = {"network": network, "T": window, "images": images, "target": target, "synapses": backend.estimate(n)}
    options = {"backend": "brian2", "target": target, "batch": images}
    start = time.perf_counter()
    if reuse:
        converters.run(n, x, **options)
        first = time.perf_counter() - start
        if target == "cpp_standalone":  # builds anew every time; nothing to reuse
            row |= {"build_s": None, "run_s": first / images}
        else:
            start = time.perf_counter()
            converters.run(n, x, **options)
            again = time.perf_counter() - start
            row |= {"build_s": first - again, "run_s": again / images}
    else:  # the plain way: a fresh network for every image
        for k in range(images):
            converters.run(Network.from_graph(graph), x[k : k + 1], **(options | {"batch": 1}))
        row |= {"build_s": None, "run_s": (time.perf_counter() - start) / images, "plain": True}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def _have_mnist() -> bool:
    try:
        load("mnist", "test")
    except converters.ConversionError:
        return False
    return True


HAVE_MNIST = _have_mnist()
LENET = "lenet5-mnist-127"
ROWS = [
    (LENET, 128, 8, "numpy", True),
    (LENET, 128, 8, "numpy", False),
    *((LENET, t, 8, "numpy", True) for t in (8, 32, 255)),
    *((LENET, 128, n, "numpy", True) for n in (1, 4, 16, 32)),
    *((f"width{w}", 128, 4, "numpy", True) for w in (3, 6, 12, 24)),
]
COMPILED = [(LENET, 128, 8, target, True) for target in ("cython", "cpp_standalone")]


HEAD = """\
| network | T | images side by side | code | synapses per image | build, s | run, s per image | peak, MB |
|---|--:|--:|---|--:|--:|--:|--:|
"""


def main() -> None:
    sys.stdout.write(HEAD)
    for row in ROWS + (COMPILED if "--compiled" in sys.argv else []):
        command = [sys.executable, "-W", "ignore", __file__, json.dumps(row)]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(out.stdout.splitlines()[-1])
        plain = r.get("plain", False)
        cells = [
            r["network"],
            r["T"],
            1 if plain else r["images"],
            r["target"] + (", a fresh network per image" if plain else ""),
            f"{r['synapses']:,}",
            "-" if r["build_s"] is None else f"{r['build_s']:.1f}",
            f"{r['run_s']:.2f}",
            f"{r['peak_mb']:.0f}",
        ]
        sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("["):
        sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))) + "\n")
    else:
        main()
