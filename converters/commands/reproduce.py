"""``calif reproduce``: the paper's figures and tables, measured from checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.brief import many
from converters.commands import common
from converters.console.printing import json_text
from converters.errors import ConversionError, MissingExtraError
from converters.files.atomic import atomic_path

if TYPE_CHECKING:
    from converters.experiments.session import Outcome, Session

__all__ = ["EXPERIMENTS", "reproduce"]


def _experiment(module: str, name: str) -> Callable[[Session], Outcome]:
    """Imported when it is run."""

    def run(session: Session) -> Outcome:
        outcome: Outcome = getattr(import_module(f"converters.experiments.{module}"), name)(session)
        return outcome

    return run


EXPERIMENTS: dict[str, Callable[[Session], Outcome]] = {
    name: _experiment(module, name)
    for name, module in {
        "fig2": "curves",
        "fig3": "curves",
        "fig4": "accuracy",
        "fig5": "windows",
        "table2": "accuracy",
        "table3": "windows",
        "table4": "windows",
        "ablation": "ablation",
        "energy": "energy",
    }.items()
}


def reproduce(
    what: Annotated[
        list[str], typer.Argument(metavar="NAME...", help=f"{', '.join(EXPERIMENTS)}, or all. Rows are shared.")
    ],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="Beside the checkpoints here: a file of calif train, or a folder of them; may be repeated."),
    ] = None,
    network: Annotated[list[str] | None, typer.Option(help="Only these networks; may be repeated.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only these data sets; may be repeated.")] = None,
    data_root: common.DataRoot = None,
    window: common.Windows = None,
    images: Annotated[int, typer.Option(min=1, help="Test images whose every spike is simulated.")] = 1000,
    out: Annotated[Path, typer.Option(help="Folder for the JSON files, figures and tables.")] = Path("tutorials/paper"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier call has measured.")] = False,
    json: common.Json = False,
) -> None:
    """Measure the paper's figures and tables again. Exit 1 if a settled count or prediction differs."""
    from converters.experiments.kept import Kept
    from converters.experiments.session import Session
    from converters.zoo.datasets import cache_folder

    names = list(EXPERIMENTS) if what == ["all"] else list(dict.fromkeys(what))
    unknown = [n for n in names if n not in EXPERIMENTS]
    if unknown:
        raise ConversionError("NAME", f"{unknown[0]!r}", f"use {', '.join(EXPERIMENTS)} or all")
    _figures_possible(names)
    session = Session.open(
        checkpoint or (),
        networks=network or (),
        datasets=dataset or (),
        images=images,
        windows=tuple(window or ()),
        root=data_root,
        kept=Kept(cache_folder() / "rows", fresh),
    )
    out.mkdir(parents=True, exist_ok=True)
    command = _command(names, checkpoint, network, dataset, window, images)
    results: dict[str, Any] = {}
    files: list[str] = []
    mismatches = 0
    for name in names:
        session.missing = []
        with common.progress_bar(json) as bar:
            session.started = _Steps(bar)
            outcome = EXPERIMENTS[name](session)
        mismatches += outcome.mismatches
        data = {"experiment": name, "title": outcome.title, "command": command.format(name), **_machine()}
        data |= {"mismatches": outcome.mismatches, "missing": session.missing, **outcome.data}
        results[name] = data
        files += _write(name, outcome, data, session.missing, out)
        if not json:
            _show(name, outcome, data, session.missing)
    if json:
        common.print_json({"experiments": results, "files": files, "mismatches": mismatches})
    else:
        common.say(f"wrote {', '.join(files)}")
    if mismatches:
        raise typer.Exit(1)


class _Steps:
    """One line of the progress bar for each measurement, gone when it is done."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.last = bar, None

    def __call__(self, text: str, total: int) -> Callable[[int], None]:
        if self.last is not None:
            self.bar.remove_task(self.last)
        task = self.last = self.bar.add_task(text, total=total)
        return lambda n: self.bar.advance(task, n)


def _figures_possible(names: list[str]) -> None:
    if any(n.startswith("fig") for n in names):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise MissingExtraError("matplotlib", "plot") from None


def _command(
    names: list[str],
    checkpoint: list[str] | None,
    network: list[str] | None,
    dataset: list[str] | None,
    window: list[int] | None,
    images: int,
) -> str:
    given = [("--checkpoint", checkpoint), ("--network", network), ("--dataset", dataset), ("--window", window)]
    options = "".join(f" {flag} {v}" for flag, values in given for v in values or ())
    return f"calif reproduce {{}}{options}" + (f" --images {images}" if images != 1000 else "")


def _machine() -> dict[str, Any]:
    import torch

    about = Path("/proc/cpuinfo")  # Linux; elsewhere the instruction set has to do
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    cpu = f"{model} ({torch.backends.cpu.get_cpu_capability()})".strip()
    return {"machine": {"threads": torch.get_num_threads(), "cpu": cpu, "torch": torch.__version__}}


def _write(name: str, outcome: Outcome, data: dict[str, Any], missing: list[dict[str, str]], out: Path) -> list[str]:
    from converters.experiments import markdown

    written = [out / f"{name}.json"]
    with atomic_path(written[0]) as temporary:
        temporary.write_text(json_text(data, indent=1) + "\n", encoding="utf-8")
    if outcome.markdown is not None:
        m = data["machine"]
        machine = f"{many(m['threads'], 'thread')}, {m['cpu']}, torch {m['torch']}"
        text = markdown.page(
            outcome.title, data["command"], machine, outcome.markdown.strip(), markdown.missing_section(missing)
        )
        written.append(out / f"{name}.md")
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if outcome.draw is not None:
        written.append(out / f"{name}.png")
        with atomic_path(written[-1]) as temporary:
            outcome.draw().savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return [str(p) for p in written]


def _show(name: str, outcome: Outcome, data: dict[str, Any], missing: list[dict[str, str]]) -> None:
    from converters.experiments import markdown

    rows = data.get("rows", [])
    common.say(f"{name}: {outcome.title}: {len(rows)} rows, {outcome.mismatches} mismatches of phase settle")
    if rows:
        columns = ["", "T", "neuron", "input", "quantised", "spiking", "mis-\nmatches", "latency\nmean (max)"]
        cells = [
            [
                r["checkpoint"],
                str(r["T"]),
                r.get("neuron", r.get("phase", "")),
                r["coding"],
                markdown.percent(r["quantised_accuracy"]),
                markdown.percent(r["snn_accuracy"]),
                f"{r['count_mismatches']:,}",
                markdown.steps(r),
            ]
            for r in rows
        ]
        common.show(common.table(outcome.title, columns, cells))
    for m in missing:
        common.say(f"missing: {m['wanted']} ({m['why']}): {m['command']}")
