"""``calif lower``: a Ca-LIF network in stock NIR nodes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import given
from converters.errors import ConversionError

if TYPE_CHECKING:
    import nir

    from converters.network import Network
    from converters.zoo.images import Images

__all__ = ["lower_command"]


def lower_command(
    target_file: common.Target = None,
    target: Annotated[str, typer.Option(help="chain (exact), primitives (exact) or plain_if (lossy).")] = "chain",
    checkpoint: common.Checkpoint = None,
    window: common.WindowsOrLevels = None,
    out: Annotated[
        Path | None, typer.Option(help="The .nir file to write; stock.nir, or one for each of several windows.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(min=0, help="Fractional bits of the lattice; by default the fewest that can be certified."),
    ] = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="plain_if: measure what it loses on so many test images.")
    ] = None,
    allow_large: common.AllowLarge = False,
    json: common.Json = False,
) -> None:
    """Write a network in stock NIR nodes that other simulators run: exactly, or saying what is lost."""
    from converters.files.nir_file import write
    from converters.lowering import TARGETS
    from converters.zoo.named import plain_name

    if target not in TARGETS:
        raise ConversionError("--target", f"{target!r}", f"use one of {', '.join(TARGETS)}")
    if images is not None and target != "plain_if":
        raise ConversionError(
            "--images", f"target {target}", "only plain_if loses anything; calif interop compares the rest"
        )
    if bits is not None and target == "plain_if":
        raise ConversionError("--bits", f"target {target}", "it is on no lattice: leave it out")
    common.ends_in(out, ".nir")
    common.not_read(out, target_file, checkpoint)
    windows: list[int | None] = list(dict.fromkeys(window)) if window else [None]
    if len(windows) == 1:
        paths = [out or Path("stock.nir")]
    elif out is not None:
        raise ConversionError("--out", f"one file for {len(windows)} windows", "leave it out, or give one --window")
    else:  # the names of calif convert are those of its own files
        paths = [Path(f"{plain_name(target_file or checkpoint or 'stock')}-T{t}-{target}.nir") for t in windows]
    for path in paths:
        common.writable(path)
    source = given(target_file, checkpoint, windows, allow_large=allow_large)
    networks = [source.network(t) for t in windows]
    data = None if images is None else source.images(dataset, data_root, images)
    lowered = [_lower(network, target, bits, data) for network in networks]
    found = []
    for path, (stock, about) in zip(paths, lowered, strict=True):  # all are lowered before a file is written
        start = time.perf_counter()
        write(path, stock)
        about["seconds"] += time.perf_counter() - start
        found.append({"file": str(path), **about, "bytes": path.stat().st_size})
    if json:
        common.print_json(found[0] if len(found) == 1 else {"target": target, "files": found})
        return
    for about in found:
        _say(about)


def _lower(
    network: Network, target: str, bits: int | None, data: tuple[Images, str] | None
) -> tuple[nir.NIRGraph, dict[str, Any]]:
    """The network in stock nodes, and what there is to say of it."""
    from converters.lowering import lower
    from converters.lowering.plain_if import LOST

    start = time.perf_counter()
    stock = lower(network, target, bits=bits)
    about: dict[str, Any] = {
        "target": target,
        "T": network.window,
        "exact": target != "plain_if",
        "nodes": len(stock.nodes),
        "bytes": 0,
        "seconds": time.perf_counter() - start,
        "precision": stock.metadata["calif_precision"],
        "layers": [],
        "lost": [],
        "losses": [],
    }
    if target != "plain_if":
        about["layers"] = _lattice(network, bits)
        return stock, about
    about["lost"] = list(LOST)
    if data is not None:
        from converters.interop.losses import plain_if_losses

        images, about["dataset"] = data
        about["losses"] = [row.as_dict() for row in plain_if_losses(network, images.pixels, images.labels)]
    return stock, about


def _lattice(network: Network, bits: int | None) -> list[dict[str, Any]]:
    from converters.lowering import certify

    return [
        {
            "name": k.name,
            "fraction_bits": k.bits,
            "threshold_bits": k.threshold_bits,
            "leak_bits": k.leak_bits,
            "membrane_bits": k.membrane_bits,
            "boundaries_certified": k.boundaries,
            "channels_with_ties": int(k.ties.sum()),
        }
        for k in certify(network, bits=bits).values()
    ]


def _say(about: dict[str, Any]) -> None:
    common.say(
        f"{about['file']}: target {about['target']}, T = {about['T']}, {about['nodes']} nodes, {about['bytes']:,} bytes"
    )
    if about["exact"]:
        columns = [
            "layer",
            "fraction\nbits",
            "threshold\nbits",
            "leak\nbits",
            "membrane\nbits",
            "boundaries",
            "channels\nwith ties",
        ]
        cells = [[str(v) if k == "name" else f"{v:,}" for k, v in row.items()] for row in about["layers"]]
        common.show(common.table("certified integer lattice", columns, cells))
        common.say(f"exact in float{about['precision']}; feed input spikes for T steps, then nothing until it is quiet")
        return
    common.say("LOSSY: " + "; ".join(about["lost"]))
    if not about["losses"]:
        common.say("give --images N to measure it in the simulators that are installed")
        return
    columns = [
        "simulator",
        "version",
        "counts\ncompared",
        "mis-\nmatches",
        "accuracy",
        "Ca-LIF",
        "what it makes of an IF",
    ]
    cells = [
        [
            r["simulator"],
            r["version"],
            f"{r['counts_compared']:,}",
            f"{r['count_mismatches']:,}",
            "-" if r["accuracy"] is None else f"{100 * r['accuracy']:.2f}%",
            f"{100 * r['exact_accuracy']:.2f}%",
            r["lost"] if not r["note"] else f"does not run: {r['note'][:60]}",
        ]
        for r in about["losses"]
    ]
    common.show(common.table(f"on {about['losses'][0]['images']} images of {about['dataset']}", columns, cells))
