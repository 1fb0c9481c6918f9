"""Tables and pages in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["missing_section", "number", "page", "percent", "signed_points", "steps", "stopped", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are text, and the others numbers, to the right.

    >>> print(table(["network", "T"], [["LeNet-5", "8"]]))
    | network | T |
    |---|--:|
    | LeNet-5 | 8 |
    """
    lines = [columns, ["---" if k < left else "--:" for k in range(len(columns))], *rows]
    text = [f"| {' | '.join(line)} |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def page(title: str, command: str, machine: str, *sections: str) -> str:
    """A page with the command that made it."""
    head = f"# {title}\n\n    {command}\n\n(Measured on {machine}.)"
    return "\n\n".join([head, *(s for s in sections if s)]) + "\n"


def percent(x: float | None) -> str:
    """0.9915 to "99.15"; a dash for nothing."""
    return "-" if x is None else f"{100 * x:.2f}"


def signed_points(x: float | None) -> str:
    """A difference of two accuracies in points, with its sign."""
    return "-" if x is None else f"{100 * x:+.2f}".replace("-", "−") if round(100 * x, 2) else "0.00"


def number(x: float | None) -> str:
    """12,345 or 12.3 k and so on, three digits."""
    if x is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.3g}"


def steps(row: dict[str, Any]) -> str:
    """Latency, mean and largest."""
    return f"{row['latency_steps_mean']:.1f} ({row['latency_steps']})"


def stopped(row: dict[str, Any], count: int = 3) -> str:
    """Accuracy of stopping at T, T + 1, ... (on the images that were simulated)."""
    curve = row["simulated"]["anytime"]
    t = row["T"]
    return " / ".join(percent(curve[min(k, len(curve) - 1)]) for k in range(t - 1, t - 1 + count))


def missing_section(missing: Sequence[dict[str, str]]) -> str:
    """What could not be measured, and what makes it."""
    if not missing:
        return ""
    rows = [[f"`{m['wanted']}`", m["why"], f"`{m['command']}`"] for m in missing]
    return "## Not measured here\n\n" + table(["wanted", "why", "how"], rows, left=3)
