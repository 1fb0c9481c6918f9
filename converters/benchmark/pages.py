"""What was measured as Markdown, and growth as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converters.brief import many
from converters.experiments.markdown import page, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison", "growth", "growth_plot", "machine_line", "megabytes", "titles"]

titles = {
    "snntorch_loop": "snnTorch, step loop",
    "spikingjelly_single": "SpikingJelly, single-step",
    "spikingjelly_multi": "SpikingJelly, multi-step",
    "spikingjelly_stbif": "SpikingJelly, ST-BIF",
    "sinabs": "Sinabs",
    "norse": "Norse",
    "float_passes_T": "T passes of the float network",
    "float_pass": "one pass of the float network",
    "calif_loop": "calif, step loop",
    "calif_fast": "**calif, fast**",
    "calif_fast_from_0": "calif, fast, half thresholds from the start (`settle_from=0`)",
    "calif_closed_form": "calif, closed form (final counts only)",
}


_LEGEND = """The same quantised network, images and window on every simulator, each in a process of its own, one at a
time in turn; medians. Others' neurons have no ceiling, gate or rounding phase, so their spikes are not these spikes.
*s*: seconds for the batch. *floor*: as a share of T passes of the float network. *x snnTorch*: how many times faster
than snnTorch's step loop. *MB*: peak memory of the process, packages included. *warm-up, s*: the first run, with
whatever is compiled or packed then."""


def machine_line(machine: dict[str, Any]) -> str:
    """The machine and the versions in one line."""
    packages = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("threads", "cpu"))
    return f"{many(machine['threads'], 'thread')}, {machine['cpu']}, {packages}"


def megabytes(row: dict[str, Any]) -> float:
    """What a run takes beyond the process before it: interpreter, packages, network."""
    return max(0.0, row["peak_memory_mb"] - row["memory_before_mb"])


def comparison(data: dict[str, Any], command: str) -> str:
    """The page of ``calif bench --out``: a section for each network and window, batches side by side."""
    sections = [_LEGEND]
    rows, failed = data["rows"], data["failed"]
    for network in dict.fromkeys(r["network"] for r in rows):
        here = [r for r in rows if r["network"] == network]
        for t in sorted({r["T"] for r in here}):
            sections.append(f"## {network}, T = {t}\n\n" + _cases([r for r in here if r["T"] == t]))
    if failed:
        cells = [[titles[f["name"]], f["network"], str(f["T"]), str(f["batch"]), f["failed"]] for f in failed]
        sections.append("## Not possible\n\n" + table(["", "network", "T", "batch", "why"], cells, left=5))
    if data["missing"]:
        sections.append("Not installed: " + ", ".join(f"{v} ({titles[k]})" for k, v in data["missing"].items()) + ".")
    return page("Speed", command, machine_line(data["machine"]), *sections)


def _cases(rows: list[dict[str, Any]]) -> str:
    batches = sorted({r["batch"] for r in rows})
    columns = [""]
    for n in batches:
        columns += [f"batch {n}: s", "floor", "x snnTorch", "MB", "warm-up, s"]
    cells = []
    for name in dict.fromkeys(r["name"] for r in rows):
        line = [titles[name]]
        for n in batches:
            case = {r["name"]: r for r in rows if r["batch"] == n}
            line += _cells(case.get(name), case)
        cells.append(line)
    return table(columns, cells)


def _cells(row: dict[str, Any] | None, case: dict[str, dict[str, Any]]) -> list[str]:
    if row is None:
        return ["-"] * 5
    floor, loop = case.get("float_passes_T"), case.get("snntorch_loop")
    return [
        f"{row['seconds']:.3g}",
        "-" if floor is None else f"{row['seconds'] / floor['seconds']:.2g}",
        "-" if loop is None else f"{loop['seconds'] / row['seconds']:.3g}",
        f"{row['peak_memory_mb']:,.0f}",
        f"{row['warm_up_seconds']:.1f}",
    ]


AXES = (("T", "T, steps"), ("batch", "images"), ("network", "neurons"))
OTHERS = {"T": "{network}, {batch} images", "batch": "{network}, T = {T}", "network": "T = {T}, {batch} images"}
KINDS = {"calif_fast": "counts only", "calif_fast_trains": "with every spike train"}


def growth(data: dict[str, Any], command: str, picture: str) -> str:
    """The page of ``calif bench --scaling``."""
    sections = [
        f"![Seconds and memory against T, images and neurons]({picture})",
        "*MB*: peak memory beyond the process before its first run, in which the network is loaded.",
    ]
    for axis, title in AXES:
        rows = [r for r in data["rows"] if r["axis"] == axis]
        found = {(r["network"], r["T"], r["batch"]): r["neurons"] for r in rows}
        cells = []
        for (network, t, n), neurons in found.items():
            line = [network, f"{neurons:,}", f"{t:,}", f"{n:,}"]
            for kind in KINDS:
                row = next(
                    (r for r in rows if (r["network"], r["T"], r["batch"], r["name"]) == (network, t, n, kind)), None
                )
                line += ["-", "-"] if row is None else [f"{row['seconds']:.3g}", f"{megabytes(row):,.0f}"]
            cells.append(line)
        columns = ["network", "neurons", "T", "images", "counts only: s", "MB", "with every spike train: s", "MB"]
        sections.append(f"## As {title.split(',')[0]} grow{'s' if axis == 'T' else ''}\n\n" + table(columns, cells))
    if data["failed"]:
        cells = [[f["name"], f["network"], str(f["T"]), str(f["batch"]), f["failed"]] for f in data["failed"]]
        sections.append("## Not possible\n\n" + table(["", "network", "T", "images", "why"], cells, left=5))
    return page("Time and memory as T, batch and network grow", command, machine_line(data["machine"]), *sections)


def growth_plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """Seconds and memory against ``T``, images and neurons, counts only and with trains; logarithmic."""
    from matplotlib.figure import Figure

    from calif_plugins.plots_style import NEGATIVE, POSITIVE

    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    grid = figure.subplots(2, 3, sharex="col", sharey="row")
    looks = {"calif_fast": (POSITIVE, "o", "-"), "calif_fast_trains": (NEGATIVE, "s", "--")}
    for k, (axis, title) in enumerate(AXES):
        key = "neurons" if axis == "network" else axis
        for name, (colour, marker, style) in looks.items():
            here = sorted((r for r in rows if r["axis"] == axis and r["name"] == name), key=lambda r: r[key])
            x = [r[key] for r in here]
            for line, y in enumerate(([r["seconds"] for r in here], [megabytes(r) for r in here])):
                grid[line, k].plot(x, y, color=colour, marker=marker, linestyle=style, label=KINDS[name])
        fixed = next((r for r in rows if r["axis"] == axis), None)
        if fixed is not None:
            grid[0, k].set_title(OTHERS[axis].format(**fixed), fontsize=9)
        grid[1, k].set_xlabel(title)
    for line, label in zip(grid, ("seconds", "memory, MB"), strict=True):
        line[0].set_ylabel(label)
        for ax in line:
            ax.set(xscale="log", yscale="log")
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.3)
    grid[0, 0].legend(frameon=False, fontsize=8)
    return figure
