"""The report's section on energy: arithmetic on the run's counts of operations."""

from __future__ import annotations

from typing import Any

from calif_plugins.plots_network import ENERGY
from converters.reporting.charts import bar_chart
from converters.reporting.markup import Markup, html, together
from converters.reporting.parts import details_of, figure, short, table, windows_of

__all__ = ["dearer_layers", "energy", "energy_rows"]


def energy_rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Energy in microjoules per image of each window, spiking and dense, by arithmetic; dense where layers are known.

    The spiking network pays an accumulation for each synaptic operation and a multiplication for each MAC of a directly
    coded input; the dense network a MAC for each weight in use and an accumulation for each input of a pool.
    """
    known = {(w["T"], w["phase"]): w for w in details_of(run)}
    any_detail = next(iter(known.values()), None)
    rows = []
    for r in windows_of(run):
        if r.get("sops_per_image") is None:
            continue
        row: dict[str, Any] = {"T": r["T"], "phase": r["phase"], "sops": r["sops_per_image"]}
        row["macs"] = r.get("macs_per_image") or 0.0
        for name, (mac, add) in ENERGY.items():
            row[f"spiking_{name}"] = 1e-6 * (add * row["sops"] + mac * row["macs"])
            detail = known.get((r["T"], r["phase"]), any_detail)
            if detail is not None:
                layers = [layer for layer in detail["layers"] if layer["kind"] != "input"]
                macs, adds = (sum(layer[k] for layer in layers) for k in ("macs", "adds"))
                row |= {"dense_macs": macs, "dense_adds": adds, f"dense_{name}": 1e-6 * (mac * macs + add * adds)}
        rows.append(row)
    return rows


def dearer_layers(detail: dict[str, Any]) -> list[tuple[str, float]]:
    """Layers whose spikes cost more in INT8 than one dense pass of them, and how many times as much; dearest first.

    >>> scores = {"name": "scores", "kind": "spikes", "macs": 100, "adds": 0, "sops": 1533}
    >>> dearer_layers({"layers": [scores, {**scores, "name": "fc", "sops": 700}]})
    [('scores', 2.0)]
    """
    mac, add = ENERGY["INT8"]
    found = []
    for layer in detail["layers"]:
        dense = mac * layer.get("macs", 0) + add * layer.get("adds", 0)
        if layer["kind"] != "input" and dense and add * layer.get("sops", 0) > dense:
            found.append((str(layer["name"]), round(add * layer["sops"] / dense, 2)))
    return sorted(found, key=lambda row: -row[1])


def _dearer(run: dict[str, Any]) -> Markup:
    parts = []
    for detail in details_of(run):
        found = dearer_layers(detail)
        layers = sum(layer["kind"] != "input" for layer in detail["layers"])
        if found:
            told = ", ".join(f"{name} ({ratio:.3g} times)" for name, ratio in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            where = f"T = {detail['T']}, phase {detail['phase']}"
            text = "<p>At {} spikes cost more than one dense pass in {} of {} layers: {}{}.</p>"
            parts.append(html(text, where, len(found), layers, told, more))
    return together(parts)


def energy(run: dict[str, Any]) -> Markup:
    rows = energy_rows(run)
    if not rows:
        return Markup("")
    dense = "dense_INT8" in rows[0]
    several = len({r["phase"] for r in rows}) > 1
    columns = [
        "T",
        "phase",
        "SOPs/image",
        "MACs/image",
        "spiking INT8",
        "spiking FP32",
        "ratio to dense INT8",
        "verdict",
    ]
    cells = []
    for r in rows:
        ratio = r["spiking_INT8"] / r["dense_INT8"] if dense and r["dense_INT8"] else None
        verdict = "–" if ratio is None else ("spiking is cheaper" if ratio < 1 else "the dense INT8 network is cheaper")
        numbers = [short(r["sops"]), short(r["macs"]) if r["macs"] else "0"]
        energies = [f"{r[k]:.4g} µJ" for k in ("spiking_INT8", "spiking_FP32")]
        cells.append([r["T"], r["phase"], *numbers, *energies, "–" if ratio is None else f"{ratio:.3g}", verdict])
    text = table("Energy of the synapses, per image", columns, cells, "energy-table")
    charts = Markup("")
    for name in ENERGY:
        bars = [(f"T {r['T']}{' ' + r['phase'][0] if several else ''}", [("s0", r[f"spiking_{name}"])]) for r in rows]
        if dense:
            bars.append(("dense", [("s2", rows[0][f"dense_{name}"])]))
        chart = bar_chart(f"Energy per image, {name}", bars, f"µJ per image, {name} arithmetic", f"energy-{name}")
        charts += figure(chart, f"{name} arithmetic", [("s0", "spiking"), *([("s2", "dense")] if dense else [])])
    cost = "; ".join(f"{name}: {mac:g} pJ a MAC, {add:g} pJ an accumulation" for name, (mac, add) in ENERGY.items())
    neurons = next((w["neurons"] for w in details_of(run)), None)
    basis = ""
    if dense:
        basis = (
            f" The dense network needs {rows[0]['dense_macs']:,.0f} MACs for an image, and "
            f"{rows[0]['dense_adds']:,.0f} additions in pools."
        )
    return html(
        '{lead}{text}{dearer}<div class="charts">{charts}</div><h3>Assumptions</h3>'
        "<p>45 nm (Horowitz, ISSCC 2014), {cost}. "
        "A synaptic operation (SOP) is one spike, of either sign, arriving over one synapse; it "
        "costs one accumulation: of a weight, or, where two activations are multiplied, of the other one's count, so "
        "that the spikes of both are paid for. Spikes of the rounding phase count.{basis}</p>"
        "<p>Not counted, on either side: memory traffic, which dominates on real hardware; and on the spiking side, "
        "for {updates}, a leak and two comparisons at every step. The INT8 figure is that of an 8-bit addition, "
        "although both networks accumulate in wider registers. Read these numbers as a comparison of arithmetic, not "
        "as a measurement.</p>",
        lead=_energy_lead(rows) if dense else "", text=text, dearer=_dearer(run), charts=charts, cost=cost, basis=basis,
        updates=f"each of the {neurons:,} neurons" if neurons else "each neuron",
    )  # fmt: skip


def _energy_lead(rows: list[dict[str, Any]]) -> Markup:
    exact = [r for r in rows if r["phase"] == "settle"] or rows
    cheaper = [r for r in exact if r["spiking_INT8"] < r["dense_INT8"]]
    dearer = [r for r in exact if r["spiking_INT8"] >= r["dense_INT8"]]
    parts: list[object] = []
    if cheaper:
        told = ", ".join(f"T = {r['T']} ({_times(r['dense_INT8'], r['spiking_INT8'])})" for r in cheaper)
        parts.append(f"In INT8 arithmetic the spiking network is cheaper than the dense one at {told}.")
    if dearer:
        told = ", ".join(f"T = {r['T']} ({_times(r['spiking_INT8'], r['dense_INT8'])})" for r in dearer)
        parts.append(html("<strong>The dense INT8 network is cheaper than the spiking one at {}.</strong>", told))
    return html('<p id="energy-lead">{}</p>', Markup(" ").join(parts))  # type: ignore[arg-type]


def _times(large: float, small: float) -> str:
    """How often one goes into the other; of a network without a spike, or without a product, nothing does."""
    return f"{large / small:.3g} times" if small else f"{large:.3g} µJ against none"
