"""Training checkpoints from strangers: bounded memory, one line, and nothing that is not a network's own state."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters.errors import ConversionError
from converters.zoo.images import Images
from converters.zoo.recipes import Recipe
from converters.zoo.training import _Run
from converters.zoo.training_file import read_checkpoint
from tests.hostile.kills import in_a_child


def phase(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """A small network's; with a mean of weights, so that all kinds of state are there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    x = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = Images(x, torch.arange(48) % 3, 3)
    recipe = Recipe(batch=4, qat_average=True)
    run = _Run("qat", folder / "x.qat.pt", {"network": "x"}, recipe, data, data, 0, None)
    return run(model, epochs, 0.1)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The checkpoint of a phase of one epoch, with a change."""
    phase(folder, 1)
    path = folder / "x.qat.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    return path


def refused(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    path = changed(folder, change)
    before = path.read_bytes()
    with pytest.raises(ConversionError) as caught:
        phase(folder, 2)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: found ")
    assert path.read_bytes() == before
    return caught.value.found


# in the place of any tensor
VALUES: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "NaN": (lambda t: torch.full_like(t, float("nan")), "values that are not finite"),
    "infinite": (lambda t: torch.full_like(t, float("inf")), "values that are not finite"),
    "shape": (lambda t: torch.zeros(*t.shape, 2), "the shape"),
    "int": (lambda t: torch.zeros_like(t, dtype=torch.int16), "the type torch.int16"),
    "half": (lambda t: t.half(), "the type torch.float16"),
    "complex": (lambda t: t.to(torch.complex64), "the type torch.complex64"),
    "expanded": (lambda t: torch.zeros(1).to(t.dtype).expand(t.shape), "a tensor larger than its data"),
    "number": (lambda t: 3, "no plain tensor"),
    "text": (lambda t: "x", "no plain tensor"),
    "none": (lambda t: None, "no plain tensor"),
    "list": (lambda t: t.tolist(), "no plain tensor"),
}
PLACES: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "weight": lambda s: (s["model"], "1.weight"),
    "statistics": lambda s: (s["model"], "2.running_var"),
    "momentum": lambda s: (s["optimiser"]["0"]["state"][0], "momentum_buffer"),
    "mean": lambda s: (s["optimiser"]["mean"]["values"], 0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", VALUES)
def test_another_value_in_any_place(tmp_path: Path, place: str, value: str) -> None:
    make, found = VALUES[value]

    def change(state: dict[str, Any]) -> None:
        holder, key = PLACES[place](state)
        holder[key] = make(holder[key])

    assert found in refused(tmp_path, change)


def rows(*rows: object) -> Callable[[dict[str, Any]], object]:
    return lambda s: s.update(log=json.dumps(rows))


ROW = {"phase": "qat", "epoch": 1, "loss": 0.5}
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda s: s.pop("model"), "no checkpoint of calif train"),
    "a list as model": (lambda s: s.update(model=[]), "no checkpoint of calif train"),
    "an empty model": (lambda s: s.update(model={}), "other layers or quantisers"),
    "a tensor less": (lambda s: s["model"].pop("1.bias"), "other layers or quantisers"),
    "a tensor more": (lambda s: s["model"].update(more=torch.zeros(1)), "other layers or quantisers"),
    "a number as name": (lambda s: s["model"].update({7: torch.zeros(1)}), "other layers or quantisers"),
    "no optimiser": (lambda s: s.update(optimiser={}), "a checkpoint without '0'"),
    "a list as optimiser": (lambda s: s["optimiser"].update({"0": []}), "a checkpoint without '0'"),
    "zeros as optimiser": (lambda s: s.update(optimiser=torch.zeros(3)), "no checkpoint of calif train"),
    "an optimiser without state": (lambda s: s["optimiser"]["0"].pop("state"), "a checkpoint without 'state'"),
    "an optimiser of nothing": (lambda s: s["optimiser"]["0"].update(state={}), "an optimiser of 0 tensors"),
    "of more tensors": (lambda s: s["optimiser"]["0"]["state"].update({99: {}}), "an optimiser of"),
    "another optimiser's": (
        lambda s: s["optimiser"]["0"]["state"].update({0: {"exp_avg": torch.zeros(4, 16)}}),
        "an optimiser with 'exp_avg': what the network does not have",
    ),
    "a tensor's state that is none": (lambda s: s["optimiser"]["0"]["state"].update({0: 3}), "the state of tensor 0"),
    "no mean": (lambda s: s["optimiser"].pop("mean"), "a checkpoint without 'mean'"),
    "a mean of no steps": (lambda s: s["optimiser"]["mean"].pop("steps"), "a mean of weights without its numbers"),
    "a mean of 10^400 steps": (lambda s: s["optimiser"]["mean"].update(count=10**400), "without its numbers"),
    "a mean of fewer": (lambda s: s["optimiser"]["mean"]["values"].pop(), "a mean of weights without"),
    "rows that are no objects": (rows(3), "no checkpoint of calif train"),
    "a row without its loss": (rows({"phase": "qat", "epoch": 1}), "no checkpoint of calif train"),
    "a loss that is text": (rows({**ROW, "loss": "x"}), "no checkpoint of calif train"),
    "an accuracy that is text": (rows({**ROW, "accuracy": "x"}), "no checkpoint of calif train"),
    "a loss of 10^400": (lambda s: s.update(log='[{"phase":"qat","epoch":1,"loss":1e400}]'), "no checkpoint"),
    "nested text": (lambda s: s.update(log="[" * 10**5), "no checkpoint of calif train"),
    "long numbers": (lambda s: s.update(about='{"network": ' + "1" * 5000 + "}"), "no checkpoint of calif train"),
    "a network that is a list": (lambda s: s.update(about='{"network": []}'), "no checkpoint of calif train"),
    "beyond that is none": (lambda s: s.update(beyond=[]), "no checkpoint of calif train"),
    "beyond of another": (
        lambda s: s.update(beyond={"tensors": {}, "counters": {"9": 3}}),
        "a count of '9' that makes no sense",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_state(tmp_path: Path, name: str) -> None:
    change, found = CHANGES[name]
    assert found in refused(tmp_path, change)


def test_rates_of_a_file_are_not_taken(tmp_path: Path) -> None:
    """They are the recipe's."""
    expected = phase(tmp_path / ".", 2)
    (tmp_path / "b").mkdir()

    def change(state: dict[str, Any]) -> None:
        for group in state["optimiser"]["0"]["param_groups"]:
            group.update(lr=1e9, momentum=-3, weight_decay="x", nesterov=7, maximize=True, params=[])

    changed(tmp_path / "b", change)
    assert phase(tmp_path / "b", 2)[-1]["epoch"] == expected[-1]["epoch"] == 2
    a, b = (torch.load(tmp_path / k / "x.qat.pt", weights_only=True)["model"] for k in (".", "b"))
    assert a.keys() == b.keys()


def archive(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None], mode: int = zipfile.ZIP_STORED) -> None:
    """The same checkpoint, record by record."""
    records = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", mode) as new:
        for name in records.namelist():
            change(new, name, records.read(name))


def one_line(path: Path) -> str:
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_packed_record(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda s: s["model"].update(more=torch.zeros(1 << 20)))
    archive(path, lambda new, name, data: new.writestr(name, data), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    assert "records that are packed, or larger than the file" in one_line(path)


def test_records_that_share_their_bytes(tmp_path: Path) -> None:
    """Every entry of the directory points to the same record: 1,000 of them would be 1,000 times the file."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("a/data.pkl", bytes(1 << 16))
        for k in range(1000):
            info = zipfile.ZipInfo(f"a/data/{k}")
            info.file_size = info.compress_size = 1 << 16
            info.header_offset = 0
            info.CRC = new.getinfo("a/data.pkl").CRC
            new.filelist.append(info)
            new.NameToInfo[info.filename] = info
    assert path.stat().st_size < 1 << 18
    assert "larger than the file" in one_line(path)


def test_a_record_twice_and_a_record_that_is_short(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda s: None)
    whole = path.read_bytes()

    def twice(new: zipfile.ZipFile, name: str, data: bytes) -> None:
        for _ in range(1 + name.endswith("data/0")):
            new.writestr(name, data)

    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, twice)
    assert "a record twice" in one_line(path)
    path.write_bytes(whole)
    archive(path, lambda new, name, data: new.writestr(name, data[:4] if name.endswith("data/0") else data))
    assert "damaged checkpoint" in one_line(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged checkpoint" in one_line(path)


class Makes:
    """Calls a function as it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "made",
    [
        Makes(os.system, "touch executed"),
        Makes(torch.Tensor, 1 << 40),
        Makes(bytearray, 1 << 40),
        Makes(torch.sparse_coo_tensor, [[0]], [1.0], [1 << 30]),
        Makes(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1,), (1,), False),
    ],
    ids=["system", "tensor", "bytes", "sparse", "meta"],
)
def test_nothing_is_built_but_dense_tensors(tmp_path: Path, made: Makes) -> None:
    path = changed(tmp_path, lambda s: None)

    def change(new: zipfile.ZipFile, name: str, data: bytes) -> None:
        new.writestr(name, pickle.dumps({"model": made}, protocol=2) if name.endswith("data.pkl") else data)

    archive(path, change)
    assert "no checkpoint of calif train (" in one_line(path)
    assert "in it)" in one_line(path)
    assert not (tmp_path / "executed").exists()


def test_a_sparse_tensor(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda s: s["model"].update(more=torch.eye(3).to_sparse()))
    assert "no checkpoint of calif train (" in one_line(path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        new.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        with new.open("a/data/0", "w", force_zip64=True) as record:
            for _ in range(32):
                record.write(bytes(1 << 22))
    message, grown = in_a_child(lambda: read_checkpoint(path))
    assert "records that are packed" in message
    assert grown < 20_000  # kB; it would be 131,072


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_full_disk(tmp_path: Path, size: int) -> None:
    """Of fewer bytes than a checkpoint: one line, and no half of a file."""

    # a process of its own: a fork of one whose autograd has threads cannot train
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom tests.hostile.test_training_files import phase\n"
        "folder, size = Path(sys.argv[1]), int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try:\n    phase(folder, 1)\nexcept Exception as error:\n    print(type(error).__name__, error, sep=': ')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(size)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    message = done.stdout.strip()
    assert message == (
        f"ConversionError: {tmp_path / 'x.qat.pt'}: found that it cannot be written (File too large); "
        "make room, or choose another folder"
    )
    assert not list(tmp_path.iterdir())
