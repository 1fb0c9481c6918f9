"""Torchvision's networks with random weights, from the float module to spikes: seconds, memory and counts that differ.

    python tutorials/classifiers.py                      # all of them at 64 x 64, then five at 224 x 224
    python tutorials/classifiers.py --only resnet18 --side 224

Each network runs in a process of its own, so that its memory is its own. Rows are kept in
``docs/results/classifiers.json`` as they come, and found there by the next run; ``docs/results/classifiers.md`` is
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent / "docs" / "results"
CLASSIFIERS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "vgg11_bn", "densenet121", "googlenet",
    "shufflenet_v2_x0_5", "squeezenet1_0", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "mnasnet0_5",
    "alexnet",
)  # fmt: skip
LARGE = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
SEGMENTERS = ("lraspp_mobilenet_v3_large",)
STEPS = ("prepare", "observe", "convert", "to_nir", "write", "read", "integers", "closed form", "every spike")
WINDOW = 16
ABOUT = (
    "*Prepare* is `prepare_qat`, *observe* one batch in training mode for the ranges, *convert* `from_pt2e` with",
    "its check, *write* and *read* are of the `.nir` file, *integers* is a run of the quantised network. The last",
    "two are the first runs of backends `closed_form` and `fast`. Memory is the peak of the process up to there.",
    "",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--side", type=int, default=0, help="64 or 224; both by default")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure rows anew that are kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.only[0], given.side, given.images)))
        return
    wanted = [(name, 64) for name in (*CLASSIFIERS, *SEGMENTERS)] + [(name, 224) for name in LARGE]
    wanted = [(n, s) for n, s in wanted if (not given.only or n in given.only) and given.side in (0, s)]
    HERE.mkdir(exist_ok=True)
    kept = HERE / "classifiers.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, side in wanted:
        key = f"{name} {side}"
        if key in rows and not given.again:
            continue
        command = [sys.executable, __file__, "--child", "--only", name, "--side", str(side)]
        done = subprocess.run([*command, "--images", str(given.images)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{key}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        rows[key] = json.loads(done.stdout.strip().splitlines()[-1])
        print(key, rows[key], flush=True)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        (HERE / "classifiers.md").write_text(page(rows))


def measure(name: str, side: int, n: int) -> dict[str, Any]:
    """One network: random weights, statistics of one batch of noise, then all the way to its last spike."""
    import torch
    import torchvision.models as zoo

    import converters
    from converters.network import Network
    from converters.results import compare_counts

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    make = getattr(zoo.segmentation if name in SEGMENTERS else zoo, name)
    options = {"init_weights": True} if name == "googlenet" else {}
    model = make(weights=None, **({"weights_backbone": None} if name in SEGMENTERS else {}), **options)
    model.train()
    x = torch.randn(4, 3, side, side)
    clock = Clock()
    with clock("prepare"):
        m = converters.prepare_qat(model, x, levels=WINDOW - 1)
    with clock("observe"), torch.no_grad():
        m.train()
        m(x)
        m.eval()
    with clock("convert"):
        q = converters.from_pt2e(m)
    with clock("to_nir"):
        g = converters.to_nir(q, T=WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.nir"
        with clock("write"):
            converters.write(path, g)
        size = path.stat().st_size
        with clock("read"):
            again = converters.read(path, allow_large=True)
    images = x[:n]
    with clock("integers"):
        expected = q.at_window(WINDOW).execute(images)
    row: dict[str, Any] = {"T": WINDOW, "images": n, "layers": len(q.layers), "file_mb": round(size / 2**20, 1)}
    row["neurons"] = Network.from_graph(again).neurons
    for step, backend in (("closed form", "closed_form"), ("every spike", "fast")):
        with clock(step):
            result = converters.run(again, images, backend=backend, record="counts", check=False)
        rows = compare_counts(result, expected)
        row["counts"] = sum(r.compared for r in rows)
        row[f"differ, {step}"] = sum(r.differing for r in rows)
    assert result.extra_steps is not None
    row |= {"extra_mean": float(result.extra_steps.double().mean()), "extra_max": int(result.extra_steps.max())}
    checked = q.checked
    row |= {"checked": checked.integers if checked else 0, "near_ties": checked.near_ties if checked else 0}
    return row | {"seconds": clock.seconds, "memory_mb": clock.memory, "machine": machine(torch.__version__)}


class Clock:
    """Seconds and peak memory so far of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self.name, self.start = "", 0.0

    def __call__(self, name: str) -> Clock:
        self.name = name
        return self

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 2)
        self.memory[self.name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def machine(torch_version: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    torch_version = torch_version.partition("+")[0]
    return f"{os.cpu_count()} cores, {name}, torch {torch_version}"


def page(rows: dict[str, Any]) -> str:
    """The Markdown page of all rows."""
    first = next(iter(rows.values()))
    lines = [
        "# Torchvision's networks, equal count for count",
        "",
        f"`python tutorials/classifiers.py`: random weights, {WINDOW - 1} levels, T = {WINDOW}, noise (two images at",
        f"64, one at 224), {first['machine']}. Every count of every layer is compared with the quantised network's",
        "integer, in closed form and with every spike simulated; *checked* are the integers compared with the prepared",
        "PyTorch model's own at conversion, with the near-ties of its float sums among them. *Extra steps* come",
        "after the window until the last neuron is quiet. *Side* is that of a picture, in pixels.",
        "",
        "| network | side | layers | neurons | counts an image | differ: closed form | every spike | extra steps: mean "
        "| largest | checked | near-ties | file, MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key, r in rows.items():
        name, side = key.split()
        lines.append(
            f"| {name} | {side} | {r['layers']} | {r['neurons']:,} | {r['counts'] // r['images']:,} | "
            f"{r['differ, closed form']} | {r['differ, every spike']} | {r['extra_mean']:.1f} | {r['extra_max']} | "
            f"{r['checked']:,} | {r['near_ties']:,} | {r['file_mb']} |"
        )
    for what, title, form in (("seconds", "Seconds", "{:.2f}"), ("memory_mb", "Peak memory so far, MB", "{:,}")):
        lines += ["", f"## {title}", "", *(ABOUT if what == "seconds" else ())]
        lines += [f"| network | side | {' | '.join(STEPS)} |", "|---|--:|" + "--:|" * len(STEPS)]
        for key, r in rows.items():
            lines.append(f"| {' | '.join(key.split())} | " + " | ".join(form.format(r[what][s]) for s in STEPS) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
