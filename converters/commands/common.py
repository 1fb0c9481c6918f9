"""What the subcommands share: options, output, progress, and the comparison that every table is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from converters.brief import many
from converters.console.printing import json_text, printable, standard_output
from converters.console.tables import fitting, table
from converters.errors import ConversionError
from converters.files.atomic import atomic_path

if TYPE_CHECKING:
    from converters.frontends.layer_levels import LayerLevels
    from converters.network import Network
    from converters.quantised import QuantGraph
    from converters.results import RunResult
    from converters.zoo.datasets import Images

__all__ = [
    "Json",
    "ends_in",
    "measured",
    "one_window",
    "out",
    "print_json",
    "progress_bar",
    "say",
    "show",
    "table",
    "writable",
]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # [/red] in a path is a path


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The error, instead of the end of the program."""
        raise


out = _Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False, **_PLAIN)
err = Console(stderr=True, **_PLAIN)


def steps(windows: list[int] | None) -> list[int] | None:
    """At once, and not after the windows before it have run or the network was trained."""
    for t in windows or ():
        if t < 1:
            raise ConversionError("--window", f"T = {t}", "use a whole number of steps, at least 1")
    return windows


Names = str | list[str] | None


def named(option: str, default: str, known: Callable[[], Sequence[str]]) -> Callable[[Names], Names]:
    """Checks names that an option takes, before any file is read: not every input of a command has a use for them."""

    def check(value: Names) -> Names:
        for name in [value] if isinstance(value, str) else value or []:
            if name != default and name not in known():  # which imports them: not for what nobody has asked for
                raise ConversionError(option, f"{name!r}", f"use one of {', '.join(known())}")
        return value

    return check


def _codings() -> list[str]:
    from converters.nodes import CODINGS

    return [*CODINGS, "auto"]


def _phases() -> tuple[str, ...]:
    from calif_plugins.parameters import PHASES

    return PHASES


def _backends() -> list[str]:
    from converters.backends.contract import backend_names

    return backend_names()


def device_here(name: str | None) -> str | None:
    """At once, and not after a network was read."""
    if name is not None:
        from converters.devices import usable

        usable(name, "--device")
    return name


phases = named("--phase", "settle", _phases)
backends = named("--backend", "auto", _backends)


Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, and nothing else there.")]
Checkpoint = Annotated[str | None, typer.Option(help="NETWORK, given as an option.")]
Dataset = Annotated[
    str | None, typer.Option(help="digits, mnist, cifar10, cifar100, caltech101, tinyimagenet, a folder.")
]
DataRoot = Annotated[Path | None, typer.Option(help="Where the data set's files are.")]
Windows = Annotated[list[int] | None, typer.Option("--window", callback=steps, help="T, in steps; may be repeated.")]
WindowsOrLevels = Annotated[
    list[int] | None,
    typer.Option("--window", callback=steps, help="T, in steps; the number of levels by default; may be repeated."),
]
Window = Annotated[
    list[int] | None, typer.Option("--window", callback=steps, help="T, in steps; by default the number of levels.")
]
Phase = Annotated[str, typer.Option(callback=phases, help="Rounding phase: settle (exact), paper or none.")]
Backend = Annotated[str, typer.Option(callback=backends, help="auto, fast, snntorch, brian2 or closed_form.")]
Device = Annotated[str | None, typer.Option(callback=device_here, help="cpu, cuda, cuda:1, ...; cpu by default.")]
Count = Annotated[int | None, typer.Option("--images", min=1, help="How many test images; all by default.")]
CountOrImages = Annotated[
    str | None,
    typer.Option(
        "--images",
        help="How many test images, all by default; or your own: a .npy file, a picture, a folder of pictures.",
    ),
]
Batch = Annotated[int | None, typer.Option(min=1, help="Images at a time.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")]
Coding = Annotated[
    str,
    typer.Option(
        callback=named("--coding", "auto", _codings),
        help="Input: isi (spikes), direct (charge, counted as MACs), or auto: isi where it fits the window.",
    ),
]
Levels = Annotated[
    list[str] | None,
    typer.Option(
        "--levels",
        help="Largest activation level, 127 by default; T for a window of T steps. Also PATH=NUMBER, as often as "
        "wanted, of the layers in a module path.",
    ),
]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="NETWORK",
        help="A checkpoint's name, such as lenet5-mnist-127; or a file: .nir, .onnx, or .safetensors or .qat.pt of "
        "calif train.",
    ),
]
AllowLarge = Annotated[
    bool, typer.Option("--allow-large", help="Take a .nir file of more neurons or steps than a file should have.")
]


def say(text: str) -> None:
    """A line for people; never broken into two, whatever names and paths are in it."""
    with standard_output():
        out.print(printable(text), soft_wrap=True)


def show(table: Table) -> None:
    """A table of :func:`converters.console.tables.table`; one that is too wide as several."""
    with standard_output():
        for part in fitting(table, out):
            out.print(part)


def print_json(value: dict[str, Any]) -> None:
    """The one object of ``--json``."""
    with standard_output():
        sys.stdout.write(json_text(value) + "\n")


@contextmanager
def progress_bar(silent: bool = False) -> Iterator[Progress]:
    """A bar on standard error, where that is a terminal; of several processes, the first one's."""
    from converters.zoo.processes import team

    silent = silent or not team().first
    columns = (_Description("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=silent or not err.is_terminal) as bar:
        yield bar


class _Description(TextColumn):
    """Text as it is, of names and paths."""

    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False)

    def render(self, task: Task) -> Text:
        return Text(printable(task.description), no_wrap=True)


def layer_levels(levels: list[str] | None) -> LayerLevels:
    """What ``--levels`` asks for."""
    from converters.frontends.layer_levels import LayerLevels

    return LayerLevels.parse(levels or [])


def one_window(windows: list[int] | None) -> int | None:
    """For what takes one window: of several that were given, none may be dropped without a word."""
    if len(windows or ()) > 1:
        raise ConversionError("--window", f"{len(windows or ())} windows", "give one")
    return windows[0] if windows else None


def not_read(out: Path | None, *read: str | Path | None) -> None:
    """Raise a ConversionError if the file to write is one of those that are read: it would be lost."""
    for path in read:
        if out is not None and path is not None and Path(path).exists() and out.exists() and out.samefile(path):
            raise ConversionError("--out", f"{out}, the file that is read", "give another")


def ends_in(out: Path | None, *endings: str) -> None:
    """Raise a ConversionError if a file to write has the name of another kind of file: nobody would know it again."""
    if out is not None and not out.name.lower().endswith(endings):
        raise ConversionError("--out", f"{out}", f"give a name that ends in {' or '.join(endings)}")


def writable(path: Path) -> None:
    """Before the work that it is to hold: that a file can be written there."""
    with suppress(_Tried), atomic_path(path):
        raise _Tried


class _Tried(Exception):
    """So that nothing is written."""


def measured(
    network: Network,
    q: QuantGraph | None,
    data: Images,
    *,
    backend: str = "auto",
    phase: str = "settle",
    batch: int | None = None,
    device: str | None = None,
    observe: Callable[[RunResult, Images], None] | None = None,
    bar: Progress,
) -> dict[str, Any]:
    """One row of ``windows``: a measurement to which every process of this run contributes its share of the images."""
    from converters.measuring.measure import measure
    from converters.measuring.tasks import questions
    from converters.zoo.processes import team

    crew = team()
    own = data[crew.share(len(data))]
    task = bar.add_task(f"T = {network.window}, {phase}", total=len(own))

    def tick(n: int) -> None:
        bar.update(task, advance=n)

    options: dict[str, Any] = {"backend": backend, "phase": phase, "batch": batch, "tick": tick, "device": device}
    options["observe"] = observe
    asked = questions(network, (data.labels, *data.more_labels))
    return measure(network, q, own, asked=asked, **options).of_all(crew).as_dict()


def windows_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The rows of :func:`measured` for people."""
    columns = ["T", "phase", "quantised", "spiking", "same\nlabel", "counts\ncompared", "mis-\nmatches"]
    columns += ["latency\nmean (max)", "spikes\n/image", "SOPs\n/image"]
    cells = [
        [
            str(r["T"]),
            r["phase"] if r["counts_from"] == "simulation" else f"{r['phase']}, {r['counts_from']}",
            _percent(r["quantised_accuracy"]),
            _percent(r["snn_accuracy"]),
            f"{100 * r['prediction_agreement']:.4g}%",
            f"{r['counts_compared']:,}",
            f"{r['count_mismatches']:,}",
            "-" if r["latency_steps"] is None else f"{r['latency_steps_mean']:.1f} ({r['latency_steps']})",
            _short(r["spikes_per_image"]),
            _short(r["sops_per_image"]),
        ]
        for r in rows
    ]
    return table(title, columns, cells)


def outputs_table(rows: list[dict[str, Any]]) -> Table | None:
    """How each output of the rows of :func:`measured` does; None where that is one class of each image, and told."""
    from converters.measuring.scores import rows_told

    cells = [
        [str(r["T"]), r["phase"], one["name"], *row]
        for r in rows
        if len(r["outputs"]) > 1 or r["task"] != "classes"
        for one in r["outputs"]
        for row in rows_told(one, _percent, _real, "{:.4g}% alike")
    ]
    columns = ["T", "phase", "output", "what is measured", "quantised", "spiking", "between\nthe two"]
    return table("Outputs", columns, cells) if cells else None


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.2f}%"


def _real(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _short(x: float | None) -> str:
    """12.3k, 4.56M."""
    if x is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def threads() -> str:
    """What the machine brings, for tables that state it."""
    import torch

    return f"{many(torch.get_num_threads(), 'thread')}, torch {torch.__version__}"
