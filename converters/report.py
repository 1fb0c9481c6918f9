"""A run as one HTML page: nothing is fetched, nothing is left out that the run's JSON holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from calif_plugins.parameters import PHASES
from converters.atomic import atomic_path
from converters.errors import ConversionError, FileFormatError
from converters.reading import parse_json, read_bytes
from converters.report_sections import sections

__all__ = ["RUN_FILE", "load_run", "render", "write_report", "write_run"]

RUN_FILE = "run.json"
_LARGEST_RUN = 1 << 28  # bytes
_LISTS = ("windows", "checks", "rows", "interop")
_WINDOW_FIELDS = ("T", "phase", "quantised_accuracy", "snn_accuracy", "counts_compared", "count_mismatches")
_MEASURED = ("latency_steps", "latency_steps_mean", "spikes_per_image", "sops_per_image", "macs_per_image")


def load_run(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """One run from the JSON of one or more commands.

    Parameters
    ----------
    paths : sequence of paths
        Files with what ``calif demo``, ``run``, ``sweep``, ``cross-check`` or ``interop`` print with ``--json``, or the
        folder that ``calif demo`` wrote into. Later files add their windows, cross-checks and rows.

    Returns
    -------
    dict
        With ``windows`` at least.

    Raises
    ------
    FileFormatError
        If a file is missing, is no JSON, or is not of such a command.
    """
    whole: dict[str, Any] = {}
    for path in map(Path, paths):
        part = _read(path / RUN_FILE if path.is_dir() else path)
        for name, value in part.items():
            if name in _LISTS and isinstance(whole.get(name), list):
                whole[name] = whole[name] + value
            elif name == "cross_check" and name in whole:
                whole[name] = {k: whole[name][k] + value[k] for k in whole[name]}
            else:
                whole.setdefault(name, value)
    where = str(paths[0]) if paths else "run"
    if not whole.get("windows"):
        raise FileFormatError(where, "no windows", "give what calif demo, run or sweep prints with --json, first")
    return whole


def _read(path: Path) -> dict[str, Any]:
    todo = "give what calif demo, run, sweep or cross-check prints with --json, or the demo's folder"
    found = parse_json(path, read_bytes(path, max_bytes=_LARGEST_RUN, todo=todo), todo, finite=False)
    if not isinstance(found, dict):
        raise FileFormatError(str(path), f"a JSON {type(found).__name__}", todo)
    for name in _LISTS:
        rows = found.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise FileFormatError(str(path), f"{name} that are no list of objects", todo)
    for row in found.get("windows", []):
        for name in _WINDOW_FIELDS:
            value = row.get(name)
            good = value in PHASES if name == "phase" else _is_amount(value)
            if not good or (name == "T" and value < 1):
                raise FileFormatError(str(path), f"a window with {name} = {value!r}", todo)
        for name in _MEASURED:
            value = row.get(name)  # none without spikes
            if value is not None and not _is_amount(value):
                raise FileFormatError(str(path), f"a window with {name} = {value!r}", todo)
    return found


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def render(run: dict[str, Any]) -> str:
    """The page for a run, as :func:`load_run` returns it.

    Raises
    ------
    ConversionError
        If an entry of the run is not as its command writes it.

    Examples
    --------
    >>> row = {"T": 8, "phase": "settle", "quantised_accuracy": 0.9, "snn_accuracy": 0.9}
    >>> row |= {"counts_compared": 800, "count_mismatches": 0}
    >>> page = render({"network": "lenet5", "dataset": "digits", "windows": [row]})
    >>> "800 counts compared" in page
    True
    """
    try:
        title, body = sections(run)
        data = json.dumps(run, allow_nan=False).replace("<", "\\u003c")  # no value can end the script element
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ConversionError):
            raise
        found = f"an entry that does not fit ({type(error).__name__}: {error})"
        raise ConversionError("run", found, "give the JSON as calif wrote it") from error
    template = (files("converters") / "report_template.html").read_text(encoding="utf-8")
    head, rest = template.split("{{title}}")
    middle, rest = rest.split("{{body}}")
    script, tail = rest.split("{{data}}")
    return "".join((head, escape(title), middle, body, script, data, tail))


def write_report(run: dict[str, Any], path: str | os.PathLike) -> int:
    """Write the page; returns its size in bytes. See :func:`render`."""
    page = render(run).encode("utf-8")
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def write_run(run: dict[str, Any], folder: str | os.PathLike) -> Path:
    """Write a run's JSON into a folder, where :func:`load_run` finds it."""
    path = Path(folder) / RUN_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(run), encoding="utf-8")
    return path
