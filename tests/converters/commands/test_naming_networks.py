"""A network is named in the same way in every command, and each kind of file is known as what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import converters
from converters.commands.given import given
from converters.commands.recognising import kind_of
from converters.files.quantised_file import save_quantised
from converters.results import compare_counts
from converters.zoo.named import load_checkpoint
from converters.zoo.trained import trained_model
from tests.command_line import Calif

NAME = "lenet5-mnist-8"
DIGITS = ("--dataset", "digits", "--images", 3)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as every kind of file that keeps its integers."""
    folder = tmp_path_factory.mktemp("files")
    q, notes = load_checkpoint(NAME)
    save_quantised(folder / "n.safetensors", q, notes=notes)
    save_quantised(folder / "n.safetensors.xz", q, notes=notes)
    converters.to_onnx(q, folder / "n.onnx")
    converters.write(folder / "n.nir", converters.to_nir(q, T=8))
    return folder


@pytest.fixture(scope="module", params=["pt2e", pytest.param("brevitas", marks=pytest.mark.slow)])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short training run leaves."""
    from converters.commands.common import progress_bar
    from converters.commands.training import train_network

    if request.param == "brevitas":
        pytest.importorskip("brevitas")
    folder = tmp_path_factory.mktemp("run")
    with progress_bar(True) as bar:
        train_network(folder=folder, bar=bar, toolkit=request.param, levels=7, epochs=1, qat_epochs=1)
    return folder


KINDS = {"n.safetensors": "quantised", "n.safetensors.xz": "quantised", "n.onnx": "onnx", "n.nir": "nir"}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_under_another_name_is_known_by_its_content(files: Path, tmp_path: Path, name: str) -> None:
    assert kind_of(files / name) == KINDS[name]
    shutil.copy(files / name, tmp_path / "other")
    assert kind_of(tmp_path / "other") == KINDS[name]


WAYS: tuple[Any, ...] = ((NAME,), ("--checkpoint", NAME), "n.safetensors", "n.onnx", "n.nir")


@pytest.mark.parametrize(
    ("command", "how"),
    [
        *(("inspect", how) for how in WAYS),
        *(("run", how) for how in WAYS[::3]),
        ("cross-check", WAYS[2]),
        ("lower", WAYS[0]),
    ],
)
def test_commands_take_the_same(calif: Calif, files: Path, command: str, how: Any) -> None:
    network = (files / how,) if isinstance(how, str) else how
    options: dict[str, tuple[Any, ...]] = {
        "run": DIGITS,
        "cross-check": (*DIGITS, "--backend", "snntorch", "--backend", "fast"),
        "lower": ("--target", "plain_if"),
    }
    code, out, err = calif(command, *network, *options.get(command, ()), "--window", 8, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.get("T", 8) == 8
    if command == "run":
        assert [(r["counts_compared"], r["count_mismatches"]) for r in found["windows"]] == [(3 * 8084, 0)]


@pytest.mark.parametrize("how", [(NAME,), ("--checkpoint", NAME)])
def test_convert_takes_a_name(calif: Calif, how: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = calif("convert", *how, "--json")
    (row,) = json.loads(out)["files"]
    assert (code, err, row["file"]) == (0, "", f"{NAME}-T8.nir")
    q, _ = load_checkpoint(NAME)
    x = torch.rand(2, *q.input.shape)
    r = converters.run(converters.read(tmp_path / row["file"]), x)
    assert not any(row.differing for row in compare_counts(r, q.execute(x)))


def test_the_checkpoint_of_a_run_is_the_network_that_the_run_saved(calif: Calif, run_folder: Path) -> None:
    saved, notes = load_checkpoint(str(run_folder / "lenet5-digits-7.safetensors"))
    source = given(run_folder / "lenet5-digits-7.qat.pt", None)
    assert source.q is not None
    x = torch.rand(4, 1, 32, 32)
    theirs = source.q.execute(x)
    assert all(torch.equal(n, theirs[name]) for name, n in saved.execute(x).items())
    for name in ("network", "dataset", "levels", "weight_bits", "toolkit", "seed"):
        assert source.notes[name] == notes[name]
    for command in (("inspect",), ("run", "--images", 3), ("convert",), ("parity",)):
        code, out, err = calif(command[0], run_folder / "lenet5-digits-7.qat.pt", *command[1:], "--json")
        assert (code, err) == (0, ""), command
        assert json.loads(out)
    code, _, err = calif("run", run_folder / "lenet5-digits.float.pt")
    assert code == 2
    assert "found no quantised phase of a run; give the .qat.pt of calif train; a .float.pt is quantised by" in err


def test_a_run_on_signed_images_is_signed_again(tmp_path: Path) -> None:
    """And one of before, which did not say so, by the name of its data set."""
    from converters.zoo.images import Images
    from converters.zoo.recipes import Recipe
    from converters.zoo.training import train

    data = Images(torch.randn(40, 1, 32, 32), torch.arange(40) % 10, 10)
    name = "lenet5-caltech101-7"
    trained = train("lenet5", data, data, folder=tmp_path, name=name, recipe=Recipe(epochs=0, qat_epochs=1), levels=7)
    path = tmp_path / f"{name}.qat.pt"
    state = torch.load(path, weights_only=True)
    about = json.loads(state["about"])
    assert about.pop("signed") is True
    (tmp_path / "old").mkdir()
    torch.save({**state, "about": json.dumps(about)}, tmp_path / "old" / path.name)
    for where in (path, tmp_path / "old" / path.name):
        q = given(where, None).q
        assert q is not None
        assert (q.input.q_min, q.input.q_max) == (-7, 7)
        assert torch.equal(q.logits(q.execute(data.pixels)), trained.graph.logits(trained.graph.execute(data.pixels)))
    _, _, example = trained_model(path)
    assert example.min() < 0


@pytest.mark.parametrize("command", ["interop", "cross-check"])
def test_random_images_where_no_label_is_needed(calif: Calif, files: Path, command: str) -> None:
    options: tuple[Any, ...] = ("--backend", "fast", "--backend", "snntorch")
    if command == "interop":
        pytest.importorskip("nirtorch")
        options = ("--simulator", "snntorch", "--route", "native")
    code, out, err = calif(command, files / "n.nir", *options, "--images", 2, "--json")
    assert (code, err) == (0, "calif: note: --dataset: found none; 2 random images are taken\n")
    found = json.loads(out)
    assert found["dataset"] == "random images"
    if command == "interop":
        assert found["accuracy"] is None
        assert [(r["differing"], r["accuracy"], r["images"]) for r in found["rows"]] == [(0, None, 2)]
        assert found["spikes"] > 0
    else:
        assert found["cross_check"]["spike_mismatches"] == 0
    assert "random images" in "".join(map(str, calif(command, files / "n.nir", *options, "--images", 2)))
