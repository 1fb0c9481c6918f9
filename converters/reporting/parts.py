"""What every section of the report is put together from: tables, figures, numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.reporting.markup import Markup, html, together

__all__ = [
    "details_of",
    "exact_window",
    "figure",
    "percent",
    "real",
    "short",
    "side_by_side",
    "span",
    "table",
    "windows_of",
]

KEPT = "differ"
"""The column that stays in view where a table is wider than the screen."""


def windows_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a run by window, those of phase settle first."""
    return sorted(run["windows"], key=lambda r: (r["T"], r["phase"] != "settle", r["phase"]))


def exact_window(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the longest window of phase settle: its mistakes are shown."""
    return max(windows, key=lambda r: (r["phase"] == "settle", r["T"]))


def details_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """What layers did: at the window that the slider shows first, then those of phase settle, the longest first."""
    details = run.get("details", {})
    traces = details.get("traces") or {}
    stepped = (traces.get("T"), traces.get("phase"))
    return sorted(
        details.get("windows", []), key=lambda w: ((w["T"], w["phase"]) != stepped, w["phase"] != "settle", -w["T"])
    )


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], key: str) -> Markup:
    """A table that scrolls by itself, by keyboard too, where the screen is narrow; its first column, and that of what
    differs, stay in view."""
    kept = [html(' class="kept"') if name == KEPT else Markup("") for name in columns]
    head = together(html('<th scope="col"{}>{}</th>', k, name) for k, name in zip(kept, columns, strict=True))
    body = together(
        html(
            '<tr><th scope="row">{}</th>{}</tr>',
            row[0],
            together(html("<td{}>{}</td>", k, cell) for k, cell in zip(kept[1:], row[1:], strict=True)),
        )
        for row in rows
    )
    return html(
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="{key}-c"><table id="{key}">'
        '<caption id="{key}-c"><span>{caption}</span></caption>'
        "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        key=key, caption=caption, head=head, body=body,
    )  # fmt: skip


def figure(svg: Markup, caption: str, legend: Sequence[tuple[str, str]] = ()) -> Markup:
    """A chart with its caption, and a key of ``(style, name)``."""
    keys = together(html('<span class="key"><i class="{}"></i>{}</span>', style, name) for style, name in legend)
    return html("<figure>{}<figcaption>{}{}</figcaption></figure>", svg, keys, caption)


def side_by_side(*parts: Markup) -> Markup:
    """Parts in one row where the screen is wide, below one another where it is not."""
    return html('<div class="side">{}</div>', together(parts))


def percent(x: float | None) -> str:
    """0.9915 as 99.15 %."""
    return "–" if x is None else f"{100 * x:.2f} %"


def real(x: float | None) -> str:
    """Four digits."""
    return "–" if x is None else f"{x:.4g}"


def short(x: float | None) -> str:
    """12.3 k, 4.56 M."""
    if x is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.3g}"


def span(pair: Sequence[float]) -> str:
    """A range as text.

    >>> span([0.5, 18378.9]), span([8, 8])
    ('0.5 to 18,379', '8')
    """
    low, high = (f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}" for x in pair)
    return low if low == high else f"{low} to {high}"
