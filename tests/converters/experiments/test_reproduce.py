"""``calif reproduce``: files that say what was measured, what is missing, and whether it is exact."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters.commands.reproduce import EXPERIMENTS
from converters.experiments.paper import DATASETS, NETWORKS, PAPER, TABLE2, TABLE3, TABLE4, reported_by_paper
from converters.experiments.session import Outcome, Session, wrong
from converters.files.quantised_file import save_quantised
from converters.zoo import networks as zoo
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def options(tmp_path: Path) -> Any:
    """LeNet-5 as it ships, on the digits: images that every machine has."""
    arguments = ["--dataset", "digits", "--images", "12", "--out", "paper"]
    for levels in (127, 8):
        q, notes = load_checkpoint(f"lenet5-mnist-{levels}")
        path = tmp_path / f"lenet5-digits-{levels}.safetensors"
        save_quantised(path, q, notes={**notes, "dataset": "digits"})
        arguments += ["--checkpoint", str(path)]
    return arguments


def test_a_table(calif: Calif, options: Any, tmp_path: Path) -> None:
    code, out, err = calif("reproduce", "table3", *options, "--window", 8, "--window", 127, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["mismatches"] == 0
    data = result["experiments"]["table3"]
    assert json.loads((tmp_path / "paper" / "table3.json").read_text()) == data
    rows = data["rows"]
    found = {(r["checkpoint"], r["T"], r["protocol"]) for r in rows}
    assert found == {
        *(("lenet5-digits-127", t, p) for t in (8, 127) for p in ("shorter", "shorter-direct")),
        *(("lenet5-digits-8", 8, p) for p in ("levels", "levels-direct")),
    }
    test = load("digits", "test")
    for row in rows:
        q, _ = load_checkpoint(f"lenet5-mnist-{row['levels']}")
        right = float((q.at_window(row["T"]).predict(test.pixels) == test.labels).double().mean())
        assert row["quantised_accuracy"] == row["snn_accuracy"] == pytest.approx(right)
        assert row["whole_test_set"]["images"] == 359
        assert row["simulated"]["images"] == 12
        assert row["T"] <= row["latency_steps_mean"] <= row["latency_steps"]
        assert row["paper_snn_accuracy"] is None
        assert (row["macs_per_image"] > 0) == (row["coding"] == "direct")
    longest = next(r for r in rows if r["T"] == 127)["snn_accuracy"]
    assert all(r["against_longest"] == pytest.approx(r["snn_accuracy"] - longest) for r in rows)
    page = (tmp_path / "paper" / "table3.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| digits")]
    assert [line[5] for line in lines] == [f"{100 * r['snn_accuracy']:.2f}" for r in rows]
    assert f"calif reproduce table3 --checkpoint {tmp_path}" in page


def test_a_folder_of_checkpoints(options: Any, calif: Calif, tmp_path: Path) -> None:
    files, folder = options[options.index("--checkpoint") + 1 :: 2], tmp_path / "runs"
    folder.mkdir()
    code, _, err = calif("reproduce", "table3", "--checkpoint", "runs")
    assert code == 2
    assert "runs: found a folder without .safetensors files" in err
    for path in files:
        (folder / path.rsplit("/", 1)[1]).symlink_to(path)
    found = [Session.open(given, datasets=["digits"]).checkpoints for given in (["runs"], files)]
    assert [[c.name for c in some] for some in found] == [["lenet5-digits-127", "lenet5-digits-8"]] * 2


def test_figures_are_drawn(calif: Calif, options: Any, tmp_path: Path) -> None:
    code, out, _ = calif("reproduce", "fig2", "fig3", "fig4", "fig5", *options, "--window", 127)
    assert code == 0
    for name in ("fig2", "fig3", "fig4", "fig5"):
        assert (tmp_path / "paper" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"paper/{name}.png" in out
    data = json.loads((tmp_path / "paper" / "fig3.json").read_text())
    series = data["series"]
    assert data["calif_equals_quantised"]
    z = series["z"]
    expected = [float(min(max(round(x), 0), 12)) for x in z]  # Python rounds half to even, as the neuron does
    assert series["Ca-LIF"] == series["quantised ReLU"] == expected
    assert series["LIF"] != expected
    real = data["network"]
    assert real["wrong"]["Ca-LIF"] == 0
    assert 0 < real["wrong"]["LIF"] <= real["compared"]
    assert sum(real["differences"]["LIF"].values()) == real["compared"]


def test_ablation_and_energy(calif: Calif, options: Any, tmp_path: Path) -> None:
    code, out, _ = calif("reproduce", "ablation", "energy", *options, "--window", 8, "--json")
    assert code == 0
    result = json.loads(out)["experiments"]
    rows = {(r["checkpoint"], r["neuron"]): r for r in result["ablation"]["rows"]}
    assert len(rows) == 2 * 10
    for name in ("lenet5-digits-127", "lenet5-digits-8"):
        assert rows[name, "settle"]["count_mismatches"] == rows[name, "settle_from_0"]["count_mismatches"] == 0
        exact = ("settle", "settle_from_0", "stbif_quiet")
        assert all(rows[name, n]["count_mismatches"] > 0 for k, n in rows if k == name and n not in exact)
    for row in result["energy"]["rows"]:
        sops, macs = row["sops_per_image"], row["macs_per_image"]
        assert row["energy_uj"]["spiking"]["INT8"] == pytest.approx(1e-6 * (0.23 * macs + 0.03 * sops))
        assert row["energy_uj"]["spiking"]["FP32"] == pytest.approx(1e-6 * (4.6 * macs + 0.9 * sops))
        assert row["energy_uj"]["dense"]["INT8"] == pytest.approx(1e-6 * 0.23 * 416_520)
        bench = row["neurobench"]["spiking"]
        assert bench["synaptic_operations"]["Effective_ACs"] <= sops
        assert 0 < bench["activation_sparsity"] < 1
    page = (tmp_path / "paper" / "energy.md").read_text()
    cheaper = [
        r for r in result["energy"]["rows"] if r["energy_uj"]["spiking"]["INT8"] < r["energy_uj"]["dense"]["INT8"]
    ]
    dearer = len(result["energy"]["rows"]) - len(cheaper)
    assert f"the dense network is cheaper than the spiking one in {dearer} of 4 rows" in page


def test_what_is_missing_is_named_with_its_command(calif: Calif, tmp_path: Path) -> None:
    code, out, _ = calif(
        "reproduce", "table4", "--dataset", "cifar100", "--network", "vgg16", "--out", "paper", "--json"
    )
    assert code == 0
    data = json.loads(out)["experiments"]["table4"]
    command = "calif train --network vgg16 --dataset cifar100 --levels 127"
    assert data["missing"] == [{"wanted": "vgg16-cifar100-127", "why": "no checkpoint", "command": command}]
    page = (tmp_path / "paper" / "table4.md").read_text()
    assert command in page
    assert "| Bu et al. 2022 | 76.28 | 73.96 |" in page  # reported ones stand by themselves
    assert data["rows"] == []


def test_transformers_are_measured_where_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tables would take days; by name they are there."""
    name = "vit6-mnist-15"
    monkeypatch.setattr("converters.experiments.session.names", lambda: ["lenet5-mnist-8", name])
    found = [[c.name for c in Session.open(given).checkpoints] for given in ([], [name])]
    assert [set(some) for some in found] == [{"lenet5-mnist-8"}, {"lenet5-mnist-8", name}]


def test_missing_images_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALIF_DATA", raising=False)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    session = Session.open(networks=["lenet5"], datasets=["mnist"], root=tmp_path)
    assert session.row(session.checkpoints[0], 8) is None
    (row,) = session.missing
    assert row["wanted"] == "test images of mnist"
    assert f"put t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz into {tmp_path}" in row["command"]


def test_a_mismatch_is_exit_1(calif: Calif, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"neuron": "settle", "count_mismatches": 2, "predictions_differing": 1}]
    rows += [{"neuron": "paper", "count_mismatches": 9, "predictions_differing": 9}]
    assert wrong(rows) == 3
    monkeypatch.setitem(EXPERIMENTS, "fig2", lambda session: Outcome("as if", {}, None, None, wrong(rows)))
    code, out, _ = calif("reproduce", "fig2", "--out", "paper", "--json")
    assert code == 1
    assert json.loads(out)["mismatches"] == 3


def test_bad_usage(calif: Calif) -> None:
    assert calif("reproduce", "table9")[::2] == (
        2,
        f"calif: NAME: found 'table9'; use {', '.join(EXPERIMENTS)} or all\n",
    )
    code, _, err = calif("reproduce", "fig2", "--window", 0)
    assert code == 2
    assert re.match(r"calif: --window: found T = 0; use a whole number of steps, at least 1\n", err)


def test_unknown_names_leave_the_tables_as_they_are(calif: Calif, options: Any, tmp_path: Path) -> None:
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table4.md").write_text("measured")
    for option, message in (
        (["--network", "foo"], "--network: found 'foo'; use one of lenet5, "),
        (["--dataset", "foo"], "--dataset: found 'foo'; use one of mnist, "),
    ):
        code, out, err = calif("reproduce", "table4", *option, "--out", "paper")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert (tmp_path / "paper" / "table4.md").read_text() == "measured"
    assert [p.name for p in (tmp_path / "paper").iterdir()] == ["table4.md"]


def test_a_folder_of_images_is_a_data_set_once_a_checkpoint_names_it(tmp_path: Path) -> None:
    q, notes = load_checkpoint("lenet5-mnist-8")
    save_quantised(tmp_path / "a.safetensors", q, notes={**notes, "network": "mine", "dataset": "my/pictures"})
    for dataset in ("pictures", "my/pictures"):
        session = Session.open([str(tmp_path / "a.safetensors")], networks=["mine"], datasets=[dataset])
        assert [c.name for c in session.checkpoints] == ["a"]


def test_rows_are_kept_and_found_again_only_for_the_same(calif: Calif, options: Any, tmp_path: Path) -> None:
    arguments = ["reproduce", "fig4", *options, "--json"]
    first = json.loads(calif(*arguments)[1])["experiments"]["fig4"]["rows"]
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "calif" / "rows").glob("*.json")}
    assert len(files) == 2  # the whole set, and the spikes
    assert json.loads(calif(*arguments)[1])["experiments"]["fig4"]["rows"] == first
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert json.loads(calif(*arguments, "--fresh")[1])["experiments"]["fig4"]["rows"] == first
    assert all(p.stat().st_mtime_ns > before for p, before in files.items())
    q, notes = load_checkpoint("lenet5-mnist-127")
    changed = replace(q, layers=(*q.layers[:-1], replace(q.layers[-1], threshold=q.layers[-1].threshold * 2)))
    save_quantised("lenet5-digits-127.safetensors", changed, notes={**notes, "dataset": "digits"})
    other = json.loads(calif(*arguments)[1])["experiments"]["fig4"]["rows"]
    assert other != first
    test = load("digits", "test")
    assert other[0]["snn_accuracy"] == float((changed.predict(test.pixels) == test.labels).double().mean())


def test_the_papers_numbers() -> None:
    """Against another column of the same table: its losses."""
    losses = {
        "mnist": (-0.02, -0.03, -0.04, -0.06),
        "cifar10": (0.26, 0.08, -0.06, 0.49, 0.34),
        "cifar100": (1.53, 0.19, 1.05, -0.38),
        "tinyimagenet": (1.59, 1.08, 1.00),
    }
    for dataset, expected in losses.items():
        rows = [r for r in TABLE2 if r.dataset == dataset and r.source == PAPER]
        assert [round(r.ann - r.snn, 2) for r in rows] == list(expected)
        assert all(r.network in NETWORKS.values() and r.dataset in DATASETS for r in rows)
    for dataset, table in (("cifar10", TABLE3), ("cifar100", TABLE4)):
        assert reported_by_paper("vgg16", dataset) == table[PAPER][1][128]
        ours = next(r for r in TABLE2 if (r.dataset, r.source, r.network) == (dataset, PAPER, "VGG-16"))
        assert (ours.ann, ours.snn) == (table[PAPER][0], table[PAPER][1][128])
    assert set(NETWORKS) == set(zoo.NETWORKS)


def test_a_network_for_direct_input_alone(calif: Calif, tmp_path: Path) -> None:
    """More levels of the input than of the layers: no row with input spikes, which would not fit the window."""
    q, notes = load_checkpoint("lenet5-mnist-8")
    finer = replace(q.input, q_max=64, scale=q.input.scale / 8)
    first = replace(q.layers[0], threshold=q.layers[0].threshold * 8, bias=q.layers[0].bias * 8)
    q = replace(q, input=finer, layers=(first, *q.layers[1:]))
    path = tmp_path / "lenet5-digits-8.safetensors"
    save_quantised(path, q, notes={**notes, "dataset": "digits"})
    options = ["--checkpoint", str(path), "--dataset", "digits", "--images", "12", "--out", "paper"]
    code, out, err = calif("reproduce", "table3", "energy", "ablation", "fig3", *options, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["experiments"]
    test = load("digits", "test")
    right = float((q.predict(test.pixels) == test.labels).double().mean())
    (row,) = found["table3"]["rows"]
    assert (row["T"], row["protocol"], row["coding"]) == (8, "levels-direct", "direct")
    assert row["snn_accuracy"] == row["quantised_accuracy"] == pytest.approx(right)
    assert right > 0.7
    assert row["count_mismatches"] == row["whole_test_set"]["count_mismatches"] == 0
    assert [r["coding"] for r in found["energy"]["rows"]] == ["direct"]
    settled = [r for r in found["ablation"]["rows"] if r["neuron"] == "settle"]
    assert [r["count_mismatches"] for r in settled] == [0]
    code, out, _ = calif("run", "--checkpoint", path, "--window", 8, "--images", 12, "--json")
    assert code == 0
    few = float((q.predict(test.pixels[:12]) == test.labels[:12]).double().mean())
    assert json.loads(out)["windows"][0]["quantised_accuracy"] == pytest.approx(few)
    code, _, _ = calif("convert", "--checkpoint", path)
    assert code == 0
    assert [p.name for p in tmp_path.glob("*.nir")] == ["lenet5-digits-8-T8.nir"]
