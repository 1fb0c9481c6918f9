"""The report's sections on what the network answers: each output's numbers, its mistakes, its maps and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.measuring.scores import rows_told
from converters.reporting.answer_charts import confusion_chart, scatter_chart
from converters.reporting.examples import COLOURS
from converters.reporting.markup import Markup, html, together
from converters.reporting.parts import exact_window, figure, percent, real, side_by_side, table, windows_of

__all__ = ["answered", "mistaken", "outputs_table"]

_MOST_NAMED = 40


def _names(run: dict[str, Any], classes: int) -> list[str]:
    known = run.get("details", {}).get("names", [])
    return [str(name) for name in known] if len(known) == classes else [str(k) for k in range(classes)]


def outputs_table(run: dict[str, Any]) -> Markup:
    """One row for each output and what is measured of it; nothing where that is one class of each image."""
    rows: list[list[object]] = []
    for r in windows_of(run):
        outputs = r.get("outputs", [])
        if len(outputs) > 1 or any(one["task"] != "classes" for one in outputs):
            rows += [
                [one["name"], *row, r["T"], r["phase"]]
                for one in outputs
                for row in rows_told(one, percent, real, "{:.4g} % the same")
            ]
    columns = ["output", "what is measured", "quantised", "spiking", "between the two", "T", "phase"]
    return table("What each output is worth", columns, rows, "outputs-table") if rows else Markup("")


def mistaken(run: dict[str, Any]) -> Markup:
    """Which classes are taken for which, and some of the images."""
    row = exact_window(run["windows"])
    parts: list[Markup] = []
    for k, one in enumerate(row.get("outputs", [])):
        if one["task"] != "classes" or not one["labelled"]:
            continue
        where = "" if len(row["outputs"]) == 1 else f", output {one['name']}"
        if one.get("confusion"):
            matrix = one["confusion"]
            chart = confusion_chart(matrix, _names(run, len(matrix)), f"confusion-{k}")
            caption = f"Rows are labels, columns what the spiking network says, at T = {row['T']}{where}."
            parts.append(figure(chart, caption, [("s0", "right"), ("s1", "wrong")]))
        elif one.get("confused"):
            names = _names(run, one["classes"])
            cells = [[_called(names, a), _called(names, b), f"{n:,}"] for a, b, n in one["confused"]]
            told = f"The pairs most often confused, at T = {row['T']}{where}"
            parts.append(table(told, ["label", "prediction", "images"], cells, f"confused-{k}"))
        right = one["labelled"] and one.get("snn_accuracy") == 1
        parts += [html("<p>Of {:,} images it gets none wrong{}.</p>", one["labelled"], where)] if right else []
    found = run.get("details", {}).get("wrong", [])
    if found:
        classes = next((one["classes"] for one in row.get("outputs", []) if one["task"] == "classes"), 0)
        parts.append(_gallery(found, _names(run, classes)))
    return side_by_side(*parts) if parts else Markup("")


def _called(names: Sequence[str], k: int) -> str:
    return names[k] if 0 <= k < len(names) else f"{k}"


def _gallery(found: Sequence[dict[str, Any]], names: Sequence[str]) -> Markup:
    items = together(
        html(
            '<li>{}<span>{} <span aria-hidden="true">→</span><span class="off"> called</span> {}</span></li>',
            _image(one.get("picture"), f"image {one['index']}, a {_called(names, one['label'])}"),
            _called(names, one["label"]), _called(names, one["prediction"]),
        )
        for one in found
    )  # fmt: skip
    return html(
        '<div class="wrong"><h3>Images it gets wrong: label → prediction</h3><ul class="gallery">{}</ul></div>', items
    )


def _image(picture: str | None, told: str) -> Markup:
    if not picture:
        return html('<span class="none">{}</span>', told)
    return html('<img src="data:image/png;base64,{}" alt="{}">', picture, told)


def answered(run: dict[str, Any]) -> Markup:
    """Maps beside their labels, values against theirs."""
    parts = []
    for k, one in enumerate(run.get("details", {}).get("answers", [])):
        if one.get("images"):
            parts.append(_maps(one, _names(run, one["classes"])))
        elif one.get("points"):
            chart = figure(scatter_chart(one["points"], f"scatter-{k}"), "On the line both are the same.")
            parts.append(html('<div class="values"><h3>Output {}</h3>{}</div>', one["name"], chart))
    return side_by_side(*parts) if parts else Markup("")


def _maps(one: dict[str, Any], names: Sequence[str]) -> Markup:
    rows = []
    for k, image in enumerate(one["images"]):
        seen = [("the image", image.get("picture")), ("label", image.get("label")), ("prediction", image["prediction"])]
        panels = together(
            html("<figure>{}<figcaption>{}</figcaption></figure>", _image(picture, f"{name} of image {k + 1}"), name)
            for name, picture in seen
            if picture
        )
        right = image.get("right")
        told = "" if right is None else f"{percent(right)} of the labelled pixels are right"
        rows.append(html('<li><div class="panels">{}</div><p>{}</p></li>', panels, told))
    key = together(
        html(
            '<span class="key"><svg viewBox="0 0 9 7" class="swatch" aria-hidden="true">'
            '<rect width="9" height="7" fill="{}"/></svg>{}</span>',
            COLOURS[c % len(COLOURS)], name,
        )
        for c, name in enumerate(names[:_MOST_NAMED])
    )  # fmt: skip
    labelled = any(image.get("label") for image in one["images"])
    more = f" and {len(names) - _MOST_NAMED} more classes" if len(names) > _MOST_NAMED else ""
    return html(
        '<div class="maps"><h3>Output {}</h3><ul>{}</ul><p class="key-line">{}{}{}</p>'
        "</div>",
        one["name"], together(rows), key, more, " Places without a label are white." if labelled else "",
    )  # fmt: skip
