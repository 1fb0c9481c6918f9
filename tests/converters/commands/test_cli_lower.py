"""``calif lower``, and the bit widths of ``calif inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir
import pytest

from tests.command_line import Calif
from tests.converters.commands.test_cli import rgb_folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lower_writes_a_stock_file_and_says_its_lattice(calif: Calif, tmp_path: Path) -> None:
    code, out, err = calif("lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--out", "s.nir", "--json")
    about = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert about["bytes"] == (tmp_path / "s.nir").stat().st_size
    assert about["precision"] == 32
    assert about["exact"]
    assert {type(n) for n in nir.read("s.nir").nodes.values()} == {nir.Input, nir.Output, nir.Conv2d, nir.LIF}
    widths = {row["name"]: row for row in about["layers"]}
    code, out, _ = calif("inspect", "lenet5-mnist-8", "--window", 8, "--json")
    for layer in json.loads(out)["layers"]:
        assert layer["integer"]["membrane_bits"] == widths[layer["name"]]["membrane_bits"]
    need = max(row["fraction_bits"] for row in about["layers"])
    # one bit fewer is refused, with the channel and the bits, and no file is left
    code, out, err = calif(
        "lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--bits", need - 1, "--out", "t.nir", "--json"
    )
    assert (code, out) == (2, "")
    assert f"it needs {need} bits" in err
    assert "channel" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "t.nir").exists()


def test_a_file_in_and_tables_for_people(calif: Calif) -> None:
    calif("convert", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--out", "n.nir")
    code, out, _ = calif("lower", "n.nir", "--target", "primitives", "--out", "p.nir")
    assert code == 0
    assert "exact in float32" in out
    assert "classifier.2" in out
    code, out, _ = calif("inspect", "n.nir")
    assert code == 0
    assert "round alike in integers" in out


def test_the_lossy_target_says_so_and_measures(calif: Calif) -> None:
    command = ["lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--target", "plain_if", "--out", "p.nir"]
    code, out, _ = calif(*command)
    assert code == 0
    assert out.count("LOSSY") == 1
    code, out, _ = calif(*command, "--dataset", "digits", "--images", 5, "--json")
    about = json.loads(out)
    assert code == 0
    assert not about["exact"]
    assert "no negative spikes" in about["lost"][0]
    rows = {row["simulator"]: row for row in about["losses"]}
    assert rows["spikingjelly"]["count_mismatches"] > 0
    assert rows["snntorch"]["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "verilog"], "'verilog'; use one of chain, primitives, plain_if"),
        (["--images", 3], "only plain_if loses anything"),
        (["--out", "gone/s.nir"], "gone"),
        *((["--bits", n], f"bits: found {n}; use 0 to 52") for n in (53, 64, 100, 999)),
        (["--bits", 40], "bits"),
        (["--bits", 52], "bits"),
        (["--target", "plain_if", "--bits", 3], "--bits: found target plain_if"),
        (["--target", "plain_if", "--images", 2, "--dataset", "foo"], "dataset: found 'foo'"),
        (["--window", 0], "--window: found T = 0"),
        (["--window", 4, "--out", "s.nir"], "--out: found one file for 2 windows"),
    ],
)
def test_one_line_for_each_mistake(calif: Calif, tmp_path: Path, arguments: Any, message: Any) -> None:
    code, out, err = calif("lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_file_where_the_losses_cannot_be_measured(calif: Calif, tmp_path: Path) -> None:
    rgb_folder(tmp_path / "rgb")
    command = ["lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--target", "plain_if", "--images", 1]
    code, out, err = calif(*command, "--dataset", "rgb")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the network takes (N, 1, 32, 32)" in err
    assert [p.name for p in tmp_path.iterdir()] == ["rgb"]


def test_a_file_for_each_window(calif: Calif, tmp_path: Path) -> None:
    command = ["lower", "--checkpoint", "lenet5-mnist-8", "--window", 3, "--window", 2]
    code, out, err = calif(*command, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    files = json.loads(out)["files"]
    names = ["lenet5-mnist-8-T3-chain.nir", "lenet5-mnist-8-T2-chain.nir"]  # not those that convert writes
    assert [(f["T"], f["file"]) for f in files] == [(3, names[0]), (2, names[1])]
    for f in files:
        assert nir.read(f["file"]).metadata["calif_window"] == f["T"]
        assert (tmp_path / f["file"]).stat().st_size == f["bytes"]
    code, out, _ = calif(*command)
    assert code == 0
    assert all(name in out for name in names)
    assert calif(*command[:-2])[0] == 0
    assert (tmp_path / "stock.nir").exists()
