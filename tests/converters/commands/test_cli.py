"""The command ``calif`` as a user meets it: JSON, exit codes, one line for each mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import converters
from converters.files.quantised_file import load_quantised, save_quantised
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif
from tests.converters.sample_graphs import lenet

FAST = ["--checkpoint", "lenet5-mnist-8", "--dataset", "digits", "--images", "20"]
FIELDS = {
    "T", "phase", "quantised_accuracy", "snn_accuracy", "counts_compared", "count_mismatches",
    "prediction_agreement", "latency_steps", "spikes_per_image", "sops_per_image",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def one_object(out: str) -> dict:
    assert out.count("\n") == 1
    return json.loads(out)


def test_run_as_json(calif: Calif) -> None:
    code, out, err = calif("run", *FAST, "--window", 8, "--window", 3, "--json")
    assert (code, err) == (0, "")
    result = one_object(out)
    assert (result["dataset"], result["network"]) == ("digits", "lenet5")
    assert [row["T"] for row in result["windows"]] == [8, 3]
    for row in result["windows"]:
        assert set(row) >= FIELDS
        assert row["count_mismatches"] == 0
        assert row["counts_compared"] == 20 * 8084
        assert row["prediction_agreement"] == 1.0
        assert row["latency_steps"] > row["T"]
        assert row["sops_per_image"] > row["spikes_per_image"] > 0


def test_paper_phase_is_not_exact_and_says_so(calif: Calif) -> None:
    code, out, _ = calif("run", *FAST, "--window", 8, "--phase", "paper", "--json")
    assert code == 0  # nobody asked for exactness
    assert one_object(out)["windows"][0]["count_mismatches"] > 0


def test_closed_form_is_labelled(calif: Calif) -> None:
    _, out, _ = calif("run", *FAST, "--backend", "closed_form", "--json")
    (row,) = one_object(out)["windows"]
    assert (row["counts_from"], row["count_mismatches"]) == ("closed form", 0)
    assert row["latency_steps"] is None
    assert row["spikes_per_image"] is None
    assert row["images_simulated"] == 4
    _, out, err = calif("run", *FAST, "--backend", "closed_form")
    assert "settle, closed form" in " ".join((out + err).split())
    assert "4 images simulated too, 0 of their counts differ" in " ".join((out + err).split())


def test_convert_inspect_run(calif: Calif, tmp_path: Path) -> None:
    code, out, _ = calif("convert", "--checkpoint", "lenet5-mnist-8", "--window", 8, "--out", "n.nir", "--json")
    assert code == 0
    assert one_object(out)["files"] == [{"T": 8, "file": "n.nir", "bytes": (tmp_path / "n.nir").stat().st_size}]
    code, out, _ = calif("inspect", "n.nir", "--json")
    about = one_object(out)
    assert (about["T"], about["neurons"], about["synapses"]) == (8, 8094, 422824)
    assert [layer["range"] for layer in about["layers"]][:2] == [[0, 8], [0, 8]]
    code, out, _ = calif("run", "n.nir", "--dataset", "digits", "--images", 10, "--json")
    (row,) = one_object(out)["windows"]
    assert (code, row["T"], row["count_mismatches"], row["compared_with"]) == (0, 8, 0, "closed form")
    code, out, err = calif("run", "n.nir", "--dataset", "digits", "--window", 9)
    assert (code, out) == (2, "")
    assert "was converted for T = 8; use its checkpoint" in err


def test_tables_for_people(calif: Calif) -> None:
    code, out, _ = calif("run", *FAST)
    assert code == 0
    assert "161,680" in out  # counts compared
    code, out, _ = calif("inspect", "lenet5-mnist-127")
    assert code == 0
    assert "decision boundaries round on the lattice as they do exactly" in out


def test_sweep(calif: Calif) -> None:
    code, out, _ = calif("sweep", *FAST, "--window", 2, "--window", 8, "--phase", "settle", "--phase", "none", "--json")
    rows = one_object(out)["windows"]
    assert [(r["T"], r["phase"]) for r in rows] == [(2, "settle"), (2, "none"), (8, "settle"), (8, "none")]
    assert code == 0


def test_anytime(calif: Calif) -> None:
    _, out, _ = calif("sweep", *FAST, "--window", 8, "--anytime", "--json")
    (row,) = one_object(out)["windows"]
    assert len(row["anytime"]) >= 8
    assert row["anytime"][-1] == row["snn_accuracy"]
    _, out, _ = calif("sweep", *FAST, "--window", 8, "--anytime")
    assert "stopped after step 6:" in out


def test_cross_check(calif: Calif, tmp_path: Path) -> None:
    code, out, _ = calif("cross-check", *FAST[:-1], 3, "--window", 4, "--window", 8, "--json")
    result = one_object(out)
    assert code == 0
    assert result["cross_check"]["images"] == 6
    assert result["cross_check"]["spike_mismatches"] == 0
    assert result["cross_check"]["spikes_compared"] > 3 * 9118 * 12
    assert [c["T"] for c in result["checks"]] == [4, 8]
    code, out, _ = calif("cross-check", *FAST[:-1], 2, "--sample", 5)
    assert code == 0
    assert "5 of 4,704" in out
    assert "differing 0" in out


def test_cross_check_against_a_file_that_differs(calif: Calif, tmp_path: Path) -> None:
    q = load_checkpoint("lenet5-mnist-8")[0]
    graph = converters.to_nir(q, T=8)
    graph.nodes["classifier.0"].v_threshold = graph.nodes["classifier.0"].v_threshold * 1.05
    converters.write(tmp_path / "other.nir", graph)
    arguments = ["cross-check", *FAST[:-1], 4, "--against", "other.nir", "--plot", "first.png"]
    code, out, _ = calif(*arguments)
    assert code == 1
    assert "first difference: image" in out
    assert "layer classifier.0, neuron (" in out
    assert (tmp_path / "first.png").stat().st_size > 1000
    code, out, _ = calif(*arguments, "--json")
    assert code == 1
    first = one_object(out)["checks"][0]["first_difference"]["brian2"]
    assert first["layer"] == "classifier.0"
    assert first["threshold"][1] == pytest.approx(1.05 * first["threshold"][0])


def test_a_failed_check_exits_with_1(calif: Calif, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.backends import closed_form

    exact = closed_form.exact_round
    monkeypatch.setattr(closed_form, "integer_layers", lambda _: {})
    monkeypatch.setattr(closed_form, "exact_round", lambda *a: exact(*a) * 0)
    code, out, _ = calif("run", *FAST, "--backend", "closed_form", "--json")
    assert code == 1
    (row,) = one_object(out)["windows"]
    assert row["count_mismatches"] > 0
    assert row["simulation_mismatches"] > 0


# --- mistakes: exit 2, one line, nothing on standard output -----------------------------------------------


def rgb_folder(path: Path) -> Path:
    for split in ("train", "test"):
        folder = path / split / "only"
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(folder / "0.png")
    return path


MISTAKES = [
    (["run", "gone.nir", "--dataset", "digits"], r"gone.nir: found no such file"),
    (["inspect", "gone"], r"gone: found no such file or checkpoint; give a file, or one of: .*lenet5-mnist-127"),
    (["convert", "--checkpoint", "gone"], r"gone: found no such file or checkpoint"),
    (["run", "cut.nir", "--dataset", "digits"], r"cut.nir: found .*(truncated|damaged|no HDF5)"),
    (["run", "--checkpoint", "cut.safetensors"], r"cut.safetensors: found "),
    (["run", "--checkpoint", "text.safetensors"], r"text.safetensors: found "),
    (["run", "--checkpoint", "lenet5-mnist-8", "--dataset", "rgb"], r"images: found a batch of shape \(1, 3, 32, 32\); "
     r"the network takes \(N, 1, 32, 32\)"),
    (["run", *FAST, "--window", "0"], r"window: found T = 0; use a whole number of steps, at least 1"),
    (["run", *FAST, "--window", "-3"], r"window: found T = -3"),
    (["run", *FAST, "--window", "many"], r"'--window'.*integer"),
    (["run", *FAST, "--backend", "nest"], r"found 'nest'; use one of auto, fast, snntorch, brian2, closed_form"),
    (["run", *FAST, "--phase", "late"], r"phase: found 'late'; use one of settle, paper, none"),
    (["run", *FAST, "--coding", "rate"], r"--coding: found 'rate'; use one of isi, direct, auto"),
    (["run", "whole.nir", "--dataset", "digits", "--coding", "rate"], r"--coding: found 'rate'"),
    (["run", "whole.nir", "--dataset", "digits", "--coding", "direct"], r"--coding: found direct; whole.nir was conv"),
    (["run", *FAST, "--backend", "closed_form", "--phase", "none"], r"found 'none'; backend closed_form has settle"),
    (["run"], r"NETWORK: found none; name a checkpoint, as lenet5-mnist-8, or a file"),
    (["run", "--checkpoint", "lenet5-mnist-8", "--dataset", "nonsense"], r"dataset: found 'nonsense'; use one of digi"),
    (["run", *FAST, "--images", "0"], r"--images"),
    (["run", *FAST, "--nonsense"], r"No such option: --nonsense"),
    (["fly"], r"No such command 'fly'"),
    (["train", "--toolkit", "tflite"], r"--toolkit: found 'tflite'; calif trains with pt2e, brevitas"),
    (["train", "--network", "alexnet"], r"network: found 'alexnet'; use one of lenet5, lenet5se, lenet5x4, vgg9"),
    (["train", "--levels", "0"], r"--levels 0: found 0; use a whole number from 1 to 32767"),
    (["train", "--levels", "7", "--levels", "fc=x"], r"--levels: found 'fc=x'; give a number, or PATH=NUMBER"),
    (
        ["train", "--levels", "7", "--levels", "fc=3", "--toolkit", "brevitas"],
        r"--levels: found numbers by layer for brevitas; use --toolkit pt2e",
    ),
    (["train", "--weight-bits", "9"], r"'--weight-bits'"),
    (["train", "--out", "text.safetensors"], r"text.safetensors"),
    (["convert", "--checkpoint", "lenet5-mnist-8", "--out", "no/such/folder/n.nir"], r"no/such/folder"),
    (["convert", "--checkpoint", "lenet5-mnist-8", "--window", "4", "--window", "8", "--out", "n"], r"--out: found"),
    (["convert", "--checkpoint", "lenet5-mnist-8", "--window", "4", "--window", "0"], r"--window: found T = 0"),
    (["demo", "--window", "4", "--window", "0"], r"--window: found T = 0; use a whole number of steps, at least 1"),
    (["cross-check", *FAST, "--sample", "3", "--seed", "9" * 20], r"'--seed'"),
    (["cross-check", *FAST, "--seed", "-1"], r"'--seed'"),
    (["cross-check", *FAST, "--plot", "no/x.png"], r"no/x.png: found that its folder does not exist"),
    (["bench", "--seed", "9" * 20], r"'--seed'"),
    (["bench", "--batch", "-1"], r"'--batch'"),
    (["bench", "--batch", "0"], r"'--batch'"),
    (["bench", "--out", "no/y.json"], r"no/y.json: found that its folder does not exist"),
    (["inspect", "whole.nir", "--window", "4"], r"--window: found 4; whole.nir was converted for T = 15"),
    (["inspect", "lenet5", "--window", "4"], r"--window: found 4; a network of the zoo has none"),
    (["inspect", "lenet5-mnist-8", "--window", "4", "--window", "8"], r"--window: found 2 windows; give one"),
    (["interop", *FAST, "--window", "4", "--window", "8"], r"--window: found 2 windows; give one"),
    (["inspect", "lenet5-mnist-8", "--shape", "1x28x28"], r"--shape: found '1x28x28'; lenet5-mnist-8 has its own"),
    (["inspect", "whole.nir", "--classes", "3"], r"--classes: found 3; whole.nir has its own"),
    (["inspect"], r"NETWORK: found none; name a checkpoint, as lenet5-mnist-8, or a file"),
    (["inspect", "whole.nir", "--checkpoint", "lenet5-mnist-8"], r"NETWORK: found whole.nir and --checkpoint lenet5"),
    (["convert", "lenet5-mnist-8", "--out", "x.txt"], r"--out: found x.txt; give a name that ends in .nir or .onnx"),
    (["convert", "lenet5-mnist-8", "--out", "x"], r"--out: found x; give a name that ends in .nir or .onnx"),
    (["convert", "whole.nir"], r"whole.nir: found a network that is converted already; name what it was made from"),
    (["convert", "lenet5-mnist-8", "--levels", "15"], r"--levels: found 15 without --torchvision; leave it out"),
    (["convert", "lenet5-mnist-8", "--images", "rgb"], r"--images: found rgb without --torchvision; leave it out"),
    (["convert", "lenet5-mnist-8", "--exact"], r"--exact: found a .nir file, which is exact; give an --out that ends"),
    (["lower", "lenet5-mnist-8", "--out", "x.onnx"], r"--out: found x.onnx; give a name that ends in .nir"),
    (["lower", "lenet5-mnist-8", "--images", "3"], r"--images: found target chain; only plain_if loses anything"),
    (["report", "rgb", "--out", "x.pdf"], r"--out: found x.pdf; give a name that ends in .html or .htm"),
    (["quantise", "gone.float.pt", "--out", "x.nir"], r"--out: found x.nir; give a name that ends in .safetensors"),
    (["run", "lenet5"], r"lenet5: found no such file or checkpoint; give a file, or one of: .*lenet5-mnist-8"),
    (["run", "rgb", "--dataset", "digits"], r"rgb: found a folder; name a file in it"),
    (["run", "note.txt"], r"note.txt: found a file of no kind that is known here; give a .nir, .onnx, .qat.pt or .sa"),
    (["run", "cut.qat.pt"], r"cut.qat.pt: found a damaged checkpoint"),
    (["run", "gone.onnx", "--dataset", "digits"], r"gone.onnx: found no such file"),
    (["run", "lenet5-mnist-8", "--dt", "0.1"], r"--dt: found 0.1 for Ca-LIF neurons; leave it out"),
    (["run", "whole.nir"], r"--dataset: found none; say which images to run"),
    (["run", "whole.safetensors", "whole.nir"], r"[Uu]nexpected extra argument"),
    (["sweep"], r"NETWORK: found none; name a checkpoint, as lenet5-mnist-8, or a file"),
    (["sweep", "whole.nir", "--dataset", "digits"], r"--window: found 2; whole.nir was converted for T = 15; use its"),
    (["interop", "gone.nir", "--simulator", "nest"], r"simulator: found 'nest'; use one of spikingjelly, norse, snnto"),
    (["parity", "whole.nir"], r"whole.nir: found neither an .onnx file nor a .qat.pt of calif train; give one of them"),
    (["parity", "gone.qat.pt"], r"gone.qat.pt: found no such file"),
    (["train", "--epochs", "0"], r"--epochs: found 0 of a network of random weights; name a network to start from wi"),
    (["train", "--levels", "many"], r"--levels: found 'many'; give a number, or PATH=NUMBER for the layers in a path"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else ""
)
def test_mistakes(calif: Calif, tmp_path: Path, arguments: Any, message: str) -> None:
    whole = tmp_path / "whole.nir"
    converters.write(whole, converters.to_nir(lenet(), T=15))
    (tmp_path / "cut.nir").write_bytes(whole.read_bytes()[:1500])
    save_quantised(tmp_path / "whole.safetensors", lenet())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:700])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "cut.qat.pt").write_bytes(b"PK\x03\x04" + bytes(200))
    rgb_folder(tmp_path / "rgb")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    code, out, err = calif(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("calif: ")
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before  # nothing is left behind


def test_convert_writes_nothing_if_one_window_fails(
    calif: Calif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = converters.to_nir

    def to_nir(q: Any, T: Any, coding: str) -> Any:
        if T == 5:
            raise converters.ConversionError("fc", "no lattice", "use fewer levels")
        return exact(q, T=T, coding=coding)

    monkeypatch.setattr("converters.nir_export.to_nir", to_nir)
    assert calif("convert", "--checkpoint", "lenet5-mnist-8", "--window", 4, "--window", 5)[0] == 2
    assert not list(tmp_path.iterdir())


def test_what_is_asked_for_late_is_refused_before_the_work(calif: Calif, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_args: Any, **_options: Any) -> None:
        raise AssertionError("it has begun")

    for name in (
        "converters.benchmark.measuring.time_case",
        "converters.benchmark.files.files",
        "converters.measuring.cross_checking.cross_check",
        "converters.commands.demo.train_network",
    ):
        monkeypatch.setattr(name, work)
    for command in (
        ["bench", "--out", "no/y.json"],
        ["bench", "--files", "--out", "no/y.json"],
        ["cross-check", *FAST, "--plot", "no/x.png"],
        ["demo", "--window", "0"],
    ):
        code, out, err = calif(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_toolkit_that_is_not_installed_names_the_extra(calif: Calif, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == "brevitas"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "brevitas", None)  # as if it were not there
    code, out, err = calif("train", "--toolkit", "brevitas", "--epochs", 1, "--qat-epochs", 1, "--levels", 7)
    assert (code, out) == (2, "")
    assert 'install it: pip install "calif-plugins[brevitas]"' in err
    assert err.count("\n") == 1


def test_bench(calif: Calif) -> None:
    rows = ["float_passes_T", "calif_loop", "calif_fast", "calif_closed_form"]
    only = [a for r in rows for a in ("--only", r)]
    code, out, _ = calif("bench", *only, "--window", 4, "--batch", 2, "--repeats", 2, "--threads", 1, "--json")
    result = one_object(out)
    assert code == 0
    assert [r["name"] for r in result["rows"]] == rows
    for row in result["rows"]:
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["seconds"] in row["times"] or len(row["times"]) == 2
        assert row["peak_memory_mb"] > 50
    code, out, err = calif("bench", "--only", "abacus")
    assert (code, out) == (2, "")
    assert "--only: found 'abacus'; use one of snntorch_loop" in err


def test_help_of_every_command(calif: Calif) -> None:
    code, out, _ = calif("--help")
    assert code == 0
    for command in ("demo", "train", "convert", "run", "sweep", "cross-check", "inspect", "bench"):
        assert command in out
        assert calif(command, "--help")[0] == 0
    assert calif()[0] == 2


# --- training: another network's checkpoint, a kill, a malicious file -------------------------------------

SHORT = ["--network", "lenet5", "--levels", "7", "--epochs", "3", "--qat-epochs", "1"]


def test_checkpoint_of_another_network(calif: Calif) -> None:
    assert calif("train", "--epochs", 1, "--qat-epochs", 1, "--levels", 3, "--out", "a", "--json")[0] == 0
    code, out, err = calif(
        "train", "--epochs", 1, "--qat-epochs", 1, "--levels", 3, "--seed", 5, "--out", "a", "--json"
    )
    assert (code, out) == (2, "")
    assert "a checkpoint with seed 0 instead of 5; use another --out, or delete it" in err


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_training_checkpoint_executes_nothing(calif: Calif, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    torch.save({"about": Evil(), "model": {}, "optimiser": {}, "log": ""}, tmp_path / "a" / "lenet5-digits.float.pt")
    code, _, err = calif("train", *SHORT, "--out", "a")
    assert code == 2
    assert "no checkpoint of calif train (posix system in it)" in err
    assert not (tmp_path / "executed").exists()


def test_training_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "converters.cli", "train", *SHORT, "--json", "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(converters.__file__).parents[1])}
    whole = subprocess.run([*command, "whole"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    victim = subprocess.Popen([*command, "killed"], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    log = tmp_path / "killed" / "lenet5-digits.float.jsonl"
    for _ in range(2400):
        if log.exists() and log.read_text().count("\n") >= 1:
            break
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    done = log.read_text().count("\n")
    assert 1 <= done <= 3
    assert not (tmp_path / "killed" / "lenet5-digits-7.safetensors").exists()
    again = subprocess.run([*command, "killed"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    a, b = json.loads(whole.stdout), json.loads(again.stdout)
    assert a["log"] == b["log"]
    q, p = (load_quantised(tmp_path / k / "lenet5-digits-7.safetensors") for k in ("whole", "killed"))
    x = torch.rand(4, 1, 32, 32)
    for layer, twin in zip(q.layers, p.layers, strict=True):
        assert torch.equal(layer.threshold, twin.threshold)
        assert torch.equal(layer.bias, twin.bias)
    one, two = q.execute(x), p.execute(x)
    assert all(torch.equal(one[k], two[k]) for k in one)
