"""Converted networks and training on an accelerator, beside other simulators: ``python tutorials/accelerator.py``.

Seconds of a batch on the card, by its own clock (CUDA events), medians after a warm-up; ratios to T passes of the same
network in float32 (PyTorch's defaults: convolutions in TF32), and in training to ``snn.Leaky``. Counts on the card are
compared with the CPU's closed form. SpikingJelly reads from the environment how its neurons are implemented, so each
way has a process of its own. Needs the extra ``spikingjelly`` for those rows; a row that fails says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

STEPS = 25  # of training
CASES = (("lenet5-mnist-8", 8), ("resnet11h-cifar10-8", 8), ("vgg9-cifar10-127", 8), ("vgg9-cifar10-127", 128))
BATCHES = (128, 1024)  # of training
OURS = ("float_passes_T", "float_pass", "calif_loop", "calif_closed_form", "snntorch_loop")
TITLES = {
    "float_passes_T": "T float passes",
    "float_pass": "one float pass",
    "calif_loop": "calif, every spike",
    "calif_closed_form": "calif, closed form",
    "snntorch_loop": "snnTorch, step loop",
}


def clock(step: Callable[[], Any], device: torch.device, seconds: float) -> dict[str, float]:
    """The median of runs that take so many seconds together, at least three, at most fifty; and the first one's."""
    on_card = device.type == "cuda"
    start = time.perf_counter()
    step()
    if on_card:
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    step()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        if on_card:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_card else 0.0
    return {"seconds": median(times), "runs": len(times), "first_seconds": first, "memory_mb": memory}


def timed(name: str, about: dict[str, Any], build: Callable[[], Callable[[], Any]], a: Any) -> dict[str, Any]:
    """A row; what fails says so in one line, and the others go on."""
    device = torch.device(a.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return {"name": name, **about, **clock(build(), device, a.seconds)}
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        return {"name": name, **about, "failed": f"{type(error).__name__}: {text}"[:300]}


def spikingjelly_neuron(kind: str, way: str, **own: Any) -> nn.Module:
    """Multi-step neurons: the newer releases choose by the environment, the older ones by an argument."""
    from spikingjelly.activation_based import neuron

    make = getattr(neuron, kind)
    if "backend" in make.__init__.__code__.co_varnames:
        own["backend"] = way
    return make(v_threshold=own.pop("threshold"), v_reset=None, step_mode="m", **own)


# --- converted networks ---------------------------------------------------------------------------


def conversion(a: Any) -> list[dict[str, Any]]:
    import converters
    from converters.benchmark.measuring import images
    from converters.benchmark.simulators import RIVALS, Spiking, spikes_of
    from converters.network import Network
    from converters.zoo.named import load_checkpoint

    def of_spikingjelly(network: Network, x: Tensor) -> Callable[[], Any]:
        from spikingjelly.activation_based import functional

        make = lambda _: spikingjelly_neuron("IFNode", a.way, threshold=1.0)  # noqa: E731
        net, fed = Spiking(network, make, over_time=True).to(x.device), spikes_of(network, x)

        def step() -> Tensor:
            functional.reset_net(net)
            return net(fed).sum(0)

        return step

    rows: list[dict[str, Any]] = []
    for name, T in CASES[:1] if a.quick else CASES:
        q, _ = load_checkpoint(name)
        network = Network.from_graph(converters.to_nir(q, T=T, coding="auto"))
        integers = network.spec.quantise(images(network, a.batch, 0))
        x = integers.to(a.device)
        about = {"what": "conversion", "network": name, "T": T, "batch": a.batch}
        with torch.no_grad():
            if a.way:
                rows.append(timed(f"SpikingJelly, {a.way}", about, lambda: of_spikingjelly(network, x), a))  # noqa: B023
                continue
            for row in OURS:
                rows.append(timed(row, about, lambda: RIVALS[row][1](network, x), a))  # noqa: B023
                if row.startswith("calif") and "failed" not in rows[-1]:
                    backend = "snntorch" if row == "calif_loop" else "closed_form"
                    rows[-1] |= compared(network, integers[: a.checked], backend, a.device)
    return rows


def compared(network: Any, integers: Tensor, backend: str, device: str) -> dict[str, int]:
    """Counts of all layers on the card against the CPU's closed form."""
    import converters

    here = converters.run(network, integers=integers, backend="closed_form", check=False)
    there = converters.run(network, integers=integers, backend=backend, device=device, check=False)
    differ = sum(int((there.counts[k].cpu() != counts).sum()) for k, counts in here.counts.items())
    return {"compared": sum(c.numel() for c in here.counts.values()), "differ": differ}


# --- training -------------------------------------------------------------------------------------


def training_network(neuron: Callable[[], nn.Module]) -> nn.Sequential:
    """28 x 28 pixels to 10 classes: that of tutorials/training_speed.py."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.AvgPool2d(2), neuron(), nn.Conv2d(12, 32, 5), nn.AvgPool2d(2), neuron(), nn.Flatten(),
        nn.Linear(512, 10), neuron(),
    )  # fmt: skip


def one_by_one(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.stack([net(now) for now in x])


def in_blocks(net: nn.Sequential, x: Tensor) -> Tensor:
    """Neurons see ``(T, N, ...)``, the others ``(T N, ...)``."""
    for module in net:
        stateless = type(module) in (nn.Conv2d, nn.AvgPool2d, nn.Flatten, nn.Linear)
        x = module(x.flatten(0, 1)).unflatten(0, (STEPS, -1)) if stateless else module(x)
    return x


def training(a: Any) -> list[dict[str, Any]]:
    hidden = {"init_hidden": True}
    kinds: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Sequential, Tensor], Tensor]]] = {}
    if a.way:
        from spikingjelly.activation_based import functional

        reset: Callable[[nn.Module], Any] = functional.reset_net
        kinds[f"SpikingJelly, {a.way}"] = (lambda: spikingjelly_neuron("LIFNode", a.way, threshold=0.5), in_blocks)
    else:
        import snntorch as snn

        from calif_plugins.snntorch import CaLIF, reset

        kinds = {
            "snn.Leaky": (lambda: snn.Leaky(beta=0.9, threshold=0.5, **hidden), one_by_one),
            "CaLIF, plain PyTorch": (lambda: CaLIF(0.5, leak=0.01, compiled=False, **hidden), one_by_one),
            "CaLIF": (lambda: CaLIF(0.5, leak=0.01, **hidden), one_by_one),
            "CaLIF, multistep": (lambda: CaLIF(0.5, leak=0.01, multistep=True, **hidden), in_blocks),
        }

    def build(
        neuron: Callable[[], nn.Module], run: Callable[[nn.Sequential, Tensor], Tensor], x: Tensor, labels: Tensor
    ) -> Callable[[], Any]:
        torch.manual_seed(0)
        net = training_network(neuron).to(a.device)

        def step() -> None:
            reset(net)
            net.zero_grad()
            nn.functional.cross_entropy(run(net, x).mean(0), labels).backward()

        return step

    rows = []
    for batch in BATCHES[:1] if a.quick else BATCHES:
        generator = torch.Generator().manual_seed(0)
        x = (torch.rand(STEPS, batch, 1, 28, 28, generator=generator) < 0.3).float().to(a.device)
        labels = torch.randint(10, (batch,), generator=generator).to(a.device)
        about = {"what": "training", "network": "two convolutions", "T": STEPS, "batch": batch}
        for name, (neuron, run) in kinds.items():
            rows.append(timed(name, about, lambda: build(neuron, run, x, labels), a))  # noqa: B023
    return rows


# --- all of it ------------------------------------------------------------------------------------


def by_spikingjelly(way: str, place: Path | None, a: Any) -> list[dict[str, Any]]:
    """Its rows, from a process in which its neurons are implemented in this way."""
    env = {**os.environ, "SJ_IF_CUDA_IMPLEMENTATION": way, "SJ_LIF_CUDA_IMPLEMENTATION": way}
    if place is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(place), env.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--way", way, "--device", a.device, "--batch", str(a.batch)]
    command += ["--seconds", str(a.seconds), *(["--quick"] if a.quick else [])]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=a.patience)
        found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        said = [] if isinstance(error, subprocess.TimeoutExpired) else done.stderr.strip().splitlines()
        return [{"name": f"SpikingJelly, {way}", "failed": (said or [str(error)])[-1][:300]}]


def show(rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    console = Console(width=120)
    console.print(", ".join(f"{k} {v}" for k, v in about.items()), highlight=False)
    cases = dict.fromkeys((r["what"], r["network"], r["T"], r["batch"]) for r in rows if "what" in r)
    for what, network, T, batch in cases:
        own = [r for r in rows if (r.get("what"), r.get("T"), r.get("batch")) == (what, T, batch)]
        own = [r for r in own if r["network"] == network and "seconds" in r]
        base = next((r["seconds"] for r in own if r["name"] in ("float_passes_T", "snn.Leaky")), None)
        table = Table(title=f"{what}: {network}, T = {T}, batch {batch}", title_justify="left")
        to = "T float passes" if what == "conversion" else "snn.Leaky"
        for column in ("", "ms", f"to {to}", "MB", "first run, s", "counts compared", "differ"):
            table.add_column(column, justify="left" if not column else "right")
        for r in own:
            ratio = "-" if base is None else f"{r['seconds'] / base:.2f}"
            cells = [TITLES.get(r["name"], r["name"]), f"{r['seconds'] * 1e3:.3f}", ratio, f"{r['memory_mb']:,.0f}"]
            cells += [f"{r['first_seconds']:.1f}", f"{r['compared']:,}" if "compared" in r else ""]
            table.add_row(*cells, str(r.get("differ", "")))
        console.print(table)
    for r in rows:
        if "failed" in r:
            place = f" ({r['what']}, {r['network']}, T = {r['T']}, batch {r['batch']})" if "what" in r else ""
            console.print(f"{r['name']}{place}: {r['failed']}", highlight=False, markup=False)


def packages(a: Any) -> dict[str, Any]:
    """Where this ran, and on what."""
    found: dict[str, Any] = {"device": a.device, "torch": torch.__version__}
    if torch.device(a.device).type == "cuda":
        found["device"] = torch.cuda.get_device_name(a.device)
    for name in ("triton", "snntorch", "spikingjelly"):
        try:
            found[name] = version(name)
        except Exception:
            found[name] = "none"
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256, help="images of the converted networks")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed runs of a row, at least")
    parser.add_argument("--checked", type=int, default=32, help="images whose counts are compared")
    parser.add_argument("--patience", type=float, default=90, help="seconds for each way of SpikingJelly")
    parser.add_argument("--quick", action="store_true", help="one network and one batch")
    parser.add_argument("--out", type=Path, help="file for the rows (.json)")
    parser.add_argument("--older", type=Path, help="folder of a SpikingJelly whose neurons take backend='cupy'")
    parser.add_argument("--way", default="", help="rows of SpikingJelly alone, implemented in this way, as JSON")
    a = parser.parse_args()
    if a.way:
        print(json.dumps([*training(a), *conversion(a)]))  # the largest last: an error of CUDA's ends all that follow
        return
    about, rows = packages(a), []
    for part in (conversion, training):
        rows += part(a)
        write(a.out, about, rows)
    torch.cuda.empty_cache()
    ways: list[tuple[str, Path | None]] = [("triton", None), ("torch", None)]
    for way, place in [*ways, *([("cupy", a.older)] if a.older else [])]:
        rows += by_spikingjelly(way, place, a)
        write(a.out, about, rows)
    show(rows, about)


def write(out: Path | None, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """What there is so far."""
    if out is not None:
        out.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
