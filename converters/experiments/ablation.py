"""What each part of the neuron does: the same quantised weights, input spikes and window, and other neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.backends.baselines import BASELINES
from converters.experiments import markdown as md
from converters.experiments.paper import DATASETS, NETWORKS
from converters.experiments.session import Outcome, Session, wrong

__all__ = ["NEURONS", "ablation"]

# name: (title, source)
NEURONS: dict[str, tuple[str, str]] = {
    **{name: (b.title, b.source) for name, b in BASELINES.items()},
    "none": ("Ca-LIF, stopped at T", "Gao et al. 2023, without rounding spikes"),
    "paper": ("Ca-LIF, one rounding spike", "Gao et al. 2023, section 3.2 as written"),
    "settle": ("Ca-LIF, settled", "here"),
    "settle_from_0": ("Ca-LIF, half thresholds from the first step, settled", "here (settle_from=0)"),
}


def ablation(session: Session) -> Outcome:
    """Every neuron on every network, at its own levels and at a quarter of them."""
    rows: list[dict[str, Any]] = []
    for network, dataset, levels in (("lenet5", "mnist", 127), ("resnet11h", "cifar10", 127), ("vgg9", "cifar10", 127)):
        session.want(network, dataset, levels)
    for c in session.checkpoints:
        coding = {} if c.codings[0] == "isi" else {"coding": c.codings[0]}
        own = 128 if c.levels == 127 else c.levels
        for t in session.windows or ((own, own // 4) if own >= 32 else (own,)):
            for neuron in NEURONS:
                row = session.spikes(c, t, neuron=neuron, **coding)
                if row is not None:
                    rows.append(
                        {"checkpoint": c.name, "network": c.network, "dataset": Path(c.dataset).name}
                        | {"levels": c.levels}
                        | row
                    )
    return Outcome("Ablation: other neurons on the same weights", {"rows": rows}, _text(rows), None, wrong(rows))


def _text(rows: list[dict[str, Any]]) -> str:
    sections = []
    for key in dict.fromkeys((r["checkpoint"], r["T"]) for r in rows):
        part = [r for r in rows if (r["checkpoint"], r["T"]) == key]
        columns = [
            "neuron", "source", "spiking", "predictions differing", "wrong counts", "wrong, %", "latency, mean (max)",
            "spikes / image", "negative, %", "SOPs / image",
        ]  # fmt: skip
        cells = [
            [
                NEURONS[r["neuron"]][0],
                NEURONS[r["neuron"]][1],
                md.percent(r["snn_accuracy"]),
                f"{r['predictions_differing']:,}",
                f"{r['count_mismatches']:,}",
                f"{100 * r['count_mismatches'] / max(r['counts_compared'], 1):.3g}",
                md.steps(r),
                md.number(r["spikes_per_image"]),
                f"{100 * r['negative_share']:.2g}",
                md.number(r["sops_per_image"]),
            ]
            for r in part
        ]
        first = part[0]
        title = (
            f"{NETWORKS.get(first['network'], first['network'])}, {DATASETS.get(first['dataset'], first['dataset'])}"
        )
        sections.append(
            f"## {title}, {first['levels']} levels, T = {first['T']}\n\n"
            f"{first['images']:,} images; the quantised network: {md.percent(first['quantised_accuracy'])} %; "
            f"{first['counts_compared']:,} counts compared in each row.\n\n" + md.table(columns, cells, left=2)
        )
    notes = (
        "All rows: the quantised network's integer weights, its thresholds, its bias as constant current, the same "
        "input spikes. Positive-only neurons get negative spikes too in layers of a signed range (branches before an "
        "addition, logits), and the baselines' predictions are read from the last layer's net charge: both favour "
        "them. Stepped by a clock, the LIF of equation 2 is the soft-reset IF; event by event, a neuron without input "
        "spikes is silent whatever its bias. ST-BIF that runs until it is quiet rounds exact ties up where the "
        "quantiser rounds to even: its wrong counts are those ties and what follows from them."
    )
    return "\n\n".join([*sections, notes]) if sections else ""
