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


def test_commands_and_epochs_of_all_runs(calif: Calif, tmp_path: Path) -> None:
    """A float run, a quantised one that starts from it, and a network without notes of its training."""
    assert calif("train", "--epochs", 2, "--qat-epochs", 1, "--seed", 3, "--out", "a")[0] == 0
    again = ("--epochs", 0, "--average", 1, "--qat-epochs", 2, "--levels", 8, "--start", "a/lenet5-digits.float.pt")
    assert calif("train", *again, "--out", "b")[0] == 0
    q, notes = load_checkpoint("lenet5-mnist-4")
    bare = {key: notes[key] for key in ("network", "levels")} | {"dataset": "digits"}
    save_quantised(tmp_path / "lenet5-digits-4.safetensors", q, notes=bare)
    files = ("a/lenet5-digits-127.safetensors", "b/lenet5-digits-8.safetensors", "lenet5-digits-4.safetensors")
    given = [part for file in files for part in ("--checkpoint", file)]
    arguments = ["--dataset", "digits", "--images", 2, "--window", 4, "--window", 8, *given, "--out", "paper", "--json"]
    code, out, err = calif("reproduce", "table3", "table2", *arguments)
    assert (code, err) == (0, "")
    found = {row["checkpoint"]: row for row in json.loads(out)["experiments"]["table3"]["trained"]}
    epochs = {name: [row[f"{k}_epochs"] for k in ("float", "averaged", "quantised")] for name, row in found.items()}
    assert epochs == {"lenet5-digits-127": [2, 0, 1], "lenet5-digits-8": [2, 1, 2], "lenet5-digits-4": [None] * 3}
    assert [found[name]["seed"] for name in epochs] == [3, 0, None]
    commands = [found[name]["command"] for name in epochs]
    assert commands[0] is not None
    assert "--epochs 2 --qat-epochs 1" in commands[0]
    assert commands[1].endswith("--epochs 0 --qat-epochs 2 --start lenet5-digits.float.pt --average 1")
    assert commands[2] is None
    page = (tmp_path / "paper" / "table3.md").read_text().split("## How the networks were trained")[1].splitlines()
    assert [line for line in page if line.startswith("| `")] == [
        f"| `lenet5-digits-127` | `{commands[0]}` | 2 | 0 | 1 | 3 |",
        f"| `lenet5-digits-8` | `{commands[1]}` | 2 | 1 | 2 | 0 |",
        "| `lenet5-digits-4` | - | - | - | - | - |",
    ]
    page = (tmp_path / "paper" / "table2.md").read_text().splitlines()
    assert [line for line in page if line.startswith("| `lenet5-digits")] == [
        f"| `lenet5-digits-127` | `{commands[0]}` | 2 | 0 | 1 | 3 |"
    ]


def test_of_no_networks_there_is_nothing_to_say() -> None:
    assert trained_section([]) == ""
