"""``calif bench`` behind its command line: what processes answer, what is kept, and the pages made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.benchmark import pages
from converters.benchmark.files import files
from converters.benchmark.measuring import Case, machine, time_case
from converters.benchmark.worker import GROWTH
from converters.files.nir_file import write
from converters.nir_export import to_nir
from converters.operations import Linear, Product
from converters.quantised import GraphBuilder, QuantGraph
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif
from tests.converters.sample_graphs import GRAPHS

QUICK: dict[str, Any] = {"repeats": 1, "threads": 1, "seed": 0}


def test_what_a_simulator_cannot_do_is_a_result() -> None:
    ticks: list[int] = []
    case = Case("gated", 3, 2)
    rows, failed = time_case(
        to_nir(gated(), T=3), case, ["snntorch_loop", "calif_loop"], tick=lambda: ticks.append(1), **QUICK
    )
    assert [r["name"] for r in rows] == ["calif_loop"]
    assert failed[0].items() >= {"name": "snntorch_loop", "network": "gated", "T": 3, "batch": 2}.items()
    assert "found a Product; other simulators have no such neuron" in failed[0]["failed"]
    assert rows[0]["peak_memory_mb"] >= rows[0]["memory_before_mb"] > 50
    assert len(ticks) == 3  # one warm-up that failed, one that did not, one turn


def gated() -> QuantGraph:
    """A product of two layers."""
    b = GraphBuilder()
    x = b.input((4,), scale=1.0, q_min=0, q_max=3)
    clip: dict[str, Any] = {"y_min": 0, "y_max": 3, "scale": 1.0}
    one, two = (b.layer(name, [(x, Linear(torch.eye(4).to(torch.int8)))], threshold=1.0, **clip) for name in "ab")
    return b.build(b.layer("out", [((one, two), Product())], threshold=3.0, **clip))


def test_memory_is_limited() -> None:
    """More than half of the machine's is a message, not the end of another process."""
    code = (
        "import os, torch\nfrom converters.benchmark.worker import _limit_memory\n_limit_memory()\n"
        "half = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2\n"
        "torch.empty(2**20)\n"
        "try:\n    torch.empty(half, dtype=torch.uint8)\nexcept RuntimeError as e:\n    print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "memory" in out


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    q = load_checkpoint("lenet5-mnist-8")[0]
    rows = []
    cases = ("T", 2, 2), ("T", 16, 2), ("batch", 2, 3), ("network", 3, 2)
    for axis, window, batch in cases:
        found, failed = time_case(to_nir(q, T=window), Case("lenet5", window, batch), list(GROWTH), **QUICK)
        assert not failed
        rows += [r | {"axis": axis, "neurons": 7000} for r in found]
    failures = [{"name": "calif_fast_trains", "network": "lenet5", "T": 9, "batch": 9, "failed": "no memory"}]
    text = pages.growth({"rows": rows, "failed": failures, "machine": machine(1)}, "calif bench", "p.png")
    assert text.count("| lenet5 | 7,000 |") == 4
    assert "| calif_fast_trains | lenet5 | 9 | 9 | no memory |" in text
    figure = pages.growth_plot(rows)
    counts = figure.axes[0].get_lines()[0]
    assert list(np.asarray(counts.get_xdata())) == [2, 16]
    assert list(np.asarray(counts.get_ydata())) == [
        r["seconds"] for r in rows if (r["axis"], r["name"]) == ("T", "calif_fast")
    ]
    figure.savefig(tmp_path / "p.png")


def test_files() -> None:
    rows = files(GRAPHS["lenet"](), 5, 2)
    assert [r["name"] for r in rows] == [
        "convert (to_nir)",
        "write",
        "read, validated",
        "lower to stock nodes, certified",
        "write them",
        "nir.read",
    ]
    for r in rows:
        assert sum(r["shares"].values()) == pytest.approx(1)
        assert r["seconds"] == min(r["times"]) > 0
        assert r["weights"] == 4 * 9 + 12 * 36 + 5 * 12
        assert r["file_bytes"] > 1000
    for k in (1, 4, 5):
        assert rows[k]["shares"]["HDF5 and its compression"] > 0.05  # however busy the machine is
    assert rows[0]["file_bytes"] != rows[3]["file_bytes"]


def test_out_is_gone_on_with(calif: Calif, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = ["bench", "--only", "float_pass", "--window", 3, "--repeats", 1, "--threads", 1, "--out", out, "--json"]
    assert calif(*command, "--batch", 1)[0] == 0
    first = json.loads(out.read_text())
    code, text, _ = calif(*command, "--batch", 1, "--batch", 2)
    second = json.loads(text)
    assert code == 0
    assert second == json.loads(out.read_text())
    assert second["rows"][0] == first["rows"][0]  # its times too: it was not measured again
    assert [r["batch"] for r in second["rows"]] == [1, 2]
    page = out.with_suffix(".md").read_text()
    assert "## lenet5, T = 3" in page
    assert f"| one pass of the float network | {first['rows'][0]['seconds']:.3g} |" in page
    out.write_text(json.dumps(first | {"machine": {"cpu": "abacus"}}))
    code, text, err = calif(*command, "--batch", 1)
    assert (code, text) == (2, "")
    assert "rows of another machine or other versions" in err
    out.write_text("{}")
    assert "not a file of calif bench" in calif(*command, "--batch", 1)[2]
    for options in (
        ["--full", "--files"],
        ["--out", tmp_path / "speed.txt"],
        ["--files", "--window", 1, "--window", 2],
    ):
        code, text, err = calif("bench", *options)
        assert (code, text) == (2, "")
        assert err.count("\n") == 1


def test_a_file_is_timed_at_its_own_window(calif: Calif, tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    write(path, to_nir(GRAPHS["residual"](), T=5))
    command = ["bench", "--network", path, "--only", "float_pass", "--repeats", 1, "--threads", 1, "--batch", 2]
    code, text, _ = calif(*command, "--json")
    assert code == 0
    (row,) = json.loads(text)["rows"]
    assert (row["T"], row["batch"], row["network"]) == (5, 2, str(path))
    assert calif(*command, "--window", 6)[0] == 2


def test_networks_are_of_the_sizes_they_say() -> None:
    from converters.benchmark.random_networks import vgg16

    q = vgg16()
    assert isinstance(q, QuantGraph)
    weights = sum(op.weight.numel() for n in q.layers for s in n.synapses for op in s.ops if hasattr(op, "weight"))
    assert weights == 14_710_464 + 512 * 512 + 512 * 10  # the usual count of its convolutions
