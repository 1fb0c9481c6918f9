"""``calif quantise``, and what ``calif convert --torchvision`` does before it converts: no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from converters.commands import common
from converters.errors import ConversionError, FileFormatError, warn
from converters.frontends.layer_levels import LayerLevels, LevelNumbers

if TYPE_CHECKING:
    from converters.calibration import QuantisationReport
    from converters.quantised import QuantGraph

__all__ = ["TorchvisionSettings", "from_torchvision", "quantise", "show_report"]

_FLOAT = "for other levels, give the .float.pt that it came from"
FEW = 32  # below as many levels, logits are read from the membrane, as in calif train

Ranges = Annotated[str, typer.Option(help="How ranges are chosen: mse, minmax or percentile.")]
Percentile = Annotated[float, typer.Option(min=0.0, max=100.0, help="What is not clipped, for --ranges percentile.")]
Reconstruct = Annotated[
    int, typer.Option(min=0, help="On how many calibration images the weights are fitted, layer by layer.")
]
Calibration = Annotated[
    int, typer.Option("--calibration-images", min=1, help="How many training images the ranges come from.")
]
WeightBits = Annotated[int, typer.Option(min=2, max=8)]
PerChannelNorms = Annotated[
    bool,
    typer.Option("--per-channel-norms", help="A scale for each channel of a norm that only layers with weights read."),
]


@dataclass(frozen=True)
class TorchvisionSettings:
    """What ``calif convert --torchvision`` is asked for, as its options of the same names."""

    name: str
    weights: str = "DEFAULT"
    calibrate: Path | None = None
    images: Path | None = None
    levels: LevelNumbers = 127
    weight_bits: int = 8
    reconstruct: int = 0
    side: int | None = None
    seed: int = 0
    per_channel_norms: bool = False

    @property
    def asked(self) -> LayerLevels:
        """The levels of each layer."""
        return LayerLevels.of(self.levels)

    def check_unused(self) -> None:
        """Raise a ConversionError for an option that was given where no network of torchvision is."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "seed") and value != field.default:
                todo = "leave it out: a quantised network has its own"
                raise ConversionError(f"--{field.name.replace('_', '-')}", f"{value} without --torchvision", todo)


def show_report(report: QuantisationReport) -> None:
    """For people."""
    for line in str(report).splitlines():
        common.say(line)


def quantise(
    network: Annotated[Path, typer.Argument(help="A .float.pt or .average.pt of calif train.")],
    dataset: Annotated[
        str | None, typer.Option(help="The network's data set by default: digits, mnist, cifar10, ..., or a folder.")
    ] = None,
    data_root: common.DataRoot = None,
    levels: common.Levels = None,
    input_levels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest level of a pixel, as --levels by default; more want --coding direct."),
    ] = None,
    weight_bits: WeightBits = 8,
    per_channel_norms: PerChannelNorms = False,
    ranges: Ranges = "mse",
    percentile: Percentile = 99.99,
    reconstruct: Reconstruct = 0,
    calibration: Calibration = 512,
    count: common.Count = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    seed: common.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="The .safetensors file to write.")] = None,
    json: common.Json = False,
) -> None:
    """Quantise a float network without training it, from some of its training images and without their labels."""
    import torch

    from converters.calibration import quantisation_noise
    from converters.calibration import quantise as quantised
    from converters.commands.given import first_of
    from converters.files.quantised_file import save_quantised
    from converters.frontends.pt2e import from_pt2e
    from converters.zoo.datasets import load
    from converters.zoo.networks import build
    from converters.zoo.training_file import load_weights, read_checkpoint

    asked = common.layer_levels(levels)
    _check_float(network)
    common.ends_in(out, ".safetensors", ".safetensors.xz")
    common.not_read(out, network)
    found = read_checkpoint(network)
    about = found.about
    if "levels" in about:
        raise ConversionError(str(network), "a quantised run", "give the .float.pt that it started from")
    name = dataset or _dataset_of(network, str(about["network"]))
    data = load(name, "train", root=data_root)
    test = first_of(load(name, "test", root=data_root, classes=data.names), count)
    if list(data.shape) != list(about["shape"]) or data.classes != about["classes"]:
        sizes = f"{data.classes} classes of {' x '.join(map(str, data.shape))} pixels"
        raise ConversionError("--dataset", f"{name!r}, {sizes}", f"give the one that {network} was trained on")
    path = out or Path(f"{about['network']}-{Path(name).name}-{asked.name}.safetensors")
    common.writable(path)
    model = build(str(about["network"]), data.shape[0], data.classes, data.shape[-1])
    load_weights(model, found, network)
    generator = torch.Generator().manual_seed(seed)
    some = data[torch.randperm(len(data), generator=generator)[:calibration]]
    with common.progress_bar(json) as bar:
        prepared = quantised(
            model,
            some.pixels,
            asked.plain,
            weight_bits,
            signed_input=data.signed,
            quantise_output=asked.rest >= FEW,
            input_levels=input_levels,
            per_channel_norms=per_channel_norms,
            ranges=ranges,
            percentile=percentile,
            reconstruct=reconstruct,
            batch=batch,
            progress=shown_on(bar),
        )
        report = quantisation_noise(model, prepared, test.pixels, test.labels, batch=batch)
    notes = {
        "network": about["network"],
        "dataset": name,
        **asked.notes,
        "weight_bits": weight_bits,
        "toolkit": "post-training",
        "seed": seed,
        "float_accuracy": report.float_accuracy,
        "quantised_accuracy": report.quantised_accuracy,
        "calibration_images": len(some),
        "ranges": ranges,
        "reconstruct": reconstruct,
        **({"per_channel_norms": True} if per_channel_norms else {}),
    } | ({"classes": list(data.names)} if data.names else {})
    save_quantised(path, from_pt2e(prepared), notes=notes)
    if json:
        common.print_json({**notes, "checkpoint": str(path), "report": report.as_dict()})
        return
    show_report(report)
    common.say(f"wrote {path}")


def _check_float(network: Path) -> None:
    """Refuse what is quantised or spikes already, or comes in by another road; with that road."""
    from converters.commands.recognising import is_onnx, kind_within
    from converters.files.quantised_file import load_with_notes
    from converters.zoo.named import names

    kind = "onnx" if is_onnx(network) else kind_within(network)
    if kind == "onnx":
        todo = "quantise it with onnxruntime, and give that to calif convert"
        raise ConversionError(str(network), "an ONNX model", todo)
    if kind == "nir":
        raise ConversionError(str(network), "a .nir file", f"calif run takes it as it is; {_FLOAT}")
    if kind == "quantised":
        try:
            load_with_notes(network)
        except FileFormatError:  # weights that somebody else wrote: the reader of checkpoints says what to do with them
            return
    if kind == "quantised" or str(network) in names():
        todo = f"calif convert and run take it as it is; {_FLOAT}"
        raise ConversionError(str(network), "a network that is quantised already", todo)


def _dataset_of(path: Path, network: str) -> str:
    """From the name that calif train gives its checkpoints."""
    name = path.name.removesuffix(".pt").removesuffix(".float").removesuffix(".average")
    if not name.startswith(f"{network}-"):
        raise ConversionError("--dataset", "none", "say what the network was trained on: mnist, cifar10, ..., a folder")
    return name.removeprefix(f"{network}-")


def from_torchvision(
    settings: TorchvisionSettings, bar: Progress, most: int = 256, most_shown: int = 1000
) -> tuple[QuantGraph, QuantisationReport, dict[str, Any]]:
    """Quantise a classifier of torchvision from a folder of pictures, and compare it on another; with notes of both.

    Both are folders of pictures, or of a folder for each class; ``most`` of the first and ``most_shown`` of the second,
    drawn by chance, are looked at.
    """
    from converters.calibration import quantisation_noise
    from converters.calibration import quantise as quantised
    from converters.commands.torchvision_networks import torchvision_network
    from converters.frontends.pt2e import from_pt2e
    from converters.zoo.picture_folder import PictureFolder

    s = settings
    found = torchvision_network(s.name, s.weights, side=s.side)
    folder = Path(str(s.calibrate))
    some = PictureFolder(folder, found.transform, most=most, seed=s.seed)
    shown = PictureFolder(s.images or folder, found.transform, most=most_shown, seed=s.seed)
    prepared = quantised(
        found.model,
        some,
        s.levels,
        s.weight_bits,
        quantise_output=s.asked.rest >= FEW,
        per_channel_norms=s.per_channel_norms,
        reconstruct=s.reconstruct,
        batch=some.batch,
        progress=shown_on(bar),
    )
    labels = shown.labels(found.categories, found.classes)
    if shown.classes and labels is None:
        names = ", ".join(shown.classes[:3])
        todo = "name them so, or give a folder for each of its classes, to see accuracies"
        warn(str(s.images or folder), f"folders that are no classes of {s.name} ({names})", todo)
    report = quantisation_noise(found.model, prepared, shown, labels, batch=shown.batch)
    notes = {
        "network": s.name,
        "weights": s.weights,
        "transform": found.about,
        **s.asked.notes,
        "weight_bits": s.weight_bits,
        "toolkit": "post-training",
        "seed": s.seed,
        "float_accuracy": report.float_accuracy,
        "quantised_accuracy": report.quantised_accuracy,
        "calibration_images": len(some),
        "reconstruct": s.reconstruct,
        **({"per_channel_norms": True} if s.per_channel_norms else {}),
    }
    return from_pt2e(prepared), report, notes


def shown_on(bar: Progress) -> Callable[[str, int, int], None]:
    """Tells a progress bar."""
    tasks: dict[str, Any] = {}
    names = {"ranges": "observing ranges", "weights": "fitting weights", "biases": "correcting biases"}

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bar.add_task(names[phase], total=total)
        bar.update(tasks[phase], completed=done)

    return progress
