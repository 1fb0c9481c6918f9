"""ONNX on the command line: what takes a network takes a model; what writes one writes a model; parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import converters
from converters.zoo.named import load_checkpoint
from tests.command_line import Calif

NAME = "lenet5-mnist-8"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "lenet.onnx"
    converters.to_onnx(load_checkpoint(NAME)[0], path)
    return path


def test_a_model_becomes_a_nir_file(model: Path, tmp_path: Path, calif: Calif) -> None:
    code, out, err = calif("convert", model, "--out", tmp_path / "a.nir", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["file"] == str(model)
    assert found["checked"]["model"] == "onnxruntime"
    q, _ = load_checkpoint(NAME)
    images = torch.rand(3, 1, 32, 32)
    counts = converters.run(converters.read(tmp_path / "a.nir"), images, backend="closed_form").counts
    assert len(counts) == len(q.layers) - 1, "the last is a membrane"
    assert all(torch.equal(counts[k].long(), v) for k, v in q.execute(images).items() if k in counts)


@pytest.mark.parametrize("options", [(), ("--exact",), ("--exact", "--window", "4")])
def test_a_checkpoint_becomes_a_model(options: tuple[str, ...], tmp_path: Path, calif: Calif) -> None:
    code, out, err = calif("convert", "--checkpoint", NAME, "--out", tmp_path / "a.onnx", *options)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {tmp_path / 'a.onnx'} (")
    kinds = {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    assert ("QuantizeLinear" in kinds) == (not options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "a.nir", "--exact"), "--exact: found a .nir file, which is exact"),
        (("--out", "a.onnx", "--window", "4", "--window", "8"), "--out: found one file for 2 windows"),
    ],
)
def test_what_does_not_go_together(options: tuple[str, ...], message: str, calif: Calif) -> None:
    code, _, err = calif("convert", "--checkpoint", NAME, *options)
    assert code == 2
    assert err.startswith(f"calif: {message}")


@pytest.mark.parametrize("command", ["convert", "lower"])
def test_the_file_that_is_read_is_not_written_over(command: str, model: Path, tmp_path: Path, calif: Calif) -> None:
    """Under no name of its."""
    path, link = tmp_path / "a.nir", tmp_path / "b.nir"
    if command == "convert":
        path = path.with_suffix(".onnx")
        path.write_bytes(model.read_bytes())
    else:
        assert calif("convert", model, "--out", path)[0] == 0
    link.symlink_to(path)
    before = path.read_bytes()
    for out in (path, link):
        code, _, err = calif(command, path, "--out", out)
        assert (code, err) == (2, f"calif: --out: found {out}, the file that is read; give another\n")
    assert path.read_bytes() == before


def test_a_float_model_is_no_training_run(model: Path, calif: Calif) -> None:
    code, _, err = calif("quantise", model)
    assert (code, "an ONNX model; quantise it with onnxruntime" in err) == (2, True)


def test_inspect_and_run(model: Path, calif: Calif) -> None:
    code, out, _ = calif("inspect", model, "--json")
    about = json.loads(out)
    assert code == 0
    assert about["checked"]["model"] == "onnxruntime"
    assert about["layers"][0]["boundaries_certified"] > 0
    code, out, _ = calif("run", model, "--dataset", "digits", "--images", 5, "--json")
    assert code == 0
    assert json.loads(out)["windows"][0]["count_mismatches"] == 0


def test_parity_of_a_model(model: Path, calif: Calif) -> None:
    code, out, err = calif("parity", model, "--images", 20, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["model"] == "onnxruntime"
    assert found["images"] == 20
    assert found["wrong"] == 0
    assert found["layers"][0]["layer"] == "input"
    assert found["integers"] == sum(row["integers"] for row in found["layers"]) > 20 * 8000
    assert found["optimised"] is not None
    code, out, _ = calif("parity", model, "--dataset", "digits", "--images", 5)
    assert code == 0
    assert "integers compared" in out
    assert "differs from itself" in out


def test_images_of_an_array(model: Path, tmp_path: Path, calif: Calif) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32))
    code, out, _ = calif("parity", model, "--images", tmp_path / "x.npy", "--json")
    assert (code, json.loads(out)["images"]) == (0, 3)


@pytest.mark.parametrize("kind", ["object", "cut", "text", "billion"])
def test_arrays_of_strangers(kind: str, model: Path, tmp_path: Path, calif: Calif) -> None:
    path = tmp_path / "x.npy"
    if kind == "object":
        np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    else:
        np.save(path, np.zeros((2, 1, 32, 32), dtype=np.float32))
    data = path.read_bytes()
    changed = {"cut": data[:-4], "text": b"no array", "billion": data.replace(b"(2, 1, 32", b"(2, 9, 32")}
    path.write_bytes(changed.get(kind, data))
    code, _, err = calif("parity", model, "--images", path)
    assert (code, err.count("\n")) == (2, 1)
    assert "found no array of floats" in err


def test_a_difference_that_is_no_near_tie_is_1(model: Path, tmp_path: Path, calif: Calif) -> None:
    """Of onnxruntime, one layer of whose weights is another than was read: the report goes on past it."""
    import converters.frontends.parity as parity
    from converters.frontends.onnx import converting

    other = onnx.load(model)
    stored = next(t for t in other.graph.initializer if t.name.startswith("features.3/weight"))
    stored.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(stored), stored.name))

    def read(source: object, example: object) -> converting.Read:
        found = own(source, example)  # type: ignore[arg-type]
        found.forward.model = other
        return found

    own = converting.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "read", read)
        code, out, _ = calif("parity", model, "--images", 4, "--json")
    assert parity.TOOLKITS[0] == "onnx"
    found = json.loads(out)
    wrong = {row["layer"]: row["differing"] - row["near_ties"] for row in found["layers"]}
    assert code == 1
    assert wrong.pop("features.3") == found["wrong"] > 0
    assert not any(wrong.values()), "each layer is judged on the model's own integers of its sources"


@pytest.mark.parametrize("toolkit", ["pt2e", "brevitas"])
def test_parity_of_a_training_run(toolkit: str, tmp_path: Path, calif: Calif) -> None:
    code, _, err = calif(
        "train", "--dataset", "digits", "--toolkit", toolkit, "--epochs", 1, "--qat-epochs", 1, "--out", tmp_path
    )
    assert (code, err) == (0, "")
    (path,) = tmp_path.glob("*.qat.pt")
    code, out, err = calif("parity", path, "--dataset", "digits", "--images", 10, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["model"] == toolkit
    assert found["wrong"] == 0
    assert found["optimised"] is None
    assert found["integers"] > 10_000


@pytest.mark.parametrize("toolkit", ["pt2e", "brevitas"])
@pytest.mark.parametrize("double", [False, True])
def test_parity_of_a_network_by_name(toolkit: str, double: bool, calif: Calif) -> None:
    options = ["--levels", 15, "--weight-bits", 4, "--images", 6, *(["--double"] if double else [])]
    code, out, err = calif("parity", "lenet5", "--toolkit", toolkit, *options, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["model"], found["images"], found["wrong"]) == (toolkit, 6, 0)
    assert found["integers"] > 10_000
    if toolkit == "brevitas" and double:
        assert found["differing"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("lenet5", "--toolkit", "tflite"), "--toolkit: found 'tflite'; use one of pt2e, brevitas"),
        (("letnet", "--toolkit", "pt2e"), "network: found 'letnet'"),
        (("FILE", "--toolkit", "pt2e"), "--toolkit: found 'pt2e' for a file of onnx; leave it out"),
        (("FILE", "--levels", 8), "--levels: found numbers for"),
        (("FILE", "--double"), "double: found an ONNX model"),
    ],
)
def test_parity_refuses_what_does_not_fit(options: tuple[Any, ...], message: str, model: Path, calif: Calif) -> None:
    code, _, err = calif("parity", *(model if x == "FILE" else x for x in options))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize("name", ["net.nir", "net.float.pt"])
def test_what_has_no_toolkit(name: str, tmp_path: Path, calif: Calif) -> None:
    (tmp_path / name).write_bytes(b"x")
    code, _, err = calif("parity", tmp_path / name)
    assert code == 2
    assert "neither an .onnx file nor a .qat.pt" in err
