"""Tokens as an input: the table as a value, what it refuses, in files of both kinds, at shorter windows, in reports."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError, FileFormatError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.nodes import SpikeEncoder
from converters.operations import Linear
from converters.ports.tokens import TokenTable
from converters.quantised import GraphBuilder, InputSpec, QuantGraph
from converters.reporting.make_report import make_report

ROWS = torch.tensor([[0, 0], [3, -1], [2, 5], [-5, 4]])
TOKENS = torch.tensor([[2, 1, 1], [0, 3, 2]])


def network(rows: Tensor = ROWS, tokens: tuple[int, ...] = (3,)) -> QuantGraph:
    """A sum of each token's two integers, times 1 and 2."""
    b = GraphBuilder()
    x = b.input((*tokens, 2), scale=0.25, q_min=-5, q_max=5, table=TokenTable(rows))
    n = x.shape[0] * 2 if tokens else 2
    y = b.layer(
        "fc", [(b.flatten(x), Linear(torch.tensor([[1, 2] * (n // 2)])))], threshold=1.0, y_min=-99, y_max=99, scale=0.5
    )
    return b.build(y)


def test_what_a_token_brings_by_hand() -> None:
    q = network()
    values = q.execute(TOKENS)
    assert values["input"].tolist() == [[[2, 5], [3, -1], [3, -1]], [[0, 0], [-5, 4], [2, 5]]]
    assert values["fc"].tolist() == [[12 + 1 + 1], [0 + 3 + 12]]
    assert torch.equal(q.execute(integers=values["input"])["fc"], values["fc"])


def test_one_token_without_an_axis() -> None:
    q = network(tokens=())
    assert q.execute(torch.tensor([3, 1]))["fc"].tolist() == [[3], [1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_whole_numbers_are_tokens(dtype: torch.dtype) -> None:
    assert torch.equal(network().execute(TOKENS.to(dtype))["fc"], network().execute(TOKENS)["fc"])


REFUSED: dict[str, tuple[Any, str]] = {
    "floats": (TOKENS.float(), r"images: found torch.float32 for tokens; give whole numbers from 0 to 3, \(N, 3\)"),
    "bools": (TOKENS > 1, "images: found torch.bool for tokens"),
    "too large": (TOKENS + 1, "images: found the token 4; give whole numbers from 0 to 3"),
    "negative": (TOKENS - 1, "images: found the token -1; give whole numbers from 0 to 3"),
    "too short": (TOKENS[:, :2], r"images: found tokens of shape \(2, 2\)"),
    "no batch": (TOKENS[0], r"images: found tokens of shape \(3,\)"),
    "sparse": (TOKENS.to_sparse(), "images: found tokens that are no plain tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_line_each(case: str) -> None:
    given, message = REFUSED[case]
    q = network()
    g = converters.to_nir(q, T=99)
    for run in (q.execute, lambda x: converters.run(g, x), lambda x: q.input.nearest(x)):
        with pytest.raises(ConversionError, match=message) as found:
            run(given)
        assert "\n" not in str(found.value)


@given(
    rows=st.lists(st.lists(st.integers(-127, 127), min_size=2, max_size=2), min_size=1, max_size=8),
    window=st.integers(1, 20),
)
def test_a_shorter_window_rounds_the_table(rows: list[list[int]], window: int) -> None:
    factor = Fraction(window, 127)
    found = TokenTable(torch.tensor(rows)).coarsened(factor, -window, window)
    wanted = [[max(-window, min(window, round(n * factor))) for n in row] for row in rows]  # ties to even, as Python's
    assert found.rows.tolist() == wanted


@pytest.mark.parametrize("window", [2, 99])
@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_every_spike_at_any_window(window: int, coding: str) -> None:
    q = network()
    wanted = q.at_window(window, coding).execute(TOKENS)
    r = converters.run(converters.to_nir(q, T=window, coding=coding), TOKENS)
    assert torch.equal(r.counts["fc"].long(), wanted["fc"])


def test_there_and_back_in_both_files(tmp_path: Path) -> None:
    q = network()
    save_quantised(tmp_path / "q.safetensors", q)
    again = load_quantised(tmp_path / "q.safetensors")
    assert again.input == q.input
    assert again.input != network(ROWS + 0 * ROWS[0] - (ROWS == 5).long()).input
    converters.write(tmp_path / "n.nir", converters.to_nir(q, T=99))
    g = converters.read(tmp_path / "n.nir")
    assert torch.equal(converters.run(g, TOKENS).counts["fc"].long(), q.execute(TOKENS)["fc"])
    images = network_of_images()
    converters.write(tmp_path / "i.nir", converters.to_nir(images, T=8))
    assert converters.read(tmp_path / "i.nir").nodes["input"].table is None


def network_of_images() -> QuantGraph:
    b = GraphBuilder()
    x = b.input((2,), scale=0.25, q_min=0, q_max=8)
    return b.build(b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=1.0, y_min=0, y_max=8, scale=0.5))


def test_a_file_whose_table_is_missing_or_wide_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_quantised(tmp_path / "q.safetensors", network())
    data = (tmp_path / "q.safetensors").read_bytes()
    tensors = load_file(tmp_path / "q.safetensors")
    import json

    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(about["topology"])["version"] == 2
    for table, message in ((None, "input.table: found none"), (100 * ROWS, "a table of integers from -500 to 500")):
        kept = {k: v for k, v in tensors.items() if k != "input/table"}
        save_file(kept if table is None else kept | {"input/table": table}, tmp_path / "bad.safetensors", about)
        with pytest.raises(FileFormatError, match=message):
            load_quantised(tmp_path / "bad.safetensors")


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConversionError, match="a table with rows of 2 for tokens of shape"):
        InputSpec((3, 4), 0.5, -5, 5, table=TokenTable(ROWS))
    with pytest.raises(ConversionError, match="a table of integers from -5 to 5; the input takes 0 to 5"):
        InputSpec((3, 2), 0.5, 0, 5, table=TokenTable(ROWS))
    with pytest.raises(ConversionError, match=r"table: found torch.float32 of shape \(4, 2\)"):
        TokenTable(ROWS.float())
    with pytest.raises(ConversionError, match=r"SpikeEncoder\.table: found int64 of shape"):
        SpikeEncoder([3, 3], 0.5, -5, 5, 8, "isi", ROWS.numpy())
    with pytest.raises(ConversionError, match=r"SpikeEncoder\.table: found integers from -5 to 5"):
        SpikeEncoder([3, 2], 0.5, 0, 5, 8, "isi", ROWS.numpy())


def test_a_report_shows_pictures_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="found tokens as its input input, where a report shows pictures"):
        make_report(network(), TOKENS, torch.tensor([0, 1]), tmp_path / "page.html")


def test_onnx_gathers_the_rows() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    q = network()
    for exact in (True, False):
        model = converters.to_onnx(q, exact=exact)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        (out,) = session.run(None, {"input": TOKENS.numpy()})
        assert out.reshape(-1).tolist() == [14 * 0.5, 15 * 0.5]
