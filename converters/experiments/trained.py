"""How the networks of a table were trained, as their checkpoints say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from converters.experiments import markdown as md
from converters.experiments.session import Available

__all__ = ["trained", "trained_section"]

_PHASES = {"float": "float_epochs", "average": "averaged_epochs", "qat": "quantised_epochs"}


def trained(checkpoints: Iterable[Available], rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Epochs, seed and command of every checkpoint that has a row.

    Epochs of the runs that a run started from are counted; its command is the last of them. None: the checkpoint does
    not say it.
    """
    names = {row["checkpoint"] for row in rows}
    found = []
    for c in checkpoints:
        if c.name in names:
            log = c.notes.get("log")
            epochs = Counter(row["phase"] for row in log or ())
            about = {key: epochs[phase] if log else None for phase, key in _PHASES.items()}
            found.append({"checkpoint": c.name, **about, **{k: c.notes.get(k) for k in ("seed", "command", "remark")}})
    return found


def trained_section(found: list[dict[str, Any]]) -> str:
    """The same as a part of a page; nothing of no networks."""
    if not found:
        return ""
    cells = [
        [
            f"`{row['checkpoint']}`",
            " ".join(filter(None, [f"`{row['command']}`" if row["command"] else "-", row["remark"]])),
            *("-" if row[key] is None else str(row[key]) for key in (*_PHASES.values(), "seed")),
        ]
        for row in found
    ]
    columns = ["network", "last command", "float epochs", "averaged", "quantised", "seed"]
    return (
        "## How the networks were trained\n\n"
        + md.table(columns, cells, left=2)
        + "\n\nEpochs are those of all commands: `--start` goes on from the network of an earlier one."
    )
