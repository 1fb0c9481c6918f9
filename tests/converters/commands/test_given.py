"""What a command is given is read once: files, networks and images, however many windows and phases are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converters
from converters import network
from converters.files import nir_file
from converters.zoo import datasets, named
from converters.zoo.named import load_checkpoint

CHECKPOINT = "lenet5-mnist-8"
DATA = ("--dataset", "digits", "--images", 4)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the real parts have done their work since the fixture was made."""
    calls: Counter[str] = Counter()

    def count(owner: Any, attribute: str, what: str) -> None:
        real = getattr(owner, attribute)

        def counting(*args: Any, **options: Any) -> Any:
            calls[what] += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, attribute, counting)

    count(nir_file, "_load", "files")
    count(network._Reader, "network", "networks")
    count(datasets, "load", "data sets")
    count(named, "load_checkpoint", "checkpoints")
    return calls


@pytest.fixture
def net(tmp_path: Path) -> Path:
    q, _ = load_checkpoint(CHECKPOINT)
    converters.write(tmp_path / "n.nir", converters.to_nir(q, T=8))
    return tmp_path / "n.nir"


Calif = Callable[..., tuple[int, str, str]]


CHECK = ("cross-check", "--backend", "fast", "--backend", "snntorch")


@pytest.mark.parametrize("command", [("run",), ("run", "--window", 8), CHECK])
def test_a_file_is_read_once(calif: Calif, net: Path, counted: Counter[str], command: tuple[Any, ...]) -> None:
    code, _, err = calif(command[0], net, *command[1:], *DATA, "--json")
    assert (code, err) == (0, "")
    assert counted == {"files": 1, "networks": 1, "data sets": 1}


def test_inspecting_and_lowering_read_once(calif: Calif, net: Path, counted: Counter[str], tmp_path: Path) -> None:
    assert calif("inspect", net, "--json")[0] == 0
    assert counted == {"files": 1, "networks": 1}
    assert calif("lower", net, "--target", "plain_if", "--out", tmp_path / "s.nir", "--json")[0] == 0
    assert counted == {"files": 2, "networks": 2}


def test_a_network_for_each_window_and_all_else_once(calif: Calif, counted: Counter[str]) -> None:
    phases = ("--phase", "settle", "--phase", "none", "--anytime")
    code, _, err = calif("sweep", "--checkpoint", CHECKPOINT, *DATA, "--window", 2, "--window", 8, *phases, "--json")
    assert (code, err) == (0, "")
    assert counted == {"checkpoints": 1, "networks": 2, "data sets": 1}


def test_a_stock_file_is_read_once(calif: Calif, net: Path, counted: Counter[str], tmp_path: Path) -> None:
    stock = converters.lower(converters.read(net), "plain_if")
    stock.metadata.clear()
    converters.write(tmp_path / "stock.nir", stock)
    counted.clear()
    code, _, err = calif("run", tmp_path / "stock.nir", *DATA, "--window", 4, "--window", 6, "--json")
    assert (code, err) == (0, "")
    assert counted == {"files": 1, "data sets": 1}
