"""``calif convert``: a quantised network to Ca-LIF neurons, or as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.commands import common
from converters.commands.given import OF_A_CHECKPOINT, Given, given
from converters.commands.post_training import TorchvisionSettings, from_torchvision, show_report
from converters.commands.recognising import is_onnx
from converters.errors import ConversionError

if TYPE_CHECKING:
    from converters.calibration import QuantisationReport
    from converters.quantised import QuantGraph

__all__ = ["convert"]


def convert(
    target: common.Target = None,
    checkpoint: common.Checkpoint = None,
    torchvision: Annotated[
        str | None, typer.Option(help="A classifier of torchvision, quantised without training: resnet18, ...")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Of --torchvision: DEFAULT (downloaded), none (random), or a file of a state_dict.")
    ] = "DEFAULT",
    calibrate: Annotated[
        Path | None, typer.Option(help="Of --torchvision: a folder of pictures from which ranges come.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Of --torchvision: a folder of pictures to report on; --calibrate by default.")
    ] = None,
    levels: Annotated[
        list[str] | None,
        typer.Option(help="Of --torchvision: largest activation level, 127 by default, or PATH=NUMBER of some."),
    ] = None,
    weight_bits: Annotated[int, typer.Option(min=2, max=8, help="Of --torchvision.")] = 8,
    reconstruct: Annotated[
        int, typer.Option(min=0, help="Of --torchvision: on how many pictures the weights are fitted.")
    ] = 0,
    per_channel_norms: Annotated[
        bool, typer.Option("--per-channel-norms", help="Of --torchvision: a scale for each channel of most norms.")
    ] = False,
    side: Annotated[
        int | None, typer.Option(min=1, help="Of --torchvision: pixels of a side, by default the weights' own.")
    ] = None,
    seed: common.Seed = 0,
    window: common.WindowsOrLevels = None,
    coding: common.Coding = "auto",
    out: Annotated[Path | None, typer.Option(help="The file to write: .nir, or .onnx for an ONNX model.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Of .onnx: in whole numbers, not in float32 between quantisers.")
    ] = False,
    json: common.Json = False,
) -> None:
    """Convert a quantised network to Ca-LIF neurons, into a .nir file, or write it as ONNX. Nothing is tuned.

    One command for a folder of pictures: calif convert --torchvision resnet18 --calibrate FOLDER --out x.nir
    """
    common.ends_in(out, ".nir", ".onnx")
    as_onnx = out is not None and is_onnx(out)
    if exact and not as_onnx:
        raise ConversionError("--exact", "a .nir file, which is exact", "give an --out that ends in .onnx")
    common.not_read(out, target, checkpoint)
    report: QuantisationReport | None = None
    numbers = common.layer_levels(levels).plain
    settings = TorchvisionSettings(
        torchvision or "", weights, calibrate, images, numbers, weight_bits, reconstruct, side, seed, per_channel_norms
    )
    if torchvision is None:
        settings.check_unused()
        source = given(target, checkpoint, coding=coding)
    else:
        if target is not None or checkpoint is not None:
            raise ConversionError("input", "--torchvision and another network", "give one of them")
        source, report = _from_torchvision(settings, coding, window, out, json)
    q = source.q
    if q is None:
        raise ConversionError(source.source, "a network that is converted already", OF_A_CHECKPOINT)
    steps: list[Any] = list(window or []) or (
        [None] if as_onnx else [q.levels_of(q.coding_for() if coding == "auto" else coding)]
    )
    if out is not None and len(steps) > 1:
        raise ConversionError("--out", f"one file for {len(steps)} windows", "leave it out, or give one --window")
    written = [_onnx(q, out, steps[0], coding, exact)] if as_onnx and out is not None else _nir(source, q, steps, out)
    about: dict[str, Any] = {"checkpoint": checkpoint} if target is None else {"file": target}
    if report is not None:
        about = {**source.notes, "report": report.as_dict()}
    if q.checked is not None:
        about["checked"] = q.checked.as_dict()
    if json:
        common.print_json({**about, "files": written})
        return
    if q.checked is not None and target is not None:
        common.say(str(q.checked))
    if report is not None:
        show_report(report)
        common.say(f"its images go through: {source.notes['transform']}")
    for row in written:
        of_steps = "" if row["T"] is None else f"T = {row['T']}, "
        common.say(f"wrote {row['file']} ({of_steps}{row['bytes']:,} bytes)")


def _from_torchvision(
    settings: TorchvisionSettings, coding: str, windows: list[int] | None, out: Path | None, silent: bool
) -> tuple[Given, QuantisationReport]:
    """After what can be refused at once, before anything is downloaded or computed."""
    if settings.calibrate is None:
        raise ConversionError("--calibrate", "none", "name a folder of pictures: some hundred, of any classes")
    if out is not None and len(windows or []) > 1:
        raise ConversionError(
            "--out", f"one file for {len(windows or [])} windows", "leave it out, or give one --window"
        )
    if out is not None:
        common.writable(out)
    with common.progress_bar(silent) as bar:
        q, report, notes = from_torchvision(settings, bar)
    return Given(f"{settings.name}-{settings.asked.name}", q, notes, coding), report


def _nir(source: Given, q: QuantGraph, steps: list[Any], out: Path | None) -> list[dict[str, Any]]:
    from converters.files.nir_file import write
    from converters.nir_export import to_nir
    from converters.zoo.named import plain_name

    graphs = [to_nir(q, T=t, coding=source.coding) for t in steps]  # all of them, before a file is written
    written = []
    for t, graph in zip(steps, graphs, strict=True):
        path = out or Path(f"{Path(plain_name(source.source)).name.removesuffix('.onnx')}-T{t}.nir")
        write(path, graph)
        written.append({"T": t, "file": str(path), "bytes": path.stat().st_size})
    return written


def _onnx(q: QuantGraph, path: Path, window: int | None, coding: str, exact: bool) -> dict[str, Any]:
    """As one file, of the integers of a window, or of the network's own levels."""
    from converters.onnx_export import to_onnx

    short = q if window is None else q.at_window(window, q.coding_for(window) if coding == "auto" else coding)
    to_onnx(short, path, exact=exact)
    return {"T": window, "file": str(path), "bytes": path.stat().st_size, "exact": exact}
