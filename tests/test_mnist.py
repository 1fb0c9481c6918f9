"""The shipped LeNet-5 on MNIST: every count of every layer against the quantised network's integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.errors import ConversionError
from converters.results import compare_counts
from converters.zoo.datasets import load
from converters.zoo.named import load_checkpoint

RUNS = [(127, 127), (127, 128), (8, 8), (4, 4), (3, 3)]


@pytest.fixture(scope="module")
def mnist() -> Any:
    try:
        return load("mnist", "test", download=False)
    except ConversionError as error:
        pytest.skip(f"no MNIST: {error}")


def mismatches(levels: Any, window: Any, data: Any) -> Any:
    q, notes = load_checkpoint(f"lenet5-mnist-{levels}")
    g = converters.to_nir(q, T=window)
    compared = differing = 0
    for pixels in data.pixels.split(500):
        expected = q.execute(pixels)
        r = converters.run(g, pixels)
        assert torch.equal(r.predictions, q.logits(expected).flatten(1).argmax(1))
        for row in compare_counts(r, expected):
            compared, differing = compared + row.compared, differing + row.differing
    return compared, differing, notes


@pytest.mark.parametrize(("levels", "window"), RUNS)
def test_first_images(mnist: Any, levels: int, window: int) -> None:
    compared, differing, _ = mismatches(levels, window, mnist.first(40))
    assert compared >= 40 * 8084
    assert differing == 0


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "window"), RUNS)
def test_all_ten_thousand(mnist: Any, levels: int, window: int) -> None:
    compared, differing, notes = mismatches(levels, window, mnist)
    assert len(mnist) == 10_000
    assert compared >= 10_000 * 8084
    assert differing == 0
    q, _ = load_checkpoint(f"lenet5-mnist-{levels}")
    accuracy = (q.predict(mnist.pixels) == mnist.labels).double().mean()
    assert accuracy == pytest.approx(notes["quantised_accuracy"])
    if levels == 127:
        assert accuracy >= 0.99
