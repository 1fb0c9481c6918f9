"""``calif run``, ``calif sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import Given, given, open_file, which_of
from converters.commands.own import Predictions, as_values, check_own, count_or_path, images_or_own
from converters.commands.recognising import kind_of
from converters.commands.running_stock import is_foreign, run_foreign
from converters.console.typed import command_line
from converters.errors import ConversionError

if TYPE_CHECKING:
    from converters.zoo.datasets import Images

__all__ = ["run", "sweep"]

Labels = Annotated[
    Path | None,
    typer.Option(help="A .npy file: integers for classes or maps of them, floats for values; with images of your own."),
]
_DEFAULT_SWEEP = (2, 4, 8, 16, 32, 64, 128)


def _rows(
    source: Given,
    data: Images,
    name: str,
    windows: list[int | None],
    phases: list[str],
    backend: str,
    batch: int | None,
    json: bool,
    anytime: bool = False,
    device: str | None = None,
    said: list[Predictions] | None = None,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The result of a command; what the network says of each image is added to ``said``, one for each row."""
    from converters.measuring.anytime import anytime_curve
    from converters.zoo.named import class_names

    rows = []
    with common.progress_bar(json) as bar:
        for window in windows:
            network = source.network(window)
            for p in phases:
                seen = None if said is None else Predictions(network, data, names, class_names(source.notes))
                row = common.measured(
                    network,
                    source.q,
                    data,
                    backend=backend,
                    phase=p,
                    batch=batch,
                    device=device,
                    observe=None if seen is None else seen.look,
                    bar=bar,
                )
                if anytime:
                    curve = anytime_curve(network, data.pixels, data.labels, backend=backend, phase=p)
                    row["anytime"] = list(curve.accuracy)
                if said is not None and seen is not None:
                    said.append(seen)
                    row["predictions"] = seen.rows()
                rows.append(row)
    about = {"dataset": name, "network": source.name, "levels": source.notes.get("levels")}
    return {**about, "command": command_line(), "windows": rows}


def _show(result: dict[str, Any], json: bool, said: Sequence[Predictions] = ()) -> None:
    from converters.zoo.processes import team

    if not team().first:  # another process has the same numbers, and shows them
        pass
    elif json:
        common.print_json(result)
    else:
        for seen, row in zip(said, result["windows"], strict=True) if said else ():
            seen.show(f"What {result['network']} says at T = {row['T']}")
        common.show(common.windows_table(f"{result['network']} on {result['dataset']}", result["windows"]))
        outputs = common.outputs_table(result["windows"])
        if outputs is not None:
            common.show(outputs)
        for row in result["windows"]:
            if row["counts_from"] != "simulation":
                n, wrong = row["images_simulated"], row["simulation_mismatches"]
                found = f"{n} images simulated too, {wrong} of their counts differ"
                common.say(f"T = {row['T']}: final counts from the {row['counts_from']}, no spikes; {found}")
            if "anytime" in row:
                curve, t = row["anytime"], row["T"]
                shown = [*range(max(0, t - 3), len(curve))]
                steps = ", ".join(f"{k + 1}: {100 * curve[k]:.2f}%" for k in shown[:12])
                common.say(f"T = {t}, {row['phase']}, stopped after step {steps}")
    failed = [r["count_mismatches"] or r["simulation_mismatches"] for r in result["windows"] if r["phase"] == "settle"]
    if any(failed):
        raise typer.Exit(1)


def _check_options(own: Path | None, dataset: str | None, labels: Path | None, values: bool) -> None:
    """Raise a ConversionError where options about images of one's own do not go together."""
    check_own(own, dataset)
    if labels is not None and own is None:
        raise ConversionError("--labels", f"{labels}, without images of your own", "name them with --images FILE")
    if values and (own is None or labels is not None):
        found = "labels, whose kind says it" if labels is not None else "no images of your own"
        raise ConversionError("--values", found, "give it beside --images FILE alone")


def run(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    window: common.Windows = None,
    phase: common.Phase = "settle",
    backend: common.Backend = "auto",
    images: common.CountOrImages = None,
    labels: Labels = None,
    values: Annotated[
        bool, typer.Option("--values", help="Outputs are numbers and no scores of classes; with images of your own.")
    ] = False,
    batch: common.Batch = None,
    coding: common.Coding = "auto",
    dt: Annotated[
        float | None, typer.Option(help="Seconds per step, for files of other tools with stock LIF neurons.")
    ] = None,
    allow_large: common.AllowLarge = False,
    device: common.Device = None,
    out: Annotated[Path | None, typer.Option(help="What every output says, as arrays in a .npz file.")] = None,
    json: common.Json = False,
) -> None:
    """Run a converted network on test images, or on your own. Exit 1 if a count differs from the quantised network's
    integer.

    A .nir file of another tool, with stock IF or LIF neurons, is run as NIR defines them.
    """
    from converters.zoo.processes import team

    count, own = count_or_path(images)
    _check_options(own, dataset, labels, values)
    if out is not None:
        common.ends_in(out, ".npz")
        common.one_window(window)
        common.writable(out)
    which = Path(which_of(target, checkpoint))
    file = open_file(which, allow_large) if kind_of(which) == "nir" else None
    if file is not None and is_foreign(file, which):
        if device not in (None, "cpu"):
            raise ConversionError("--device", f"{device}, for a file of another tool", "stock neurons run on the cpu")
        for option, value in (("--images", own), ("--out", out)):
            if value is not None:
                raise ConversionError(option, f"{value}, for a file of another tool", "name a data set with --dataset")
        run_foreign(file.graph, which, dataset, data_root, list(window or ()), count, batch, coding, dt, json)
        return
    if dt is not None:
        raise ConversionError("--dt", f"{dt:g} for Ca-LIF neurons", "leave it out: it is of files with stock neurons")
    windows: list[int | None] = list(window) if window else [None]
    source = given(target, checkpoint, windows, coding=coding, file=file)
    names: list[str] = []
    if own is None:
        data, name = source.images(dataset, data_root, count)
        names = [str(k) for k in range(len(data))]
    else:
        data, names = source.own(own, labels)
        data, name = as_values(data, source.network(windows[0])) if values else data, str(own)
    said: list[Predictions] | None = None if own is None and out is None else []
    if said is not None and team().count > 1:
        raise ConversionError("--images" if own else "--out", "several processes", "start one: each sees a share only")
    options: dict[str, Any] = {"device": device, "said": said, "names": names}
    result = _rows(source, data, name, windows, [phase], backend, batch, json, **options)
    result |= {"labels": str(labels)} if labels is not None else {}
    if out is not None and said:
        said[0].save(out)
    _show(result, json, said if own is not None and said else ())


def sweep(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    window: common.Windows = None,
    phase: Annotated[
        list[str] | None, typer.Option(callback=common.phases, help="May be repeated; settle by default.")
    ] = None,
    backend: common.Backend = "auto",
    images: common.CountOrImages = None,
    labels: Labels = None,
    batch: common.Batch = None,
    coding: common.Coding = "auto",
    anytime: Annotated[bool, typer.Option("--anytime", help="Accuracy if one stops after any step, too.")] = False,
    json: common.Json = False,
) -> None:
    """Accuracy, latency and spikes over several windows and phases."""
    windows: list[int | None] = list(window or _DEFAULT_SWEEP)
    phases = phase or ["settle"]
    count, own = count_or_path(images)
    _check_options(own, dataset, labels, False)
    source = given(target, checkpoint, windows, coding=coding)
    data, name = images_or_own(source, count, own, dataset, data_root, labels=labels)
    if anytime and (data.labels < 0).any():
        raise ConversionError("--anytime", "images without labels", "an accuracy needs them: --labels FILE.npy")
    _show(_rows(source, data, name, windows, phases, backend, batch, json, anytime), json)
