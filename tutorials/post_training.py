"""Networks quantised without training, measured: accuracy against float and against quantisation-aware training.

    calif train --network lenet5 --dataset mnist --epochs 5 --qat-epochs 1 --out runs
    python tutorials/post_training.py runs/lenet5-mnist.float.pt docs/results/post_training.json

LeNet-5 is the float network of that run. ResNet-11H's float weights take hours, and do not ship: here it has the
weights of the checkpoint ``resnet11h-cifar10-127``, integers times their scales, in float; batch norms are folded in.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import converters
from converters.operations import Synapse
from converters.quantised import QuantGraph
from converters.zoo.datasets import Images, load
from converters.zoo.named import load_checkpoint
from converters.zoo.networks import build
from converters.zoo.training_file import load_weights, read_checkpoint

LEVELS = (127, 31, 15, 8)
WAYS: dict[str, dict[str, Any]] = {
    "minmax": {"ranges": "minmax", "weights": "minmax", "bias_correction": False},
    "mse": {"bias_correction": False},
    "mse, biases": {},
    "mse, biases, reconstruction": {"reconstruct": 512},
}
CALIBRATION = 512
SPIKES = 64


def float_lenet5(path: Path) -> nn.Module:
    """The float network of a run of ``calif train``."""
    model = build("lenet5", 1, 10, 32)
    load_weights(model, read_checkpoint(path), path)
    return model.eval()


def float_resnet11h() -> nn.Module:
    """ResNet-11H with the weights of the checkpoint that ships, in float; its batch norms add the folded biases."""
    q, _ = load_checkpoint("resnet11h-cifar10-127")
    model = build("resnet11h", 3, 10, 32)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer in q.layers:
            module: Any = modules.get(layer.name)
            if not hasattr(module, "weight"):
                continue
            (synapse,) = layer.synapses
            step = layer.scale / layer.threshold  # of the accumulator: weights' times inputs' scale
            source = scale_of(q, synapse)
            weight = next(op.weight for op in synapse.ops if hasattr(op, "weight"))
            rows = (-1, *[1] * (weight.ndim - 1))
            module.weight.copy_(weight.double() * (step / source).view(rows))
            bias = layer.bias * step
            if module.bias is not None:
                module.bias.copy_(bias)
            else:
                norm: Any = modules[layer.name.rpartition(".")[0] + ".1"]
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                norm.weight.fill_(1.0)
                norm.bias.copy_(bias)
    return model.eval()


def scale_of(q: QuantGraph, synapse: Synapse) -> float:
    """Of a synapse's source."""
    (name,) = synapse.sources
    return q.input.scale if name == q.input.name else next(x.scale for x in q.layers if x.name == name)


@torch.no_grad()
def right(model: nn.Module, images: Images, batch: int = 250) -> float:
    """Share of right predictions."""
    found = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.pixels.split(batch), images.labels.split(batch), strict=True)
    )
    return found / len(images)


def differing(q: QuantGraph, images: Tensor, backend: str) -> tuple[int, int]:
    """Counts compared and how many of them differ from the integers."""
    result = converters.run(converters.to_nir(q), images, backend=backend)
    integers = q.execute(images)
    pairs = [(counts.long(), integers[name]) for name, counts in result.counts.items()]
    return sum(a.numel() for a, _ in pairs), sum(int((a != b).sum()) for a, b in pairs)


def rows_of(name: str, model: nn.Module, data: Images, test: Images, few: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each number of levels and way."""
    rows: list[dict[str, Any]] = []
    before = right(model, test)
    for levels in LEVELS:
        for way, options in WAYS.items():
            start = time.perf_counter()
            more = few if levels < 127 else {}
            m = converters.quantise(model, data.pixels, levels, check=False, **options, **more)
            seconds = time.perf_counter() - start
            q = converters.from_pt2e(m)
            row: dict[str, Any] = {"network": name, "levels": levels, "way": way, "float": before}
            row["accuracy"] = right(m, test)
            row["test_images"], row["seconds"] = len(test), round(seconds, 1)
            for backend in ("closed_form", "fast"):
                some = test.pixels[: SPIKES if backend == "fast" else 256]
                row[f"{backend}_counts"], row[f"{backend}_differing"] = differing(q, some, backend)
            report = converters.quantisation_noise(model, m, test.pixels[:256])
            row["agreement"] = report.agreement
            row["worst"] = min((r.own_snr, r.layer) for r in report.layers if r.own_snr is not None)
            row["output_snr"] = report.layers[-1].snr
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main(checkpoint: str, out: str, lenet_images: str = "10000", resnet_images: str = "2000") -> None:
    generator = torch.Generator().manual_seed(0)

    def some(dataset: str) -> Images:
        data = load(dataset, "train")
        return data[torch.randperm(len(data), generator=generator)[:CALIBRATION]]

    rows = rows_of(
        "LeNet-5, MNIST", float_lenet5(Path(checkpoint)), some("mnist"), load("mnist", "test")[: int(lenet_images)],
        {"quantise_output": False},
    )  # fmt: skip
    rows += rows_of(
        "ResNet-11H, CIFAR-10", float_resnet11h(), some("cifar10"), load("cifar10", "test")[: int(resnet_images)],
        {"quantise_output": False, "input_levels": 255},
    )  # fmt: skip
    Path(out).write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
