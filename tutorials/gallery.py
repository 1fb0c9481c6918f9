"""The pictures of docs/gallery.md: what a neuron and a network do, drawn by this package from a checkpoint that ships.

python tutorials/gallery.py docs/pictures            all but the report's
python tutorials/gallery.py docs/pictures --report   the report's too, with Chromium and Selenium
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from contextlib import chdir
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import converters
from calif_plugins import plots
from converters.measuring.measure import measure
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint

NAME, T = "lenet5-mnist-8", 8
WIDTHS = (390, 1280)  # pixels: a phone and a small laptop


def save(figure: Figure, path: Path) -> None:
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    few_colours(path)


def few_colours(path: Path) -> None:
    """A third of the bytes."""
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, f"{path.stat().st_size:,} bytes")


def transfer(path: Path) -> None:
    """Output against input, when charge comes evenly and when inhibition comes late."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    plots.transfer(window=12, ax=left).set_title("charge spread evenly", fontsize=10)
    plots.transfer(window=12, inhibition=4.0, ax=right).set_title("inhibition comes late", fontsize=10)
    save(figure, path)


def network(folder: Path) -> None:
    """Spikes, layers, windows and the graph of a LeNet-5."""
    q, _ = load_checkpoint(NAME)
    data = load("digits", "test")
    graph = converters.to_nir(q, T=T)
    r = converters.run(graph, data.first(40).pixels, record="spikes")
    assert r.spikes is not None
    layers = [layer.name for layer in q.layers if layer.spiking]

    figure = Figure(figsize=(9, 5), layout="constrained")
    for ax, name in zip(
        figure.subplots(2, 2).flat, ["input", "features.0", "classifier.0", "classifier.2"], strict=True
    ):
        plots.raster(r.spikes[name][:, 0].numpy(), window=T, ax=ax).set_title(name, fontsize=10)
    save(figure, folder / "raster.png")

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    sent = [[float(signs[name].double().mean()) for name in layers] for signs in (r.positive, r.negative)]
    plots.layer_spikes(layers, *sent, ax=figure.subplots())
    save(figure, folder / "layer_spikes.png")

    figure = Figure(figsize=(6, 6.4), layout="constrained")
    plots.graph({n: type(node).__name__ for n, node in graph.nodes.items()}, graph.edges, ax=figure.subplots())
    save(figure, folder / "network.png")

    windows, phases = (2, 3, 4, 6, 8), ("settle", "paper", "none")
    rows = {p: [measure(converters.to_nir(q, T=t), q, data, phase=p) for t in windows] for p in phases}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    series = {p: [float(row.snn_accuracy or 0) for row in found] for p, found in rows.items()}
    plots.accuracy(windows, series, ax=figure.subplots())
    save(figure, folder / "windows.png")


def report(folder: Path) -> None:
    """The top of a report's page, as a browser shows it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    q, _ = load_checkpoint(NAME)
    data = load("digits", "test")
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        page = Path("report.html")
        converters.make_report(q, data.pixels, data.labels, page, windows=[4, T])
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
            options.add_argument(argument)
        options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            for width in WIDTHS:
                metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                browser.get(page.resolve().as_uri())
                time.sleep(1)
                shown = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
                path = folder / f"report_{width}.png"
                shown.save(path)
                few_colours(path)
        finally:
            browser.quit()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--report", action="store_true")
    a = asked.parse_args()
    transfer(a.folder / "transfer.png")
    network(a.folder)
    if a.report:
        report(a.folder.resolve())


if __name__ == "__main__":
    main()
