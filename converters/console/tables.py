"""Tables for people: numbers to the right, and on a narrow screen several tables below each other, nothing cut."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from converters.console.printing import printable

__all__ = ["fitting", "table"]


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table with numbers to the right."""
    result = Table(title=printable(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, column in enumerate(columns):
        result.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        result.add_row(*map(printable, row))
    return result


def fitting(whole: Table, console: Console) -> Iterator[Table]:
    """A table of :func:`table` as one or several that the console is wide enough for, each with its first column.

    >>> wide = table("sizes", ["layer", "neurons", "synapses"], [["conv", "4,704", "117,600"]])
    >>> [[c.header for c in part.columns] for part in fitting(wide, Console(width=20))]
    [['layer', 'neurons'], ['layer', 'synapses']]
    """
    headers = [str(column.header) for column in whole.columns]
    cells = [list(map(str, column.cells)) for column in whole.columns]

    def part(chosen: list[int], first: bool) -> Table:
        rows = [[cells[k][row] for k in chosen] for row in range(whole.row_count)]
        return table(str(whole.title) if first else "", [headers[k] for k in chosen], rows)

    def fits(chosen: list[int]) -> bool:
        options = console.options.update(max_width=10_000)
        return Measurement.get(console, options, part(chosen, True)).maximum <= console.width

    chosen, first = [0], True
    for k in range(1, len(headers)):
        if len(chosen) > 1 and not fits([*chosen, k]):
            yield part(chosen, first)
            chosen, first = [0], False
        chosen.append(k)
    yield part(chosen, first)
