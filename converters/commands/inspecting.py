"""``calif inspect``: what is in a network, and what it would cost hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from converters.commands import common
from converters.errors import ConversionError
from converters.lowering.lattice import LayerLattice
from converters.lowering.lattice import certify as certify_integers
from converters.network import Network, Stage
from converters.nir_export import certify, to_nir
from converters.nir_file import read
from converters.synapses import Conv2d, Linear
from converters.zoo.named import find_checkpoint, load_checkpoint

__all__ = ["inspect"]


def inspect(
    target: Annotated[str, typer.Argument(help="A .nir file, a file of calif train, or a checkpoint's name.")],
    window: Annotated[
        int | None, typer.Option(help="T, for a quantised network; the number of levels by default.")
    ] = None,
    json: common.Json = False,
) -> None:
    """Layers, thresholds, fan-in, synapses, weights, and the bit widths of the certified integer lattice."""
    notes: dict[str, Any] = {}
    certificates = None
    if target.endswith(".nir"):
        network = Network.from_graph(read(target))
    else:
        q, notes = load_checkpoint(str(find_checkpoint(target)))
        network = Network.from_graph(to_nir(q, T=window))
        certificates = certify(q.at_window(network.window))
    integers: dict[str, LayerLattice] = {}
    missing = None
    try:
        integers = certify_integers(network)
    except ConversionError as error:  # the network is fine; a chip with integers would not be
        missing = str(error)
    rows = []
    for stage in network.stages:
        row, k = _row(stage, network), integers.get(stage.name)
        if certificates is not None:
            c = certificates[stage.name]
            row |= {"fraction_bits": c.bits, "membrane_bits": c.membrane_bits, "boundaries_certified": c.boundaries}
        row["integer"] = k and {
            "fraction_bits": k.bits,
            "threshold_bits": k.threshold_bits,
            "leak_bits": k.leak_bits,
            "membrane_bits": k.membrane_bits,
            "boundaries_certified": k.boundaries,
        }
        rows.append(row)
    encoder = network.encoder
    about = {
        "file": target,
        "T": network.window,
        "coding": encoder.coding,
        "input": {"shape": list(network.spec.shape), "scale": encoder.scale, "range": [encoder.q_min, encoder.q_max]},
        "neurons": network.neurons,
        "synapses": sum(r["synapses"] for r in rows),
        "weights": sum(r["weights"] for r in rows),
        "notes": notes,
        "layers": rows,
        "no_integers": missing,
    }
    if json:
        common.print_json(about)
        return
    columns = [
        "layer",
        "shape",
        "from",
        "neurons",
        "fan-in",
        "synapses",
        "weights",
        "weight bits",
        "threshold",
        "range",
        "tie",
    ]
    cells = [
        [
            r["name"],
            "x".join(map(str, r["shape"])),
            ", ".join(r["sources"]),
            f"{r['neurons']:,}",
            f"{r['fan_in']:,}",
            f"{r['synapses']:,}",
            f"{r['weights']:,}",
            str(r["weight_bits"]),
            f"{r['threshold'][0]:.4g} to {r['threshold'][1]:.4g}",
            f"{r['range'][0]} to {r['range'][1]}",
            r["tie"],
        ]
        + [str(r["integer"][key]) if r["integer"] else "-" for key in ("threshold_bits", "leak_bits", "membrane_bits")]
        for r in rows
    ]
    columns += ["threshold\nbits", "leak\nbits", "membrane\nbits"]
    title = f"{Path(target).name}: T = {network.window}, {network.neurons:,} neurons, {about['synapses']:,} synapses"
    common.out.print(common.table(title, columns, cells))
    if certificates is not None:
        total = sum(r["boundaries_certified"] for r in rows)
        common.say(f"certificate: {total:,} decision boundaries round on the lattice as they do exactly")
    if missing is not None:
        common.say(f"no lattice for integer hardware: {missing}")
    else:
        total = sum(r["integer"]["boundaries_certified"] for r in rows)
        common.say(
            f"integer hardware: {total:,} boundaries round alike in integers of the widths above, T = {network.window}"
        )


def _row(stage: Stage, network: Network) -> dict[str, Any]:
    weights = [op.weight for s in stage.synapses for op in s.ops if isinstance(op, Conv2d | Linear)]
    largest = max((int(w.to(torch.int64).abs().max()) for w in weights if w.numel()), default=1)
    p = stage.parameters
    synapses = sum(
        float(s.fan_out(network.shapes[s.source]).sum()) for s in stage.synapses
    )  # every connection once, seen from its source
    return {
        "name": stage.name,
        "shape": list(stage.shape),
        "sources": sorted({s.source for s in stage.synapses}),
        "neurons": stage.size,
        "fan_in": round(synapses / stage.size),
        "synapses": int(synapses),
        "weights": sum(w.numel() for w in weights),
        "weight_bits": int(np.ceil(np.log2(largest + 1))) + 1,
        "threshold": [float(p.threshold.min()), float(p.threshold.max())],
        "leak": [float(p.leak.min()), float(p.leak.max())],
        "range": [int(p.y_min.min()), int(p.y_max.max())],
        "tie": p.tie,
        "read_from": "membrane" if stage.readout else "spikes",
    }
