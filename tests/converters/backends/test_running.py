"""What every run checks before a backend is asked, and what it promises whatever the backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.errors import ConversionError
from converters.results import compare_counts
from tests.converters.backends.numpy_backend import NumpyBackend
from tests.converters.sample_graphs import images, lenet


def test_the_other_phases_are_not_exact() -> None:
    q = lenet()
    x = images(q, 20)
    wrong = {}
    for phase in ("settle", "paper", "none"):
        rows = compare_counts(converters.run(converters.to_nir(q, T=15), x, phase=phase), q.execute(x))
        wrong[phase] = sum(row.differing for row in rows)
    assert wrong["settle"] == 0 < wrong["paper"] < wrong["none"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "nest"}, "'nest'; use one of auto, fast, snntorch, brian2, closed_form"),
        ({"phase": "later"}, "'later'; use one of settle"),
        ({"record": "all"}, "'all'; use one of output"),
        ({"settle_from": 16}, "use a step between 0 and T = 15"),
        ({"batch": 0}, "use at least 1"),
        ({"volume": 11}, r"\['volume'\]"),
        (
            {"backend": "closed_form", "phase": "paper"},
            "'paper'; backend closed_form has settle; use another",
        ),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    q = lenet()
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(q, T=15), images(q, 1), **change)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 1, 9, 9), r"a batch of shape \(2, 1, 9, 9\); the network takes \(N, 1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), float("nan")), "NaN or infinite pixels"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "torch.uint8; give a float tensor"),
    ],
)
def test_bad_images(bad: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(lenet(), T=15), bad)


@pytest.mark.parametrize("window", [0, -3, 2.5, float("inf"), float("nan")])
def test_bad_windows(window: Any) -> None:
    with pytest.raises(ConversionError, match="use a whole number of steps, at least 1"):
        converters.to_nir(lenet(), T=window)


def test_no_images_no_result_but_no_error() -> None:
    q = lenet()
    r = converters.run(converters.to_nir(q, T=15), torch.zeros(0, 1, 8, 8))
    assert r.predictions.shape == (0,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 1, 8, 8), r"torch.float32 of shape \(1, 1, 8, 8\); give a tensor of integers, \(N, 1, 8, 8\)"),
        (torch.zeros(1, 64, dtype=torch.int64), r"of shape \(1, 64\)"),
        (torch.full((1, 1, 8, 8), 99), "values out of range; the input takes 0 to 15"),
        ([[1]], "found list"),
    ],
)
def test_bad_integers(bad: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        converters.run(converters.to_nir(lenet(), T=15), integers=bad)
    with pytest.raises(ConversionError, match=message):
        lenet().execute(integers=bad)


class Keeps(NumpyBackend):
    """Remembers what it has returned."""

    name = "keeps"

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def simulate(self, network: Any, integers: Any, settings: Any, options: Any) -> Any:
        self.kept.append(super().simulate(network, integers, settings, options))
        return self.kept[-1]


@pytest.mark.parametrize("record", ["output", "counts", "spikes"])
def test_results_of_batches_stay_as_the_backend_made_them(record: str) -> None:
    q, backend = lenet(), Keeps()
    x = images(q, 5)
    whole = converters.run(converters.to_nir(q, T=7), x, backend=backend, batch=2, record=record, check=False)
    assert [len(part.logits) for part in backend.kept] == [2, 2, 1]
    for name in ("counts", "membranes", "positive", "negative", "output_values"):
        together = getattr(whole, name)
        assert together.keys()
        for key, value in together.items():
            assert torch.equal(torch.cat([getattr(part, name)[key] for part in backend.kept]), value)
    if record == "spikes":
        assert all(part.spikes.keys() == whole.spikes.keys() for part in backend.kept)
