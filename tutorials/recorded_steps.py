"""Milliseconds of a training step on an NVIDIA GPU, launched kernel by kernel and replayed as a CUDA graph.

``python tutorials/recorded_steps.py vgg9 resnet11h resnet18``: steps of ``calif train --recipe long``, both float and
quantised ones (random images of CIFAR-10's size, batches of 256, bfloat16, Muon), updates included.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from converters.frontends.pt2e import prepare_qat
from converters.frontends.pt2e_training import training_view
from converters.zoo.networks import build
from converters.zoo.optimisers import Optimisers
from converters.zoo.recorded import Gradients


def milliseconds(model: nn.Module, view: nn.Module, x: Tensor, labels: Tensor, recorded: bool, steps: int) -> float:
    """Of a step, the mean of ``steps`` of them after 14 others."""
    kind = x.device.type

    def loss(x: Tensor, labels: Tensor, whole: int) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=False):
            out = view(x).float()
        return F.cross_entropy(out, labels, label_smoothing=0.1)

    optimiser = Optimisers(model, "muon", lr=0.01, weight_decay=5e-4)
    step, start = Gradients(loss, model.parameters(), recorded), 0.0
    for k in range(14 + steps):
        if k == 14:
            if kind == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        step(x, labels, len(x))
        optimiser.step()
    if kind == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps * 1e3


def rows(name: str, device: str, batch: int, steps: int) -> list[tuple[str, str, float, float]]:
    torch.manual_seed(0)
    model: Any = build(name, 3, 10, 32)
    x, labels = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,)).to(device)
    found = []
    for phase in ("float", "quantised"):
        if phase == "quantised":
            model = prepare_qat(model.cpu(), x[:32], levels=127)
        model = model.to(device).to(memory_format=torch.channels_last).train()
        view = training_view(model) if phase == "quantised" else model
        images = x.to(device).contiguous(memory_format=torch.channels_last)
        plain, recorded = (milliseconds(model, view, images, labels, way, steps) for way in (False, True))
        found.append((name, phase, plain, recorded))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    table = Table(title=f"milliseconds of a training step, batches of {args.batch}")
    for name in ("network", "phase", "kernel by kernel", "recorded", "times as fast"):
        table.add_column(name, justify="left" if name in ("network", "phase") else "right")
    for name in args.networks:
        for network, phase, plain, recorded in rows(name, args.device, args.batch, args.steps):
            table.add_row(network, phase, f"{plain:.1f}", f"{recorded:.1f}", f"{plain / recorded:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
