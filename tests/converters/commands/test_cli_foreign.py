"""Commands that take a Ca-LIF network, given another tool's file: what it is, and which command runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import converters
from converters.lowering import lower
from tests.command_line import Calif
from tests.converters.graphs.test_names import chain
from tests.converters.interop.stock_graphs import dense, graph, neuron
from tests.converters.test_network_reading import net


def lif() -> Any:
    one = np.ones(1)
    return nir.LIF(tau=one, r=one, v_leak=0 * one, v_threshold=one)


def recurrent() -> nir.NIRGraph:
    return graph({"lif": lif(), "w": dense([1.0])}, "input > lif > w > lif", "lif > output")


FILES: dict[str, tuple[Callable[[], nir.NIRGraph], tuple[str, ...]]] = {
    "if": (
        lambda: graph({"0": dense([1.0]), "1": neuron()}, "input > 0 > 1 > output"),
        ("without Ca-LIF nodes: 1 IF, 1 Linear; calif run other.nir --window N runs it", "converters.swap_if"),
    ),
    "lif": (
        lambda: graph({"lif": lif()}, "input > lif > output"),
        ("without Ca-LIF nodes: 1 LIF; calif run other.nir --window N --dt SECONDS runs it",),
    ),
    "inner": (
        lambda: graph({"r": recurrent()}, "input > r > output"),
        ("1 LIF, 1 Linear; nothing here runs it", "a cycle of edges"),
    ),
    "silent": (
        lambda: graph({"fc": dense([1.0])}, "input > fc > output"),
        ("1 Linear; nothing in it spikes: converters.simulate_stock",),
    ),
    "lowered": (
        lambda: lower(converters.to_nir(chain(["a"])), "chain"),
        ("a network that was lowered (target chain, T = 6)", "calif interop NETWORK --stock other.nir runs it"),
    ),
}
COMMANDS = {
    "inspect": ("inspect", "other.nir"),
    "lower": ("lower", "other.nir", "--out", "out.nir"),
    "cross-check": ("cross-check", "other.nir", "--dataset", "digits"),
    "against": ("cross-check", "own.nir", "--dataset", "digits", "--against", "other.nir"),
    "interop": ("interop", "other.nir", "--dataset", "digits"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_the_file_is_and_which_command_runs_it(
    kind: str, calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, messages = FILES[kind]
    nir.write(tmp_path / "other.nir", make())
    converters.write(tmp_path / "own.nir", converters.to_nir(chain(["a"])))
    for command, arguments in COMMANDS.items():
        code, out, err = calif(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), command
        assert err.startswith("calif: other.nir: found a network"), command
        assert all(m in err for m in messages), (command, err)
    assert not (tmp_path / "out.nir").exists()


def test_large_files_are_taken_where_that_is_said(
    calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    converters.write(tmp_path / "long.nir", net({}, "enc > y", window=2**21))
    code, out, err = calif("inspect", "long.nir")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a window of 2,097,152 steps; the limit is 1,048,576" in err
    code, out, err = calif("inspect", "long.nir", "--allow-large")
    assert (code, err) == (0, "")
    assert "T = 2097152" in out
