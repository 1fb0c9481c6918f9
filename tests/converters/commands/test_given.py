"""What a command is given is read once: files, networks and images, however many windows and phases are asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import converters
from converters import network
from converters.files import nir_building, nir_file
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


RUN = {"T": 8, "phase": "settle", "quantised_accuracy": 0.5, "snn_accuracy": 0.5, "counts_compared": 8}
RUN |= {"count_mismatches": 0}


def test_a_report_reads_once(calif: Calif, net: Path, counted: Counter[str], tmp_path: Path) -> None:
    """A network for each window, whatever the number of phases."""
    rows = [RUN, {**RUN, "phase": "none"}]
    (tmp_path / "run.json").write_text(json.dumps({"dataset": "digits", "windows": rows}))
    for arguments, expected in (
        (("--nir", net), {"files": 1, "networks": 1, "data sets": 1}),
        (("--checkpoint", CHECKPOINT), {"checkpoints": 1, "networks": 1, "data sets": 1}),
    ):
        counted.clear()
        code, _, err = calif("report", tmp_path / "run.json", *arguments, "--images", 4, "--shown", 1)
        assert (code, err) == (0, "")
        assert counted == expected


def test_a_report_from_python_builds_a_network_for_each_window(counted: Counter[str], tmp_path: Path) -> None:
    q, _ = load_checkpoint(CHECKPOINT)
    x = torch.zeros(2, *q.input.shape)
    converters.make_report(q, x, torch.arange(2), tmp_path / "r.html", windows=[2, 4], phases=["settle", "none"])
    assert counted == {"networks": 2}


def test_interop_reads_once(calif: Calif, net: Path, counted: Counter[str]) -> None:
    """All routes and both ways of reading what is compared are on one network."""
    pytest.importorskip("nirtorch")
    options = ("--simulator", "snntorch", "--route", "native", "--images", 2)
    code, _, err = calif("interop", net, "--dataset", "digits", *options)
    assert (code, err) == (0, "")
    assert (counted["files"], counted["data sets"]) == (1, 1)
    assert counted["networks"] <= 3  # the native route spells it for the simulator


LARGE = ("{net}", "--dataset", "digits", "--images", 2)


@pytest.mark.parametrize(
    "command",
    [("run", *LARGE), (*CHECK, *LARGE), (*CHECK, *LARGE, "--against", "{net}"), ("inspect", "{net}"),
     ("lower", "{net}", "--target", "plain_if", "--out", "{folder}/s.nir"),
     ("interop", *LARGE, "--simulator", "snntorch", "--route", "native"),
     ("report", "{folder}/run.json", "--nir", "{net}", "--dataset", "digits", "--images", 2)],
    ids=lambda c: c[0],
)  # fmt: skip
def test_every_command_that_reads_a_file_takes_a_large_one_if_it_is_told_to(
    calif: Calif, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[Any, ...]
) -> None:
    """With the limit where this network is beyond it."""
    monkeypatch.setattr(nir_building, "check_size", partial(nir_building.check_size, most=1000))
    (tmp_path / "run.json").write_text(json.dumps({"windows": [RUN]}))
    arguments = [str(a).format(net=net, folder=tmp_path) for a in command]
    code, out, err = calif(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"calif: {net}")
    assert "--allow-large" in err
    assert calif(*arguments, "--allow-large")[0] == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("run", "{net}", *DATA, "--phase", "late"), "--phase: found 'late'; use one of settle, paper, none"),
        (("sweep", "--checkpoint", CHECKPOINT, *DATA, "--phase", "settle", "--phase", "late"), "--phase: found 'late'"),
        (("cross-check", "{net}", *DATA, "--phase", "late"), "--phase: found 'late'"),
        (("run", "{net}", *DATA, "--backend", "nest"), "--backend: found 'nest'; use one of auto, fast, snntorch, "),
        (("cross-check", "{net}", *DATA, "--backend", "fast", "--backend", "nest"), "--backend: found 'nest'"),
        (("run", "{net}", *DATA, "--coding", "rate"), "--coding: found 'rate'; use one of isi, direct, auto"),
        (("interop", "{net}", *DATA, "--simulator", "nest"), "simulator: found 'nest'; use one of spikingjelly, "),
        (("interop", "{net}", *DATA, "--route", "train"), "route: found 'train'; use one of lowered, "),
        (("lower", "{net}", "--target", "x"), "--target: found 'x'; use one of chain, "),
        (("train", "--network", "x"), "--network: found 'x'; use one of lenet5, "),
        (("train", "--toolkit", "x"), "--toolkit: found 'x'; calif trains with pt2e, brevitas"),
        (("train", "--recipe", "x"), "--recipe: found 'x'; use fast, long or paper"),
        (("train", "--epochs", 0), "--epochs: found 0 of a network of random weights; name a network to start from"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, tuple) else "",
)
def test_names_are_checked_before_anything_is_read(
    calif: Calif, net: Path, counted: Counter[str], command: tuple[Any, ...], message: str
) -> None:
    code, out, err = calif(*(str(a).format(net=net) for a in command))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"calif: {message}")
    assert counted == {}


@pytest.mark.parametrize("command", ["run", "cross-check"])
def test_more_images_than_there_are(calif: Calif, net: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    real = datasets.load
    monkeypatch.setattr(datasets, "load", lambda *a, **k: real(*a, **k)[:3])
    options = ("--backend", "fast", "--backend", "snntorch") if command == "cross-check" else ()
    code, out, err = calif(command, net, "--dataset", "digits", "--images", 99999, *options, "--json")
    assert (code, err) == (0, "calif: note: --images: found 99,999 of 3 test images; all of them are taken\n")
    assert json.loads(out)
    assert calif(command, net, "--dataset", "digits", "--images", 3, *options)[2] == ""
