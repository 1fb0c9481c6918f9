"""``calif lower``, and the bit widths of ``calif inspect``."""

import json

import nir
import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_lower_writes_a_stock_file_and_says_its_lattice(calif, tmp_path):
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


def test_a_file_in_and_tables_for_people(calif):
    calif("convert", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--out", "n.nir")
    code, out, _ = calif("lower", "n.nir", "--target", "primitives", "--out", "p.nir")
    assert code == 0
    assert "exact in float32" in out
    assert "classifier.2" in out
    code, out, _ = calif("inspect", "n.nir")
    assert code == 0
    assert "round alike in integers" in out


def test_the_lossy_target_says_so_and_measures(calif):
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
    ],
)
def test_one_line_for_each_mistake(calif, arguments, message):
    code, out, err = calif("lower", "--checkpoint", "lenet5-mnist-8", "--window", 8, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
