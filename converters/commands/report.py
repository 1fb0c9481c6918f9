"""``calif report``: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import in_file, open_file, quantised_network
from converters.commands.own import as_values, images_named
from converters.console.typed import command_line, today
from converters.errors import ConversionError

if TYPE_CHECKING:
    from converters.network import Network
    from converters.quantised import QuantGraph

__all__ = ["add_details", "report"]


def add_details(
    result: dict[str, Any],
    q: QuantGraph | None,
    network: Network | None,
    *,
    dataset: str,
    data_root: Path | None,
    images: int,
    shown: int,
    coding: str = "auto",
    classes: Sequence[str] = (),
    json: bool = False,
) -> None:
    """Run some images again for what each layer did, and put it into ``result["details"]``.

    With a quantised network at each of the run's windows and phases; with a converted one alone at its own window.
    """
    from converters.network import Network
    from converters.nir_export import to_nir
    from converters.reporting.details import describe, wrong_of

    wanted = list(dict.fromkeys((r["T"], r["phase"]) for r in result["windows"]))
    spec = q.input if q is not None else network.spec if network is not None else None
    assert spec is not None  # one of the two is given
    data = images_named(dataset, spec, root=data_root, classes=classes, labels=result.get("labels"))
    runs: list[tuple[Any, str]] = []
    if q is not None:
        networks = {t: Network.from_graph(to_nir(q, T=t, coding=coding)) for t in dict.fromkeys(t for t, _ in wanted)}
        runs = [(networks[t], phase) for t, phase in wanted]
    elif network is not None:
        runs = [(network, phase) for t, phase in wanted if t == network.window] or [(network, "settle")]
    if result["windows"][0].get("task") == "values" and not result.get("labels"):
        data = as_values(data, Network.from_graph(runs[0][0]))
    with common.progress_bar(json) as bar:
        task = bar.add_task("layers", total=len(runs))
        result["details"] = describe(
            runs,
            q,
            data,
            images=images,
            shown=shown,
            wrong=wrong_of(result["windows"]),
            progress=lambda done, _: bar.update(task, completed=done),
        )


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="What calif printed with --json, or the folder that calif demo wrote into."
        ),
    ],
    checkpoint: Annotated[
        str | None, typer.Option(help="The quantised network: a name such as lenet5-mnist-127, or a file.")
    ] = None,
    nir_file: Annotated[
        Path | None, typer.Option("--nir", help="The converted network, where no checkpoint is known.")
    ] = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    images: Annotated[int, typer.Option(min=1, help="Test images behind the layers' numbers.")] = 50,
    shown: Annotated[int, typer.Option(min=0, max=20, help="Images to step through.")] = 3,
    coding: common.Coding = "auto",
    allow_large: common.AllowLarge = False,
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the run by default.")] = None,
    json: common.Json = False,
) -> None:
    """Write a run as one HTML page. Exit 1 if a count of phase settle differs."""
    from converters.reporting.page import load_run, write_report
    from converters.zoo.named import class_names

    common.ends_in(out, ".html", ".htm")
    result = load_run(runs)
    if out is None:
        first = runs[0]
        out = (first if first.is_dir() else first.parent) / "report.html"
    common.writable(out)
    if checkpoint is not None and nir_file is not None:
        raise ConversionError("--nir", "a checkpoint beside it", "give one of them")
    if checkpoint is None and nir_file is None and "details" not in result:  # as the run names them, where still there
        checkpoint = _known(result.get("checkpoint"))
        nir_file = None if checkpoint else next((Path(p) for p in [_known(result.get("nir_file"))] if p), None)
    if checkpoint is not None:
        q, notes = quantised_network(checkpoint)
        _same_network(result, notes, checkpoint)
        for name in ("network", "dataset", "levels", "weight_bits", "toolkit", "seed"):
            if name in notes and result.get(name) is None:
                result[name] = notes[name]
        where = dataset or result.get("dataset") or notes.get("dataset") or ""
        options: dict[str, Any] = {"coding": coding, "classes": class_names(notes), "json": json}
        add_details(result, q, None, dataset=where, data_root=data_root, images=images, shown=shown, **options)
    elif nir_file is not None:
        network, where = in_file(open_file(nir_file, allow_large), nir_file), dataset or result.get("dataset") or ""
        add_details(result, None, network, dataset=where, data_root=data_root, images=images, shown=shown, json=json)
    elif dataset is not None:
        raise ConversionError("--dataset", dataset, "name the network with --checkpoint or --nir: images are run on it")
    result |= {"report_command": command_line(), "date": today()}
    size = write_report(result, out)
    wrong = sum(r["count_mismatches"] for r in result["windows"] if r["phase"] == "settle")
    wrong += sum(
        layer.get("mismatches", 0)
        for window in result.get("details", {}).get("windows", [])
        if window["phase"] == "settle"
        for layer in window["layers"]
    )
    if json:
        common.print_json({"report": str(out), "bytes": size, "details": "details" in result, "mismatches": wrong})
    else:
        common.say(f"wrote {out} ({size / 1e6:.2f} MB)")
        if "details" not in result:
            common.say("without layers: name the network with --checkpoint or --nir")
    if wrong:
        raise typer.Exit(1)


def _same_network(run: dict[str, Any], notes: dict[str, Any], checkpoint: str) -> None:
    """A run may call its network what it likes; one of the zoo's names, and the levels, it has from a checkpoint."""
    from converters.zoo.networks import NETWORKS

    for name in ("network", "levels"):
        own, of_run = notes.get(name), run.get(name)
        if own is None or of_run is None or (name == "network" and of_run not in NETWORKS):
            continue
        if own != of_run:
            raise ConversionError(checkpoint, f"{name} {own} instead of {of_run}", "give the checkpoint of this run")


def _known(path: Any) -> str | None:
    return str(path) if isinstance(path, str) and Path(path).is_file() else None
