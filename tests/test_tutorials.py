"""Every tutorial runs from top to bottom, says what it promises, and is stored as it ran."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST = 120  # seconds, what the documentation promises

# for each tutorial: an expression over its variables, and what must be true of it
PROMISES: dict[str, tuple[str, Any]] = {
    "1": (
        "[int(trace.y[-1]), wrong['settle'], wrong['none'] > wrong['paper'] > 0, worst_calif, worst_lif]",
        lambda v: v[:3] == [1, 0, True] and v[3] <= 0.5 and v[4] > 3,
    ),
    "2": (
        "[before, after, float(total.max()), after_tuning, agree]",
        lambda v: v[0] < 0.4 and v[1] > 0.9 and v[2] <= 8 and v[3] > 0.85 and v[4] > 0.99,
    ),
    "3": (
        "[float_accuracy, spiking, spiking2, share, wrong2, message, wrong_there]",
        lambda v: min(v[:3]) > 0.88 and v[3]["settle"] == 0 < v[3]["paper"] < v[3]["none"]
        and v[4] == v[6] == 0 and "recurrence" in v[5],
    ),
    "4": (
        "[report.spikes_compared, report.spike_mismatches, broken.spike_mismatches, first.layer]",
        lambda v: v[0] > 3000 and v[1] == 0 and v[2] > 0 and v[3] == "hidden",
    ),
    "5": (
        "[compared, wrong, 'cut.nir' in message, spikes, differing, reference.negative]",
        lambda v: v[0] == 44 * 8084 and v[1:3] == [0, True] and v[3] > 100_000 and v[4] == 0 < v[5],
    ),
    "6": (
        "[[r['differ'] for r in rows], at4[4], at4[31], energy[4], energy[31]]",
        lambda v: not any(v[0]) and v[1] > 0.85 and v[1] > v[2] - 0.02 and v[3][0] < v[3][1] and v[3][1] == v[4][1],
    ),
    "7": (
        "[differ, wrong, compared, len(caught)]",
        lambda v: v[0] == {"fc1": 0, "fc2": 0} and v[1] == 0 and v[2] > 100_000 and v[3] > 20,
    ),
    "8": (
        "[float_accuracy, spiking, compared, differ, compared2, differ2, same, lost[7, 0], lost[7, 200]]",
        lambda v: v[0] > 0.9 and v[1] > v[0] - 0.02 and min(v[2], v[4]) > 100_000 and v[3] == v[5] == 0
        and v[6] > 0.99 and v[7] > max(0.01, v[8]),
    ),
}  # fmt: skip


def texts(cell: Any) -> str:
    """What a cell printed; pictures and their sizes left out."""
    found = [o.get("text", "") for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stdout"]
    return "".join(found)


def test_there_are_eight() -> None:
    assert [p.name[0] for p in NOTEBOOKS] == list(PROMISES) == list("12345678")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(zmq|tornado|jupyter_client|nbclient|traitlets).*")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that asyncio closes late
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nobody's own start-up files
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    book = nbformat.read(path, as_version=4)
    stored = [texts(cell) for cell in book.cells]
    expression, promise = PROMISES[path.name[0]]
    book.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({expression}))"))
    start = time.perf_counter()
    NotebookClient(
        book, timeout=LONGEST, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert time.perf_counter() - start < LONGEST
    value = json.loads(texts(book.cells[-1]))
    assert promise(value), value
    for cell, text in zip(book.cells, stored, strict=False):
        if "exact" in cell.metadata.get("tags", []):
            assert text, "a stored output is missing"
            assert texts(cell) == text, cell.source
    assert not list(tmp_path.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_as_it_ran(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [o for cell in code for o in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum(cell.source.count("assert ") for cell in code) >= 3
    assert len([cell for cell in book.cells if cell.cell_type == "markdown"]) >= 5  # a text that teaches
    assert not re.search(r"/work/|/root/|/home/|/tmp/", path.read_text(encoding="utf-8"))


def test_links_between_tutorials() -> None:
    for path in NOTEBOOKS:
        book = nbformat.read(path, as_version=4)
        text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if not target.startswith("http"):
                assert (FOLDER / target).is_file(), target


def test_the_documentation_lists_them() -> None:
    page = (FOLDER.parent / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\d_\w+\.ipynb)`", page)) == {p.name for p in NOTEBOOKS}
