"""The report: its numbers are those of the run, of the reference and of the browser that shows it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape

import converters
from converters.errors import ConversionError
from converters.network import Network
from converters.reporting.charts import accuracy_chart
from converters.reporting.details import describe, layer_rows, pack, traces, unpack
from converters.reporting.page import load_run, render
from converters.reporting.sections import energy_rows
from converters.testing.networks import NETWORKS
from converters.testing.networks import images as network_images
from converters.zoo.datasets import Images, load
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif
from tests.converters.sample_graphs import lenet, residual
from tests.converters.task_graphs import of, several


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: two windows, two phases, cross-checked, with its layers and three images."""
    folder = tmp_path_factory.mktemp("run")
    q, notes = load_checkpoint("lenet5-mnist-8")
    data = load("digits", "test").first(24)
    from converters.measuring.measure import measure

    graphs = {t: converters.to_nir(q, T=t) for t in (4, 8)}
    windows = [measure(g, q, data, phase=p).as_dict() for g in graphs.values() for p in ("settle", "none")]
    check = converters.cross_check(graphs[8], data.pixels[:2])
    run = {"dataset": "digits", "network": notes["network"], "levels": 8, "windows": windows}
    run |= {"cross_check": check.summary(), "checks": [check.as_dict()]}
    runs = [(g, p) for g in graphs.values() for p in ("settle", "none")]
    run["details"] = describe(runs, q, data, images=24, shown=3, trace_window=8)
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


@pytest.fixture(scope="module")
def run(run_file: Path) -> dict:
    return json.loads(run_file.read_text())


# --- details ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lenet, residual])
@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_layers_add_up_to_the_run(make: Callable[..., Any], coding: str) -> None:
    q = make()
    pixels = torch.rand(6, *q.input.shape)
    network = Network.from_graph(converters.to_nir(q, T=15, coding=coding))
    found = layer_rows(network, q, pixels)
    r = converters.run(network, pixels, record="spikes")
    layers = [layer for layer in found["layers"] if layer["kind"] != "input"]
    assert [layer["name"] for layer in layers] == [s.name for s in network.stages]
    assert sum(layer["sops"] for layer in layers) * 6 == pytest.approx(float(r.sops.sum()))
    assert found["direct_macs"] * 6 == pytest.approx(float(r.macs.sum()))
    for layer in found["layers"]:
        if layer["name"] in r.positive:
            assert layer["positive"] * 6 == pytest.approx(int(r.positive[layer["name"]].sum()))
            assert layer["negative"] * 6 == pytest.approx(int(r.negative[layer["name"]].sum()))
    assert sum(layer["mismatches"] for layer in layers) == 0
    assert sum(layer["counts_compared"] for layer in layers) == 6 * sum(s.size for s in network.stages)
    assert found["extra_steps"] == r.extra_steps.tolist()


def test_dense_operations_are_counted_from_the_geometry() -> None:
    # 4 filters of 3 x 3 on 8 x 8; 2 x 2 pools of 4 x 3 x 3; 36 -> 12 -> 5
    rows = {
        r["name"]: r
        for r in layer_rows(Network.from_graph(converters.to_nir(lenet())), None, torch.rand(1, 1, 8, 8))["layers"]
    }
    assert (rows["conv"]["macs"], rows["conv"]["adds"]) == (4 * 36 * 9, 0)
    assert (rows["pool"]["macs"], rows["pool"]["adds"]) == (0, 4 * 9 * 4)
    assert (rows["fc1"]["macs"], rows["fc2"]["macs"]) == (36 * 12, 12 * 5)
    assert (rows["conv"]["fan_in"], rows["pool"]["fan_in"], rows["fc1"]["fan_in"]) == (9, 4, 36)


def test_a_wrong_network_shows_its_mismatches() -> None:
    q, other = lenet(), lenet(seed=3)
    rows = layer_rows(Network.from_graph(converters.to_nir(q)), other, torch.rand(4, 1, 8, 8))["layers"]
    assert sum(r.get("mismatches", 0) for r in rows) > 10


@pytest.mark.parametrize("checkpoint", ["lenet5-mnist-8", "lenet5-mnist-127"])  # read from the membrane, and counts
def test_traces_end_on_the_prediction(checkpoint: str) -> None:
    q, _ = load_checkpoint(checkpoint)
    data = load("digits", "test").first(10)
    network = Network.from_graph(converters.to_nir(q, T=8))
    found = traces(network, data, shown=3)
    shown = found["images"]
    assert len({i["label"] for i in shown}) == 3
    for image in shown:
        index = next(k for k, x in enumerate(data.labels.tolist()) if x == image["label"])
        r = converters.run(network, data.pixels[index : index + 1], record="spikes")
        assert image["steps"] == int(r.latency[0])
        last = torch.tensor(image["output"][-1], dtype=torch.float64) * network.output.scale
        torch.testing.assert_close(last, r.logits[0].flatten())
        assert len(image["output"]) == image["steps"]
        for layer in image["layers"]:
            train = r.spikes[layer["name"]][: image["steps"], 0]
            assert layer["positive"] == (train > 0).flatten(1).sum(1).tolist()
            assert layer["negative"] == (train < 0).flatten(1).sum(1).tolist()
            whole = train.flatten(1).numpy()
            np.testing.assert_array_equal(unpack(layer["spikes"], whole.shape), whole)


def test_large_layers_are_cut_to_whole_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.reporting.details.MAP_NEURONS", 80)
    network = Network.from_graph(converters.to_nir(lenet()))
    found = traces(network, Images(torch.rand(1, 1, 8, 8), torch.tensor([0]), 5), shown=1)
    assert [layer["channels_shown"] for layer in found["layers"]] == [2, 4, 12, 5]
    conv = next(x for x in found["images"][0]["layers"] if x["name"] == "conv")
    assert len(conv["positive"]) == found["images"][0]["steps"]  # sums are of all channels


@pytest.mark.parametrize("neurons", [1, 3, 4, 7])
def test_packed_spikes_come_back(neurons: int) -> None:
    spikes = np.random.default_rng(neurons).integers(-1, 2, (5, neurons)).astype(np.int8)
    np.testing.assert_array_equal(unpack(pack(spikes), spikes.shape), spikes)


# --- the page --------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Tables as lists of rows of texts, ids, and whatever points outside."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.outside: list[tuple[str, str]] = []
        self.refers: list[str] = []
        self.headings: list[int] = []
        self.table, self.cell = "", False
        self.feed(page)

    def handle_starttag(self, tag: Any, attributes: Any) -> None:
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        self.refers += (given.get("aria-labelledby") or "").split() + (given.get("for") or "").split()
        for name in ("src", "href", "srcset", "action"):
            if name in given:
                self.outside.append((tag, given[name]))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.table = given["id"]
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.cell = True
            self.tables[self.table][-1].append("")

    def handle_endtag(self, tag: Any) -> None:
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data: Any) -> None:
        if self.cell:
            self.tables[self.table][-1][-1] += data


def number(text: str) -> float:
    return float(re.sub(r"[^0-9.e-]", "", text))


def test_numbers_equal_the_json(run: dict) -> None:
    tables = Reader(render(run)).tables
    for cells in tables["windows-table"][1:]:
        row = next(r for r in run["windows"] if (str(r["T"]), r["phase"]) == (cells[0], cells[1]))
        assert number(cells[2]) == pytest.approx(100 * row["quantised_accuracy"], abs=0.005)
        assert number(cells[3]) == pytest.approx(100 * row["snn_accuracy"], abs=0.005)
        assert number(cells[5]) == row["counts_compared"]
        assert number(cells[6]) == row["count_mismatches"]
    assert len(tables["windows-table"]) == 1 + len(run["windows"])
    # layers: settle first, then the longest window
    order = sorted(run["details"]["windows"], key=lambda w: (w["phase"] != "settle", -w["T"]))
    for k, window in enumerate(order):
        for cells, layer in zip(tables[f"layers-{k}"][1:], window["layers"], strict=True):
            assert cells[0] == layer["name"]
            assert number(cells[2]) == layer["neurons"]
            assert number(cells[6]) == pytest.approx(layer["positive"], abs=0.0501)
            assert number(cells[7]) == pytest.approx(layer["negative"], abs=0.0501)
            if layer["kind"] == "spikes":
                assert number(cells[3]) == layer["fan_in"]
                assert number(cells[4].split("to")[0]) == pytest.approx(layer["threshold"][0], rel=1e-3)
                assert number(cells[9].split("%")[0]) == pytest.approx(100 * layer["silent"], rel=1e-2)
                assert number(cells[12]) == layer["mismatches"]
    for cells, layer in zip(tables["check-0-0"][1:], run["checks"][0]["layers"]["brian2"], strict=True):
        assert [number(c) for c in cells[1:7]] == [
            layer[n] for n in ("neurons", "steps", "spikes_compared", "positive", "negative", "differing")
        ]


def test_what_the_runs_have_checked_is_shown(run: dict) -> None:
    windows = [{**row, "images_checked": n} for row, n in zip(run["windows"], (7, 5), strict=False)]
    page = render({**run, "windows": windows})
    shown = "images checked while running</dt><dd>{}</dd>"
    assert shown.format(sum(row["images_checked"] for row in windows)) in page
    without = [{k: v for k, v in row.items() if k != "images_checked"} for row in windows]
    assert "images checked while running" not in render({**run, "windows": without})


def test_the_verdict_is_about_the_exact_phase(run: dict) -> None:
    page = render(run)
    compared = sum(r["counts_compared"] for r in run["windows"] if r["phase"] == "settle")
    assert f"{compared:,} counts compared" in page
    assert 'class="verdict good"' in page
    wrong = json.loads(json.dumps(run))
    next(r for r in wrong["windows"] if r["phase"] == "settle")["count_mismatches"] = 7
    page = render(wrong)
    assert 'class="verdict bad"' in page
    assert '<span id="verdict-differ">7</span> differ' in page


def test_energy_is_arithmetic_on_the_json(run: dict) -> None:
    rows = energy_rows(run)
    layers = run["details"]["windows"][0]["layers"][1:]
    macs, adds = sum(x["macs"] for x in layers), sum(x["adds"] for x in layers)
    assert (macs, adds) == (416520, 6304)  # LeNet-5 at 32 x 32
    for row in rows:
        known = next(r for r in run["windows"] if (r["T"], r["phase"]) == (row["T"], row["phase"]))
        assert row["spiking_INT8"] == pytest.approx(known["sops_per_image"] * 0.03e-6)
        assert row["spiking_FP32"] == pytest.approx(known["sops_per_image"] * 0.9e-6)
        assert row["dense_INT8"] == pytest.approx((macs * 0.23 + adds * 0.03) * 1e-6)
    cells = {(c[0], c[1]): c for c in Reader(render(run)).tables["energy-table"][1:]}
    for row in rows:
        own = cells[str(row["T"]), row["phase"]]
        assert number(own[4]) == pytest.approx(row["spiking_INT8"], rel=1e-3)
        assert ("dense" in own[7]) == (row["spiking_INT8"] >= row["dense_INT8"])
    dear = json.loads(json.dumps(run))
    for row in dear["windows"]:
        row["sops_per_image"] *= 1000
    assert "The dense INT8 network is cheaper than the spiking one at T = 4" in render(dear)


def test_one_file_sound_for_screen_readers(run: dict) -> None:
    page = render(run)
    seen = Reader(page)
    assert all(value.startswith(("#", "data:,")) for _, value in seen.outside)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "url(" not in page
    assert len(set(seen.ids)) == len(seen.ids)
    assert set(seen.refers) <= set(seen.ids)
    assert {value[1:] for _, value in seen.outside if value.startswith("#")} <= set(seen.ids)
    assert seen.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(seen.headings, seen.headings[1:], strict=False))
    assert '<html lang="en">' in page
    assert page.count("<svg") == page.count("<title id=") == page.count("<desc id=")


def test_nothing_in_a_run_becomes_markup(run: dict) -> None:
    evil = '</script><img src=x onerror="document.title=1">'
    bad = {**run, "network": evil, "dataset": evil, "nir_file": evil, "rows": [{"simulator": evil, "note": evil}]}
    page = render(bad)
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert str(escape(evil)) in page
    data = page.split('<script type="application/json" id="run">')[1].split("</script>")[0]
    assert json.loads(data) == bad


ROUTE = {"simulator": "sinabs", "version": "3.1.3", "route": "chain", "layers": 6}
INTEROP = [
    {**ROUTE, "spikes_compared": 12345, "differing": 0, "seconds": 2.5, "note": ""},
    {**ROUTE, "route": "plain_if", "spikes_compared": 12345, "differing": 678, "seconds": 0.25, "note": "hard reset"},
    {**ROUTE, "simulator": "norse", "spikes_compared": None, "differing": None, "seconds": None, "note": "missing"},
]


@pytest.mark.parametrize("name", ["interop", "rows"])  # as a part of a run, and as calif interop prints it
def test_interop_rows(run: dict, name: str) -> None:
    cells = Reader(render({**run, name: INTEROP})).tables["interop-table"]
    assert cells[0] == ["simulator", "version", "route", "layers", "spikes compared", "differ", "seconds", "note"]
    assert cells[1] == ["sinabs", "3.1.3", "chain", "6", "12,345", "0", "2.5", ""]
    assert cells[2] == ["sinabs", "3.1.3", "plain_if", "6", "12,345", "678", "0.25", "hard reset"]
    assert cells[3] == ["norse", "3.1.3", "chain", "6", "–", "–", "–", "missing"]


def test_accuracy_chart_places_points_by_their_numbers() -> None:
    svg = accuracy_chart({"spiking, settle": [(4, 0.5), (16, 1.0), (8, 0.75)]})
    points = re.search(r'class="line s0" points="([^"]+)"', svg).group(1)
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, p.split(","))) for p in points.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)  # logarithmic
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y2 < y0


def test_accuracy_of_stopping_earlier(run: dict) -> None:
    curves = [[0.25, 0.5, 1.0], [0.125, 0.25, 0.5, 0.75, 1.0]]
    windows = [{**r, "anytime": c} for r, c in zip(run["windows"][:3:2], curves, strict=True)]
    page = render({**run, "windows": windows})
    svg = page[page.index('aria-labelledby="anytime-t') :].split("</svg>")[0]
    lines = [p.split() for p in re.findall(r'class="line s\d" points="([^"]+)"', svg)]
    assert [len(points) for points in lines] == [3, 5]
    assert lines[0][1].split(",")[0] == lines[1][1].split(",")[0]  # the same step stands at the same place
    assert lines[0][1].split(",")[1] == lines[1][2].split(",")[1]  # and the same accuracy at the same height
    assert "Accuracy if one stops earlier" in page
    assert "Accuracy if one stops earlier" not in render(run)


# --- the command -----------------------------------------------------------------------------------------

ROW = {"T": 8, "phase": "settle", "quantised_accuracy": 0.9, "snn_accuracy": 0.9, "counts_compared": 8}
ROW |= {"count_mismatches": 0}


def unsigned(page: str) -> str:
    """But for what says when and how it was made."""
    page = re.sub(r'"(command|report_command|date)": "[^"]*",? ?', "", page)
    return re.sub(r"<p>Made by .*?</p>|made on</dt><dd>[^<]*", "", page).replace(", }", "}")


def test_command(calif: Calif, run_file: Path, tmp_path: Path) -> None:
    code, out, err = calif("report", run_file.parent, "--out", tmp_path / "a.html", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["bytes"] == (tmp_path / "a.html").stat().st_size
    assert told["details"] is True
    code, out, _ = calif("report", run_file, "--out", tmp_path / "b.html")
    assert "wrote" in out
    a, b = ((tmp_path / name).read_text(encoding="utf-8") for name in ("a.html", "b.html"))
    assert unsigned(a) == unsigned(b)
    assert f"calif report {run_file.parent} --out {tmp_path / 'a.html'} --json</code>" in a
    assert re.search(r"made on</dt><dd>20\d\d-\d\d-\d\d \d\d:\d\d UTC<", a)


def test_the_demo_writes_it_and_says_where(calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--levels", 15, "--window", 4, "--images", 10]
    code, out, _ = calif(*arguments)
    assert code == 0
    assert out.rstrip().splitlines()[-1].endswith("runs/demo/report.html")
    first = Path("runs/demo/report.html").read_text(encoding="utf-8")
    code, out, err = calif(*arguments, "--json")  # the training is done: it goes on from there
    assert (code, err, out.count("\n")) == (0, "", 1)
    told = json.loads(out)
    assert told["report"] == "runs/demo/report.html"
    run = json.loads(Path("runs/demo/run.json").read_text())
    assert {k: v for k, v in run.items() if k not in ("details", "date")} == told
    assert calif("report", "runs/demo")[0] == 0
    assert unsigned(Path("runs/demo/report.html").read_text(encoding="utf-8")) == unsigned(first)
    seen = Reader(first)
    assert number(seen.tables["windows-table"][1][5]) == told["windows"][0]["counts_compared"]
    assert len(seen.tables["layers-0"]) == 1 + 8


def test_of_a_network_and_images_of_ones_own(tmp_path: Path) -> None:
    q = lenet()
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 5
    run = converters.make_report(q, images, labels, tmp_path / "own.html", windows=[15, 4], checked=2, name="mine")
    right = int((q.at_window(4).predict(images) == labels).sum())
    assert [r["T"] for r in run["windows"]] == [4, 15]
    assert run["windows"][0]["quantised_accuracy"] == run["windows"][0]["snn_accuracy"] == right / 12
    assert not any(r["count_mismatches"] for r in run["windows"])
    seen = Reader((tmp_path / "own.html").read_text(encoding="utf-8"))
    neurons = sum(int(np.prod(layer.shape)) for layer in q.layers)
    assert number(seen.tables["windows-table"][2][5]) == 12 * neurons
    assert number(seen.tables["check-0-0"][1][1]) == 64
    for wrong in (labels[:3], labels.tolist()):
        with pytest.raises(converters.ConversionError, match=r"labels: found .* for 12 images; give one integer"):
            converters.make_report(q, images, wrong, tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_command_on_what_run_prints(calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", "lenet5-mnist-8", "--dataset", "digits", "--images", 12]
    _, printed, _ = calif("run", *arguments, "--window", 8, "--json")
    Path("r.json").write_text(printed)
    _, printed, _ = calif("cross-check", *arguments[:-1], 2, "--window", 8, "--json")
    Path("c.json").write_text(printed)
    code, out, _ = calif("report", "r.json", "c.json")
    assert code == 0
    assert "without layers: name the network with --checkpoint" in out
    page = Path("report.html").read_text()
    assert "spikes compared, 0 differ" in page
    assert "Watch it think" not in page
    code, out, _ = calif("report", "r.json", "--checkpoint", "lenet5-mnist-8", "--images", 6, "--shown", 2, "--json")
    assert (code, json.loads(out)["mismatches"]) == (0, 0)
    assert "Watch it think" in Path("report.html").read_text()
    converters.write("n.nir", converters.to_nir(load_checkpoint("lenet5-mnist-8")[0], T=8))
    code, out, _ = calif("report", "r.json", "--nir", "n.nir", "--images", 3, "--out", "n.html")
    assert code == 0
    assert "compared with the closed form" in Path("n.html").read_text()


@pytest.mark.parametrize(
    ("about", "arguments", "message"),
    [
        ({}, ["--dataset", "foo"], "--dataset: found foo; name the network"),
        (
            {"network": "vgg9"},
            ["--checkpoint", "lenet5-mnist-8"],
            "found network lenet5 instead of vgg9",
        ),
        ({"levels": 127}, ["--checkpoint", "lenet5-mnist-8"], "lenet5-mnist-8: found levels 8 instead of 127"),
        ({}, ["--checkpoint", "lenet5-mnist-8", "--nir", "n.nir"], "--nir: found a checkpoint beside it; give one"),
        ({}, ["--out", "no/r.html"], "no/r.html: found that its folder does not exist"),
    ],
)
def test_options_that_do_not_fit_the_run(
    calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(json.dumps({"windows": [ROW], **about}))
    code, out, err = calif("report", "r.json", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_mismatch_exits_with_1(calif: Calif, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"windows": [{**ROW, "count_mismatches": 3}]}))
    code, out, _ = calif("report", tmp_path / "r.json", "--json")
    assert (code, json.loads(out)["mismatches"]) == (1, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("hello", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        ("[1]", "a JSON list"),
        ('{"rows": []}', "no windows"),
        ('{"windows": 3}', "windows = 3 (it should be a valid list)"),
        ('{"windows": [{"T": 8}]}', "windows[0].phase, which is missing"),
        (json.dumps({"windows": [{**ROW, "T": 0}]}), "T = 0"),
        (json.dumps({"windows": [{**ROW, "phase": "x"}]}), "phase = 'x'"),
        (json.dumps({"windows": [{**ROW, "latency_steps": -5}]}), "latency_steps = -5"),
        (json.dumps({"windows": [{**ROW, "sops_per_image": "many"}]}), "sops_per_image = 'many'"),
        (json.dumps({"windows": [{**ROW, "snn_accuracy": "<b>"}]}), "snn_accuracy = '<b>'"),
        (json.dumps({"windows": [{**ROW, "snn_accuracy": float("nan")}]}), "snn_accuracy = nan"),
        (json.dumps({"windows": [ROW], "details": 3}), "details = 3 (an object is expected)"),
        (json.dumps({"windows": [ROW], "cross_check": {"images": 3}}), "cross_check.spikes_compared, which is missing"),
        (json.dumps({"windows": [ROW], "details": {"windows": [{"T": 1}]}}), "details.windows[0].phase, which is mis"),
    ],
)
def test_mistakes(calif: Calif, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.iterdir())
    code, out, err = calif("report", path)
    assert (code, out) == (2, "")
    assert err.startswith("calif: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_that_is_not_there(calif: Calif, run_file: Path) -> None:
    code, _, err = calif("report", run_file, "--checkpoint", "gone")
    assert (code, "gone: found no such file or checkpoint" in err) == (2, True)


def test_runs_add_up(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text(
        json.dumps({"windows": [ROW], "cross_check": {"images": 3, "spikes_compared": 5, "spike_mismatches": 1}})
    )
    one, both = load_run([run_file]), load_run([run_file, tmp_path / "more.json"])
    assert both["windows"] == [*one["windows"], ROW]
    assert both["cross_check"]["spikes_compared"] == one["cross_check"]["spikes_compared"] + 5
    assert both["network"] == one["network"]


# --- in a browser ----------------------------------------------------------------------------------------


FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync"
FLAGS += " --disable-background-networking --disable-component-update"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def emulate(browser: Any, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(browser: Any, selector: str, keys: str) -> None:
    browser.find_element("css selector", selector).send_keys(keys)


@pytest.fixture(scope="module")
def page(browser: Any, run: dict, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render({**run, "interop": INTEROP}), encoding="utf-8")
    emulate(browser, 1280, "light")
    browser.get(path.as_uri())
    return browser


def shown(page: Any) -> dict:
    return page.execute_script(
        "return {step: document.getElementById('step').value, max: document.getElementById('step').max,"
        "text: document.getElementById('step').getAttribute('aria-valuetext'),"
        "summary: document.getElementById('summary').textContent,"
        "output: [...document.querySelectorAll('#output .value')].map(e => Number(e.textContent)),"
        "layers: [...document.querySelectorAll('#layer-maps figcaption')].map(e => e.textContent),"
        "input: document.getElementById('input-caption').textContent}"
    )


LEFT, RIGHT, END, HOME = "\ue012", "\ue014", "\ue010", "\ue011"


def test_the_slider_steps_through_the_run(page: Any, run: dict) -> None:
    found = run["details"]["traces"]
    for k, image in enumerate(found["images"]):
        page.execute_script(f"document.querySelector('input[name=image][value=\"{k}\"]').click()")
        for keys, step in ((HOME, 1), (RIGHT + RIGHT, 3), (END, image["steps"]), (LEFT, image["steps"] - 1)):
            press(page, "#step", keys)
            now = shown(page)
            assert (int(now["step"]), int(now["max"])) == (step, image["steps"])
            phase = "rounding phase" if step > found["T"] else "window"
            assert now["text"] == f"step {step} of {image['steps']}, {phase}"
            np.testing.assert_allclose(now["output"], image["output"][step - 1], atol=0.00501)
            told = {
                layer["name"]: (layer["positive"][step - 1], layer["negative"][step - 1]) for layer in image["layers"]
            }
            assert found["output"]["name"] == found["layers"][-1]["name"]
            assert not found["output"]["counts"]  # never spikes: no map
            spiking = [x["name"] for x in found["layers"][:-1]]
            expected = ["{}: {} positive, {} negative".format(x, *told[x]) for x in spiking]
            assert now["layers"] == expected
            assert now["input"] == "{} positive, {} negative".format(*told[found["input"]])
        press(page, "#step", END)
        assert f"at the end it says {image['prediction']}, and the label is {image['label']}" in shown(page)["summary"]


def test_the_map_paints_the_spikes(page: Any, run: dict) -> None:
    """As many pixels carry the positive colour as there are positive spikes at this step."""
    found = run["details"]["traces"]
    page.execute_script("document.querySelector('input[name=image][value=\"0\"]').click()")
    page.execute_script("document.querySelector('input[name=view][value=spikes]').click()")
    press(page, "#step", HOME + RIGHT * 4)
    painted = page.execute_script(
        "const c = document.getElementById('input-map');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const s = getComputedStyle(document.documentElement).getPropertyValue('--s0').trim();"
        "const w = [1, 3, 5].map(k => parseInt(s.slice(k, k + 2), 16)); let n = 0;"
        "for (let k = 0; k < d.length; k += 4) n += d[k] === w[0] && d[k + 1] === w[1] && d[k + 2] === w[2]; return n"
    )
    layer = next(x for x in found["images"][0]["layers"] if x["name"] == found["input"])
    assert painted == layer["positive"][4] > 0


def test_play_runs_to_the_end_and_stops(page: Any, run: dict) -> None:
    press(page, "#step", END + LEFT * 2)
    page.execute_script("document.getElementById('play').click()")
    assert page.execute_script("return document.getElementById('play').getAttribute('aria-pressed')") == "true"
    for _ in range(60):
        if page.execute_script("return document.getElementById('play').getAttribute('aria-pressed')") == "false":
            break
        time.sleep(0.1)
    now = shown(page)
    assert now["step"] == now["max"]


COLOURS = ["page", "card", "text", "muted", "link", "s0", "s1", "s2", "s3", "good", "good-back", "bad", "bad-back"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_fits_the_screen_and_can_be_read(page: Any, width: int, theme: str) -> None:
    emulate(page, width, theme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    # contrast of text and of every coloured element against the page (WCAG: 4.5, and 3 for graphics)
    colours = page.execute_script(
        "const s = getComputedStyle(document.documentElement), v = n => s.getPropertyValue('--' + n).trim();"
        f"return Object.fromEntries({COLOURS}.map(n => [n, v(n)]))"
    )
    for name, back, least in [
        *((n, b, 4.5) for n in ("text", "muted", "link") for b in ("page", "card")),
        *((n, b, 3) for n in ("s0", "s1", "s2", "s3") for b in ("page", "card")),
        ("good", "good-back", 4.5), ("bad", "bad-back", 4.5),
    ]:  # fmt: skip
        assert contrast(colours[name], colours[back]) >= least, (name, back)
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb({}, {}, {})".format(*(int(colours["page"][k : k + 2], 16) for k in (1, 3, 5)))
    )


def test_what_differs_stays_in_view_on_a_phone(page: Any) -> None:
    """In every table that has the column, scrolled to either end; and a table that scrolls says so."""
    emulate(page, 390, "light")
    page.execute_script(
        "document.querySelectorAll('details').forEach(d => d.open = true); dispatchEvent(new Event('resize'))"
    )
    for start in (0, 10_000):
        found = page.execute_script(
            "return [...document.querySelectorAll('.scroll')].filter(s => s.querySelector('.kept')).map(s => {"
            f"s.scrollLeft = {start}; const all = [...s.querySelectorAll('.kept')].map(c => c.getBoundingClientRect());"
            "const first = s.querySelector('tbody th').getBoundingClientRect();"
            "return {left: Math.min(...all.map(r => r.left)), right: Math.max(...all.map(r => r.right)),"
            "first: first.right, scrolls: s.scrollWidth > s.clientWidth,"
            "told: getComputedStyle(s.querySelector('caption span'), '::after').content}})"
        )
        assert len(found) >= 6
        for table in found:
            assert table["scrolls"] == ("Scroll sideways" in table["told"])
            assert 0 <= table["first"] <= table["left"] < table["right"] <= 390
        assert any(table["scrolls"] for table in found)


def test_the_first_table_is_of_the_window_under_the_slider(run: dict) -> None:
    details = json.loads(json.dumps(run["details"]))
    details["traces"]["T"] = 4
    page = render({**run, "details": details})
    assert "<details open><summary>T = 4, phase settle</summary>" in page
    assert page.count("<details open>") == 1
    assert "<p>T = 4, phase settle. Move the slider" in page


@pytest.mark.parametrize("task", ["map", "values"])
def test_the_player_of_other_tasks(browser: Any, tmp_path: Path, task: str) -> None:
    """Pixels of each class, or the values, after every step; and no error."""
    q = of(several(), "map" if task == "map" else "numbers")
    x = network_images(q, 4)
    labels = q.predict(x) if task == "map" else q.returned(q.execute(x)) + 1
    run = converters.make_report(q, x, labels, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    press(browser, "#step", END)
    now, image = shown(browser), run["details"]["traces"]["images"][0]
    np.testing.assert_allclose(now["output"], image["output"][-1], atol=0.00501)
    end = "at the end 100.00 % of the labelled pixels are right." if task == "map" else "and the label is"
    assert end in now["summary"]
    assert browser.get_log("browser") == []
    emulate(browser, 390, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_no_console_error(page: Any) -> None:
    assert page.get_log("browser") == []


@pytest.mark.parametrize(
    "foreign",
    [
        "<script>document.title = 'taken'</script>",
        "<img src='data:,' onerror=\"document.title = 'taken'\">",
        "<style>body { display: none }</style>",
        "<p style='position: fixed'>over all</p>",
        "<iframe src='data:text/html,x'></iframe>",
    ],
)
def test_the_policy_stops_what_would_get_in(browser: Any, run: dict, tmp_path: Path, foreign: str) -> None:
    """No value becomes markup; if one did, the browser would not run, style or load it."""
    path = tmp_path / "report.html"
    path.write_text(render(run).replace("<footer>", f"{foreign}<footer>"), encoding="utf-8")
    browser.get(path.as_uri())
    told = [entry["message"] for entry in browser.get_log("browser")]
    assert told, "the browser complains"
    assert all("Content Security Policy" in message for message in told)
    assert "taken" not in browser.title
    assert shown(browser)["step"] != "", "the page's own script runs"


def test_several_outputs_and_inputs(tmp_path: Path) -> None:
    """Of several outputs every layer has its row, and the first one is the prediction; several inputs are refused."""
    q = NETWORKS["heads"]()
    x = network_images(q, 4)
    labels = q.predict(x)
    run = converters.make_report(q, x, labels, tmp_path / "heads.html", checked=1)
    (row,) = run["windows"]
    assert row["snn_accuracy"] == 1
    assert row["counts_compared"] > 0 == row["count_mismatches"]
    assert {layer["name"] for layer in run["details"]["windows"][0]["layers"][1:]} == {one.name for one in q.layers}
    assert "heads.html" in {p.name for p in tmp_path.iterdir()}
    q = NETWORKS["two inputs"]()
    given = network_images(q, 4)
    wanted = r"q: found 2 inputs \(picture, about\), where a report shows one picture for each label; give a tensor"
    for wrong in (given, given[0]):
        with pytest.raises(ConversionError, match=wanted):
            converters.make_report(q, wrong, labels, tmp_path / "no.html")
