"""A run as one HTML page: nothing is fetched, nothing is left out that the run's JSON holds."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import escape

from converters.console.printing import json_text
from converters.errors import FileFormatError
from converters.files.atomic import atomic_path
from converters.reading import read_bytes
from converters.reporting.schema import check_run
from converters.reporting.sections import sections

__all__ = ["RUN_FILE", "load_run", "render", "write_report", "write_run"]

RUN_FILE = "run.json"
_LISTS = ("windows", "checks", "rows", "interop")
_SUMS = ("images", "spikes_compared", "spike_mismatches")
_OWN = r"<{0}>(.*?)</{0}>"
_MOST_BYTES = 256 * 2**20
_MOST_VALUES = 2_000_000
_TODO = "give what calif demo, run, sweep or cross-check prints with --json, or the demo's folder"


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
        If a file is missing, too large, no JSON, or not of such a command; names the field.
    """
    whole: dict[str, Any] = {}
    for path in map(Path, paths):
        part = _read(path / RUN_FILE if path.is_dir() else path)
        for name, value in part.items():
            if name in _LISTS and isinstance(whole.get(name), list):
                whole[name] = whole[name] + value
            elif name == "cross_check" and value and whole.get(name):
                whole[name] = {k: whole[name][k] + value[k] for k in _SUMS}
            else:
                whole.setdefault(name, value)
    where = str(paths[0]) if paths else "run"
    if not whole.get("windows"):
        raise FileFormatError(where, "no windows", "give what calif demo, run or sweep prints with --json, first")
    return whole


def _read(path: Path) -> dict[str, Any]:
    """Types are checked here, and sizes before anything is parsed: how much memory a file can make is known before."""
    where, raw = str(path), read_bytes(path, max_bytes=_MOST_BYTES, todo=_TODO)
    values = sum(raw.count(c) for c in (b",", b"[", b"{", b":"))  # or more, where text has such letters
    widest = 1 if raw.isascii() and b"\\u" not in raw else 4  # bytes of a letter, once one of them is not ASCII
    if values > _MOST_VALUES or widest * len(raw) > _MOST_BYTES:
        found = f"{len(raw):,} bytes with {values:,} values"
        raise FileFormatError(where, found, "show fewer images (--shown), or shorter windows")
    try:
        found = json.loads(raw)
    except RecursionError:
        raise FileFormatError(where, "no JSON (nested too deeply)", _TODO) from None
    except ValueError as error:  # of its text, or of a number of thousands of digits
        raise FileFormatError(where, f"no JSON ({error})", _TODO) from None
    check_run(found, where)
    return found


def render(run: dict[str, Any]) -> str:
    """The page for a run, as :func:`load_run` returns it.

    Raises
    ------
    FileFormatError
        If an entry of the run is not as its command writes it.

    Examples
    --------
    >>> row = {"T": 8, "phase": "settle", "quantised_accuracy": 0.9, "snn_accuracy": 0.9}
    >>> row |= {"counts_compared": 800, "count_mismatches": 0}
    >>> page = render({"network": "lenet5", "dataset": "digits", "windows": [row]})
    >>> "800 counts compared" in page
    True
    """
    check_run(run, "run")
    title, body = sections(run)
    data = json.dumps(run, allow_nan=False).replace("<", "\\u003c")  # no value can end the script element
    template = (files("converters.reporting") / "report_template.html").read_text(encoding="utf-8")
    filled = {"policy": _policy(template), "title": escape(title), "body": body, "data": data}
    pieces = re.split(r"\{\{(\w+)\}\}", template)
    pieces[1::2] = [filled[name] for name in pieces[1::2]]
    return "".join(pieces)


def _policy(template: str) -> str:
    """The page's own script and style may run, known by their hashes, and nothing else; nothing is fetched."""

    def own(element: str) -> str:
        texts = re.findall(_OWN.format(element), template, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        return " ".join(f"'sha256-{text}'" for text in hashes)

    return (
        f"default-src 'none'; style-src {own('style')}; script-src {own('script')}; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


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
        temporary.write_text(json_text(run), encoding="utf-8")
    return path
