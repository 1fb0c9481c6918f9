"""``calif parity``: our integers against the model's own, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from converters.commands import common
from converters.commands.given import images_for
from converters.commands.recognising import kind_of
from converters.errors import ConversionError

if TYPE_CHECKING:
    from torch import Tensor

    from converters.frontends.parity import LayerParity, Parity

__all__ = ["parity"]

_NOISE = 64
_LARGEST = 2**31  # bytes of an array of images


def parity(
    target: Annotated[
        Path,
        typer.Argument(help="A quantised .onnx file, the .qat.pt of calif train; or with --toolkit a network's name."),
    ],
    images: Annotated[
        str | None,
        typer.Option(help="How many test images; or an .npy file of them, float32 (N, C, H, W). Without: noise."),
    ] = None,
    dataset: common.Dataset = None,
    data_root: common.DataRoot = None,
    toolkit: Annotated[
        str | None,
        typer.Option(help="pt2e or brevitas: quantises the network of that name, with random weights, on the images."),
    ] = None,
    levels: Annotated[int | None, typer.Option(min=1, help="With --toolkit: of activations; 127.")] = None,
    weight_bits: Annotated[int | None, typer.Option(min=2, max=8, help="With --toolkit: of weights; 8.")] = None,
    double: Annotated[bool, typer.Option("--double", help="Run PyTorch's model in float64.")] = False,
    json: common.Json = False,
) -> None:
    """Compare every layer's integers with the toolkit's own forward pass. Exit 1 if a difference is no near-tie.

    The model is run by its own toolkit: an .onnx file by onnxruntime with graph optimisations off, and once more
    optimised; a .qat.pt by PyTorch (pt2e) or Brevitas. In float64 (--double) sums hardly round: near-ties are ties.
    """
    asked = {"levels": levels, "weight_bits": weight_bits}
    if toolkit is not None and not target.exists():
        given, what = _images(images, dataset, data_root)
        report = _untrained(str(target), toolkit, given, asked, double)
    else:
        if any(n is not None for n in asked.values()):
            raise ConversionError("--levels", f"numbers for {target}", "a file has its own; leave them out")
        given, what, report = _of_file(target, images, dataset, data_root, toolkit, double)
    if json:
        common.print_json({"file": str(target), "images_are": what, **report.as_dict()})
    else:
        _show(target, what, report)
    if report.wrong:
        raise typer.Exit(1)


def _of_file(
    target: Path, images: str | None, dataset: str | None, root: Path | None, toolkit: str | None, double: bool
) -> tuple[Tensor | int, str, Parity]:
    from converters.frontends.parity import parity as compare

    kind = kind_of(target)
    if kind not in ("onnx", "run") or target.name.endswith((".float.pt", ".average.pt")):
        raise ConversionError(str(target), "neither an .onnx file nor a .qat.pt of calif train", "give one of them")
    given, what = _images(images, dataset, root)
    found, model, example = "onnx", cast("Any", target), None
    if kind != "onnx":
        from converters.zoo.trained import trained_model

        model, found, example = trained_model(target, given if not isinstance(given, int) else None)
    if toolkit not in (None, found):
        raise ConversionError("--toolkit", f"{toolkit!r} for a file of {found}", "leave it out")
    return given, what, compare(model, given, toolkit=found, example=example, double=double)


def _untrained(network: str, toolkit: str, images: Tensor | int, asked: dict[str, int | None], double: bool) -> Parity:
    import torch

    from converters.frontends.parity import parity as compare
    from converters.zoo.untrained import untrained

    if isinstance(images, int):
        images = torch.rand(images, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model = untrained(network, toolkit, images, **{k: n for k, n in asked.items() if n is not None})
    return compare(model, images, toolkit=toolkit, double=double)


def _images(images: str | None, dataset: str | None, root: Path | None) -> tuple[Tensor | int, str]:
    """Images, or how many of noise; and what they are, for people."""
    if images is not None and not images.isdecimal():
        if dataset is not None:
            raise ConversionError("--images", f"{images!r} beside --dataset", "give a number, or leave --dataset out")
        return _array(Path(images)), images
    count = None if images is None else int(images)
    if count == 0:
        raise ConversionError("--images", "0", "give at least one")
    if dataset is None:
        return count or _NOISE, "noise in the range of the input"
    data, name = images_for(dataset, {}, root, count)
    return data.pixels, f"test images of {name}"


def _array(path: Path) -> Tensor:
    """A float32 batch of an ``.npy`` file."""
    import numpy as np
    import torch

    from converters.zoo.own_images import array_in

    what, todo = "no array of floats, (N, ...)", "give a number, or a file of float32 that numpy.save wrote"
    found = array_in(path, largest=_LARGEST, what=what, todo=todo)
    if found.dtype.kind != "f" or found.ndim < 2 or not len(found):
        raise ConversionError(str(path), what, todo)
    return torch.from_numpy(found.astype(np.float32))


_COLUMNS = ["layer", "integers", "differ", "near-\nties", "furthest from\na tie, levels", "of what\nrounding can do"]
_FREE = "differ where both\nrun by themselves"
_OPTIMISED = ["optimised run:\ndiffers from itself", "near-ties\nto ours", "other\ndifferences"]


def _show(target: Path, what: str, report: Parity) -> None:
    optimised = report.optimised is not None
    columns = [*_COLUMNS, _FREE, *(_OPTIMISED if optimised else [])]
    title = f"{target.name} in {report.model}, {report.images:,} images: {what}"
    common.show(common.table(title, columns, [_cells(row, optimised) for row in report.layers]))
    common.say(
        f"{report.integers:,} integers compared, {report.differing:,} differ: {report.near_ties:,} near-ties, "
        f"{report.wrong:,} others; {report.seconds:.1f} s"
    )
    if optimised:
        common.say(
            f"{report.model} differs from itself in {report.optimised:,} of its integers once it fuses operations: "
            "sums come out on the other side of ties, and its integer kernels round biases"
        )
    if report.note:
        common.say(report.note)


def _cells(row: LayerParity, optimised: bool) -> list[str]:
    def number(x: int | None) -> str:
        return "-" if x is None else f"{x:,}"

    some = bool(row.near_ties)
    cells = [row.layer, number(row.integers), number(row.differing), number(row.near_ties)]
    cells += [f"{row.furthest:.2g}" if some else "-", f"{100 * row.share:.2g}%" if some else "-", number(row.apart)]
    more: list[Any] = [row.optimised, row.optimised_near_ties, row.optimised_wrong] if optimised else []
    return [*cells, *map(number, more)]
