"""``calif bench``: the same network, images and window on every simulator, one process at a time in alternation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.console.printing import json_text
from converters.errors import ConversionError, MissingExtraError
from converters.files.atomic import atomic_path
from converters.reading import parse_json, read_bytes

if TYPE_CHECKING:
    from converters.benchmark.measuring import Case
    from converters.commands.given import Given

__all__ = ["bench"]

FILES = ("lenet5-mnist-127", "vgg9-cifar10-127", "vgg16")


def _full() -> list[Case]:
    from converters.benchmark.measuring import Case

    long = [(n, t) for n in ("lenet5-mnist-127", "vgg9-cifar10-127") for t in (8, 32, 128)]
    short = [("lenet5-mnist-4", 4), ("lenet5-mnist-8", 8), ("resnet11h-cifar10-8", 8)]  # trained for that T
    return [Case(n, t, b) for n, t in short + long for b in (1, 16, 64)]


def _scaling() -> dict[str, list[Case]]:
    """Along one axis at a time."""
    from converters.benchmark.measuring import Case

    return {
        "T": [Case("lenet5-mnist-127", t, 64) for t in (8, 32, 128, 512, 2048)],
        "batch": [Case("lenet5-mnist-127", 32, n) for n in (1, 4, 16, 64, 256, 1024)],
        "network": [Case(n, 32, 16) for n in ("lenet5-mnist-127", "resnet11h-cifar10-127", "vgg9-cifar10-127")],
    }


def _refuse(choices: int, out: Path | None, only: list[str] | None) -> None:
    from converters.benchmark.simulators import RIVALS

    if choices > 1:
        raise ConversionError("options", "several of --full, --scaling and --files", "give one of them")
    if out is not None and out.suffix != ".json":
        raise ConversionError("--out", str(out), "give a name that ends in .json")
    if out is not None:
        common.writable(out)
    unknown = [n for n in only or () if n not in RIVALS]
    if unknown:
        raise ConversionError("--only", f"{unknown[0]!r}", f"use one of {', '.join(RIVALS)}")


def _on_the_cpu(device: str, choices: int) -> None:
    if device != "cpu" and choices:
        raise ConversionError("--device", f"{device}, with --scaling or --files", "they are measured on the cpu")


def bench(
    network: Annotated[
        str,
        typer.Option(help="A checkpoint, a file of any kind, lenet5 (trained), vgg9 or vgg16 (random integers)."),
    ] = "lenet5",
    window: Annotated[
        list[int] | None,
        typer.Option("--window", callback=common.steps, help="T; may be repeated. 128 by default; a file's own."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", min=1, help="May be repeated. 64 by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run; may be repeated; all by default.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="LeNet-5, VGG-9 and ResNet-11H, T = 4 to 128, batches of 1, 16 and 64.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Ours alone: time and memory as T, batch and network grow.")
    ] = False,
    files: Annotated[
        bool,
        typer.Option(
            "--files", help="Convert, write and read LeNet-5, VGG-9 and a VGG-16 (15 million weights) instead."
        ),
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Turns, fewer of what takes long; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of each process.")] = 2,
    device: common.Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the rows (.json), kept case by case and gone on with; a .md page beside it."),
    ] = None,
    seed: common.Seed = 0,
    json: common.Json = False,
) -> None:
    """Time every simulator on the same quantised network; medians and ratios of one run."""
    from converters.benchmark.measuring import Case, machine, time_case
    from converters.benchmark.simulators import RIVALS, missing
    from converters.benchmark.worker import GROWTH

    where = str(device or "cpu")
    _refuse(full + scaling + files, out, only)
    _on_the_cpu(where, scaling + files)
    if files:
        _files(window, repeats, threads, out, json)
        return
    names = list(GROWTH if scaling else only or RIVALS)
    cases: list[tuple[str, Case]] = [("", c) for c in _full()]
    if scaling:
        cases = [(axis, c) for axis, some in _scaling().items() for c in some]
        if out is not None:
            _plots_possible()
    elif not full:
        source = _source(network, window or ())
        own = source.network(None).window if source.file is not None else 128
        cases = [("", Case(network, t, n)) for t in window or [own] for n in batch or [64]]
    absent = {n: missing(n) for n in names if n in RIVALS and missing(n)}
    names = [n for n in names if n not in absent]
    data: dict[str, Any] = {
        "networks": list(dict.fromkeys(c.network for _, c in cases)),
        "machine": machine(threads, where),
    }
    data |= {"missing": absent, "rows": [], "failed": []}
    kept = _kept(out, data)
    sources: dict[str, Given] = {}
    for axis, case in cases:
        if case.network not in sources:
            sources = {case.network: _source(case.network)}
        graph = sources[case.network].graph(case.T)
        done = [r for r in kept if (r["network"], r["T"], r["batch"], r.get("axis", "")) == (*_key(case), axis)]
        ready = {r["name"] for r in done}
        wanted = [n for n in names if n not in ready]
        with common.progress_bar(json) as bar:
            task = bar.add_task(f"{case.network}, T = {case.T}, batch {case.batch}", total=len(wanted) * (repeats + 1))
            rows, failed = (
                time_case(
                    graph, case, wanted, repeats=repeats, threads=threads, seed=seed, device=where,
                    tick=lambda: bar.advance(task),  # noqa: B023
                ) if wanted else ([], [])
            )  # fmt: skip
        if scaling:
            neurons = sources[case.network].network(case.T).neurons
            rows, failed = ([r | {"axis": axis, "neurons": neurons} for r in some] for some in (rows, failed))
        order = {n: k for k, n in enumerate(names)}
        rows = sorted(
            [r for r in done if "failed" not in r and r["name"] in order] + rows, key=lambda r: order[r["name"]]
        )
        data["rows"] += rows
        data["failed"] += [r for r in done if "failed" in r] + failed
        if not json:
            _show(case, rows)
        if out is not None:
            _write(out, data)
    if out is not None:
        _page(out, data, scaling, full, where, repeats)
    if json:
        common.print_json(data)
    else:
        _say_what_is_left(absent, data["failed"])


def _say_what_is_left(absent: dict[str, str | None], failed: list[dict[str, Any]]) -> None:
    if absent:
        common.say("not installed: " + ", ".join(f"{package} ({name})" for name, package in absent.items()))
    for f in failed:
        common.say(f"{f['name']} cannot run {f['network']}, T = {f['T']}, batch {f['batch']}: {f['failed']}")


def _key(case: Case) -> tuple[str, int, int]:
    return case.network, case.T, case.batch


def _source(name: str, windows: Sequence[int] = ()) -> Given:
    from converters.benchmark import random_networks
    from converters.commands.given import Given, given

    if name in ("vgg9", "vgg16"):
        return Given(name, getattr(random_networks, name)(), {}, "auto")
    return given("lenet5-mnist-127" if name == "lenet5" else name, None, windows)


def _plots_possible() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot") from None


def _kept(out: Path | None, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier, unfinished run into the same file."""
    if out is None or not out.exists():
        return []
    try:
        found = parse_json(out, read_bytes(out, max_bytes=1 << 28), "give another name")
        rows, where = [*found["rows"], *found["failed"]], found["machine"]
    except (ValueError, KeyError, TypeError):
        raise ConversionError("--out", f"{out}, not a file of calif bench", "give another name") from None
    if where != data["machine"]:
        raise ConversionError("--out", f"{out}, rows of another machine or other versions", "give another name")
    return rows


def _write(out: Path, data: dict[str, Any]) -> None:
    with atomic_path(out) as temporary:
        temporary.write_text(json_text(data, indent=1) + "\n", encoding="utf-8")


def _page(out: Path, data: dict[str, Any], scaling: bool, full: bool, device: str, repeats: int) -> None:
    from converters.benchmark import pages

    name, there = out.as_posix(), "" if device == "cpu" else f"--device {device} "
    there += "" if repeats == 5 else f"--repeats {repeats} "
    if scaling:
        picture = out.with_suffix(".png")
        text = pages.growth(data, f"calif bench --scaling --out {name}", picture.name)
        with atomic_path(picture) as temporary:
            pages.growth_plot(data["rows"]).savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    else:
        text = pages.comparison(data, f"calif bench {'--full ' if full else ''}{there}--out {name}")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _files(window: list[int] | None, repeats: int, threads: int, out: Path | None, json: bool) -> None:
    from converters.benchmark.files import files as time_files
    from converters.benchmark.measuring import machine

    if len(window or ()) > 1:
        raise ConversionError("--window", f"{len(window or ())} windows", "give one with --files")
    data: dict[str, Any] = {"networks": list(FILES), "machine": machine(threads), "rows": []}
    for network in FILES:
        q = _source(network).q
        assert q is not None  # none of these is a bare file
        rows = time_files(q, (window or [128])[0], repeats)
        data["rows"] += [{"network": network} | r for r in rows]
        if json:
            continue
        cells = [
            [
                r["name"],
                f"{r['seconds']:.3g}",
                f"{r['file_bytes'] / 2**20:.2f}",
                ", ".join(f"{whose} {100 * v:.0f} %" for whose, v in r["shares"].items() if v >= 0.005),
            ]
            for r in rows
        ]
        title = f"{network}, {rows[0]['weights']:,} weights"
        common.show(common.table(title, ["", "seconds", "file, MB", "of the seconds"], cells))
    if out is not None:
        _write(out, data)
    if json:
        common.print_json(data)


def _show(case: Case, rows: list[dict[str, Any]]) -> None:
    from converters.benchmark import pages

    seconds = {r["name"]: r["seconds"] for r in rows}
    floor, loop = seconds.get("float_passes_T"), seconds.get("snntorch_loop")
    cells = [
        [
            r["name"],
            f"{r['seconds']:.4g}",
            f"{r['images_per_second']:,.0f}",
            "-" if floor is None else f"{r['seconds'] / floor:.3g}",
            "-" if loop is None else f"{loop / r['seconds']:.3g}",
            f"{r['peak_memory_mb']:,.0f}",
            f"{pages.megabytes(r):,.0f}",
            f"{r['warm_up_seconds']:.1f}",
        ]
        for r in rows
    ]
    columns = ["", "seconds", "images/s", f"of {case.T} float\npasses", "times\nsnnTorch", "peak MB", "MB of\nthe run"]
    columns.append("warm-up, s")
    common.show(common.table(f"{case.network}, T = {case.T}, batch {case.batch}", columns, cells))
