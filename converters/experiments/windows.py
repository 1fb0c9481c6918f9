"""Figure 5, tables 3 and 4: accuracy against the window, and what it takes to keep it short."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.experiments import markdown as md
from converters.experiments.paper import DATASETS, NETWORKS, PAPER, TABLE3, TABLE4, reported_by_paper
from converters.experiments.session import Available, Outcome, Session, wrong
from converters.experiments.trained import trained, trained_section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fig5", "table3", "table4"]

WINDOWS = (2, 4, 8, 16, 32, 64, 128)
PROTOCOLS = {
    "shorter": "{levels} levels, shorter window",
    "shorter-direct": "{levels} levels, shorter window, direct input",
    "levels": "levels = T",
    "levels-direct": "levels = T, direct input",
}


def _groups(session: Session, datasets: tuple[str, ...]) -> list[tuple[Available | None, list[Available]]]:
    """For each network and data set: the one trained with most levels, and those trained for short windows."""
    groups: dict[tuple[str, str], list[Available]] = {}
    for c in session.checkpoints:
        if Path(c.dataset).name in datasets:
            groups.setdefault((c.network, c.dataset), []).append(c)
    found = []
    for members in groups.values():
        base = next((c for c in members if c.levels >= 127), None)
        found.append((base, [c for c in members if c is not base and c.levels < 127]))
    return found


def _rows(session: Session, datasets: tuple[str, ...], wanted: tuple[tuple[str, str, int], ...] = ()) -> list[dict]:
    for network, dataset, levels in wanted:
        session.want(network, dataset, levels)
    windows = session.windows or WINDOWS
    rows: list[dict[str, Any]] = []
    for base, short in _groups(session, datasets):
        runs: list[tuple[Available, int, str, str]] = []
        if base is not None:
            for t in windows:
                runs += [(base, t, "shorter", "isi"), (base, t, "shorter-direct", "direct")]
        for c in sorted(short, key=lambda c: c.levels):
            if not session.windows or c.levels in windows:
                kinds = {"isi": "levels", "direct": "levels-direct"}
                runs += [(c, c.levels, kinds[coding], coding) for coding in c.codings]
        for c, t, protocol, coding in runs:
            row = session.row(c, t, coding)
            if row is not None:
                paper = reported_by_paper(c.network, Path(c.dataset).name, t) if protocol == "shorter" else None
                rows.append(row | {"protocol": protocol, "paper_snn_accuracy": paper})
    for row in rows:
        row["against_longest"] = _against_longest(row, rows)
    return rows


def _against_longest(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Accuracy less that of the same network at its longest window (of 127 levels)."""
    same = [
        r
        for r in rows
        if (r["network"], r["dataset"], r["protocol"]) == (row["network"], row["dataset"], "shorter")
        and r["T"] >= r["levels"]
    ]
    if not same:
        return None
    return row["snn_accuracy"] - max(same, key=lambda r: r["T"])["snn_accuracy"]


def _protocol(row: dict[str, Any]) -> str:
    return PROTOCOLS[row["protocol"]].format(levels=row["levels"])


def fig5(session: Session) -> Outcome:
    """Accuracy against T: the paper's protocol, training for the window, and direct input."""
    wanted = (("vgg16", "cifar10", 127), ("vgg16", "cifar100", 127))
    datasets = tuple(dict.fromkeys(["cifar10", "cifar100", "mnist", *_given(session)]))
    rows = _rows(session, datasets, wanted)
    data = {"rows": rows, "reported": {"cifar10": TABLE3[PAPER][1], "cifar100": TABLE4[PAPER][1]}}
    return Outcome("Accuracy against the window", data, None, (lambda: _lines(rows)) if rows else None, wrong(rows))


def _given(session: Session) -> list[str]:
    """Data sets that the paper does not have: the digits, folders."""
    return [d for d in (Path(c.dataset).name for c in session.checkpoints) if d not in DATASETS or d == "digits"]


def _lines(rows: list[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(r["dataset"] for r in rows))
    figure = Figure(figsize=(1.5 + 5.2 * len(datasets), 4.4), layout="constrained")
    for k, dataset in enumerate(datasets):
        ax = figure.add_subplot(1, len(datasets), k + 1)
        _panel(ax, [r for r in rows if r["dataset"] == dataset], dataset)
    return figure


def _panel(ax: Axes, rows: list[dict[str, Any]], dataset: str) -> None:
    from converters.experiments.accuracy import COLOURS

    styles = {"shorter": ("o", "-"), "levels": ("D", "none")}
    for network in dict.fromkeys(r["network"] for r in rows):
        for protocol, (marker, line) in styles.items():
            # direct input ends on the same counts: one line for both
            own = [r for r in rows if r["network"] == network]
            alone = [] if any(r["protocol"] == protocol for r in own) else [f"{protocol}-direct"]
            part = sorted((r for r in own if r["protocol"] in (protocol, *alone)), key=lambda r: r["T"])
            if part:
                label = f"{NETWORKS.get(network, network)}, {_protocol(part[0])}"
                ax.plot(
                    [r["T"] for r in part], [100 * r["snn_accuracy"] for r in part], marker=marker, linestyle=line,
                    color=COLOURS.get(network, "#777777"), label=label, markersize=7 if protocol == "levels" else 5,
                    markeredgecolor="black" if protocol == "levels" else None,
                )  # fmt: skip
    paper = {"cifar10": TABLE3, "cifar100": TABLE4}.get(dataset)
    if paper is not None:
        curve = paper[PAPER][1]
        label = f"VGG-16, {PAPER} (reported)"
        ax.plot(list(curve), list(curve.values()), "x:", color="black", label=label)
    ticks = sorted({r["T"] for r in rows} | ({8, 16, 32, 64, 128} if paper else set()))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="window T (steps)", ylabel="test accuracy (%)", title=DATASETS.get(dataset, dataset))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)


def table3(session: Session) -> Outcome:
    """Short windows on CIFAR-10, and on MNIST where there are checkpoints for them."""
    long = tuple((network, "cifar10", 127) for network in ("vgg16", "vgg9", "resnet11h"))
    wanted = long + tuple((network, "cifar10", t) for network in ("vgg9", "resnet11h") for t in (8, 4))
    return _table("Table 3: short windows", session, ("cifar10", "mnist"), wanted, "3", TABLE3)


def table4(session: Session) -> Outcome:
    """Short windows on CIFAR-100."""
    wanted = tuple((network, "cifar100", 127) for network in ("vgg16", "resnet11h"))
    return _table("Table 4: short windows, CIFAR-100", session, ("cifar100",), wanted, "4", TABLE4)


def _table(
    title: str,
    session: Session,
    datasets: tuple[str, ...],
    wanted: tuple[tuple[str, str, int], ...],
    which: str,
    reported: dict[str, tuple[float, dict[int, float]]],
) -> Outcome:
    if which == "3":
        datasets = tuple(dict.fromkeys([*datasets, *_given(session)]))
    rows = _rows(session, datasets, wanted)
    columns = [
        "data set", "network", "training, input", "T", "quantised", "spiking", "against T = 128",
        "predictions differing",
        "wrong counts", "latency, mean (max)", "stopped at T / T+1 / T+2", "spikes / image", "SOPs / image",
        "MACs / image", f"spiking, {PAPER}",
    ]  # fmt: skip
    cells = [
        [
            DATASETS.get(r["dataset"], r["dataset"]),
            NETWORKS.get(r["network"], r["network"]),
            _protocol(r),
            str(r["T"]),
            md.percent(r["quantised_accuracy"]),
            md.percent(r["snn_accuracy"]),
            md.signed_points(r["against_longest"]),
            f"{r['predictions_differing']:,}",
            f"{r['count_mismatches']:,}",
            md.steps(r),
            md.stopped(r),
            md.number(r["spikes_per_image"]),
            md.number(r["sops_per_image"]),
            md.number(r["macs_per_image"]),
            "-" if r["paper_snn_accuracy"] is None else f"{r['paper_snn_accuracy']:.2f}",
        ]
        for r in rows
    ]
    text = ""
    if rows:
        images = sorted({r["simulated"]["images"] for r in rows})
        text = (
            md.table(columns, cells, left=3)
            + "\n\nAccuracies in per cent, of the whole test set in closed form. `quantised` is the network at that "
            "window: below its levels all scales grow by levels/T, as in the paper's protocol. Every spike of the "
            f"first {' or '.join(f'{n:,}' for n in images)} images was simulated, and its counts compared as well; "
            "latency (T and the steps until quiet), the accuracy of stopping at a step, spikes, synaptic operations "
            "and, with direct input, multiplications are of these. Direct input ends on the same counts as spikes do."
        )
    how = trained(session.checkpoints, rows)
    text = "\n\n".join(filter(None, [text, trained_section(how)]))
    seen = {r["dataset"] for r in rows} or {"cifar10"}
    if seen & {"cifar10", "cifar100"} or not rows:
        ts = (8, 16, 32, 64, 128)
        others = [
            [source, f"{ann:.2f}", *(f"{curve[t]:.2f}" if t in curve else "-" for t in ts)]
            for source, (ann, curve) in reported.items()
        ]
        text += (
            f"\n\n## As reported\n\nNot measured here: VGG-16, numbers of {PAPER}, table {which} "
            "(doi:10.3389/fnins.2023.1141701).\n\n"
            + md.table(["source", "full precision", *(f"T = {t}" for t in ts)], others)
        )
    data = {"rows": rows, "trained": how, "reported": {k: {"ann": a, "snn": c} for k, (a, c) in reported.items()}}
    return Outcome(title, data, text, None, wrong(rows))
