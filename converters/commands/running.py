"""``calif run``, ``calif sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import Given, given, open_file, which_of
from converters.commands.recognising import kind_of
from converters.commands.running_stock import is_foreign, run_foreign
from converters.console.typed import command_line
from converters.errors import ConversionError

__all__ = ["run", "sweep"]

_DEFAULT_SWEEP = (2, 4, 8, 16, 32, 64, 128)


def _rows(
    source: Given,
    dataset: str | None,
    data_root: Path | None,
    windows: list[int | None],
    phases: list[str],
    backend: str,
    images: int | None,
    batch: int | None,
    json: bool,
    anytime: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    from converters.measuring.anytime import anytime_curve

    rows = []
    data, name = source.images(dataset, data_root, images)
    with common.progress_bar(json) as bar:
        for window in windows:
            network = source.network(window)
            for p in phases:
                row = common.measured(
                    network, source.q, data, backend=backend, phase=p, batch=batch, device=device, bar=bar
                )
                if anytime:
                    curve = anytime_curve(network, data.pixels, data.labels, backend=backend, phase=p)
                    row["anytime"] = list(curve.accuracy)
                rows.append(row)
    about = {"dataset": name, "network": source.name, "levels": source.notes.get("levels")}
    return {**about, "command": command_line(), "windows": rows}


def _show(result: dict[str, Any], json: bool) -> None:
    from converters.zoo.processes import team

    if not team().first:  # another process has the same numbers, and shows them
        pass
    elif json:
        common.print_json(result)
    else:
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


def run(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    window: common.Windows = None,
    phase: common.Phase = "settle",
    backend: common.Backend = "auto",
    images: common.Count = None,
    batch: common.Batch = None,
    coding: common.Coding = "auto",
    dt: Annotated[
        float | None, typer.Option(help="Seconds per step, for files of other tools with stock LIF neurons.")
    ] = None,
    allow_large: common.AllowLarge = False,
    device: common.Device = None,
    json: common.Json = False,
) -> None:
    """Run a converted network on test images. Exit 1 if a count differs from the quantised network's integer.

    A .nir file of another tool, with stock IF or LIF neurons, is run as NIR defines them.
    """
    which = Path(which_of(target, checkpoint))
    file = open_file(which, allow_large) if kind_of(which) == "nir" else None
    if file is not None and is_foreign(file, which):
        if device not in (None, "cpu"):
            raise ConversionError("--device", f"{device}, for a file of another tool", "stock neurons run on the cpu")
        run_foreign(file.graph, which, dataset, data_root, list(window or ()), images, batch, coding, dt, json)
        return
    if dt is not None:
        raise ConversionError("--dt", f"{dt:g} for Ca-LIF neurons", "leave it out: it is of files with stock neurons")
    windows: list[int | None] = list(window) if window else [None]
    source = given(target, checkpoint, windows, coding=coding, file=file)
    _show(_rows(source, dataset, data_root, windows, [phase], backend, images, batch, json, device=device), json)


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
    images: common.Count = None,
    batch: common.Batch = None,
    coding: common.Coding = "auto",
    anytime: Annotated[bool, typer.Option("--anytime", help="Accuracy if one stops after any step, too.")] = False,
    json: common.Json = False,
) -> None:
    """Accuracy, latency and spikes over several windows and phases."""
    windows: list[int | None] = list(window or _DEFAULT_SWEEP)
    phases = phase or ["settle"]
    source = given(target, checkpoint, windows, coding=coding)
    _show(_rows(source, dataset, data_root, windows, phases, backend, images, batch, json, anytime), json)
