"""Charts of answers and of counts: a confusion matrix, a scatter plot, a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence

from converters.reporting.charts import WIDTH, bar, label, line, number, round_numbers, svg
from converters.reporting.markup import Markup, html

__all__ = ["confusion_chart", "histogram_chart", "scatter_chart"]


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str], key: str = "confusion") -> Markup:
    """How often each label (rows) was called what (columns); the darker, the larger the share of its row."""
    n = len(matrix)
    left = min(110.0, 24 + 6.2 * max(map(len, names)))
    cell = (WIDTH - left - 4) / n
    top = 34.0
    small = "tiny" if cell < 22 else ""
    body = [label((left + WIDTH) / 2, 11, "prediction", "axis"), label(2, 11, "label", "axis", "start")]
    for k, row in enumerate(matrix):
        y, total = top + k * cell, max(sum(row), 1)
        body.append(label(left - 5, y + cell / 2 + 4, names[k][:16], small, "end"))
        body.append(label(left + (k + 0.5) * cell, top - 6, names[k][: max(2, int(cell / 6))], small))
        for j, found in enumerate(row):
            body.append(
                html(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="cell {}" '
                    'fill-opacity="{:.3f}"/>',
                    left + j * cell, y, cell - 1, cell - 1, "s0" if j == k else "s1",
                    0.45 * math.sqrt(found / total) if found else 0,
                )
            )  # fmt: skip
            if found:
                body.append(label(left + (j + 0.5) * cell, y + cell / 2 + 3.5, f"{found}", small))
    wrong = sorted((-matrix[k][j], k, j) for k in range(n) for j in range(n) if k != j and matrix[k][j])[:5]
    told = "; ".join(f"{names[k]} called {names[j]}: {-found}" for found, k, j in wrong) or "no label was missed"
    return svg("Labels against predictions", f"Most often confused: {told}.", body, top + n * cell + 4, key)


def scatter_chart(points: Sequence[Sequence[float]], key: str) -> Markup:
    """Points ``(label, value)`` with the line on which both are the same."""
    height, left, bottom, above = 300.0, 52.0, 36.0, 22.0
    every = [v for point in points for v in point]
    marks = round_numbers(min(every), max(every) if max(every) > min(every) else min(every) + 1)
    low, high = marks[0], marks[-1]

    def x(v: float) -> float:
        return left + (v - low) / (high - low) * (WIDTH - left - 14)

    def y(v: float) -> float:
        return height - bottom - (v - low) / (high - low) * (height - bottom - above)

    body = []
    for v in marks:
        body += [line(left, y(v), x(high), y(v), "grid"), label(left - 6, y(v) + 4, number(v), "", "end")]
        body.append(label(x(v), height - bottom + 16, number(v)))
    body.append(line(x(low), y(low), x(high), y(high), "same"))
    body += [html('<circle cx="{:.1f}" cy="{:.1f}" r="2.6" class="point"/>', x(a), y(b)) for a, b in points]
    body += [label((left + WIDTH) / 2, height - 4, "label", "axis"), label(4, 11, "spiking network", "axis", "start")]
    return svg("Values against labels", f"{len(points)} points from {low:g} to {high:g}.", body, height, key)


def histogram_chart(name: str, low: int, high: int, step: int, counts: Sequence[int], key: str) -> Markup:
    """How often each count from ``low`` to ``high`` occurs, on a logarithmic axis; below 0 in the second colour."""
    width, height, base = 180.0, 78.0, 60.0
    most = math.log10(1 + max(counts, default=0)) or 1.0
    wide = width / max(len(counts), 1)
    body = []
    for k, found in enumerate(counts):
        tall = (base - 4) * math.log10(1 + found) / most
        style = "s1" if low + k * step < 0 else "s0"
        body.append(bar(k * wide + 0.05 * wide, base - tall, 0.9 * wide, tall, style))
    body.append(line(0, base, width, base, "grid"))
    body.append(label(0, base + 13, f"{low}", "axis", "start"))
    body.append(label(width, base + 13, f"{high}", "axis", "end"))
    if low < 0 < high:
        body.append(label((0.5 - low / step) * wide, base + 13, "0", "axis"))
    told = ", ".join(f"{low + k * step}: {found}" for k, found in enumerate(counts) if found)
    return svg(f"Counts of {name}", told, body, height, key, width)
