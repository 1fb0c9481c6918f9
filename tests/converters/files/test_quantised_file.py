"""One file per quantised network: exact there and back, and never half written."""

from __future__ import annotations

import json
import lzma
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import converters
from converters.errors import ConversionError, FileFormatError
from converters.files.quantised_file import load_with_notes
from tests.converters.sample_graphs import GRAPHS, images, lenet


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_there_and_back(name: str, tmp_path: Path) -> None:
    q = GRAPHS[name]()
    converters.save_quantised(tmp_path / "q.safetensors", q, notes={"accuracy": 0.5})
    back, notes = load_with_notes(tmp_path / "q.safetensors")
    assert notes == {"accuracy": 0.5}
    assert back.input == q.input
    x = images(q, 5)
    a, b = q.execute(x), back.execute(x)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(q.logits(a), back.logits(b))
    assert [p.name for p in tmp_path.iterdir()] == ["q.safetensors"]


def test_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, path = lenet(), tmp_path / "q.safetensors.xz"
    converters.save_quantised(path, q, notes={"accuracy": 0.5})
    converters.save_quantised(tmp_path / "q.safetensors", q)
    assert path.stat().st_size < (tmp_path / "q.safetensors").stat().st_size
    back, notes = load_with_notes(path)
    assert notes == {"accuracy": 0.5}
    x = images(q, 5)
    a, b = q.execute(x), back.execute(x)
    assert all(torch.equal(a[k], b[k]) for k in a)
    whole = path.read_bytes()
    for damaged in (whole[:200], whole[:100] + bytes(50) + whole[150:], lzma.compress(b"something else")):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="damaged"):
            load_with_notes(path)
    path.write_bytes(whole)
    monkeypatch.setattr("converters.files.quantised_file._LARGEST", 2000)
    with pytest.raises(FileFormatError, match="more than 0 MiB when decompressed"):
        load_with_notes(path)


def test_a_network_is_the_same_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    """Twenty times, and in another second: no order and no time of day gets in."""
    q = lenet()
    graph, notes = converters.to_nir(q), {"b": 1, "a": [1.5, "µ"]}

    def written(name: str) -> bytes:
        path = tmp_path / name
        if path.suffix == ".nir":
            converters.write(path, graph)
        else:
            converters.save_quantised(path, q, notes=notes)
        return path.read_bytes()

    names = ("q.safetensors", "q.safetensors.xz", "q.nir")
    found = {name: {written(name) for _ in range(20 if name == "q.safetensors" else 1)} for name in names}
    time.sleep(1.1)
    for name in names:
        found[name].add(written(name))
        assert len(found[name]) == 1, name
    assert [x.name for x in converters.load_quantised(tmp_path / names[0]).layers] == [x.name for x in q.layers]
    with safe_open(tmp_path / names[0], framework="pt") as file:  # the library's own reader
        assert sorted(file.metadata()) == ["format", "topology"]


def test_weights_take_a_byte_each(tmp_path: Path) -> None:
    q = lenet()
    converters.save_quantised(tmp_path / "q.safetensors", q)
    tensors = load_file(tmp_path / "q.safetensors")
    assert {t.dtype for k, t in tensors.items() if k[-1].isdigit()} == {torch.int8}


def _topology(path: Path, change: Callable[..., Any]) -> None:
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
    topology = json.loads(header["topology"])
    change(topology)
    save_file(load_file(path), path, metadata={**header, "topology": json.dumps(topology)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(version=3), "format version 3"),
        (lambda t: t.pop("layers"), r"incomplete description \(layers: field required\)"),
        (lambda t: t["layers"][0].update(name="other"), "other: found Conv2d without its weight"),
        (lambda t: t["layers"][1]["synapses"][0].update(source="nowhere"), "nowhere"),
        (lambda t: t["layers"][1]["synapses"][0]["ops"][0].update(op="Evil"), "Evil"),
        (lambda t: t["layers"][0].update(tie="down"), "'down'"),
        (lambda t: t["input"].update(scale=-1), "input scale"),
        (lambda t: t["notes"].update(levels="x"), "a note 'levels' of 'x'; a whole number belongs there"),
        (lambda t: t["notes"].update(dataset=5), "a note 'dataset' of 5; a text belongs there"),
        (lambda t: t["notes"].update(float_accuracy="98 %"), "a note 'float_accuracy' of '98 %'; a number"),
    ],
)
def test_damaged_topology(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    converters.save_quantised(path, lenet())
    _topology(path, change)
    with pytest.raises(FileFormatError, match=message):
        converters.load_quantised(path)


def test_missing_truncated_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    with pytest.raises(FileFormatError, match="no such file"):
        converters.load_quantised(path)
    converters.save_quantised(path, lenet())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(FileFormatError, match="damaged"):
        converters.load_quantised(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FileFormatError, match="of another kind"):
        converters.load_quantised(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="create the folder first"):
        converters.save_quantised(tmp_path / "no" / "q.safetensors", lenet())
