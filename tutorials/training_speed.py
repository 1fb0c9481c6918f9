"""What training with Ca-LIF neurons costs beside ``snntorch.Leaky``: forwards and backwards over 25 steps.

    python tutorials/training_speed.py [--batch 32] [--repeats 9] [--threads 1] [--alone]

One small convolutional network, or with ``--alone`` one layer of neurons, with each kind in turn. Times are of the
processor, of all threads of this process, and the smallest of the repeats, which go round the kinds: what else the
machine does shifts them little. Rows name how each was run; ratios are to ``snn.Leaky``. The last row is the network
without neurons, which they add to.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import snntorch as snn
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from calif_plugins.snntorch import CaLIF, reset

STEPS = 25
AT_A_TIME = 800  # images of a block: the largest layer's values take 22 MB, which the C library keeps for the next one


def network(neuron: Callable[[], nn.Module], alone: bool) -> nn.Sequential:
    """28 x 28 pixels to 10 classes: two convolutions and a dense layer, neurons behind each."""
    if alone:
        return nn.Sequential(nn.Flatten(), neuron())
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.AvgPool2d(2), neuron(), nn.Conv2d(12, 32, 5), nn.AvgPool2d(2), neuron(), nn.Flatten(),
        nn.Linear(512, 10), neuron(),
    )  # fmt: skip


class Blocks(nn.Module):
    """Steps of a block through each layer at once: neurons see ``(T, N, ...)``, the others ``(T N, ...)``.

    Of many images few steps are a block: neurons go on from where the last one ended. Values of more than some 30 MB
    would be fetched from the system page by page, and given back, in each training step.
    """

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.block(part) for part in x.split(max(1, AT_A_TIME // x.shape[1]))])

    def block(self, x: Tensor) -> Tensor:
        steps = len(x)
        for module in self.net:
            x = module(x) if isinstance(module, CaLIF) else module(x.flatten(0, 1)).unflatten(0, (steps, -1))
        return x


def one_by_one(net: nn.Module, x: Tensor) -> Tensor:
    """Spikes of all steps, step by step."""
    return torch.stack([net(now) for now in x])


def train(net: nn.Module, x: Tensor, labels: Tensor, run: Callable[[nn.Module, Tensor], Tensor]) -> float:
    """Seconds of the processor for one batch, forwards and backwards."""
    reset(net)
    net.zero_grad()
    start = time.process_time()
    loss = nn.functional.cross_entropy(run(net, x).mean(0), labels)
    loss.backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    x = (torch.rand(STEPS, a.batch, 1, 28, 28) < 0.3).float().requires_grad_(a.alone)
    labels = torch.randint(10, (a.batch,))
    hidden = {"init_hidden": True}
    kinds: dict[str, tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]] = {
        "snn.Leaky": (network(lambda: snn.Leaky(beta=0.9, threshold=0.5, **hidden), a.alone), one_by_one),
        "CaLIF, plain PyTorch": (network(lambda: CaLIF(0.5, leak=0.01, compiled=False, **hidden), a.alone), one_by_one),
        "CaLIF": (network(lambda: CaLIF(0.5, leak=0.01, **hidden), a.alone), one_by_one),
        "CaLIF, multistep": (
            Blocks(network(lambda: CaLIF(0.5, leak=0.01, multistep=True, **hidden), a.alone)),
            lambda net, x: net(x),
        ),
        # what no neuron can go below
        "none, in blocks": (Blocks(network(nn.Identity, a.alone)), lambda net, x: net(x)),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(a.repeats + 1):  # the first compiles
        for kind, (net, run) in kinds.items():
            seconds[kind].append(train(net, x, labels, run))
    least = {kind: min(s[1:]) for kind, s in seconds.items()}
    table = Table("neurons", "ms", "to snn.Leaky", title=f"{STEPS} steps, batch {a.batch}, {a.threads} thread(s)")
    for kind, s in least.items():
        table.add_row(kind, f"{s * 1e3:.0f}", f"{s / least['snn.Leaky']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
