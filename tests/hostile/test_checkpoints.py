"""Quantised networks from strangers: one line that names the file, in bounded time and memory."""

from __future__ import annotations

import json
import lzma
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from converters.errors import ConversionError, FileFormatError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.operations.convolution import Conv2d
from converters.operations.dense import Linear
from converters.operations.pooling import SumPool2d
from tests.converters.sample_graphs import lenet
from tests.hostile.kills import in_a_child
from tests.hostile.limited import full_disk

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of a network's file."""
    path = tmp_path_factory.mktemp("whole") / "q.safetensors"
    save_quantised(path, lenet(), notes={"network": "lenet5", "levels": 15})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    return header, load_file(path)


Whole = tuple[dict[str, str], dict[str, torch.Tensor]]


def written(
    path: Path,
    whole: Whole,
    change: Callable[[Entry], object] = lambda t: None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    """The file with a change of its description, and other tensors."""
    header, values = whole
    topology = json.loads(header["topology"])
    change(topology)
    save_file({**values, **(tensors or {})}, path, metadata={**header, "topology": json.dumps(topology)})
    return path


def refused(path: Path) -> str:
    begin = time.monotonic()
    with pytest.raises(FileFormatError) as caught:
        load_quantised(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert "\n" not in message
    assert len(message) < 1000
    assert time.monotonic() - begin < 10
    return message


def first_op(t: Entry) -> Entry:
    return t["layers"][0]["synapses"][0]["ops"][0]


def many_operations(t: Entry) -> None:
    synapse = t["layers"][0]["synapses"][0]
    t["layers"][0]["synapses"] = [{**synapse, "ops": [{"op": "Scale", "weight": 1}] * 1000}] * 100


CHANGES: dict[str, tuple[Callable[[Entry], object], str]] = {
    "stride 0": (lambda t: first_op(t).update(stride=[0, 1]), "stride (0, 1); at least 1"),
    "negative padding": (lambda t: first_op(t).update(padding=[-1, 0]), "padding (-1, 0); at least 0"),
    "groups that are true": (
        lambda t: first_op(t).update(groups=True),
        "Conv2d.groups = True; input should",
    ),
    "groups of 0": (lambda t: first_op(t).update(groups=0), "groups (0,); at least 1"),
    "groups of 7": (lambda t: first_op(t).update(groups=7), "channels in 7 groups"),
    "a stride of text": (lambda t: first_op(t).update(stride="ab"), "Conv2d.stride = ab"),
    "a stride of three": (lambda t: first_op(t).update(stride=[1, 1, 1]), "Conv2d.stride"),
    "a large stride": (lambda t: first_op(t).update(stride=[2**40, 1]), "at most 2,147,483,648"),
    "an unknown field": (lambda t: first_op(t).update(more=1), "Conv2d with a field 'more'"),
    "an operation that is a list": (lambda t: first_op(t).update(op=[]), "the unknown operation '[]'"),
    "no scale": (lambda t: t["layers"][0].update(scale=None), "layers.0.scale: input should be a valid number"),
    "a list as scale": (lambda t: t["layers"][0].update(scale=[1]), "layers.0.scale"),
    "true as scale": (lambda t: t["layers"][0].update(scale=True), "layers.0.scale"),
    "a scale of NaN": (lambda t: t["input"].update(scale=float("nan")), "no JSON (the number NaN)"),
    "q_max without end": (lambda t: t["input"].update(q_max=float("inf")), "no JSON (the number Infinity)"),
    "q_max of 10^400": (lambda t: t["input"].update(q_max=10**400), "of 401 characters"),
    "q_max of 2^40": (lambda t: t["input"].update(q_max=2**40), "input.q_max"),
    "spiking no": (lambda t: t["layers"][0].update(spiking="no"), "layers.0.spiking: input should be a valid boolean"),
    "a tie of nothing": (lambda t: t["layers"][0].update(tie=None), "layers.0.tie"),
    "a shape of 0": (lambda t: t["layers"][0].update(shape=[0, 1, 1]), "layers.0.shape.0"),
    "a shape that no memory holds": (lambda t: t["layers"][0].update(shape=[2**20, 2**20, 1]), "neurons; at most"),
    "layers that are a text": (lambda t: t.update(layers="x"), "layers: input should be a valid list"),
    "no layers": (lambda t: t.update(layers=[]), "no layers"),
    "a layer that is none": (lambda t: t["layers"].insert(0, None), "layers.0"),
    "100,000 operations": (many_operations, "100,004 operations; at most 20,000"),
    "a long chain": (
        lambda t: t["layers"][0]["synapses"][0].update(ops=[{"op": "Scale"}] * 100_000),
        "layers.0.synapses.0.ops: list should have at most 1000 items",
    ),
    "notes that are a list": (lambda t: t.update(notes=[]), "notes: input should be a valid dictionary"),
    "classes that are a text": (lambda t: t["notes"].update(classes="abc"), "a note 'classes'"),
    "checked that is a list": (lambda t: t.update(checked=[1]), "checked: input should be a valid dictionary"),
    "a version of text": (lambda t: t.update(version="1"), "format version 1; this software reads version 1 and 2"),
    "a version that is true": (lambda t: t.update(version=True), "format version True"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_description(tmp_path: Path, whole: Whole, name: str) -> None:
    change, found = CHANGES[name]
    assert found in refused(written(tmp_path / "q.safetensors", whole, change))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"version": ' + "1" * 5000 + "}", "of 5000 characters"),
        ("[" * 200_000, "nested too deeply"),
        ('{"version": 1, "notes": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nested too deeply"),
        (" " * (1 << 24) + "1", "16,777,217 bytes of description"),
        ("[]", "format version None"),
        ("", "no JSON"),
        ('{"version": 1, "source": "\\ud800"}', "text that cannot be encoded"),
    ],
)
def test_a_description_that_is_none(tmp_path: Path, whole: Whole, text: str, found: str) -> None:
    save_file(whole[1], tmp_path / "q.safetensors", metadata={**whole[0], "topology": text})
    assert found in refused(tmp_path / "q.safetensors")


def _tensor(whole: Whole, ending: str) -> str:
    return next(key for key in whole[1] if key.endswith(ending))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint16, torch.uint64, torch.complex64, torch.float32, torch.float64, torch.bfloat16]
)
def test_weights_that_are_no_integers(tmp_path: Path, whole: Whole, dtype: torch.dtype) -> None:
    key = _tensor(whole, "/0/0")
    values = whole[1][key].abs().to(dtype)
    path = written(tmp_path / "q.safetensors", whole, tensors={key: values})
    assert f"of type {dtype}; give integers" in refused(path)


@pytest.mark.parametrize("size", [2**24 + 1, -(2**24) - 1, 2**62, -(2**63)])
def test_weights_beyond_24_bits(tmp_path: Path, whole: Whole, size: int) -> None:
    key = _tensor(whole, "/0/0")
    values = whole[1][key].long()
    values.view(-1)[3] = size
    assert "weight beyond 16,777,216" in refused(written(tmp_path / "q.safetensors", whole, tensors={key: values}))
    values.view(-1)[3] = 2**24
    load_quantised(written(tmp_path / "q.safetensors", whole, tensors={key: values}))


@pytest.mark.parametrize("name", ["threshold", "bias"])
@pytest.mark.parametrize(
    "value",
    [torch.zeros(0), torch.tensor(1.0), torch.ones(10**6, dtype=torch.float64), torch.ones(6, dtype=torch.complex64)],
)
def test_thresholds_of_another_kind(tmp_path: Path, whole: Whole, name: str, value: torch.Tensor) -> None:
    key = _tensor(whole, f"/{name}")
    assert "float64 values belong there" in refused(written(tmp_path / "q.safetensors", whole, tensors={key: value}))


@pytest.mark.parametrize("kind", ["dictionary", "inflated"])
def test_compressed_files_take_no_more_memory_than_promised(tmp_path: Path, kind: str) -> None:
    """A dictionary of 4 GiB, which a reader would have to make room for; 100 MB of zeros in 50 kB."""
    path = tmp_path / "q.safetensors.xz"
    if kind == "dictionary":
        path.write_bytes(_with_dictionary())
    else:
        packer = lzma.LZMACompressor(preset=0)
        path.write_bytes(b"".join([*(packer.compress(bytes(10**6)) for _ in range(100)), packer.flush()]))
    message, grown = in_a_child(lambda: load_quantised(path))
    assert ("emory usage limit" if kind == "dictionary" else "damaged file") in message
    assert grown < (50_000 if kind == "dictionary" else 3 * 100_000)  # kB


def _with_dictionary() -> bytes:
    """A small file whose header asks for the largest dictionary that there is (XZ's format, sections 3.1 and 5.3.1)."""
    import zlib

    data = bytearray(lzma.compress(b"x" * 100, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    start = 12
    size = (data[start] + 1) * 4
    place = data.index(bytes([0x21, 0x01]), start) + 2  # LZMA2's id, one byte of properties
    data[place] = 40  # 4 GiB - 1
    body = bytes(data[start : start + size - 4])
    data[start + size - 4 : start + size] = zlib.crc32(body).to_bytes(4, "little")
    return bytes(data)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_entry_replaced_by_any_value(
    tmp_path_factory: pytest.TempPathFactory, whole: Whole, data: st.DataObject
) -> None:
    """Whatever stands in a description, it is a network or one line."""
    values: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, 0, -1, 1, 2**31, 2**63 - 1, 1e308, -1e-320, "", "x", [], [[]], [1], {}, {"a": 1}]
    )

    def change(t: Entry) -> None:
        here: Any = t
        while True:
            keys = list(here) if isinstance(here, dict) else range(len(here))
            key = data.draw(st.sampled_from(keys))
            below = here[key]
            if not isinstance(below, dict | list) or not below or data.draw(st.integers(0, 3)) == 0:
                here[key] = data.draw(values)
                return
            here = below

    path = written(tmp_path_factory.mktemp("x") / "q.safetensors", whole, change)
    with suppress(FileFormatError):  # no other error
        load_quantised(path)


def _spoilt(header: dict[str, Any], tensors: dict[str, torch.Tensor], place: str, value: float) -> None:
    if place.startswith("/"):
        key = next(key for key in tensors if key.endswith(place))
        tensors[key] = torch.full_like(tensors[key], value)
    else:
        where = header
        *before, last = place.split(".")
        for key in before:
            where = where[int(key)] if isinstance(where, list) else where[key]
        where[last] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "place", ["/threshold", "/bias", "layers.0.scale", "input.scale", "notes.float_accuracy", "notes.mine"]
)
def test_what_is_not_finite_is_not_shown_as_json(
    calif: Any, tmp_path: Path, whole: Whole, place: str, value: float
) -> None:
    """NaN is no JSON: neither the description that has it nor what ``calif inspect --json`` would print of it."""
    tensors = dict(whole[1])
    path = written(tmp_path / "q.safetensors", whole, lambda t: _spoilt(t, tensors, place, value), tensors)
    if place.startswith("/"):
        path = written(path, whole, tensors=tensors)
    code, out, err = calif("inspect", path, "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"calif: {path}: ")


def test_notes_that_no_reader_would_take_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    for notes in ({"a": [{"b": float("nan")}]}, {"a": float("inf")}, {"a": {1, 2}}, {"a": torch.ones(1)}):
        with pytest.raises(
            ConversionError, match=r"notes: found .*; give text, finite numbers, lists and dict"
        ) as told:
            save_quantised(path, lenet(), notes=notes)
        assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    for room in (0, 1000):
        with full_disk(room), pytest.raises(ConversionError, match=f"{path}: found that it cannot be written"):
            save_quantised(path, lenet())
    assert not list(tmp_path.iterdir())


def test_operations_refuse_them_from_python_too() -> None:
    weight = torch.ones(4, 2, 3, 3, dtype=torch.int8)
    for make in (
        lambda: Conv2d(weight, stride=(0, 1)),
        lambda: Conv2d(weight, padding=(0, -1)),
        lambda: Conv2d(weight, dilation=(1, 0)),
        lambda: Conv2d(weight, groups=3),
        lambda: Conv2d(weight.bool()),
        lambda: Linear(torch.ones(2, 2, dtype=torch.complex64)),
        lambda: SumPool2d((0, 1), (1, 1)),
        lambda: SumPool2d((1, 1), (1, 0)),
    ):
        with pytest.raises(ConversionError):
            make()
