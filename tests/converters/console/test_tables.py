"""Tables that are too wide come as several, and nothing of them is lost or cut."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from converters.console.tables import fitting, table

WORDS = st.text("abcdefgh0123456789,.", min_size=1, max_size=12)


def printed(one: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(one)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(0, 4), st.integers(30, 130))
def test_every_cell_is_there_once_in_its_column(data: st.DataObject, columns: int, rows: int, width: int) -> None:
    headers = data.draw(st.lists(WORDS, min_size=columns, max_size=columns, unique=True))
    cells = [data.draw(st.lists(WORDS, min_size=columns, max_size=columns)) for _ in range(rows)]
    parts = list(fitting(table("T", headers, cells), Console(width=width)))
    assert [c.header for part in parts for c in part.columns[1:]] == headers[1:]
    assert all(part.columns[0].header == headers[0] for part in parts)
    done = 1
    for part in parts:
        lines = printed(part, width)
        assert max(map(len, lines)) <= width
        k = len(part.columns) - 1
        wanted = [[row[0], *row[done : done + k]] for row in [headers, *cells]]
        found = [line.split() for line in lines if line.strip() and "─" not in line and line.split() != ["T"]]
        assert found == wanted
        done += k


def test_what_fits_is_one_table() -> None:
    (one,) = fitting(table("t", ["a", "b", "c"], [["1", "2", "3"]]), Console(width=40))
    assert [c.header for c in one.columns] == ["a", "b", "c"]
