"""The report's text, tables and charts, section by section; every number comes from the run's JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converters.reporting.answered import answered, mistaken, outputs_table
from converters.reporting.charts import accuracy_chart, latency_chart
from converters.reporting.energy import dearer_layers, energy, energy_rows
from converters.reporting.layers import layers
from converters.reporting.markup import Markup, html, together
from converters.reporting.parts import details_of, figure, percent, short, side_by_side, table, windows_of

__all__ = ["dearer_layers", "energy_rows", "sections"]


def sections(run: dict[str, Any]) -> tuple[str, Markup]:
    """Title and body of the page, of a run that :func:`converters.reporting.schema.checked` has looked at."""
    network = str(run.get("network") or "network")
    dataset = str(run.get("dataset") or "images")
    title = f"{_NAMES.get(network, network)} on {_NAMES.get(dataset, dataset)}"
    title = title[:1].upper() + title[1:]
    parts: list[tuple[str, str, Callable[[dict[str, Any]], Markup]]] = [
        ("converted", "What was converted", _converted),
        ("accuracy", "Accuracy and exactness", _accuracy),
        ("answers", "What it puts out", answered),
        ("mistakes", "What it gets wrong", mistaken),
        ("watch", "Watch it think", _watch),
        ("layers", "Layer by layer", layers),
        ("latency", "Latency", _latency),
        ("energy", "Energy", energy),
        ("crosscheck", "Cross-check between simulators", _cross_check),
        ("interop", "On other simulators", _interop),
    ]
    done = [(key, name, make(run)) for key, name, make in parts]
    done = [(key, name, text) for key, name, text in done if text]
    links = together(html('<li><a href="#{}">{}</a></li>', key, name) for key, name, _ in done)
    body = [
        html("<header><h1>{}</h1>{}</header>\n", title, _verdict(run)),
        html('<nav aria-label="Sections"><ul>{}</ul></nav><main id="main">\n', links),
        *(
            html(
                '<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{name}</h2>{text}</section>\n',
                key=key, name=name, text=text,
            )
            for key, name, text in done
        ),
        html("</main>"),
    ]  # fmt: skip
    return title, together(body)


_NAMES = {
    "lenet5": "LeNet-5",
    "lenet5x4": "LeNet-5, four times as wide",
    "vgg9": "VGG-9",
    "vgg16": "VGG-16",
    "resnet11": "ResNet-11",
    "resnet11h": "ResNet-11H",
    "mobilenet20": "MobileNet-20",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "snntorch": "snnTorch",
    "brian2": "Brian2",
}


def _verdict(run: dict[str, Any]) -> Markup:
    exact = [r for r in run["windows"] if r["phase"] == "settle"] or run["windows"]
    compared, wrong = (sum(r[k] for r in exact) for k in ("counts_compared", "count_mismatches"))
    other = exact[0].get("compared_with", "quantised network")
    if exact[0]["phase"] != "settle":
        text = f"phase {exact[0]['phase']}, which is not exact"
    else:
        text = "every spike count equals the integer" if not wrong else "not exact: see the layers below"
    return html(
        '<p class="verdict {}"><span aria-hidden="true">{}</span> '
        '<strong>{:,} counts compared, <span id="verdict-differ">{:,}</span> differ</strong> '
        "<span>from the {}; {}.</span></p>",
        "bad" if wrong else "good", "✗" if wrong else "✓", compared, wrong, other, text,
    )  # fmt: skip


def _converted(run: dict[str, Any]) -> Markup:
    names = ("network", "dataset", "toolkit", "levels", "weight_bits", "seed")
    facts: list[tuple[str, Any]] = [(name.replace("_", " "), run.get(name)) for name in names]
    for name in ("float_accuracy", "quantised_accuracy"):
        if run.get(name) is not None:
            facts.append((name.replace("_", " "), percent(run[name])))
    for detail in details_of(run)[:1]:
        inner = [layer for layer in detail["layers"] if layer["kind"] != "input"]
        facts.append(("Ca-LIF neurons", f"{detail['neurons']:,} in {len(inner)} layers"))
        synapses = sum(k["macs"] + k["adds"] if k.get("synapses") is None else k["synapses"] for k in inner)
        facts.append(("synapses", f"{round(synapses):,}"))
        facts.append(("input coding", detail["coding"]))
    facts.append(("windows", "T = " + ", ".join(str(t) for t in sorted({r["T"] for r in run["windows"]}))))
    facts += [("file", run.get("nir_file")), ("checkpoint", run.get("checkpoint"))]
    versions = run.get("details", {}).get("versions", {})
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or None))
    checked = sum(row.get("images_checked", 0) for row in run["windows"])
    facts.append(("images checked while running", f"{checked:,}" if checked else None))
    facts.append(("made on", run.get("date")))
    listed = together(
        html('<div class="{}"><dt>{}</dt><dd>{}</dd></div>', "wide" if len(str(v)) > 20 else "fact", name, str(v))
        for name, v in facts
        if v not in (None, "")
    )
    made = [html("<code>{}</code>", run[k]) for k in ("command", "report_command") if run.get(k)]
    told = html("<p>Made by {}.</p>", html(" and ").join(made)) if made else ""
    return html('<dl class="facts">{}</dl>{}', listed, told)


def _accuracy(run: dict[str, Any]) -> Markup:
    rows = windows_of(run)
    cells = [
        [
            r["T"],
            r["phase"],
            percent(r["quantised_accuracy"]),
            percent(r["snn_accuracy"]),
            "–" if r.get("prediction_agreement") is None else f"{100 * r['prediction_agreement']:.4g} %",
            f"{r['counts_compared']:,}",
            f"{r['count_mismatches']:,}",
            r.get("images", "–"),
            short(r.get("spikes_per_image")),
        ]
        for r in rows
    ]
    columns = [
        "T",
        "phase",
        "quantised",
        "spiking",
        "same answer",
        "counts compared",
        "differ",
        "images",
        "spikes/image",
    ]
    tables = table("One row per window and rounding phase", columns, cells, "windows-table") + outputs_table(run)
    chart = Markup("")
    rows = [r for r in rows if r["snn_accuracy"] is not None and r["quantised_accuracy"] is not None]
    if len({r["T"] for r in rows}) > 1:
        series: dict[str, list[tuple[float, float]]] = {}
        for r in rows:
            series.setdefault(f"spiking, {r['phase']}", []).append((r["T"], r["snn_accuracy"]))
        legend = [(f"s{k % 4}", name) for k, name in enumerate(series)]
        series["quantised network"] = sorted({(r["T"], r["quantised_accuracy"]) for r in rows})
        chart = figure(
            accuracy_chart(series),
            "The quantised network's line lies under the spiking one's wherever they agree.",
            [*legend, ("reference", "quantised network")],
        )
    of_map = any(one["task"] == "map" for r in run["windows"] for one in r.get("outputs", [])[:1])
    also = " Accuracy is the share of labelled pixels with the right class; IoU is intersection over union."
    note = html(
        "<p>T is the window in time steps. <em>Quantised</em> is the quantised network at that window: below T = "
        "levels its scales grow by levels/T. A count is one neuron's signed number of spikes for one image; it is "
        "compared with the integer that the quantised network computes at the same place.{}</p>",
        also if of_map else "",
    )
    return note + side_by_side(html("<div>{}</div>", tables), chart, _anytime(rows))


def _anytime(rows: list[dict[str, Any]]) -> Markup:
    """One line for each window: the accuracy of stopping after a step, as ``calif sweep --anytime`` found it."""
    several = len({r["phase"] for r in rows}) > 1
    series = {
        f"T = {r['T']}{', ' + r['phase'] if several else ''}": list(enumerate(r["anytime"], 1))
        for r in rows
        if r.get("anytime")
    }
    if not series:
        return Markup("")
    legend = [(f"s{k % 4}", name) for k, name in enumerate(series)]
    chart = accuracy_chart(series, "anytime", title="Accuracy if one stops earlier", axis="stopped after step")
    return figure(chart, "One simulation per line; after its T comes the rounding phase.", legend)


_OUTPUTS = {"map": "pixels of each class so far", "values": "values so far"}


def _watch(run: dict[str, Any]) -> Markup:
    found = run.get("details", {}).get("traces")
    if not found or not found["images"]:
        return Markup("")
    choices = together(
        html(
            '<label><input type="radio" name="image" value="{}"{}> image {}{}</label>',
            k, html(" checked") if k == 0 else "", k + 1, "" if i["label"] is None else f" (a {i['label']})",
        )
        for k, i in enumerate(found["images"])
    )  # fmt: skip
    return html(
        "<p>T = {T}, phase {phase}. Move the slider, or press the arrow keys on it; "
        "after step {T} comes the rounding phase.</p>"
        '<div class="player" id="player"><fieldset class="choices"><legend>Image</legend>{choices}</fieldset>'
        '<fieldset class="choices"><legend>Show</legend>'
        '<label><input type="radio" name="view" value="counts" checked> counts so far</label>'
        '<label><input type="radio" name="view" value="spikes"> spikes at this step</label></fieldset>'
        '<div class="slider"><button type="button" id="play" aria-pressed="false">Play</button>'
        '<label for="step">Step</label><input type="range" id="step" min="1" max="1" value="1">'
        '<output id="step-text" for="step"></output></div>'
        '<p id="summary" role="status" aria-live="polite"></p>'
        '<div class="stage"><div class="panel"><h3>Input</h3><div class="pair">'
        '<figure><canvas id="image-map" role="img"></canvas><figcaption>the image</figcaption></figure>'
        '<figure><canvas id="input-map" role="img"></canvas><figcaption id="input-caption"></figcaption></figure></div>'
        '</div><div class="panel"><h3>Output: {kind}</h3><ol id="output" start="0"></ol></div></div>'
        '<h3>Layers</h3><div id="layer-maps" class="maps-grid"></div>'
        '<details hidden><summary></summary><div id="more-maps" class="maps-grid"></div></details>'
        '<p class="key-line"><span class="key"><i class="s0"></i>positive</span>'
        '<span class="key"><i class="s1"></i>negative</span>'
        "The bars below each map are its layer's spikes at every step.</p></div>"
        "<noscript><p>Stepping through time needs JavaScript; the rest of this page does without.</p></noscript>",
        T=found["T"], phase=found["phase"], choices=choices,
        kind=_OUTPUTS.get(found["output"].get("task", "classes"))
        or ("spike counts so far" if found["output"]["counts"] else "membrane over threshold"),
    )  # fmt: skip


def _latency(run: dict[str, Any]) -> Markup:
    rows = [r for r in windows_of(run) if r.get("latency_steps") is not None]
    if not rows:
        return Markup("")
    several = len({r["phase"] for r in rows}) > 1
    bars = [
        (f"T {r['T']}{' ' + r['phase'][0] if several else ''}", r["T"], r["latency_steps_mean"], r["latency_steps"])
        for r in rows
    ]
    legend = [("s0", "window"), ("s1", "rounding phase (mean)"), ("whisker", "slowest image")]
    note = "" if not several else " The letter is the phase: s settle, p paper, n none."
    lead = html("<p>Steps until no neuron of the network fires any more, the rounding phase included.</p>")
    return side_by_side(lead, figure(latency_chart(bars), f"Steps per image.{note}", legend))


def _cross_check(run: dict[str, Any]) -> Markup:
    total = run.get("cross_check")
    if not total:
        return Markup("")
    text = html(
        "<p><strong>{:,} spikes compared, {:,} differ</strong>, over {} images: each neuron's spike or silence at "
        "each step, on one simulator and on the other.</p>",
        total["spikes_compared"], total["spike_mismatches"], total["images"],
    )  # fmt: skip
    columns = ["layer", "neurons", "steps", "compared", "positive", "negative", "differ", "membrane difference"]
    for k, check in enumerate(run.get("checks", [])):
        for j, (other, found) in enumerate(check["layers"].items()):
            numbers = ("neurons", "steps", "spikes_compared", "positive", "negative", "differing")
            rows = [[r["layer"], *(f"{r[n]:,}" for n in numbers), f"{r['membrane_difference']:.2g}"] for r in found]
            one, two = (_NAMES.get(name, name) for name in (check["backends"][0], other))
            caption = f"{one} against {two}: {check['images']} images, T = {check['T']}, "
            caption += f"phase {check['phase']}"
            text += table(caption, columns, rows, f"check-{k}-{j}")
    return text


def _interop(run: dict[str, Any]) -> Markup:
    rows = [r for r in (*run.get("interop", []), *run.get("rows", [])) if "simulator" in r]
    if not rows:
        return Markup("")
    columns = ["simulator", "version", "route", "layers", "spikes compared", "differ", "seconds", "note"]
    cells = []
    for r in rows:
        told = (r.get(k) or "–" for k in ("simulator", "version", "route", "layers"))
        counts = ("–" if r.get(k) is None else f"{r[k]:,}" for k in ("spikes_compared", "differing"))
        seconds = "–" if r.get("seconds") is None else f"{r['seconds']:.3g}"
        cells.append([*told, *counts, seconds, r.get("note") or ""])
    exact = sum(r.get("differing") == 0 for r in rows)
    lead = html(
        "<p>{} of {} send exactly the reference's spikes. A route is how the Ca-LIF neuron is written "
        "for a simulator that does not know it.</p>",
        exact, len(rows),
    )  # fmt: skip
    return lead + table("The same network on other simulators", columns, cells, "interop-table")
