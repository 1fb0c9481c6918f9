"""``calif bench``: the same network, images and window on every simulator, one process at a time in alternation."""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from converters.commands import common
from converters.errors import ConversionError
from converters.network import Network
from converters.nir_export import to_nir
from converters.nir_file import write
from converters.quantised import GraphBuilder, QuantGraph
from converters.rivals import RIVALS, missing
from converters.synapses import Conv2d, Linear, SumPool2d
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint

__all__ = ["bench"]


def _vgg9() -> QuantGraph:
    """VGG-9 with random integers, and thresholds that keep layers about as active as trained ones."""
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    value = b.input((3, 32, 32), scale=1 / 127, q_min=0, q_max=127)
    channels = 3
    clip: dict[str, Any] = {"y_min": 0, "y_max": 127, "scale": 1.0}
    for k, out in enumerate([64, 64, 0, 128, 128, 0, 256, 256, 256, 0]):
        if out:
            w = torch.randint(-127, 128, (out, channels, 3, 3), generator=gen, dtype=torch.int8)
            op = Conv2d(w, padding=(1, 1))
            value = b.layer(f"conv{k}", [(value, op)], threshold=73.0 * (9 * channels) ** 0.5 * 0.9, **clip)
            channels = out
        else:
            value = b.layer(f"pool{k}", [(value, SumPool2d((2, 2), (2, 2)))], threshold=4.0, **clip)
    w = torch.randint(-127, 128, (1024, 4096), generator=gen, dtype=torch.int8)
    value = b.layer("fc1", [(b.flatten(value), Linear(w))], threshold=73.0 * 64, **clip)
    w = torch.randint(-127, 128, (10, 1024), generator=gen, dtype=torch.int8)
    return b.build(b.layer("fc2", [(value, Linear(w))], threshold=73.0 * 32, y_min=-127, y_max=127, scale=1.0))


def _images(network: Network, n: int, seed: int) -> torch.Tensor:
    """Real images where there are some of this shape, in a seeded order; else random ones over the whole range."""
    generator = torch.Generator().manual_seed(seed)
    for name in ("mnist", "cifar10", "digits"):
        try:
            found = load(name, "test", download=False).pixels
        except ConversionError:
            continue
        if found.shape[1:] == network.spec.shape:
            return found[torch.randint(len(found), (n,), generator=generator)]
    return torch.rand(n, *network.spec.shape, generator=generator) * network.spec.scale * network.spec.q_max


def bench(
    network: Annotated[str, typer.Option(help="lenet5, vgg9 (random integers) or a checkpoint.")] = "lenet5",
    window: Annotated[list[int] | None, typer.Option("--window", help="T; may be repeated. 128 by default.")] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="May be repeated. 64 by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run; may be repeated; all by default.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of each process.")] = 2,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Time every simulator on the same quantised network; medians and ratios of one run."""
    names = list(only or RIVALS)
    unknown = [n for n in names if n not in RIVALS]
    if unknown:
        raise ConversionError("--only", f"{unknown[0]!r}", f"use one of {', '.join(RIVALS)}")
    if network == "vgg9":
        q = _vgg9()
    else:
        q, _ = load_checkpoint("lenet5-mnist-127" if network == "lenet5" else network)
    rows: list[dict[str, Any]] = []
    for t in window or [128]:
        for n in batch or [64]:
            with common.progress_bar(json) as bar:
                task = bar.add_task(f"T = {t}, batch {n}", total=len(names) * (repeats + 1))
                rows += _measure(q, names, t, n, repeats, threads, seed, lambda: bar.advance(task))  # noqa: B023
            if not json:
                _show(network, [r for r in rows if (r["T"], r["batch"]) == (t, n)], t, n)
    absent = {n: missing(n) for n in names if missing(n)}
    machine = {"threads": threads, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    if json:
        common.print_json({"network": network, "machine": machine, "missing": absent, "rows": rows})
    elif absent:
        common.say("not installed: " + ", ".join(f"{package} ({name})" for name, package in absent.items()))


def _measure(q: QuantGraph, names: list[str], t: int, n: int, repeats: int, threads: int, seed: int, tick: Any) -> list:
    with tempfile.TemporaryDirectory() as folder:
        graph, data = Path(folder) / "net.nir", Path(folder) / "images.pt"
        write(graph, to_nir(q, T=t))
        network = Network.from_graph(to_nir(q, T=t))
        torch.save(network.spec.quantise(_images(network, n, seed)), data)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        processes = {}
        found: dict[str, dict[str, Any]] = {}
        try:
            for name in names:
                if missing(name):
                    tick()
                    continue
                command = [sys.executable, "-m", "converters.rivals", name, str(graph), str(data), str(threads)]
                processes[name] = subprocess.Popen(
                    command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
                found[name] = {"times": [], "warm_up": _answer(processes[name], name)["warm_up"]}
                tick()
            for _ in range(repeats):  # in turn, so that a slow minute of the machine is everybody's
                for name, process in processes.items():
                    assert process.stdin is not None
                    process.stdin.write("go\n")
                    process.stdin.flush()
                    answer = _answer(process, name)
                    found[name]["times"].append(answer["seconds"])
                    found[name]["peak"] = answer["peak_memory_mb"]
                    tick()
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()
    rows = []
    for name, f in found.items():
        seconds = median(f["times"])
        row = {"name": name, "T": t, "batch": n, "seconds": seconds, "images_per_second": n / seconds}
        rows.append(row | {"peak_memory_mb": f["peak"], "warm_up_seconds": f["warm_up"], "times": f["times"]})
    return rows


def _answer(process: subprocess.Popen, name: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        error = (process.communicate()[1] or "no message").strip().splitlines()[-1]
        raise ConversionError(name, f"a process that stopped ({error[:200]})", "leave it out with --only")
    return json_module.loads(line)


def _show(network: str, rows: list[dict[str, Any]], t: int, n: int) -> None:
    seconds = {r["name"]: r["seconds"] for r in rows}
    floor, loop = seconds.get("float_passes_T"), seconds.get("snntorch_loop")
    cells = [
        [
            r["name"],
            f"{r['seconds']:.4g}",
            f"{r['images_per_second']:,.0f}",
            "-" if floor is None else f"{r['seconds'] / floor:.3g}",
            "-" if loop is None else f"{loop / r['seconds']:.3g}",
            f"{r['peak_memory_mb']:,.0f}",
            f"{r['warm_up_seconds']:.1f}",
        ]
        for r in rows
    ]
    columns = ["", "seconds", "images/s", f"of {t} float\npasses", "times\nsnnTorch", "peak MB", "warm-up, s"]
    common.out.print(common.table(f"{network}, T = {t}, batch {n}", columns, cells))
