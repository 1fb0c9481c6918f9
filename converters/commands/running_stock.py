"""``calif run`` on a file of stock neurons that another tool wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.commands import common
from converters.commands.given import images_for
from converters.errors import ConversionError

if TYPE_CHECKING:
    import nir
    from torch import Tensor

    from converters.files.nir_file import NirFile

__all__ = ["is_foreign", "run_foreign"]


def is_foreign(file: NirFile, target: Path) -> bool:
    """Whether a file is one of stock neurons; one of ours that was lowered is an error."""
    from converters.graphs.stock_files import about_stock, ways_of_stock
    from converters.graphs.stock_simulation import stock_neurons

    if file.network is not None or not stock_neurons(file.graph):
        return False
    if "calif_target" in file.graph.metadata:
        raise ConversionError(str(target), about_stock(file.graph), ways_of_stock(file.graph, str(target)))
    return True


def run_foreign(
    graph: nir.NIRGraph,
    target: Path,
    dataset: str | None,
    data_root: Path | None,
    windows: list[int],
    images: int | None,
    batch: int | None,
    coding: str,
    dt: float | None,
    json: bool,
) -> None:
    """Images as spikes (coding isi) or as constant current (direct); the class is that with the largest output."""
    from converters.graphs.stock_simulation import simulate_stock

    if not windows:
        raise ConversionError("--window", "none", "a file of stock neurons has no window: say how many steps to run")
    coding = "isi" if coding == "auto" else coding
    data, name = images_for(dataset, {}, data_root, images)
    rows: list[dict[str, Any]] = []
    with common.progress_bar(json) as bar:
        for window in windows:
            task = bar.add_task(f"T = {window}", total=len(data))
            spikes = hits = 0.0
            used = 0.0
            for pixels, labels in zip(data.pixels.split(batch or 100), data.labels.split(batch or 100), strict=True):
                result = simulate_stock(graph, _encoded(pixels, window, coding), dt=dt)
                total = result.outputs.sum(0).flatten(1)
                hits += int((total.argmax(1) == labels).sum())
                spikes += sum(float(s.sum()) for s in result.spikes.values())
                used = result.dt
                bar.update(task, advance=len(pixels))
            n = max(len(data), 1)
            rows.append(
                {"T": window, "phase": "none", "backend": "stock", "coding": coding, "dt": used, "images": len(data),
                 "snn_accuracy": hits / n, "spikes_per_image": spikes / n}
            )  # fmt: skip
    if json:
        common.print_json({"dataset": name, "network": str(target), "levels": None, "windows": rows})
        return
    cells = [
        [str(r["T"]), r["coding"], f"{r['dt']:g}", f"{r['images']:,}", f"{100 * r['snn_accuracy']:.2f}%",
         f"{r['spikes_per_image']:,.0f}"]
        for r in rows
    ]  # fmt: skip
    title = f"{target.name} on {name}: stock neurons, as NIR defines them"
    common.show(common.table(title, ["T", "input", "dt", "images", "accuracy", "spikes\n/image"], cells))


def _encoded(pixels: Tensor, window: int, coding: str) -> Tensor:
    """``(T, N, *shape)``."""
    import torch

    from calif_plugins.encoding import isi_encode

    if coding == "direct":
        return pixels.to(torch.float64).expand(window, *pixels.shape)
    return torch.from_numpy(isi_encode(pixels.numpy(), window)).to(torch.float64)
