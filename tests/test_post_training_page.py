"""The page on quantisation without training is that of the rows that were measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def test_the_table_is_that_of_its_rows() -> None:
    sys.path.insert(0, str(ROOT / "tutorials"))
    try:
        script = importlib.import_module("post_training")
    finally:
        sys.path.remove(str(ROOT / "tutorials"))
    rows = json.loads((RESULTS / "post_training.json").read_text(encoding="utf-8"))
    assert script.table(rows) in (RESULTS / "post_training.md").read_text(encoding="utf-8")
    trained = {key: row for key, row in rows.items() if key.endswith(", trained")}
    assert len(trained) == 8, "of each network at each number of levels"
    for key, row in trained.items():
        assert f"--levels {key.split(', ')[1].split()[0]} " in row["command"] or "127" in key, "127 is the default"
