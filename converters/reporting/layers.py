"""The report's section on what every layer did."""

from __future__ import annotations

from typing import Any

from converters.reporting.answer_charts import histogram_chart
from converters.reporting.charts import bar_chart
from converters.reporting.markup import Markup, html, together
from converters.reporting.parts import details_of, figure, short, side_by_side, span, table

__all__ = ["layers"]


def layers(run: dict[str, Any]) -> Markup:
    details = details_of(run)
    if not details:
        return html(
            "<p>This run's JSON does not say what each layer did. <code>calif report RUN --checkpoint NAME</code> runs "
            "some images and adds it.</p>"
        )
    columns = ["layer", "shape", "neurons", "fan-in", "threshold", "range", "spikes +", "spikes −"]
    columns += ["SOPs in", "silent", "at top", "counts compared", "differ"]
    text = html(
        "<p>Spikes, by sign, and SOPs (synaptic operations that arrive) are means over {} test images. The fan-in is "
        "a mean over a layer's neurons: at a padded border it is smaller. <em>Silent</em> is the share of neurons that "
        "never spiked for any of these images, <em>at top</em> the share of counts that are the largest there is; in "
        "brackets stand the channels of which no neuron spiked, or half of whose counts are at the top.</p>",
        run["details"]["images"],
    )
    for k, window in enumerate(details):
        rows = [_row(layer) for layer in window["layers"]]
        name = f"T = {window['T']}, phase {window['phase']}"
        wide = table(f"{name}, compared with the {window['compared_with']}", columns, rows, f"layers-{k}")
        bars = [
            (layer["name"], [("s0", layer["positive"]), ("s1", layer["negative"])])
            for layer in window["layers"]
            if layer["kind"] != "membrane"
        ]
        chart = figure(
            bar_chart(f"Spikes by layer, {name}", bars, "spikes per image", f"spikes-{k}"),
            f"Spikes by layer, {name}",
            [("s0", "positive"), ("s1", "negative")],
        )
        counts = _histograms(window) if k == 0 else Markup("")
        opened = html(" open") if k == 0 else ""
        text += html("<details{}><summary>{}</summary>{}{}</details>", opened, name, wide, side_by_side(chart, counts))
    return text


def _row(layer: dict[str, Any]) -> list[str]:
    return [
        layer["name"], " × ".join(map(str, layer["shape"])), f"{layer['neurons']:,}",
        f"{layer['fan_in']:.4g}" if "fan_in" in layer else "–",
        span(layer["threshold"]) if "threshold" in layer else "–",
        "membrane" if layer["kind"] == "membrane" else span(layer["range"]),
        f"{layer['positive']:,.1f}", f"{layer['negative']:,.1f}",
        short(layer["sops"]) if "sops" in layer else "–",
        _share(layer, "silent", "silent_channels"), _share(layer, "at_top", "top_channels"),
        f"{layer['counts_compared']:,}" if layer.get("counts_compared") else "–",
        f"{layer['mismatches']:,}" if layer.get("counts_compared") else "–",
    ]  # fmt: skip


def _share(layer: dict[str, Any], share: str, channels: str) -> str:
    """A share of neurons, and how many channels: of a layer that has some."""
    if layer.get(share) is None:
        return "–"
    among = f" ({layer.get(channels, 0)} of {layer.get('channels', 0)})" if layer.get(channels) else ""
    return f"{100 * layer[share]:.3g} %{among}"


def _histograms(window: dict[str, Any]) -> Markup:
    charts = [
        html(
            "<figure>{}<figcaption>{}</figcaption></figure>",
            histogram_chart(
                layer["name"], found["low"], int(layer["range"][1]), found["step"], found["counts"], f"counts-{k}"
            ),
            layer["name"],
        )
        for k, layer in enumerate(window["layers"])
        if (found := layer.get("histogram"))
    ]  # fmt: skip
    if not charts:
        return Markup("")
    return html(
        '<div class="counts"><h3>How often each count occurs (logarithmic)</h3><div class="histograms">{}</div></div>',
        together(charts),
    )
