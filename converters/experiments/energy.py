"""Energy: synaptic operations of the spikes against the dense quantised network, with NeuroBench's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.experiments import markdown as md
from converters.experiments.energy_metrics import (
    DenseMetrics,
    SpikingMetrics,
    connection_sparsity,
    dense_macs,
    energies,
    footprint,
)
from converters.experiments.measuring import spiking_row
from converters.experiments.paper import DATASETS, NETWORKS
from converters.experiments.session import Available, Outcome, Session, wrong
from converters.measuring.measure import pieces

__all__ = ["energy"]


def energy(session: Session) -> Outcome:
    """Every checkpoint at its own window: 128 steps for 127 levels, T = levels for fewer; spikes and direct input."""
    rows = []
    for c in session.checkpoints:
        for t in session.windows or (128 if c.levels == 127 else c.levels,):
            for coding in c.codings:
                row = _row(session, c, t, coding)
                if row is not None:
                    rows.append(row)
    return Outcome("Energy", {"rows": rows, "source": "Horowitz 2014, 45 nm"}, _text(rows), None, wrong(rows))


def _row(session: Session, c: Available, window: int, coding: str) -> dict[str, Any] | None:
    data = session.data(c)
    if data is None:
        return None
    part = data.first(min(session.images, 200))  # averages settle early
    spiking, dense = SpikingMetrics(), DenseMetrics(c.q.at_window(window, coding))

    def measured() -> dict[str, Any]:
        with session.step(f"{c.name}, T = {window}, {coding}", len(part)) as tick:
            row = spiking_row(c.q, part, window, coding=coding, observe=spiking, tick=tick)
        for piece in pieces(part, 50):
            dense(piece.pixels)
        return {"row": row, "spiking": spiking.result(), "dense": dense.result()}

    about = {"row": "energy", "T": window, "coding": coding, "images": len(part)}
    found = session.once(c, about, measured)
    row, twin = found["row"], found["dense"]
    macs = dense_macs(c.q)
    effective = twin["synaptic_operations"]["Effective_MACs"]
    sizes = footprint(c.q)
    common = {"footprint": sum(sizes.values()), "connection_sparsity": connection_sparsity(c.q)}
    weights_only = sizes["weights"] + sizes["parameters"]
    return {
        "checkpoint": c.name,
        "network": c.network,
        "dataset": Path(c.dataset).name,
        "levels": c.levels,
        "phase": "settle",
        **row,
        "energy_uj": {
            "spiking": energies(row["macs_per_image"], row["sops_per_image"]),
            "dense": energies(macs, 0),
            "dense_zeros_skipped": energies(effective, 0),
        },
        "dense_macs": macs,
        "neurobench": {
            "spiking": {**common, **found["spiking"], "classification_accuracy": row["snn_accuracy"], "bytes": sizes},
            "dense": {
                **common,
                "footprint": weights_only,
                **twin,
                "classification_accuracy": row["quantised_accuracy"],
            },
        },
    }


def _text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    columns = [
        "data set", "network", "levels", "T", "input", "SOPs / image", "MACs / image", "dense MACs", "spiking INT8, µJ",
        "dense INT8, µJ", "dense INT8, zeros skipped, µJ", "spiking : dense, INT8", "spiking FP32, µJ",
        "dense FP32, µJ",
    ]  # fmt: skip
    cells = []
    for r in rows:
        e = r["energy_uj"]
        cells.append(
            [
                DATASETS.get(r["dataset"], r["dataset"]),
                NETWORKS.get(r["network"], r["network"]),
                str(r["levels"]),
                str(r["T"]),
                r["coding"],
                md.number(r["sops_per_image"]),
                md.number(r["macs_per_image"]),
                md.number(r["dense_macs"]),
                f"{e['spiking']['INT8']:.3g}",
                f"{e['dense']['INT8']:.3g}",
                f"{e['dense_zeros_skipped']['INT8']:.3g}",
                f"{_ratio(r, 'dense'):.2f}",
                f"{e['spiking']['FP32']:.3g}",
                f"{e['dense']['FP32']:.3g}",
            ]
        )
    dearer = {
        kind: [f"{r['checkpoint']} ({r['coding']})" for r in rows if _ratio(r, kind) >= 1]
        for kind in ("dense", "dense_zeros_skipped")
    }
    verdict = (
        f"In INT8, by this count, the dense network is cheaper than the spiking one in {len(dearer['dense'])} of "
        f"{len(rows)} rows{_list(dearer['dense'])}. Hardware that skips the zero activations of the dense network is "
        f"cheaper in {len(dearer['dense_zeros_skipped'])}{_list(dearer['dense_zeros_skipped'])}."
    )
    notes = (
        f"{verdict} Spikes save a product each, and come many to a value: that pays when there are few of them, so "
        "with few levels.\n\nEnergy of the arithmetic alone at 45 nm (Horowitz 2014): FP32 4.6 pJ for a MAC and 0.9 "
        "pJ for an accumulate, INT8 0.23 and 0.03 pJ. Memory, which costs more than either, neuron updates and leak "
        "are left out on both sides. SOPs: every spike of either sign counts for each synapse that it meets, pools "
        "and identities included, the rounding phase included. Dense MACs: convolutions and dense layers, one pass."
    )
    return "\n\n".join([md.table(columns, cells, left=2), notes, "## NeuroBench's metrics", _neurobench(rows)])


def _ratio(row: dict[str, Any], kind: str) -> float:
    return row["energy_uj"]["spiking"]["INT8"] / row["energy_uj"][kind]["INT8"]


def _list(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _neurobench(rows: list[dict[str, Any]]) -> str:
    columns = [
        "checkpoint", "network", "input", "Footprint, bytes", "ConnectionSparsity", "ActivationSparsity",
        "Effective_ACs",
        "Effective_MACs", "Dense", "ClassificationAccuracy",
    ]  # fmt: skip
    cells = []
    for r in rows:
        for kind, coding in (("spiking", r["coding"]), ("dense", "-")):
            if kind == "dense" and r["coding"] == "direct":
                continue
            m = r["neurobench"][kind]
            ops = m["synaptic_operations"]
            label = f"{kind}, T = {r['T']}" if kind == "spiking" else f"quantised, {min(r['T'], r['levels'])} levels"
            cells.append(
                [
                    r["checkpoint"],
                    label,
                    coding,
                    f"{m['footprint']:,}",
                    f"{m['connection_sparsity']:.4f}",
                    f"{m['activation_sparsity']:.4f}",
                    md.number(ops["Effective_ACs"]),
                    md.number(ops["Effective_MACs"]),
                    md.number(ops["Dense"]),
                    f"{m['classification_accuracy']:.4f}",
                ]
            )
    images = sorted({r["images"] for r in rows})
    return (
        md.table(columns, cells, left=3)
        + f"\n\nOf the first {' or '.join(f'{n:,}' for n in images)} test images. The names are NeuroBench's "
        "(Yik et al. 2025), computed here: effective operations leave out zero activations and zero weights, and "
        "convolutions and dense layers alone count, as there. A spiking network's activations are all neurons at all "
        "steps until the image is quiet; its footprint includes the neurons' state (12 bytes each)."
    )
