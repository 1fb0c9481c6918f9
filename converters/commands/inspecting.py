"""``calif inspect``: what is in a network, and what it would cost hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import given, which_of
from converters.errors import ConversionError

if TYPE_CHECKING:
    from converters.checked import Checked
    from converters.lattice import Certificate
    from converters.lowering.lattice import LayerLattice
    from converters.network import Network, Stage

__all__ = ["inspect"]

_LARGEST = 4096  # channels, and pixels to a side


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NETWORK",
            help="A checkpoint's name or a file, as of calif run; or a network of the zoo, as lenet5, or networks.",
        ),
    ] = None,
    checkpoint: common.Checkpoint = None,
    window: common.Window = None,
    coding: common.Coding = "auto",
    shape: Annotated[
        str | None,
        typer.Option(help="Of an image, for a network of the zoo: channels x height x width; 3x32x32 by default."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="For a network of the zoo; 10 by default.")
    ] = None,
    allow_large: common.AllowLarge = False,
    json: common.Json = False,
) -> None:
    """Layers, thresholds, fan-in, synapses, weights, and the bit widths of the certified integer lattice."""
    from converters.zoo.networks import NETWORKS

    target = which_of(target, checkpoint)
    if target == "networks" or (target in NETWORKS and not Path(target).exists()):
        if window:
            raise ConversionError("--window", f"{window[0]}", "a network of the zoo has none before it is trained")
        shape = "3x32x32" if shape is None else shape
        _networks(list(NETWORKS) if target == "networks" else [target], shape, classes or 10, json)
        return
    for option, value in (("--shape", shape), ("--classes", classes)):
        if value is not None:
            raise ConversionError(option, repr(value), f"{target} has its own: leave it out")
    found = _read(target, common.one_window(window), coding, allow_large)
    about = _describe(target, found)
    if json:
        common.print_json(about)
    else:
        _show(about, found)


@dataclass(frozen=True, eq=False)
class _Inspected:
    """A converted network, and what is known of its making where it comes from a checkpoint."""

    network: Network
    notes: dict[str, Any] = field(default_factory=dict)
    checked: Checked | None = None
    certified: dict[str, Certificate] | None = None


def _read(target: str, window: int | None, coding: str, allow_large: bool) -> _Inspected:
    from converters.nir_export import certificates

    source = given(target, None, [window], coding=coding, allow_large=allow_large)
    network, q = source.network(window), source.q
    if q is None:
        return _Inspected(network)
    certified = certificates(q.at_window(network.window, network.coding))
    return _Inspected(network, source.notes, q.checked, certified)


def _describe(target: str, found: _Inspected) -> dict[str, Any]:
    """All there is to say, for JSON."""
    from converters.ports.outputs import described

    network = found.network
    inputs = [
        {"name": name, "shape": list(spec.shape), "scale": spec.scale, "range": [spec.q_min, spec.q_max]}
        | ({} if spec.table is None else {"vocabulary": spec.table.vocabulary})
        for name, spec in network.specs.items()
    ]
    integers, missing = _integers(network)
    rows = []
    for stage in network.stages:
        row, k = _row(stage, network), integers.get(stage.name)
        if found.certified is not None:
            c = found.certified[stage.name]
            row |= {"fraction_bits": c.bits, "membrane_bits": c.membrane_bits, "boundaries_certified": c.boundaries}
        row["integer"] = k and {
            "fraction_bits": k.bits,
            "threshold_bits": k.threshold_bits,
            "leak_bits": k.leak_bits,
            "membrane_bits": k.membrane_bits,
            "boundaries_certified": k.boundaries,
        }
        rows.append(row)
    return {
        "file": target,
        "T": network.window,
        "coding": network.coding,
        "input": {k: v for k, v in inputs[0].items() if k != "name"},
        "inputs": inputs,
        "outputs": described(network.outputs),
        "neurons": network.neurons,
        "synapses": sum(r["synapses"] for r in rows),
        "weights": sum(r["weights"] for r in rows),
        "macs": sum(r["macs"] for r in rows),
        "comparisons": sum(r["comparisons"] for r in rows),
        "lookups": sum(r["lookups"] for r in rows),
        "notes": found.notes,
        "checked": found.checked and found.checked.as_dict(),
        "layers": rows,
        "no_integers": missing,
    }


def _integers(network: Network) -> tuple[dict[str, LayerLattice], str | None]:
    """The lattice of every layer for integer hardware, or why there is none."""
    from converters.lowering.lattice import certify

    try:
        return certify(network), None
    except ConversionError as error:  # the network is fine; a chip with integers would not be
        return {}, str(error)


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "layer": lambda r: r["name"],
    "shape": lambda r: "x".join(map(str, r["shape"])),
    "from": lambda r: ", ".join(r["sources"]),
    "neurons": lambda r: "-" if r["passes_on"] else f"{r['neurons']:,}",
    "fan-in": lambda r: f"{r['fan_in']:,}",
    "synapses": lambda r: f"{r['synapses']:,}",
    "weights": lambda r: f"{r['weights']:,}",
    "MACs": lambda r: f"{r['macs']:,}",
    "weight\nbits": lambda r: str(r["weight_bits"]),
    "threshold": lambda r: f"{r['threshold'][0]:.4g} to {r['threshold'][1]:.4g}",
    "range": lambda r: f"{r['range'][0]} to {r['range'][1]}",
    "tie": lambda r: r["tie"],
    "threshold\nbits": lambda r: str(r["integer"]["threshold_bits"]) if r["integer"] else "-",
    "leak\nbits": lambda r: str(r["integer"]["leak_bits"]) if r["integer"] else "-",
    "membrane\nbits": lambda r: str(r["integer"]["membrane_bits"]) if r["integer"] else "-",
}


def _show(about: dict[str, Any], found: _Inspected) -> None:
    """The same for people."""
    rows, window = about["layers"], about["T"]
    title = f"{Path(about['file']).name}: T = {window}, {about['neurons']:,} neurons, {about['synapses']:,} synapses, "
    title += f"{about['weights']:,} weights, {about['macs']:,} MACs"
    title += "".join(f", {about[k]:,} {k}" for k in ("comparisons", "lookups") if about[k])
    common.show(common.table(title, list(_COLUMNS), [[cell(r) for cell in _COLUMNS.values()] for r in rows]))
    for spec in about["inputs"] if len(about["inputs"]) > 1 else ():
        low, high = spec["range"]
        size = "x".join(map(str, spec["shape"]))
        common.say(f"input {spec['name']}: {size}, {low} to {high} times {spec['scale']:.4g}")
    if about["outputs"] != [found.network.output.name] or len(found.network.output_stages) > 1:
        for line in about["outputs"]:
            common.say(f"output {line}")
    if found.checked is not None:
        common.say(f"conversion: {found.checked}")
    if found.certified is not None:
        total = sum(r["boundaries_certified"] for r in rows)
        common.say(f"certificate: {total:,} decision boundaries round on the lattice as they do exactly")
    if about["no_integers"] is not None:
        common.say(f"no lattice for integer hardware: {about['no_integers']}")
        return
    total = sum(r["integer"]["boundaries_certified"] for r in rows)
    common.say(f"integer hardware: {total:,} boundaries round alike in integers of the widths above, T = {window}")


def _networks(names: list[str], shape: str, classes: int, json: bool) -> None:
    """Parameters and MACs of networks of the zoo, before training."""
    import torch

    from converters.zoo.counting import count
    from converters.zoo.networks import build

    parts = [p.strip() for p in shape.lower().replace(",", "x").split("x")]
    whole = all(p.isdecimal() and len(p) < 6 and 1 <= int(p) <= _LARGEST for p in parts)
    if len(parts) != 3 or not whole or parts[1] != parts[2]:
        todo = f"give channels x height x width of a square image, up to {_LARGEST}: 3x32x32"
        raise ConversionError("--shape", f"{shape!r}", todo)
    size = int(parts[0]), int(parts[1]), int(parts[2])
    found: list[dict[str, Any]] = []
    small: list[str] = []
    for name in names:
        try:
            with torch.device("meta"):  # shapes alone: no memory for the weights and maps of large images
                model = build(name, size[0], classes, size[1])
                layers = count(model, size)
        except RuntimeError:  # PyTorch's own, of a kernel that is larger than its map
            small.append(name)
            continue
        total = sum(p.numel() for p in model.parameters())
        rows = [asdict(layer) for layer in layers]
        found.append({"network": name, "parameters": total, "macs": sum(x.macs for x in layers), "layers": rows})
    if not found:
        raise ConversionError(
            "--shape", f"{shape!r}, too small for {', '.join(small)}", "give larger images, such as 3x32x32"
        )
    if json:
        common.print_json({"shape": list(size), "classes": classes, "networks": found, "too_small": small})
        return
    title = f"{'x'.join(map(str, size))}, {classes} classes"
    if len(names) > 1:
        cells = [[f["network"], str(len(f["layers"])), f"{f['parameters']:,}", f"{f['macs']:,}"] for f in found]
        common.show(common.table(title, ["network", "layers", "parameters", "MACs"], cells))
        for name in small:
            common.say(f"{name}: needs larger images")
        return
    (one,) = found
    cells = [
        [r["name"], r["kind"], "x".join(map(str, r["shape"])), f"{r['parameters']:,}", f"{r['macs']:,}"]
        for r in one["layers"]
    ]
    common.show(common.table(f"{one['network']}, {title}", ["layer", "", "output", "parameters", "MACs"], cells))
    common.say(f"parameters {one['parameters']:,} (batch norms included), MACs {one['macs']:,}")


def _row(stage: Stage, network: Network) -> dict[str, Any]:
    import numpy as np
    import torch

    from converters.measuring.costs import connections, stored_weights

    weights = list(stored_weights(stage.synapses))
    largest = max((int(w.to(torch.int64).abs().max()) for w in weights if w.numel()), default=1)
    p = stage.parameters
    synapses = connections(stage.synapses, network.shapes)
    return {
        "name": stage.name,
        "shape": list(stage.shape),
        "sources": sorted({name for s in stage.synapses for name in s.sources}),
        "neurons": 0 if stage.relay else stage.size,
        "operations": [type(op).__name__ for s in stage.synapses for op in s.ops],
        "fan_in": round(synapses.total / stage.size),
        "synapses": int(synapses.total),
        "weights": sum(w.numel() for w in weights),
        "macs": int(synapses.macs),
        "comparisons": int(synapses.compared),
        "lookups": int(synapses.looked_up),
        "weight_bits": int(np.ceil(np.log2(largest + 1))) + 1,
        "threshold": [float(p.threshold.min()), float(p.threshold.max())],
        "leak": [float(p.leak.min()), float(p.leak.max())],
        "range": [int(p.y_min.min()), int(p.y_max.max())],
        "tie": p.tie,
        "read_from": "membrane" if stage.readout else "spikes",
        "passes_on": stage.relay,
    }
