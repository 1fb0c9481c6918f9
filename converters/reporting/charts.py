"""Charts as inline SVG: colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TypeAlias

from converters.reporting.markup import Markup, html, together

__all__ = [
    "WIDTH",
    "accuracy_chart",
    "bar",
    "bar_chart",
    "label",
    "latency_chart",
    "line",
    "number",
    "round_numbers",
    "svg",
]

Points: TypeAlias = Sequence[tuple[float, float]]
WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 40


def svg(title: str, description: str, body: Sequence[Markup], height: float, key: str, width: float = WIDTH) -> Markup:
    """A picture with title and description for those who do not see it; ``key`` is its own on the page."""
    return html(
        '<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        '<title id="{key}-t">{title}</title><desc id="{key}-d">{description}</desc>{body}</svg>',
        width=width, height=height, key=key, title=title, description=description, body=together(body),
    )  # fmt: skip


def label(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> Markup:
    """Text at a place."""
    return html('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>', x, y, anchor, style, text)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return html('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>', x1, y1, x2, y2, style)


def bar(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """A filled rectangle."""
    place = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="bar {}"/>'
    return html(place, x, y, width, height, style)


def number(x: float) -> str:
    """Three digits, never an exponent.

    >>> number(22250.9), number(0.010371)
    ('22,251', '0.0104')
    """
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def round_numbers(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that span ``[low, high]``.

    >>> round_numbers(97.2, 98.9)
    [97.0, 97.5, 98.0, 98.5, 99.0]
    """
    raw = max(high - low, 1e-9) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    unit = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw - 1e-12)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [round(k * unit, 10) for k in range(first, last + 1)]


def accuracy_chart(
    series: Mapping[str, Points],
    key: str = "accuracy",
    *,
    title: str = "Accuracy against window length",
    axis: str = "window T (steps)",
) -> Markup:
    """Accuracy in per cent against ``T`` on a logarithmic axis, one line for each name.

    ``series`` maps names to ``(T, accuracy in [0, 1])``. The name ``quantised network`` is drawn as a wide pale line.
    """
    xs = sorted({t for points in series.values() for t, _ in points})
    ys = [100 * a for points in series.values() for _, a in points]
    low, high = min(ys), max(ys)
    ticks = round_numbers(max(0.0, low - 0.05), min(100.0, high + 0.05))
    low, high = ticks[0], min(max(ticks[-1], low + 1e-6), 100.0 if high <= 100 else high)
    ticks = [t for t in ticks if t <= high + 1e-9]
    a, b = math.log2(xs[0]), math.log2(xs[-1])

    def x(t: float) -> float:
        share = 0.5 if a == b else (math.log2(t) - a) / (b - a)
        return _LEFT + 12 + share * (WIDTH - _LEFT - _RIGHT - 24)

    def y(v: float) -> float:
        return _HEIGHT - _BOTTOM - (v - low) / max(high - low, 1e-9) * (_HEIGHT - _TOP - _BOTTOM)

    body = []
    for t in ticks:
        body += [line(_LEFT, y(t), WIDTH - _RIGHT, y(t), "grid"), label(_LEFT - 6, y(t) + 4, f"{t:g}", "", "end")]
    shown: list[float] = []
    for t in xs:
        if not shown or x(t) - x(shown[-1]) > 18:
            shown.append(t)
            body.append(label(x(t), _HEIGHT - _BOTTOM + 16, f"{t:g}"))
    body.append(label((_LEFT + WIDTH) / 2, _HEIGHT - 6, axis, "axis"))
    body.append(label(4, 10, "accuracy, %", "axis", "start"))
    styles = count()
    order = sorted(series.items(), key=lambda item: item[0] != "quantised network")
    for name, points in order:
        style = "reference" if name == "quantised network" else f"s{next(styles) % 4}"
        at = [(x(t), y(100 * v)) for t, v in sorted(points)]
        body.append(html('<polyline class="line {}" points="{}"/>', style, " ".join(f"{u:.1f},{v:.1f}" for u, v in at)))
        if style != "reference" and len(at) <= 16:
            body += [_mark(style, u, v) for u, v in at]
    told = "; ".join(f"{n}: " + ", ".join(f"T {t:g} {100 * v:.2f} %" for t, v in sorted(p)) for n, p in series.items())
    return svg(title, told, body, _HEIGHT, key)


_MARKS = {
    "s0": '<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="mark s0"/>',
    "s1": '<rect x="{left:.1f}" y="{top:.1f}" width="8" height="8" class="mark s1"/>',
    "s2": '<path d="M{x:.1f} {above:.1f}l5 9h-10z" class="mark s2"/>',
    "s3": '<path d="M{x:.1f} {above:.1f}l5 5l-5 5l-5-5z" class="mark s3"/>',
}


def _mark(style: str, x: float, y: float) -> Markup:
    """Each line has a marker of its own shape, for eyes and printers without colour."""
    return html(_MARKS[style], x=x, y=y, left=x - 4, top=y - 4, above=y - 5)


def latency_chart(rows: Sequence[tuple[str, int, float, int]], key: str = "latency") -> Markup:
    """Steps until the network is quiet: ``(label, T, mean, max)``; the part after ``T`` is the rounding phase."""
    widest = max(r[3] for r in rows) or 1
    height = 34 + 30 * len(rows) + 12
    left = 62
    scale = (WIDTH - left - 74) / widest
    body = []
    for k, (name, window, mean, most) in enumerate(rows):
        y = 8 + 30 * k
        body += [
            label(left - 8, y + 14, name, "", "end"),
            bar(left, y, window * scale, 18, "s0"),
            bar(left + window * scale, y, max(mean - window, 0) * scale, 18, "s1"),
            line(left + most * scale, y - 2, left + most * scale, y + 20, "whisker"),
            label(left + most * scale + 6, y + 14, f"{mean:.1f} ({most})", "", "start"),
        ]
    body.append(label(left, height - 8, "steps: mean (largest)", "axis", "start"))
    told = "; ".join(f"{label}: mean {mean:.1f}, largest {most}" for label, _, mean, most in rows)
    return svg("Steps until the network is quiet", told, body, height, key)


def bar_chart(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str, key: str) -> Markup:
    """Horizontal bars: ``(label, [(style, value), ...])``, each label's bars below one another, with their numbers."""
    widest = max((v for _, bars in rows for _, v in bars), default=0.0) or 1.0
    left = 14 + 6.6 * max(len(label) for label, _ in rows)
    scale = (WIDTH - left - 78) / widest
    body: list[Markup] = []
    y = 6.0
    for name, bars in rows:
        body.append(label(left - 8, y + 8 * len(bars) + 3, name, "", "end"))
        for style, value in bars:
            body.append(bar(left, y, max(value * scale, 0.5), 13, style))
            body.append(label(left + value * scale + 5, y + 11, number(value), "", "start"))
            y += 16
        y += 8
    body.append(label(left, y + 12, unit, "axis", "start"))
    told = "; ".join(f"{label}: " + ", ".join(number(v) for _, v in bars) for label, bars in rows)
    return svg(title, f"{told} ({unit})", body, y + 20, key)
