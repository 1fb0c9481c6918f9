"""What the report says of answers: mistakes, maps and values are those of the run; layers' shares are counted."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.network import Network
from converters.quantised import QuantGraph
from converters.reporting.activity import Activity
from converters.reporting.details import layer_rows
from converters.reporting.examples import COLOURS, VOID, coloured, picture
from converters.reporting.layers import _histograms
from converters.reporting.page import render
from converters.testing.networks import images
from tests.converters.reporting.test_report import Reader, number
from tests.converters.sample_graphs import lenet
from tests.converters.task_graphs import LEVELS, of, several


def decoded(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def colours(classes: Tensor) -> np.ndarray:
    """As the report paints them."""
    names = [[COLOURS[c % len(COLOURS)] if c >= 0 else VOID for c in row] for row in classes.tolist()]
    return np.array([[[int(name[k : k + 2], 16) for k in (1, 3, 5)] for name in row] for row in names])


# --- how layers use their range --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(3, 2, 2), (4,), (2, 5)]), st.sampled_from([(0, 3), (-4, 4), (0, 90)])
)
def test_activity_by_brute_force(seed: int, shape: tuple[int, ...], ends: tuple[int, int]) -> None:
    gen = torch.Generator().manual_seed(seed)
    low, high = ends
    counts = torch.randint(low, high + 1, (5, *shape), generator=gen)
    counts[:, torch.rand(shape, generator=gen) < 0.4] = 0
    counts[:, 0] = torch.where(torch.rand(5, *shape[1:], generator=gen) < 0.6, high, counts[:, 0])
    seen = Activity(shape, low, high)
    for part in (counts[:2], counts[2:2], counts[2:]):
        seen.add(part, part.abs().sum(0))
    found, every = seen.as_dict(), counts.numpy()
    quiet = (every == 0).all(0)
    assert found["silent"] == pytest.approx(quiet.mean())
    assert found["silent_channels"] == sum(bool(quiet[c].all()) for c in range(shape[0]))
    assert found["at_top"] == pytest.approx((every == high).mean())
    assert found["top_channels"] == sum((every[:, c] == high).mean() >= 0.5 for c in range(shape[0]))
    bars = found["histogram"]
    assert bars["step"] * len(bars["counts"]) >= high - low + 1
    for k, n in enumerate(bars["counts"]):
        start = low + k * bars["step"]
        assert n == ((every >= start) & (every < start + bars["step"])).sum()
    assert len(bars["counts"]) <= 33


@pytest.mark.parametrize("levels", [4, 15, 32, 33, 127])
def test_the_histograms_ends_are_those_of_the_range(levels: int) -> None:
    """However many counts there are to a bar."""
    window = layer_rows(Network.from_graph(converters.to_nir(lenet(levels))), lenet(levels), torch.rand(2, 1, 8, 8))
    drawn = str(_histograms(window))
    for layer in window["layers"][1:]:
        figure = next(f for f in drawn.split("<figure>") if f"<figcaption>{layer['name']}<" in f)
        ends = re.findall(r'text-anchor="(start|end)"[^>]*>(-?\d+)<', figure)
        assert [int(text) for _, text in ends] == layer["range"]


def test_a_layers_row_is_of_its_counts() -> None:
    q = lenet()
    x = torch.rand(6, 1, 8, 8)
    rows = layer_rows(Network.from_graph(converters.to_nir(q)), q, x)["layers"]
    for layer in rows[1:]:
        counts = q.execute(x)[layer["name"]]
        assert sum(layer["histogram"]["counts"]) == counts.numel()
        assert layer["at_top"] == pytest.approx(float((counts == layer["range"][1]).double().mean()))
        # a neuron may spike and end on 0: the share is of those that never did
        assert layer["silent"] <= float((counts == 0).all(0).double().mean())


# --- pictures --------------------------------------------------------------------------------------------


def test_pictures_hold_the_pixels() -> None:
    x = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1))
    seen = picture(x, 0, 1)
    assert seen is not None
    np.testing.assert_array_equal(decoded(seen), (255 * x).round().to(torch.uint8).permute(1, 2, 0).numpy())
    grey = picture(2 * x[:1] - 1, -1, 1)
    assert grey is not None
    np.testing.assert_allclose(decoded(grey), 255 * x[0].numpy(), atol=1)
    assert picture(torch.rand(6), 0, 1) is None
    large = picture(torch.rand(1, 300, 150), 0, 1)
    assert large is not None
    assert decoded(large).shape == (96, 48)


def test_classes_have_their_colours() -> None:
    classes = torch.arange(-1, 23).reshape(4, 6)
    np.testing.assert_array_equal(decoded(coloured(classes)), colours(classes))
    assert len(set(COLOURS)) == len(COLOURS) == 20


# --- the page --------------------------------------------------------------------------------------------


def made(q: QuantGraph, labels: Any, tmp_path: Path, n: int = 12, **options: Any) -> tuple[dict[str, Any], str]:
    path = tmp_path / "page.html"
    run = converters.make_report(q, images(q, n), labels, path, **options)
    return run, path.read_text(encoding="utf-8")


def test_mistakes_are_those_of_the_network(tmp_path: Path) -> None:
    q = lenet()
    labels = torch.arange(12) % 5
    run, page = made(q, labels, tmp_path, windows=[15])
    said = q.predict(images(q, 12))
    (score,) = run["windows"][0]["outputs"]
    matrix = [[int(((labels == a) & (said == b)).sum()) for b in range(5)] for a in range(5)]
    assert score["confusion"] == matrix
    wrong = [[k, int(labels[k]), int(said[k])] for k in range(12) if labels[k] != said[k]]
    assert score["wrong"] == wrong
    assert len(wrong) > 3
    found = run["details"]["wrong"]
    assert [[one["index"], one["label"], one["prediction"]] for one in found] == wrong
    for one in found:
        pixels = q.input.scale * q.input.quantise(images(q, 12)[one["index"]][None])[0, 0]
        np.testing.assert_allclose(decoded(one["picture"]), 255 * pixels.numpy(), atol=255 / 15)
    assert page.count('<img src="data:image/png;base64,') == len(wrong)
    assert "What it gets wrong" in page
    painted = [int(n) for n in re.findall(r'fill-opacity="0[.]0*[1-9][0-9]*"/><text[^>]*>(\d+)</text>', page)]
    assert sum(painted) == 12
    assert "made on</dt><dd>20" in page
    assert "converters.make_report(q, images, labels," in page


def test_of_many_classes_the_pairs_most_often_confused(tmp_path: Path) -> None:
    """30 classes, 25 of which nothing is ever called."""
    row = {"T": 8, "phase": "settle", "quantised_accuracy": 0.5, "snn_accuracy": 0.5, "counts_compared": 8}
    score = {"name": "fc", "task": "classes", "classes": 30, "labelled": 9, "confused": [[3, 29, 5], [1, 0, 4]]}
    run = {"windows": [{**row, "count_mismatches": 0, "outputs": [score]}]}
    table = Reader(render(run)).tables["confused-0"]
    assert table[1:] == [["3", "29", "5"], ["1", "0", "4"]]
    named = Reader(render(run | {"details": {"names": [f"n{k}" for k in range(30)]}})).tables["confused-0"]
    assert named[1] == ["n3", "n29", "5"]


def test_a_map_is_shown_beside_its_label(tmp_path: Path) -> None:
    q = of(several(), "map")
    said = q.predict(images(q, 6))
    labels = said.clone()
    labels[:, 0] = (labels[:, 0] + 1) % 3
    labels[:, 1] = 255
    run, page = made(q, labels, tmp_path, n=6)
    (answer,) = run["details"]["answers"]
    assert len(answer["images"]) == 4
    for k, image in enumerate(answer["images"]):
        np.testing.assert_array_equal(decoded(image["prediction"]), colours(said[k]))
        np.testing.assert_array_equal(decoded(image["label"]), colours(torch.where(labels[k] == 255, -1, labels[k])))
        assert image["right"] == pytest.approx(24 / 30)
    assert run["windows"][0]["snn_accuracy"] == pytest.approx(24 / 30)
    assert page.count('<img src="data:image/png;base64,') == 12
    cells = Reader(page).tables["outputs-table"]
    assert [row[1] for row in cells[1:]] == ["right pixels", "mean IoU"]
    assert number(cells[1][3]) == pytest.approx(80)
    assert number(cells[2][3]) == pytest.approx(run["windows"][0]["outputs"][0]["snn_iou"], rel=1e-3)
    for image in run["details"]["traces"]["images"]:
        assert [sum(row) for row in image["output"]] == [36] * image["steps"]
    last = run["details"]["traces"]["images"][1]["output"][-1]
    assert last == [int((said[1] == c).sum()) for c in range(3)]


def test_values_are_shown_against_their_labels(tmp_path: Path) -> None:
    q = of(several(), "numbers")
    values = q.returned(q.execute(images(q, 12)))
    labels = values + torch.linspace(-1, 1, 24).reshape(12, 2)
    labels[3, 1] = torch.nan
    run, page = made(q, labels, tmp_path)
    (answer,) = run["details"]["answers"]
    known = ~labels.isnan()
    np.testing.assert_allclose(answer["points"], torch.stack([labels[known], values[known]], 1), atol=1e-9)
    assert page.count('class="point"') == 23
    assert "Accuracy against window length" not in page
    cells = {row[1]: row for row in Reader(page).tables["outputs-table"][1:]}
    off = (values - labels)[known]
    assert number(cells["mean absolute error"][3]) == pytest.approx(float(off.abs().mean()), rel=1e-3)
    assert number(cells["rms error"][2]) == pytest.approx(float(off.square().mean().sqrt()), rel=1e-3)
    assert number(cells["correlation"][3]) == pytest.approx(np.corrcoef(values[known], labels[known])[0, 1], rel=1e-3)
    assert {row[2] for row in Reader(page).tables["windows-table"][1:]} == {"–"}
    for image, value in zip(run["details"]["traces"]["images"], values, strict=False):
        np.testing.assert_allclose(image["output"][-1], value, atol=1e-9)


def test_each_of_several_outputs_is_shown(tmp_path: Path) -> None:
    q = several()
    labels = {"label": torch.arange(12) % 4, "numbers": torch.rand(12, 2)}
    run, page = made(q, labels, tmp_path, windows=[3, LEVELS])
    assert [one["name"] for one in run["windows"][0]["outputs"]] == ["label", "map", "numbers"]
    names = [row[0] for row in Reader(page).tables["outputs-table"][1:]]
    assert names == 2 * ["label", "map", *["numbers"] * 4]
    assert [one["name"] for one in run["details"]["answers"]] == ["map", "numbers"]
    assert all(image["label"] is None for image in run["details"]["answers"][0]["images"])
    assert not any(r["count_mismatches"] for r in run["windows"])


def test_without_labels_nothing_is_called_right(tmp_path: Path) -> None:
    run, page = made(lenet(), None, tmp_path)
    assert run["windows"][0]["snn_accuracy"] is None
    assert run["windows"][0]["prediction_agreement"] == 1
    assert [image["label"] for image in run["details"]["traces"]["images"]] == [None] * 3
    assert "What it gets wrong" not in page
    assert "0.00 %" not in Reader(page).tables["windows-table"][1]
    with pytest.raises(ConversionError, match="images: found none"):
        converters.make_report(lenet(), torch.rand(0, 1, 8, 8), None, tmp_path / "no.html")
