"""Tables say how each of their networks was trained, as far as its file says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.experiments.trained import trained_section
from converters.files.quantised_file import save_quantised
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_command_and_epochs(calif: Calif, tmp_path: Path) -> None:
    """A network of ``calif train``, and one whose file has no notes of its training."""
    given = ("--epochs", 3, "--average", 2, "--qat-epochs", 1, "--seed", 3, "--out", "runs")
    assert calif("train", "--network", "lenet5", *given)[0] == 0
    q, notes = load_checkpoint("lenet5-mnist-8")
    bare = {key: notes[key] for key in ("network", "levels")} | {"dataset": "digits"}
    save_quantised(tmp_path / "runs" / "lenet5-digits-8.safetensors", q, notes=bare)
    arguments = [
        "--dataset",
        "digits",
        "--images",
        2,
        "--window",
        8,
        "--checkpoint",
        "runs",
        "--out",
        "paper",
        "--json",
    ]
    code, out, err = calif("reproduce", "table3", "table2", *arguments)
    assert (code, err) == (0, "")
    found = {row["checkpoint"]: row for row in json.loads(out)["experiments"]["table3"]["trained"]}
    epochs = {name: [row[f"{k}_epochs"] for k in ("float", "averaged", "quantised")] for name, row in found.items()}
    assert epochs == {"lenet5-digits-127": [3, 2, 1], "lenet5-digits-8": [None] * 3}
    assert [row["seed"] for row in found.values()] == [3, None]
    command = found["lenet5-digits-127"]["command"]
    assert "--seed 3 --epochs 3 --qat-epochs 1 --average 2" in command
    assert found["lenet5-digits-8"]["command"] is None
    lines = [f"| `lenet5-digits-127` | `{command}` | 3 | 2 | 1 | 3 |", "| `lenet5-digits-8` | - | - | - | - | - |"]
    for name, shown in (("table3", lines), ("table2", lines[:1])):  # of 127 levels alone
        page = (tmp_path / "paper" / f"{name}.md").read_text().split("## How the networks were trained")[1]
        assert [line for line in page.splitlines() if line.startswith("| `")] == shown


def test_of_no_networks_there_is_nothing_to_say() -> None:
    assert trained_section([]) == ""
