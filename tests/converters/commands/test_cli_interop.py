"""``calif interop``: its rows, and that a network which is not the same is an exit of 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converters
from converters.interop.comparing import EXACT, ROUTES, installed
from converters.lowering import lower
from converters.operations import Linear
from converters.quantised import GraphBuilder, average_pool
from tests.command_line import Calif


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net(tmp_path: Path) -> Any:
    """Digits (1, 32, 32) through a pool and two dense layers, with random weights."""
    gen = torch.Generator().manual_seed(1)
    b = GraphBuilder()
    x = b.input((1, 32, 32), scale=1 / 7, q_min=0, q_max=7)
    p = average_pool(b, "pool", x, (8, 8), (8, 8), (0, 0), scale=1 / 7, y_min=0, y_max=7)
    w = [Linear(torch.randint(-7, 8, s, generator=gen, dtype=torch.int8)) for s in ((6, 16), (10, 6))]
    h = b.layer("h", [(b.flatten(p), w[0])], threshold=6.1, bias=1.7, y_min=0, y_max=7, scale=0.1)
    o = b.layer("o", [(h, w[1])], threshold=5.3, bias=-0.4, y_min=-7, y_max=7, scale=0.1)
    graph = converters.to_nir(b.build(o))
    converters.write(tmp_path / "net.nir", graph)
    return graph


def test_rows_of_every_simulator_and_route(calif: Calif, net: Any) -> None:
    code, out, err = calif("interop", "net.nir", "--dataset", "digits", "--images", 3, "--plain-images", 5, "--json")
    found = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert (found["images"], found["T"], found["count_mismatches"]) == (3, 7, 0)
    assert found["negative"] > 0
    assert {(r["simulator"], r["route"]) for r in found["rows"]} == {(s, r) for s in installed() for r in ROUTES}
    assert {m["simulator"] for m in found["missing"]}.isdisjoint(installed())
    for row in found["rows"]:
        assert {"simulator", "version", "route", "layers", "spikes_compared", "differing", "seconds", "note"} <= set(
            row
        )
        if row["route"] == "native":
            assert (row["differing"], row["layers"], row["images"]) == (0, 3, 3)
            assert row["spikes_compared"] > 3 * 7 * (16 + 6 + 10)
        if row["route"] in EXACT and row["differing"] is not None:
            assert row["differing"] == row["counts_differing"] == 0
        if row["route"] == "plain_if" and row["differing"] is not None:
            assert (row["images"], 0 <= row["accuracy"] <= 1) == (5, True)
            assert row["differing"] > 0


def test_a_perturbed_threshold_is_an_exit_of_one(calif: Calif, net: Any, tmp_path: Path) -> None:
    stock = lower(net, "chain")
    name = next(n for n in stock.nodes if n.startswith("l001") and n.endswith("c_cmp"))
    bias = stock.nodes[name].bias
    stock.nodes[name].bias = bias - np.float32(0.02)
    converters.write(tmp_path / "stock.nir", stock)
    arguments = (
        "interop",
        "net.nir",
        "--dataset",
        "digits",
        "--route",
        "lowered",
        "--stock",
        "stock.nir",
        "--images",
        3,
    )
    code, out, err = calif(*arguments, "--simulator", "snntorch", "--json")
    (row,) = json.loads(out)["rows"]
    assert (code, err) == (1, "")
    assert row["differing"] > 0
    assert row["note"].startswith("first at step")
    code, out, _ = calif(*arguments, "--simulator", "snntorch")
    assert code == 1
    assert "first at step" in out
    converters.write(tmp_path / "stock.nir", lower(net, "chain"))
    assert calif(*arguments, "--simulator", "snntorch")[0] == 0


def test_a_file_lowered_from_another_network_is_refused(calif: Calif, net: Any, tmp_path: Path) -> None:
    command = ["interop", "net.nir", "--dataset", "digits", "--images", 2, "--stock", "stock.nir"]
    code, out, err = calif("lower", "--checkpoint", "lenet5-mnist-8", "--window", 7, "--out", "stock.nir")
    assert (code, err) == (0, "")
    code, out, err = calif(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "stock.nir: found the layers features.0, " in err
    stock = lower(net, "chain")
    stock.metadata["calif_window"] = 3
    converters.write(tmp_path / "stock.nir", stock)
    code, out, err = calif(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "stock.nir: found T = 3 instead of 7; give the lowered file of this network" in err
    converters.write(tmp_path / "stock.nir", lower(net, "plain_if"))
    assert "stock.nir: found target plain_if; " in calif(*command)[2]
    converters.write(tmp_path / "stock.nir", lower(net, "chain"))
    code, _, err = calif(*command, "--route", "native")
    assert code == 2
    assert "--stock: found route native; only the route lowered runs it" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--simulator", "nest"), "simulator: found 'nest'"),
        (("--route", "train"), "route: found 'train'"),
        (("--stock", "none.nir", "--dataset", "digits"), "no such file"),
    ],
)
def test_bad_usage_is_one_line(calif: Calif, net: Any, arguments: Any, message: str) -> None:
    given = arguments if "--dataset" in arguments else (*arguments, "--dataset", "digits")
    code, out, err = calif("interop", "net.nir", *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
