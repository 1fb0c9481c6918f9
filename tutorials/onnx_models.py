"""Networks that onnxruntime and Brevitas have quantised, read from ONNX: integers and spikes that differ.

    python tutorials/onnx_models.py                      # all rows that are not there yet
    python tutorials/onnx_models.py --only LeNet-5 --again

Every network has random weights, since what is measured does not depend on them, and is exported by PyTorch, quantised
by ``onnxruntime.quantization.quantize_static`` from eight images of noise, and read by ``converters.from_onnx``. Rows
are kept in ``docs/results/onnx.json`` as they come; ``docs/results/onnx.md`` is the table. The exports of Brevitas need
the package ``onnxoptimizer``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent.parent / "docs" / "results"
WINDOW = 16
CALIBRATION = 8
SMALL = ("closed_form", "fast", "snntorch")
LARGE = ("closed_form", "fast")


@dataclass(frozen=True)
class Row:
    """A network, and how it is quantised."""

    network: str
    how: str
    model: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    backends: tuple[str, ...]
    symmetric: bool = False
    per_channel: bool = False
    operators: bool = False
    brevitas: str = ""
    images: int = 16

    @property
    def key(self) -> str:
        return f"{self.network}, {self.how}"


def rows() -> Iterator[Row]:
    """All of them, small ones first."""
    import torchvision.models as zoo

    from converters.zoo.brevitas_layers import with_brevitas
    from converters.zoo.networks import LeNet5, ResNet11H

    def of_torchvision(name: str) -> Callable[[], nn.Module]:
        return lambda: getattr(zoo, name)(weights=None)

    small = (("LeNet-5", LeNet5, (1, 32, 32)), ("ResNet-11H", ResNet11H, (3, 32, 32)))
    for name, model, shape in small:
        for symmetric in (True, False):
            for per_channel in (False, True):
                how = f"{_type(symmetric)}, per {'channel' if per_channel else 'tensor'}"
                yield Row(name, f"QDQ, {how}", model, shape, SMALL, symmetric, per_channel)
        yield Row(name, "QOperator, uint8, per channel", model, shape, SMALL, False, True, operators=True)
    for name in ("mobilenet_v3_small", "resnet18", "mobilenet_v2"):
        for symmetric, per_channel in product((True, False), (False, True)):
            how = f"QDQ, {_type(symmetric)}, per {'channel' if per_channel else 'tensor'}"
            shape = (3, 64, 64)
            yield Row(name, how, of_torchvision(name), shape, LARGE, symmetric, per_channel, images=4)
    for form in ("QCDQ", "QONNX"):
        bits = lambda: with_brevitas(LeNet5(), levels=15, weight_bits=4)  # noqa: E731
        yield Row("LeNet-5 of Brevitas", f"{form}, 4 bits", bits, (1, 32, 32), SMALL, brevitas=form)


def _type(symmetric: bool) -> str:
    return "int8" if symmetric else "uint8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="networks")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are kept")
    given = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    kept = HERE / "onnx.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    for row in rows():
        if (given.only and row.network not in given.only) or (row.key in found and not given.again):
            continue
        found[row.key] = measure(row)
        print(row.key, found[row.key], flush=True)
        kept.write_text(json.dumps(found, indent=1) + "\n")
    if found:
        (HERE / "onnx.md").write_text(page([found[r.key] for r in rows() if r.key in found]))


def measure(row: Row) -> dict[str, Any]:
    """From the float network to its last spike."""
    import converters
    from converters.results import compare_counts

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    x = torch.rand(max(row.images, CALIBRATION), *row.shape)
    images = x[: row.images]
    with tempfile.TemporaryDirectory() as folder:
        path, theirs = written(row, x, Path(folder))
        start = time.perf_counter()
        q = converters.from_onnx(path, images, check=images)
        seconds = time.perf_counter() - start
        report = converters.parity(path, images)
    found: dict[str, Any] = {"network": row.network, "how": row.how, "layers": len(q.layers), "images": len(images)}
    found |= {"integers": report.integers, "differing": report.wrong, "near_ties": report.near_ties}
    found |= {"optimised": report.optimised, "seconds": round(seconds, 2), "T": WINDOW, "backends": {}}
    if theirs is not None:
        pairs = zip(q.execute(images).values(), theirs.execute(images).values(), strict=True)
        found["from_brevitas"] = sum(int((a.flatten() != b.flatten()).sum()) for a, b in pairs)
    some = images[: 4 if row.backends == SMALL else 1]
    g, integers = converters.to_nir(q, T=WINDOW), q.at_window(WINDOW).execute(some)
    for backend in row.backends:
        counted = compare_counts(converters.run(g, some, backend=backend, record="counts", check=False), integers)
        compared, differing = (sum(getattr(r, what) for r in counted) for what in ("compared", "differing"))
        found["backends"][backend] = {"compared": compared, "differing": differing}
    return found | {"machine": machine()}


def written(row: Row, x: Tensor, folder: Path) -> tuple[Path, Any]:
    """The quantised file, and what ``from_brevitas`` reads from the model itself where it is one of Brevitas."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    import converters

    model, paths = row.model(), (folder / "float.onnx", folder / "quantised.onnx")
    for m in model.modules():  # a batch norm that does nothing would hide what it is folded into
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.bias, -0.2, 0.2)
    if row.brevitas:
        from brevitas import export

        model.train()(x)
        write = {"QCDQ": export.export_onnx_qcdq, "QONNX": export.export_qonnx}[row.brevitas]
        write(model.eval(), x[:1], str(paths[1]), dynamo=False, opset_version=16)
        return paths[1], converters.from_brevitas(model, x)
    model.train()(x)  # statistics of the batch norms
    torch.onnx.export(
        model.eval(), (x[:1],), str(paths[0]), dynamo=False, opset_version=17, input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
    )  # fmt: skip

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(x[:CALIBRATION].numpy())

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"x": image[None]}

    quantize_static(
        str(paths[0]), str(paths[1]), Noise(), per_channel=row.per_channel, weight_type=QuantType.QInt8,
        quant_format=QuantFormat.QOperator if row.operators else QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if row.symmetric else QuantType.QUInt8,
        extra_options={"ActivationSymmetric": row.symmetric},
    )  # fmt: skip
    onnx.load(paths[1])
    return paths[1], None


def machine() -> str:
    import onnx
    import onnxruntime

    versions = f"torch {torch.__version__.partition('+')[0]}, onnx {onnx.__version__}"
    return f"{os.cpu_count()} cores, {versions}, onnxruntime {onnxruntime.__version__}"


def page(found: list[dict[str, Any]]) -> str:
    """The table."""
    head = (
        "network", "quantised", "layers", "integers", "differ", "near-ties", "optimised",
        *(f"counts in `{b}`" for b in SMALL), "differ",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for f in found:
        counts = [f["backends"].get(b) for b in SMALL]
        cells = [f["network"], f["how"], f["layers"], f["integers"], f["differing"], f["near_ties"], f["optimised"]]
        cells += ["" if n is None else n["compared"] for n in counts]
        cells += [sum(n["differing"] for n in counts if n is not None)]
        lines.append(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in cells)} |")
    brevitas = [f for f in found if "from_brevitas" in f]
    total = {k: sum(f[k] for f in found) for k in ("integers", "differing", "near_ties")}
    counts = sum(n["compared"] for f in found for n in f["backends"].values())
    wrong = sum(n["differing"] for f in found for n in f["backends"].values())
    return _PAGE.format(
        table="\n".join(lines), machine=found[-1]["machine"], counts=f"{counts:,}", wrong=f"{wrong:,}",
        T=WINDOW, brevitas=", ".join(f"{f['how']}: {f['from_brevitas']}" for f in brevitas) or "not measured",
        **{k: f"{n:,}" for k, n in total.items()},
    )  # fmt: skip


_PAGE = """# ONNX models of other toolkits, equal count for count

`python tutorials/onnx_models.py` ({machine}; AMD EPYC): random weights and noise, quantised by
`onnxruntime.quantization.quantize_static` as pairs of quantisers (QDQ) or in integer operators (QOperator), and a
LeNet-5 of Brevitas with 4 bits in its own two exports; read by `converters.from_onnx`.

*Integers* are those of every layer, compared with onnxruntime, its graph optimisations off, each on onnxruntime's own
integers of its sources. {integers} were compared; {differing} differ but for {near_ties} *near-ties*: there the exact
quotient is shown to be within the rounding of float32 sums of a tie, and onnxruntime comes out one level aside.
Averages of four on one scale are exact ties in a quarter of all places, which its float sums break either way; its
integer operators (QOperator) break them to even, as we do. *Optimised* is how many of its own integers change once
onnxruntime fuses operations, as it does by default, consequences included. *Counts* are spike counts at T = {T}
against our integers, of four images, or of one of the torchvision networks (at 64 x 64): {wrong} of {counts} differ.

{table}

The two exports of Brevitas against `converters.from_brevitas` of the same model, integers of all layers that differ:
{brevitas}.

`calif parity model.onnx` makes this comparison of a model of yours, layer by layer.
"""


if __name__ == "__main__":
    main()
