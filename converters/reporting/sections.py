"""The report's text, tables and charts, section by section; every number comes from the run's JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from calif_plugins.plots_network import ENERGY
from converters.reporting.charts import accuracy_chart, bar_chart, latency_chart
from converters.reporting.markup import Markup, html, together

__all__ = ["energy_rows", "sections"]


def sections(run: dict[str, Any]) -> tuple[str, Markup]:
    """Title and body of the page, of a run that :func:`converters.reporting.schema.checked` has looked at."""
    network = str(run.get("network") or "network")
    dataset = str(run.get("dataset") or "images")
    title = f"{_NAMES.get(network, network)} on {_NAMES.get(dataset, dataset)}"
    title = title[:1].upper() + title[1:]
    parts: list[tuple[str, str, Callable[[dict[str, Any]], Markup]]] = [
        ("converted", "What was converted", _converted),
        ("accuracy", "Accuracy and exactness", _accuracy),
        ("watch", "Watch it think", _watch),
        ("layers", "Layer by layer", _layers),
        ("latency", "Latency", _latency),
        ("energy", "Energy", _energy),
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


def _windows(run: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(run["windows"], key=lambda r: (r["T"], r["phase"] != "settle", r["phase"]))


def _details(run: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(run.get("details", {}).get("windows", []), key=lambda w: (w["phase"] != "settle", -w["T"]))


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], key: str) -> Markup:
    """A table that scrolls by itself, by keyboard too, where the screen is narrow."""
    head = together(html('<th scope="col">{}</th>', c) for c in columns)
    body = together(
        html('<tr><th scope="row">{}</th>{}</tr>', row[0], together(html("<td>{}</td>", cell) for cell in row[1:]))
        for row in rows
    )
    return html(
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="{key}-c"><table id="{key}">'
        '<caption id="{key}-c"><span>{caption}</span></caption>'
        "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        key=key, caption=caption, head=head, body=body,
    )  # fmt: skip


def _figure(svg: Markup, caption: str, legend: Sequence[tuple[str, str]] = ()) -> Markup:
    keys = together(html('<span class="key"><i class="{}"></i>{}</span>', style, name) for style, name in legend)
    return html("<figure>{}<figcaption>{}{}</figcaption></figure>", svg, keys, caption)


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{100 * x:.2f} %"


def _short(x: float | None) -> str:
    if x is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.3g}"


def _span(pair: Sequence[float]) -> str:
    low, high = pair
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _converted(run: dict[str, Any]) -> Markup:
    names = ("network", "dataset", "toolkit", "levels", "weight_bits", "seed")
    facts: list[tuple[str, Any]] = [(name.replace("_", " "), run.get(name)) for name in names]
    for name in ("float_accuracy", "quantised_accuracy"):
        if run.get(name) is not None:
            facts.append((name.replace("_", " "), _percent(run[name])))
    for detail in _details(run)[:1]:
        layers = [layer for layer in detail["layers"] if layer["kind"] != "input"]
        facts.append(("Ca-LIF neurons", f"{detail['neurons']:,} in {len(layers)} layers"))
        synapses = sum(k["macs"] + k["adds"] if k.get("synapses") is None else k["synapses"] for k in layers)
        facts.append(("synapses", f"{round(synapses):,}"))
        facts.append(("input coding", detail["coding"]))
    facts.append(("windows", "T = " + ", ".join(str(t) for t in sorted({r["T"] for r in run["windows"]}))))
    facts += [("file", run.get("nir_file")), ("checkpoint", run.get("checkpoint"))]
    versions = run.get("details", {}).get("versions", {})
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or None))
    checked = sum(row.get("images_checked", 0) for row in run["windows"])
    facts.append(("images checked while running", f"{checked:,}" if checked else None))
    listed = together(
        html('<div class="{}"><dt>{}</dt><dd>{}</dd></div>', "wide" if len(str(v)) > 20 else "fact", name, str(v))
        for name, v in facts
        if v is not None
    )
    return html('<dl class="facts">{}</dl>', listed)


def _accuracy(run: dict[str, Any]) -> Markup:
    rows = _windows(run)
    cells = [
        [
            r["T"],
            r["phase"],
            _percent(r["quantised_accuracy"]),
            _percent(r["snn_accuracy"]),
            "–" if r.get("prediction_agreement") is None else f"{100 * r['prediction_agreement']:.4g} %",
            f"{r['counts_compared']:,}",
            f"{r['count_mismatches']:,}",
            r.get("images", "–"),
            _short(r.get("spikes_per_image")),
        ]
        for r in rows
    ]
    columns = [
        "T",
        "phase",
        "quantised",
        "spiking",
        "same label",
        "counts compared",
        "differ",
        "images",
        "spikes/image",
    ]
    table = _table("One row per window and rounding phase", columns, cells, "windows-table")
    chart = Markup("")
    rows = [r for r in rows if r["snn_accuracy"] is not None and r["quantised_accuracy"] is not None]
    if len({r["T"] for r in rows}) > 1:
        series: dict[str, list[tuple[float, float]]] = {}
        for r in rows:
            series.setdefault(f"spiking, {r['phase']}", []).append((r["T"], r["snn_accuracy"]))
        legend = [(f"s{k % 4}", name) for k, name in enumerate(series)]
        series["quantised network"] = sorted({(r["T"], r["quantised_accuracy"]) for r in rows})
        chart = _figure(
            accuracy_chart(series),
            "The quantised network's line lies under the spiking one's wherever they agree.",
            [*legend, ("reference", "quantised network")],
        )
    note = html(
        "<p>T is the window in time steps. <em>Quantised</em> is the quantised network at that window: below T = "
        "levels its scales grow by levels/T. A count is one neuron's signed number of spikes for one image; it is "
        "compared with the integer that the quantised network computes at the same place.</p>"
    )
    return html('{}{}<div class="charts">{}{}</div>', note, table, chart, _anytime(rows))


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
    return _figure(chart, "One simulation per line; after its T comes the rounding phase.", legend)


def _watch(run: dict[str, Any]) -> Markup:
    found = run.get("details", {}).get("traces")
    if not found or not found["images"]:
        return Markup("")
    choices = together(
        html(
            '<label><input type="radio" name="image" value="{}"{}> image {} (a {})</label>',
            k, html(" checked") if k == 0 else "", k + 1, i["label"],
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
        '<h3>Layers</h3><div id="layer-maps"></div>'
        '<p class="key-line"><span class="key"><i class="s0"></i>positive</span>'
        '<span class="key"><i class="s1"></i>negative</span>'
        "The bars below each map are its layer's spikes at every step.</p></div>"
        "<noscript><p>Stepping through time needs JavaScript; the rest of this page does without.</p></noscript>",
        T=found["T"], phase=found["phase"], choices=choices,
        kind="spike counts so far" if found["output"]["counts"] else "membrane over threshold",
    )  # fmt: skip


def _layers(run: dict[str, Any]) -> Markup:
    details = _details(run)
    if not details:
        return html(
            "<p>This run's JSON does not say what each layer did. <code>calif report RUN --checkpoint NAME</code> runs "
            "some images and adds it.</p>"
        )
    columns = ["layer", "shape", "neurons", "fan-in", "threshold", "range", "spikes +", "spikes −"]
    columns += ["SOPs in", "counts compared", "differ"]
    text = html(
        "<p>Spikes, by sign, and SOPs (synaptic operations that arrive) are means over {} test images. The fan-in is "
        "a mean over a layer's neurons: at a padded border it is smaller.</p>",
        run["details"]["images"],
    )
    for k, window in enumerate(details):
        rows = []
        for layer in window["layers"]:
            own = [
                layer["name"], " × ".join(map(str, layer["shape"])), f"{layer['neurons']:,}",
                f"{layer['fan_in']:.4g}" if "fan_in" in layer else "–",
                _span(layer["threshold"]) if "threshold" in layer else "–",
                "membrane" if layer["kind"] == "membrane" else _span(layer["range"]),
                f"{layer['positive']:,.1f}", f"{layer['negative']:,.1f}",
                _short(layer["sops"]) if "sops" in layer else "–",
                f"{layer['counts_compared']:,}" if layer.get("counts_compared") else "–",
                f"{layer['mismatches']:,}" if layer.get("counts_compared") else "–",
            ]  # fmt: skip
            rows.append(own)
        name = f"T = {window['T']}, phase {window['phase']}"
        table = _table(f"{name}, compared with the {window['compared_with']}", columns, rows, f"layers-{k}")
        bars = [
            (layer["name"], [("s0", layer["positive"]), ("s1", layer["negative"])])
            for layer in window["layers"]
            if layer["kind"] != "membrane"
        ]
        chart = _figure(
            bar_chart(f"Spikes by layer, {name}", bars, "spikes per image", f"spikes-{k}"),
            name,
            [("s0", "positive"), ("s1", "negative")],
        )
        opened = html(" open") if k == 0 else ""
        text += html("<details{}><summary>{}</summary>{}{}</details>", opened, name, table, chart)
    return text


def _latency(run: dict[str, Any]) -> Markup:
    rows = [r for r in _windows(run) if r.get("latency_steps") is not None]
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
    return lead + _figure(latency_chart(bars), f"Steps per image.{note}", legend)


def energy_rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Energy in microjoules per image of each window, spiking and dense, by arithmetic; dense where layers are known.

    The spiking network pays an accumulation for each synaptic operation and a multiplication for each MAC of a directly
    coded input; the dense network a MAC for each weight in use and an accumulation for each input of a pool.
    """
    known = {(w["T"], w["phase"]): w for w in _details(run)}
    any_detail = next(iter(known.values()), None)
    rows = []
    for r in _windows(run):
        if r.get("sops_per_image") is None:
            continue
        row: dict[str, Any] = {"T": r["T"], "phase": r["phase"], "sops": r["sops_per_image"]}
        row["macs"] = r.get("macs_per_image") or 0.0
        for name, (mac, add) in ENERGY.items():
            row[f"spiking_{name}"] = 1e-6 * (add * row["sops"] + mac * row["macs"])
            detail = known.get((r["T"], r["phase"]), any_detail)
            if detail is not None:
                layers = [layer for layer in detail["layers"] if layer["kind"] != "input"]
                macs, adds = (sum(layer[k] for layer in layers) for k in ("macs", "adds"))
                row |= {"dense_macs": macs, "dense_adds": adds, f"dense_{name}": 1e-6 * (mac * macs + add * adds)}
        rows.append(row)
    return rows


def dearer_layers(detail: dict[str, Any]) -> list[tuple[str, float]]:
    """Layers whose spikes cost more in INT8 than one dense pass of them, and how many times as much; dearest first.

    >>> scores = {"name": "scores", "kind": "spikes", "macs": 100, "adds": 0, "sops": 1533}
    >>> dearer_layers({"layers": [scores, {**scores, "name": "fc", "sops": 700}]})
    [('scores', 2.0)]
    """
    mac, add = ENERGY["INT8"]
    found = []
    for layer in detail["layers"]:
        dense = mac * layer.get("macs", 0) + add * layer.get("adds", 0)
        if layer["kind"] != "input" and dense and add * layer.get("sops", 0) > dense:
            found.append((str(layer["name"]), round(add * layer["sops"] / dense, 2)))
    return sorted(found, key=lambda row: -row[1])


def _dearer(run: dict[str, Any]) -> Markup:
    parts = []
    for detail in _details(run):
        found = dearer_layers(detail)
        layers = sum(layer["kind"] != "input" for layer in detail["layers"])
        if found:
            told = ", ".join(f"{name} ({ratio:.3g} times)" for name, ratio in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            where = f"T = {detail['T']}, phase {detail['phase']}"
            text = "<p>At {} spikes cost more than one dense pass in {} of {} layers: {}{}.</p>"
            parts.append(html(text, where, len(found), layers, told, more))
    return together(parts)


def _energy(run: dict[str, Any]) -> Markup:
    rows = energy_rows(run)
    if not rows:
        return Markup("")
    dense = "dense_INT8" in rows[0]
    several = len({r["phase"] for r in rows}) > 1
    columns = [
        "T",
        "phase",
        "SOPs/image",
        "MACs/image",
        "spiking INT8",
        "spiking FP32",
        "ratio to dense INT8",
        "verdict",
    ]
    cells = []
    for r in rows:
        ratio = r["spiking_INT8"] / r["dense_INT8"] if dense and r["dense_INT8"] else None
        verdict = "–" if ratio is None else ("spiking is cheaper" if ratio < 1 else "the dense INT8 network is cheaper")
        numbers = [_short(r["sops"]), _short(r["macs"]) if r["macs"] else "0"]
        energies = [f"{r[k]:.4g} µJ" for k in ("spiking_INT8", "spiking_FP32")]
        cells.append([r["T"], r["phase"], *numbers, *energies, "–" if ratio is None else f"{ratio:.3g}", verdict])
    text = _table("Energy of the synapses, per image", columns, cells, "energy-table")
    charts = Markup("")
    for name in ENERGY:
        bars = [(f"T {r['T']}{' ' + r['phase'][0] if several else ''}", [("s0", r[f"spiking_{name}"])]) for r in rows]
        if dense:
            bars.append(("dense", [("s2", rows[0][f"dense_{name}"])]))
        chart = bar_chart(f"Energy per image, {name}", bars, f"µJ per image, {name} arithmetic", f"energy-{name}")
        charts += _figure(chart, f"{name} arithmetic", [("s0", "spiking"), *([("s2", "dense")] if dense else [])])
    cost = "; ".join(f"{name}: {mac:g} pJ a MAC, {add:g} pJ an accumulation" for name, (mac, add) in ENERGY.items())
    neurons = next((w["neurons"] for w in _details(run)), None)
    basis = ""
    if dense:
        basis = (
            f" The dense network needs {rows[0]['dense_macs']:,.0f} MACs for an image, and "
            f"{rows[0]['dense_adds']:,.0f} additions in pools."
        )
    return html(
        '{lead}{text}{dearer}<div class="charts">{charts}</div><h3>Assumptions</h3>'
        "<p>45 nm (Horowitz, ISSCC 2014), {cost}. "
        "A synaptic operation (SOP) is one spike, of either sign, arriving over one synapse; it "
        "costs one accumulation: of a weight, or, where two activations are multiplied, of the other one's count, so "
        "that the spikes of both are paid for. Spikes of the rounding phase count.{basis}</p>"
        "<p>Not counted, on either side: memory traffic, which dominates on real hardware; and on the spiking side, "
        "for {updates}, a leak and two comparisons at every step. The INT8 figure is that of an 8-bit addition, "
        "although both networks accumulate in wider registers. Read these numbers as a comparison of arithmetic, not "
        "as a measurement.</p>",
        lead=_energy_lead(rows) if dense else "", text=text, dearer=_dearer(run), charts=charts, cost=cost, basis=basis,
        updates=f"each of the {neurons:,} neurons" if neurons else "each neuron",
    )  # fmt: skip


def _energy_lead(rows: list[dict[str, Any]]) -> Markup:
    exact = [r for r in rows if r["phase"] == "settle"] or rows
    cheaper = [r for r in exact if r["spiking_INT8"] < r["dense_INT8"]]
    dearer = [r for r in exact if r["spiking_INT8"] >= r["dense_INT8"]]
    parts: list[object] = []
    if cheaper:
        told = ", ".join(f"T = {r['T']} ({_times(r['dense_INT8'], r['spiking_INT8'])})" for r in cheaper)
        parts.append(f"In INT8 arithmetic the spiking network is cheaper than the dense one at {told}.")
    if dearer:
        told = ", ".join(f"T = {r['T']} ({_times(r['spiking_INT8'], r['dense_INT8'])})" for r in dearer)
        parts.append(html("<strong>The dense INT8 network is cheaper than the spiking one at {}.</strong>", told))
    return html('<p id="energy-lead">{}</p>', Markup(" ").join(parts))  # type: ignore[arg-type]


def _times(large: float, small: float) -> str:
    """How often one goes into the other; of a network without a spike, or without a product, nothing does."""
    return f"{large / small:.3g} times" if small else f"{large:.3g} µJ against none"


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
        for j, (other, layers) in enumerate(check["layers"].items()):
            numbers = ("neurons", "steps", "spikes_compared", "positive", "negative", "differing")
            rows = [[r["layer"], *(f"{r[n]:,}" for n in numbers), f"{r['membrane_difference']:.2g}"] for r in layers]
            one, two = (_NAMES.get(name, name) for name in (check["backends"][0], other))
            caption = f"{one} against {two}: {check['images']} images, T = {check['T']}, "
            caption += f"phase {check['phase']}"
            text += _table(caption, columns, rows, f"check-{k}-{j}")
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
    return lead + _table("The same network on other simulators", columns, cells, "interop-table")
