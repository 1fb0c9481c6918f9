"""How long every spike of a torchvision network takes: this package, its step loop, and SpikingJelly's converter.

    python tutorials/classifiers_speed.py     # resnet18 and mobilenet_v3_small, 64 x 64, T = 16, 16 images

Seconds are medians of turns taken one after the other in one process, given as ratios to T passes of the float
network. SpikingJelly's network is ``ann2snn``'s rate coding of the same float module: other counts than the network's
own, so only its time is compared. What it cannot convert is said.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
import torchvision.models as zoo
from torch import Tensor, nn

import converters
from converters.network import Network

T, SIDE = 16, 64


def spikingjelly(model: nn.Module, x: Tensor, steps: int) -> Callable[[], object]:
    """Runs ``steps`` steps of SpikingJelly's rate coding of a float module; a ValueError where there is none."""
    from spikingjelly.activation_based import ann2snn, functional

    recipe = ann2snn.RateCodingRecipe(dataloader=[(x, torch.zeros(len(x)))], mode="Max")
    net = ann2snn.Converter(recipe=recipe, device="cpu").convert(model)

    def run() -> object:
        functional.reset_net(net)
        return sum(net(x) for _ in range(steps))

    return run


def in_turns(
    tasks: dict[str, Callable[[], object]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Medians of seconds, each task once in every turn; the first turn compiles and packs."""
    seconds: dict[str, list[float]] = {key: [] for key in tasks}
    for turn in range(turns + 1):
        for key, task in tasks.items():
            start = clock()
            task()
            if turn:
                seconds[key].append(clock() - start)
    return {key: median(times) for key, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"T = {T}, {given.batch} images of {SIDE} x {SIDE}, {torch.get_num_threads()} threads, {os.cpu_count()} cores,"
    )
    print(f"torch {torch.__version__}; ratios to T float passes\n")
    print("| network | T float passes, s | fast | snntorch | closed form | SpikingJelly |\n|---|--:|--:|--:|--:|--:|")
    for name in ("resnet18", "mobilenet_v3_small"):
        print(row(name, given.batch, given.turns), flush=True)


def row(name: str, batch: int, turns: int) -> str:
    torch.manual_seed(0)
    model = getattr(zoo, name)(weights=None)
    x = torch.randn(batch, 3, SIDE, SIDE)
    m = converters.prepare_qat(model.train(), x, levels=T - 1)
    with torch.no_grad():
        m(x)
    network = Network.from_graph(converters.to_nir(converters.from_pt2e(m.eval()), T=T))
    model.eval()

    def ours(backend: str) -> Callable[[], object]:
        return lambda: converters.run(network, x, backend=backend, batch=batch, check=False)

    tasks: dict[str, Callable[[], object]] = {"float": lambda: [model(x) for _ in range(T)]}
    tasks |= {backend: ours(backend) for backend in ("fast", "snntorch", "closed_form")}
    refused = ""
    try:
        tasks["SpikingJelly"] = spikingjelly(model, x, T)
    except Exception as error:  # whatever it says
        refused = f"does not convert it ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    with torch.no_grad():
        seconds = in_turns(tasks, turns)
    base = seconds.pop("float")
    ratios = " | ".join(f"{found / base:.2f}" for found in seconds.values())
    return f"| {name} | {base:.2f} | {ratios} |" + (f" {refused} |" if refused else "")


if __name__ == "__main__":
    main()
