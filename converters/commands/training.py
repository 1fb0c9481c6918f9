"""``calif train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from converters.commands import common
from converters.commands.post_training import PerChannelNorms
from converters.commands.training_settings import TrainingSettings

__all__ = ["train", "train_network"]


def train_network(
    settings: TrainingSettings | None = None, *, folder: Path, bar: Progress, data_root: Path | None = None, **own: Any
) -> dict[str, Any]:
    """Train, save the quantised network beside the checkpoints, and return what was measured.

    ``own``: fields of :class:`~converters.commands.training_settings.TrainingSettings`, by name, in the place of
    ``settings``.
    """
    from converters.files.quantised_file import save_quantised
    from converters.zoo.datasets import load
    from converters.zoo.networks import NETWORKS
    from converters.zoo.processes import team
    from converters.zoo.training import TOOLKITS
    from converters.zoo.training import train as fit

    s = settings or TrainingSettings(**own)
    s.check(NETWORKS, TOOLKITS)
    recipe = s.recipe()
    tasks: dict[str, Any] = {}

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bar.add_task(
                {"float": "training", "average": "averaging weights", "qat": "quantised training"}[phase], total=total
            )
        bar.update(tasks[phase], completed=done)

    path = folder / f"{s.name}.safetensors"
    common.not_read(path, s.start, *s.teachers)
    data = load(s.dataset, "train", root=data_root)
    test = load(s.dataset, "test", root=data_root, classes=data.names)
    result = fit(
        s.network,
        data,
        test,
        folder=folder,
        name=s.name,
        recipe=recipe,
        levels=s.levels,
        weight_bits=s.weight_bits,
        seed=s.seed,
        toolkit=s.toolkit,
        start=s.start,
        teachers=s.teachers,
        input_levels=s.input_levels,
        per_channel_norms=s.per_channel_norms,
        quantise_output=s.asked.rest >= 32,  # with few levels the logits are read from the membrane
        progress=progress,
        device=s.device,
    )
    notes = {
        "network": s.network,
        "dataset": s.dataset,
        **s.asked.notes,
        "weight_bits": s.weight_bits,
        "toolkit": s.toolkit,
        "seed": s.seed,
        "float_accuracy": result.float_accuracy,
        "quantised_accuracy": result.quantised_accuracy,
        "command": s.command(),
        "log": result.log,
    } | ({"classes": list(data.names)} if data.names else {})
    if team().first:
        save_quantised(path, result.graph, notes=notes)
    team().wait()
    return {**notes, "checkpoint": str(path)}


def train(
    network: Annotated[
        str,
        typer.Option(help="lenet5, lenet5se, lenet5x4, vgg9, vgg16, resnet11h, resnet18, mobilenet20, vit6, vit6w."),
    ] = "lenet5",
    dataset: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, cifar100, caltech101, tinyimagenet, or a folder.")
    ] = "digits",
    data_root: common.DataRoot = None,
    toolkit: Annotated[str, typer.Option(help="Quantisation toolkit: pt2e or brevitas.")] = "pt2e",
    levels: common.Levels = None,
    input_levels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest level of a pixel, as --levels by default; more want --coding direct."),
    ] = None,
    weight_bits: Annotated[int, typer.Option(min=2, max=8)] = 8,
    per_channel_norms: PerChannelNorms = False,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Float epochs, and half as many quantised ones. 0: --start as it is.")
    ] = None,
    qat_epochs: Annotated[int | None, typer.Option(min=1, help="Quantised epochs.")] = None,
    qat_lr: Annotated[
        float | None,
        typer.Option(min=1e-8, help="Peak learning rate of the quantised epochs, instead of the recipe's."),
    ] = None,
    cutout: Annotated[
        int | None,
        typer.Option(min=0, help="Side of a square of each image that is set to 0, instead of the recipe's."),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Mix images in pairs, by the beta distribution of this; 1: all shares alike."
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="fast (float, then quantised), long (many epochs, for CIFAR) or paper (quantised, plain SGD)."
        ),
    ] = "fast",
    patience: Annotated[
        int, typer.Option(min=0, help="End a phase after so many looks at the test images without a better one.")
    ] = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="A .float.pt, .average.pt or .safetensors to start from; or a .qat.pt, with --epochs 0."),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="A .float.pt or .safetensors whose predictions are a soft target; may be repeated."),
    ] = None,
    average: Annotated[
        int, typer.Option(min=0, help="Float epochs more, at a constant rate, whose weights are averaged.")
    ] = 0,
    qat_average: Annotated[
        bool,
        typer.Option("--qat-average", help="Average the weights of the quantised epochs; --average does so anyway."),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, or an accelerator: cuda, cuda:1.")] = "cpu",
    seed: common.Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; a run that was stopped goes on there.")] = Path(
        "runs"
    ),
    json: common.Json = False,
) -> None:
    """Train a network, float and then quantised. Stopped runs go on where they were.

    With several processes: torchrun --nproc-per-node 2 -m converters.cli train ...
    """
    from converters.zoo.processes import team

    settings = TrainingSettings(
        network=network,
        dataset=dataset,
        toolkit=toolkit,
        levels=common.layer_levels(levels).plain,
        weight_bits=weight_bits,
        input_levels=input_levels,
        per_channel_norms=per_channel_norms,
        seed=seed,
        kind=recipe,
        epochs=epochs,
        qat_epochs=qat_epochs,
        qat_lr=qat_lr,
        patience=patience,
        average=average,
        qat_average=qat_average,
        cutout=cutout,
        mixup=mixup,
        start=start,
        teachers=tuple(teacher or ()),
        device=device,
    )
    with common.progress_bar(json) as bar:
        result = train_network(settings, folder=out, bar=bar, data_root=data_root)
    if not team().first:
        return
    if json:
        common.print_json(result)
        return
    before = "" if result["float_accuracy"] is None else f"float {100 * result['float_accuracy']:.2f} %, "
    common.say(f"{before}quantised {100 * result['quantised_accuracy']:.2f} %")
    common.say(f"wrote {result['checkpoint']}")
