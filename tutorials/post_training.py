"""Networks quantised without training, measured: accuracy against float and against quantisation-aware training.

    calif train --network lenet5 --dataset mnist --epochs 5 --qat-epochs 1 --out runs
    for levels in 127 31 15 8; do
        calif train --network lenet5 --dataset mnist --levels $levels --epochs 0 --qat-epochs 3 \\
            --start runs/lenet5-mnist.float.pt --out trained
    done
    python tutorials/post_training.py runs/lenet5-mnist.float.pt docs/results/post_training.json \\
        trained/*.safetensors resnet11h-cifar10-127 resnet11h-cifar10-8

LeNet-5 is the float network of that run. ResNet-11H's float weights take hours, and do not ship: here it has the
weights of the checkpoint ``resnet11h-cifar10-127``, integers times their scales, in float; batch norms are folded in.
Further arguments are networks that were trained quantised, by name or file, for the last column.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
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
NAMES = {"lenet5": "LeNet-5", "resnet11h": "ResNet-11H"}
TRAINED = "trained"
COMPARED = ("compared", "differing")
SPIKING = {"closed_form": 16, "fast": 2}  # images whose counts are compared


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
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches(images, batch)) / len(images)


def batches(images: Images, batch: int = 250) -> Iterable[tuple[Tensor, Tensor]]:
    """Pixels and labels."""
    return zip(images.pixels.split(batch), images.labels.split(batch), strict=True)


def differing(q: QuantGraph, images: Tensor, backend: str) -> tuple[int, int]:
    """Counts compared and how many of them differ from the integers."""
    result = converters.run(converters.to_nir(q), images, backend=backend)
    integers = q.execute(images)
    pairs = [(counts.long(), integers[name]) for name, counts in result.counts.items()]
    return sum(a.numel() for a, _ in pairs), sum(int((a != b).sum()) for a, b in pairs)


def measure(name: str, model: nn.Module, images: Images, test: Images, out: Path, few: dict[str, Any]) -> None:
    """Rows for each number of levels and way, written as they come; those that are there already are kept."""
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    before = right(model, test)
    for levels in LEVELS:
        for way, options in WAYS.items():
            key = f"{name}, {levels} levels, {way}"
            if key not in kept:
                more = few if levels < 127 else {}
                kept[key] = {"float": before, **row(model, images, test, levels, {**options, **more})}
                out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
                print(key, kept[key], flush=True)


def row(model: nn.Module, images: Images, test: Images, levels: int, options: dict[str, Any]) -> dict[str, Any]:
    """What one way costs and comes to."""
    start = time.perf_counter(), time.process_time()
    m = converters.quantise(model, images.pixels, levels, check=False, **options)
    found: dict[str, Any] = {
        "seconds": round(time.perf_counter() - start[0], 1),
        "cpu_seconds": round(time.process_time() - start[1], 1),
        "calibration_images": len(images),
        "test_images": len(test),
        "accuracy": right(m, test),
    }
    q = converters.from_pt2e(m)
    for backend, number in SPIKING.items():
        found[f"{backend}_compared"], found[f"{backend}_differing"] = differing(q, test.pixels[:number], backend)
    report = converters.quantisation_noise(model, m, test.pixels[:100])
    worst = min((r.own_snr, r.layer) for r in report.layers if r.own_snr is not None)
    return {**found, "output_snr": report.layers[-1].snr, "worst_layer": worst[1], "worst_layer_snr": worst[0]}


@torch.no_grad()
def measure_trained(which: str, tests: dict[str, Images], out: Path) -> None:
    """The row of a network that was trained quantised: right predictions of its integers, on the same images."""
    q, notes = load_checkpoint(which)
    name = NAMES[notes["network"]]
    key, test = f"{name}, {notes['levels']} levels, {TRAINED}", tests[name]
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if key not in kept:
        found = [(q.returned(q.execute(x)).argmax(1) == y).sum() for x, y in batches(test)]
        kept[key] = {
            "float": notes["float_accuracy"],
            "test_images": len(test),
            "accuracy": int(sum(found)) / len(test),
        }
        kept[key] |= {"accuracy_of_all": notes["quantised_accuracy"], "command": notes["command"].split(" && ")[-1]}
        out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(key, kept[key], flush=True)


def table(kept: dict[str, Any]) -> str:
    """In Markdown, a row for each network and number of levels."""
    ways = list(WAYS)
    lines = [f"| network, levels | float | {' | '.join(ways)} | {TRAINED} |", "|---|--:|" + "--:|" * (len(ways) + 1)]
    for name in dict.fromkeys(key.split(" levels")[0] for key in kept):
        found = [kept.get(f"{name} levels, {way}") for way in ways]
        shown = [f"{100 * r['accuracy']:.2f} % ({r['output_snr']:.0f} dB)" if r else "" for r in found]
        before = next(r["float"] for r in found if r)
        trained = kept.get(f"{name} levels, {TRAINED}")
        shown.append(_accuracies(trained) if trained else "not trained")
        lines.append(f"| {name} | {100 * before:.2f} % | " + " | ".join(shown) + " |")
    compared, differing = (sum(r.get(f"{b}_{k}", 0) for r in kept.values() for b in SPIKING) for k in COMPARED)
    return "\n".join([*lines, "", f"{differing:,} of {compared:,} counts differ."])


def _accuracies(row: dict[str, Any]) -> str:
    """On the images of the other columns, and on all where these are fewer."""
    here, everywhere = (f"{100 * row[k]:.2f} %" for k in ("accuracy", "accuracy_of_all"))
    return here if here == everywhere else f"{here} ({everywhere} of all)"


def main(checkpoint: str, out: str, *trained: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def some(dataset: str, number: int) -> Images:
        data = load(dataset, "train")
        return data[torch.randperm(len(data), generator=generator)[:number]]

    mnist, cifar10 = some("mnist", 512), some("cifar10", 256)
    few = {"quantise_output": False}
    tests = {"LeNet-5": load("mnist", "test"), "ResNet-11H": load("cifar10", "test")[:1000]}
    for which in trained:
        measure_trained(which, tests, Path(out))
    measure("LeNet-5", float_lenet5(Path(checkpoint)), mnist, tests["LeNet-5"], Path(out), few)
    more = {**few, "input_levels": 255}
    measure("ResNet-11H", float_resnet11h(), cifar10, tests["ResNet-11H"], Path(out), more)
    print(table(json.loads(Path(out).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
