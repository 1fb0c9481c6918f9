"""A process that times one simulator when it is told to: ``python -m converters.benchmark.worker NAME ...``.

It reads lines and answers each with one of JSON: the first builds and runs once (warm-up), every other is a turn.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converters.backends import run
from converters.benchmark.simulators import RIVALS, Step
from converters.network import Network

__all__ = ["GROWTH", "main", "peak_memory"]

TURN = 0.1  # seconds; what is shorter runs again within its turn: one run alone would time how its threads wake up


def _trains(network: Network, integers: Tensor) -> Step:
    return lambda: run(network, integers=integers, record="spikes", batch=len(integers), backend="fast")


# how ours grow with window, batch and network: no rows of the comparison
GROWTH: dict[str, tuple[str, Callable[[Network, Tensor], Step]]] = {
    "calif_fast": RIVALS["calif_fast"],
    "calif_fast_trains": ("numba", _trains),
}


def main() -> None:
    """Run as a process; see the module."""
    import logging
    import warnings

    from converters.files.nir_file import read

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    name, graph, data, threads, device = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    network = Network.from_graph(read(graph))
    integers = torch.load(data, weights_only=True).to(device)
    step: Step | None = None
    with torch.no_grad():
        for _ in sys.stdin:
            try:
                answer, step = _turn(name, network, integers, step)
            except (ValueError, RuntimeError, MemoryError) as error:  # what a simulator cannot do is a result too
                answer = {"failed": _reason(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return f"it needs more memory than its limit here, {_half_of_memory() / 2**30:.1f} GB (half of the machine's)"
    return text[:200]


def _turn(name: str, network: Network, integers: Tensor, step: Step | None) -> tuple[dict[str, Any], Step]:
    device = integers.device
    if step is None:
        if device.type == "cpu":
            _limit_memory()
        before, start = peak_memory(device), time.perf_counter()
        step = (RIVALS.get(name) or GROWTH[name])[1](network, integers)
        step()
        _wait(device)
        return {"warm_up_seconds": time.perf_counter() - start, "memory_before_mb": before}, step
    start, runs = time.perf_counter(), 0
    while not runs or time.perf_counter() - start < TURN:
        step()
        runs += 1
        _wait(device)
    return {"seconds": (time.perf_counter() - start) / runs, "peak_memory_mb": peak_memory(device)}, step


def _wait(device: torch.device) -> None:
    """Until what was sent to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device | None = None) -> float:
    """Of this process so far, in MB (2**20 bytes); with a GPU what its tensors took there."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # ru_maxrss begins with what the process that started this one had
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def _limit_memory() -> None:
    """To half of the machine's: an allocation that fails is a message, one too many ends other processes."""
    half = _half_of_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (half if hard == resource.RLIM_INFINITY else min(half, hard), hard))


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


if __name__ == "__main__":
    main()
