"""One case of ``calif bench``: a network, a window and a batch, on every simulator in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import nir
import torch

from converters.errors import ConversionError
from converters.files.nir_file import write
from converters.network import Network
from converters.zoo.datasets import load

__all__ = ["Case", "images", "machine", "time_case"]

PACKAGES = ("torch", "snntorch", "spikingjelly", "sinabs", "norse", "numba")
ENOUGH = 3.0  # seconds of turns, after which a row has no more of them: long ones vary little


@dataclass(frozen=True)
class Case:
    """What is simulated: a network by name, ``T`` and the number of images."""

    network: str
    T: int
    batch: int


def images(network: Network, n: int, seed: int) -> torch.Tensor:
    """Real images where there are some of this shape, in a seeded order; else random ones, or tokens.

    Of several inputs all are random: integers side by side, as backends are given them.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(network.specs) > 1:
        parts = [
            torch.randint(s.q_min, s.q_max + 1, (n, *s.shape), generator=generator) for s in network.specs.values()
        ]
        return torch.cat([p.flatten(1) for p in parts], dim=1)
    spec = network.spec
    if spec.table is not None:
        return torch.randint(spec.table.vocabulary, (n, *spec.given), generator=generator)
    for name in ("mnist", "cifar10", "digits"):
        try:
            found = load(name, "test", download=False).pixels
        except ConversionError:
            continue
        if found.shape[1:] == spec.shape:
            return found[torch.randint(len(found), (n,), generator=generator)]
    return torch.rand(n, *spec.shape, generator=generator) * spec.scale * spec.q_max


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Where it was measured, and with which packages; on a GPU with its name."""
    about = Path("/proc/cpuinfo")  # Linux; elsewhere the instruction set has to do
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.device(device).type == "cuda":
        versions["on"] = torch.cuda.get_device_name(device)
    return {"threads": threads, "cpu": f"{model} ({torch.backends.cpu.get_cpu_capability()})".strip(), **versions}


def time_case(
    graph: nir.NIRGraph, case: Case, names: Sequence[str], *, repeats: int, threads: int, seed: int,
    device: str = "cpu", tick: Callable[[], Any] = lambda: None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """Rows of this case, and what a simulator could not do (``failed``: why).

    All processes start at once, then build and run one at a time: ``repeats`` turns of each, in alternation, so that
    a slow minute of the machine is everybody's; fewer of what has taken :data:`ENOUGH` seconds. Seconds are medians
    over the turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "net.nir", Path(folder) / "images.pt"
        write(path, graph)
        network = Network.from_graph(graph)
        given = images(network, case.batch, seed)
        torch.save(given if len(network.specs) > 1 else network.spec.quantise(given), data)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        processes: dict[str, subprocess.Popen] = {}
        found: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        try:
            for name in names:
                command = [sys.executable, "-m", "converters.benchmark.worker", name, str(path), str(data)]
                processes[name] = subprocess.Popen(
                    [*command, str(threads), device], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )  # fmt: skip
            for turn in range(repeats + 1):
                for name, process in list(processes.items()):
                    if turn and sum(found[name]["times"]) > ENOUGH:
                        tick()
                        continue
                    answer = _answer(process, name)
                    tick()
                    if "failed" in answer:
                        failed[name] = answer["failed"]
                        found.pop(name, None)
                        _end(processes.pop(name))
                    elif turn == 0:
                        found[name] = {**answer, "times": []}
                    else:
                        found[name]["times"].append(answer["seconds"])
                        found[name]["peak_memory_mb"] = answer["peak_memory_mb"]
        finally:
            for process in processes.values():
                _end(process)
    about = {"network": case.network, "T": case.T, "batch": case.batch}
    rows = []
    for name, f in found.items():
        seconds = median(f["times"])
        rows.append({"name": name, **about, "seconds": seconds, "images_per_second": case.batch / seconds, **f})
    return rows, [{"name": name, **about, "failed": why} for name, why in failed.items()]


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def _answer(process: subprocess.Popen, name: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        text = process.communicate()[1].strip().splitlines() if process.stderr is not None else []
        raise ConversionError(name, f"a process that stopped ({(text or ['no message'])[-1][:200]})", "see --only")
    return json.loads(line)
