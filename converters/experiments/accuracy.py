"""Figure 4 and table 2: accuracies at T = 128, and what conversion loses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.experiments import markdown as md
from converters.experiments.paper import DATASETS, NETWORKS, PAPER, TABLE2, reported_by_paper
from converters.experiments.session import Outcome, Session, wrong
from converters.experiments.trained import trained, trained_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fig4", "table2"]

# Okabe and Ito, grey, and a dark red of Paul Tol's: one colour for each network
_PALETTE = (
    "#56B4E9", "#CC79A7", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#F0E442", "#000000", "#999999", "#882255",
)  # fmt: skip
COLOURS = dict(zip(NETWORKS, _PALETTE, strict=True))


def _rows(session: Session) -> list[dict[str, Any]]:
    """Every network trained with 127 levels or more, at T = 128 (or the first window asked for)."""
    window = session.windows[0] if session.windows else 128
    for r in TABLE2:
        if r.source == PAPER:
            network = next(k for k, title in NETWORKS.items() if title == r.network)
            session.want(network, r.dataset)
    for network in ("vgg9", "resnet11h", "mobilenet20"):  # figure 4 has it, without numbers in the text
        session.want(network, "caltech101")
    rows = []
    for c in session.checkpoints:
        row = session.row(c, window) if c.levels >= 127 else None
        if row is not None:
            rows.append(row | {"paper_snn_accuracy": reported_by_paper(c.network, Path(c.dataset).name, window)})
    return rows


def fig4(session: Session) -> Outcome:
    """Test accuracies of all networks and data sets at T = 128, with the loss against the quantised network."""
    rows = _rows(session)
    title = f"Test accuracies of the spiking networks, T = {rows[0]['T'] if rows else 128}"
    return Outcome(title, {"rows": rows, "paper": PAPER}, None, (lambda: _bars(rows)) if rows else None, wrong(rows))


def _bars(rows: list[dict[str, Any]]) -> Figure:
    from calif_plugins.plots_style import axes_or_new, text_colour

    datasets = list(dict.fromkeys(r["dataset"] for r in rows))
    ax = axes_or_new(None, (max(6.5, 3 + 0.8 * len(rows)), 4.2))
    ax.set_xlim(-0.6, max(3.0, len(rows) + 0.7 * len(datasets) - 0.5))
    x, ticks = 0.0, []
    for dataset in datasets:
        group = [r for r in rows if r["dataset"] == dataset]
        ticks.append((x + (len(group) - 1) / 2, DATASETS.get(dataset, dataset)))
        for row in group:
            value = 100 * row["snn_accuracy"]
            colour = COLOURS.get(row["network"], "#777777")
            ax.bar(x, value, 0.8, color=colour)
            loss = md.signed_points(row["quantised_accuracy"] - row["snn_accuracy"])
            top = max(value, row["paper_snn_accuracy"] or 0.0)  # above the paper's line, too
            ax.text(x, top + 0.9, f"{value:.2f}\n({loss})", ha="center", va="bottom", fontsize=8)
            name = NETWORKS.get(row["network"], row["network"])
            ax.text(x, 3, name, rotation=90, ha="center", color=text_colour(colour))
            if row["paper_snn_accuracy"] is not None:
                ax.plot([x - 0.4, x + 0.4], [row["paper_snn_accuracy"]] * 2, color="black", linewidth=1.5)
            x += 1
        x += 0.7
    ax.plot([], [], color="black", linewidth=1.5, label=PAPER)
    ax.set_xticks([t for t, _ in ticks], [name for _, name in ticks])
    ax.set(ylim=(0, 112), ylabel="test accuracy (%)")
    ax.set_yticks(range(0, 101, 20))
    images = sorted({f"{r['whole_test_set']['images']:,}" for r in rows})
    ax.set_title(
        f"T = {rows[0]['T']}, {' and '.join(images)} test images; in brackets the loss against the quantised network",
        fontsize=9,
    )
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax.figure  # type: ignore[return-value]


def table2(session: Session) -> Outcome:
    """Accuracies and conversion losses, ours measured, and the paper's and others' as the paper reports them."""
    rows = _rows(session)
    columns = [
        "data set", "network", "T", "float", "quantised", "spiking", "float − spiking", "quantised − spiking",
        "predictions differing", "wrong counts", "counts compared", "latency, mean (max)", "stopped at T / T+1 / T+2",
        f"spiking, {PAPER}",
    ]  # fmt: skip
    cells = [
        [
            DATASETS.get(r["dataset"], r["dataset"]),
            NETWORKS.get(r["network"], r["network"]),
            str(r["T"]),
            md.percent(r["float_accuracy"]),
            md.percent(r["quantised_accuracy"]),
            md.percent(r["snn_accuracy"]),
            md.signed_points(None if r["float_accuracy"] is None else r["float_accuracy"] - r["snn_accuracy"]),
            md.signed_points(r["quantised_accuracy"] - r["snn_accuracy"]),
            f"{r['predictions_differing']:,}",
            f"{r['count_mismatches']:,}",
            f"{r['counts_compared']:,}",
            md.steps(r),
            md.stopped(r),
            "-" if r["paper_snn_accuracy"] is None else f"{r['paper_snn_accuracy']:.2f}",
        ]
        for r in rows
    ]
    text = ""
    if rows:
        simulated = sorted({r["simulated"]["images"] for r in rows})
        text = (
            md.table(columns, cells, left=2)
            + "\n\nAccuracies in per cent, of the whole test set (spiking: its final counts in closed form; float: as "
            f"training measured it). Every spike of the first {' or '.join(f'{n:,}' for n in simulated)} images was "
            "simulated: differing predictions and wrong counts are those of both, against the quantised network's; "
            "latency and the accuracy of stopping at a step are of the simulated images. Latency: T and the steps "
            "until quiet."
        )
    how = trained(session.checkpoints, rows)
    return Outcome(
        "Table 2: accuracies of converted networks",
        {"rows": rows, "trained": how, "reported": [vars(r) for r in TABLE2]},
        "\n\n".join(filter(None, [text, trained_section(how), _others({r["dataset"] for r in rows})])),
        None,
        wrong(rows),
    )


def _others(datasets: set[str]) -> str:
    """The paper's own table, for the data sets that were measured."""
    reported = [r for r in TABLE2 if r.dataset in datasets]
    if not reported:
        return ""
    cells = [
        [
            *(DATASETS[r.dataset], r.source, r.network, r.neuron, str(r.steps), f"{r.snn:.2f}"),
            "-" if r.ann is None else f"{r.ann:.2f}",
        ]
        for r in reported
    ]
    columns = ["data set", "source", "network", "neuron", "T", "spiking", "full precision"]
    return (
        f"## As reported\n\nNot measured here: numbers of {PAPER}, table 2 "
        "(doi:10.3389/fnins.2023.1141701).\n\n" + md.table(columns, cells, left=4)
    )
