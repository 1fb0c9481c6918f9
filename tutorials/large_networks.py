"""What a large network costs: conversion, every spike, the closed form, and others beside them; seconds and memory.

    python tutorials/large_networks.py --out docs/results/large.json     # resnet18, resnet50, mobilenet_v2, 224 x 224

Each case runs in a process of its own, so that its memory is its own. Ratios are to T passes of the float network, or
to one, taken in turns with what they are compared with. Weights are random: they decide how many spikes there are, and
not how the integers are added. SpikingJelly's network is the rate coding of the same float module, with other counts
than the network's own; snnTorch steps the converted network's weights with ``snn.Leaky``, as ``calif bench`` has it,
whose neurons have no ceiling and no rounding phase; onnxruntime runs our integers as quantised operators
(``converters.to_onnx``).
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision.models as zoo
from classifiers_speed import in_turns, spikingjelly
from torch import Tensor

import converters
from converters.benchmark.simulators import RIVALS
from converters.network import Network

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
CASES = [(16, 1), (16, 4), (32, 1)]  # T, images
COLUMNS = [
    "network", "T", "images", "neurons", "prepare, read, write, s", "T float passes, s", "every spike",
    "snnTorch", "SpikingJelly", "closed form, of one pass", "onnxruntime int8, of one pass", "peak, MB",
    "counts that differ",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=NETWORKS)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="instead of seconds: beside other work")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.case:
        name, steps, images = given.case.split(",")
        clock = time.process_time if given.processor_time else time.perf_counter
        print(json.dumps(measured(name, int(steps), int(images), given.side, given.turns, clock)))
        return
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    rows = []
    for name in given.only or NETWORKS:
        for steps, images in CASES:
            again = [sys.executable, __file__, "--case", f"{name},{steps},{images}"]
            again += ["--side", str(given.side), "--turns", str(given.turns)]
            again += ["--processor-time"] if given.processor_time else []
            done = subprocess.run(again, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"| {name} | {steps} | {images} | {(done.stderr.splitlines() or ['?'])[-1][:200]} |", flush=True)
                continue
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(line(rows[-1]), flush=True)
    if given.out is not None:
        given.out.write_text(
            json.dumps({"rows": rows, "side": given.side, "torch": torch.__version__}, indent=1) + "\n"
        )


def line(r: dict[str, Any]) -> str:
    def of(key: str, base: str, factor: float = 1.0) -> str:
        return f"{r[key] / r[base] * factor:.2f}" if key in r else "-"

    parts = [
        r["network"], str(r["T"]), str(r["images"]), f"{r['neurons']:,}",
        f"{r['prepare']:.1f} + {r['read']:.1f} + {r['write']:.1f}", f"{r['float_T']:.2f}", of("fast", "float_T"),
        of("snnTorch", "float_T"), of("SpikingJelly", "float_T"), of("closed_form", "float_T", r["T"]),
        of("onnxruntime", "float_T", r["T"]),
        f"{r['peak_MB']:,.0f} ({r['peak_others_MB']:,.0f} with the others)", f"{r['differ']:,} of {r['counts']:,}",
    ]  # fmt: skip
    return "| " + " | ".join(parts) + " |"


def measured(name: str, steps: int, images: int, side: int, turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """One case; seconds of a clock by what took them."""
    torch.manual_seed(0)
    model = getattr(zoo, name)(weights=None)
    x = torch.randn(images, 3, side, side)
    found: dict[str, Any] = {"network": name, "T": steps, "images": images}
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        m = converters.prepare_qat(model.train(), x[:1], levels=steps - 1, signed_input=True)
        found["prepare"] = clock() - start
        with torch.no_grad():
            m(torch.randn(4, 3, side, side))
        start = clock()
        q = converters.from_pt2e(m.eval())
        found["read"] = clock() - start
        start = clock()
        g = converters.to_nir(q, T=steps)
        converters.write(Path(folder) / "net.nir", g)
        found["write"] = clock() - start
    model.eval()
    network = Network.from_graph(g)
    found["neurons"] = network.neurons

    def ours(backend: str) -> Callable[[], Any]:
        return lambda: converters.run(network, x, backend=backend, batch=images, check=False)

    with torch.no_grad():
        counts = ours("fast")().counts
        found["counts"] = sum(n.numel() for n in counts.values())
        found["differ"] = 0
        for image in range(images):  # the integers of all images together would be twice as large as the counts
            integers = q.execute(x[image : image + 1])
            found["differ"] += sum(int((n[image : image + 1] != integers[k]).sum()) for k, n in counts.items())
        del counts, integers
        tasks: dict[str, Callable[[], Any]] = {"float_T": lambda: [model(x) for _ in range(steps)]}
        tasks |= {"fast": ours("fast"), "closed_form": ours("closed_form")}
        found |= in_turns(tasks, turns, clock)
        found["peak_MB"] = peak()
        others = {"float_T": tasks["float_T"], "onnxruntime": onnxruntime_int8(q, x)}
        others["snnTorch"] = RIVALS["snntorch_loop"][1](network, network.accept(x, None))
        try:
            others["SpikingJelly"] = spikingjelly(model, x, steps)
        except ValueError as error:  # what it does not convert
            found["SpikingJelly_says"] = str(error).splitlines()[0]
        base = found["float_T"]
        beside = in_turns(others, turns, clock)
        found |= {key: value * base / beside["float_T"] for key, value in beside.items() if key != "float_T"}
    found["peak_others_MB"] = peak()
    return found


def onnxruntime_int8(q: converters.QuantGraph, x: Tensor) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(converters.to_onnx(q).SerializeToString(), options)
    given = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, given)


def peak() -> float:
    """Of this process so far, in MB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
