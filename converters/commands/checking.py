"""``calif cross-check``: the same images on two simulators, spike for spike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from converters.commands import common
from converters.commands.given import given, in_file, open_file
from converters.commands.own import check_own, count_or_path, images_or_own

if TYPE_CHECKING:
    from converters.measuring.cross_checking import CrossCheck

__all__ = ["cross_check", "layers_table"]


def layers_table(report: CrossCheck) -> list[Table]:
    """A table per pair of backends."""
    columns = [
        "layer",
        "neurons",
        "steps",
        "spikes\ncompared",
        "positive",
        "negative",
        "differ",
        "largest membrane\ndifference",
    ]
    tables = []
    for name, rows in report.layers.items():
        cells = [
            [
                row.layer,
                f"{row.neurons:,}" + (f" of {row.of_neurons:,}" if report.sampled else ""),
                f"{row.steps}",
                f"{row.spikes_compared:,}",
                f"{row.positive:,}",
                f"{row.negative:,}",
                f"{row.differing:,}",
                f"{row.membrane_difference:.2g}",
            ]
            for row in rows
        ]
        title = (
            f"{report.backends[0]} against {name}: {report.images} images, T = {report.window}, phase {report.phase}"
        )
        tables.append(common.table(title, columns, cells))
    return tables


def cross_check(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    window: common.Windows = None,
    phase: common.Phase = "settle",
    backend: Annotated[
        list[str] | None,
        typer.Option(
            callback=common.backends,
            help="May be repeated; snntorch and brian2 by default. The first is the reference.",
        ),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="A .nir file that the other backends run instead.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Check this many random neurons per layer: for networks of any size.")
    ] = None,
    images: Annotated[
        str, typer.Option(help="How many test images; or your own: a .npy file, a picture, a folder of pictures.")
    ] = "20",
    batch: common.Batch = None,
    seed: common.Seed = 0,
    coding: common.Coding = "auto",
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw both membranes around the first difference into this file.")
    ] = None,
    allow_large: common.AllowLarge = False,
    json: common.Json = False,
) -> None:
    """Run the same images on two or more backends and compare every spike. Exit 1 if anything differs."""
    from converters.measuring.cross_checking import cross_check as check
    from converters.measuring.cross_checking import plot

    results: list[dict[str, Any]] = []
    equal = True
    other = in_file(open_file(against, allow_large), against) if against is not None else None
    if plot_to is not None:
        common.writable(plot_to)
    windows: list[int | None] = list(window) if window else [None]
    count, own = count_or_path(images)
    check_own(own, dataset)
    source = given(target, checkpoint, windows, coding=coding, allow_large=allow_large)
    data, name = images_or_own(source, count, own, dataset, data_root, noise=count)
    for t in windows:
        with common.progress_bar(json) as bar:
            task = bar.add_task("comparing", total=len(data))
            start = time.perf_counter()
            report = check(
                source.network(t),
                data.pixels,
                backends=tuple(backend or ("snntorch", "brian2")),
                phase=phase,  # type: ignore[arg-type]
                other=other,
                sample=sample,
                seed=seed,
                batch=batch,
                progress=lambda done, total: bar.update(task, completed=done),  # noqa: B023  called within this turn
            )
            seconds = time.perf_counter() - start
        equal &= report.equal
        drawn = [d for d in report.first.values() if d is not None]
        if plot_to is not None and drawn:
            plot(report, plot_to)
        results.append({"dataset": name, "seconds": round(seconds, 3), **report.as_dict()})
        if not json:
            for table in layers_table(report):
                common.show(table)
            common.say(
                f"spikes compared {report.spikes_compared:,}, differing {report.spike_mismatches:,}; "
                f"predictions differing {sum(report.predictions_differing.values())}; {seconds:.1f} s"
            )
            for found in drawn:
                common.say(f"first difference: {found}")
    if plot_to is not None and equal and not json:
        common.say("nothing differs: nothing to draw")
    if json:
        total = {
            "images": sum(r["images"] for r in results),
            "spikes_compared": sum(r["spikes_compared"] for r in results),
            "spike_mismatches": sum(r["spike_mismatches"] for r in results),
        }
        common.print_json({"dataset": results[0]["dataset"], "cross_check": total, "checks": results})
    if not equal:
        raise typer.Exit(1)
