"""The one measurement: against runs of single images, in pieces of any size, and over several processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.measuring.measure import Measurement, measure
from converters.quantised import QuantGraph
from converters.zoo.images import Images
from tests.converters.sample_graphs import GRAPHS, images

T = 6
NAMES = ("lenet", "residual", "signed_input")


def labelled(q: QuantGraph, n: int) -> Images:
    return Images(images(q, n), torch.arange(n) % 3, 3)


def by_hand(q: QuantGraph, data: Images, phase: str, coding: str) -> dict[str, float]:
    """One image after the other, counted neuron by neuron."""
    g, exact = converters.to_nir(q, T=T, coding=coding), q.at_window(T, coding)
    found = dict.fromkeys(("compared", "differing", "right", "quantised", "agree", "spikes", "steps", "slowest"), 0.0)
    for k in range(len(data)):
        x, label = data.pixels[k : k + 1], int(data.labels[k])
        r: Any = converters.run(g, x, backend="snntorch", phase=phase, record="spikes")
        integers, predicted = exact.execute(x), int(exact.predict(x))
        for name, counts in r.counts.items():
            pairs = list(zip(counts.flatten().tolist(), integers[name].flatten().tolist(), strict=True))
            found["compared"] += len(pairs)
            found["differing"] += sum(a != b for a, b in pairs)
        found["right"] += int(r.logits.flatten().argmax()) == label
        found["quantised"] += predicted == label
        found["agree"] += int(r.logits.flatten().argmax()) == predicted
        sent = {name: train for name, train in r.spikes.items() if coding == "isi" or name != q.input.name}
        found["spikes"] += sum(int((train != 0).sum()) for train in sent.values())
        steps = T + int(r.extra_steps)
        found["steps"] += steps
        found["slowest"] = max(found["slowest"], steps)
    return found


@pytest.mark.parametrize(("phase", "coding"), [("settle", "isi"), ("settle", "direct"), ("none", "isi")])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_what_single_images_add_up_to(name: str, phase: str, coding: str) -> None:
    q = GRAPHS[name]()
    data = labelled(q, 5)
    want = by_hand(q, data, phase, coding)
    m = measure(converters.to_nir(q, T=T, coding=coding), q, data, phase=phase, size=2)
    assert (m.counts_compared, m.count_mismatches) == (want["compared"], want["differing"])
    assert (m.count_mismatches == 0) == (phase == "settle")
    assert (m.spiking_right, m.quantised_right, m.agreeing) == (want["right"], want["quantised"], want["agree"])
    assert (m.positive + m.negative, m.steps, m.slowest) == (want["spikes"], want["steps"], want["slowest"])
    row = m.as_dict()
    assert row["snn_accuracy"] == want["right"] / 5
    assert row["latency_steps_mean"] == want["steps"] / 5
    assert (row["macs_per_image"] > 0) == (coding == "direct")


class Shares:
    """What one process learns of all: stands for the sums that processes exchange, one call after the other."""

    def __init__(self, parts: list[Measurement]) -> None:
        self.count, self.rank = len(parts), 0
        self.asked = [_Recorder(rank, len(parts)) for rank in range(len(parts))]
        for part, recorder in zip(parts, self.asked, strict=True):
            part.of_all(recorder)  # type: ignore[arg-type]
        self.calls = 0

    def _next(self) -> list[list[float]]:
        assert len({len(r.calls) for r in self.asked}) == 1, "every process asks as often"
        self.calls += 1
        return [r.calls[(self.calls - 1) % len(r.calls)] for r in self.asked]

    def total(self, *numbers: float) -> list[float]:
        given = self._next()
        assert {len(x) for x in given} == {len(numbers)}, "every process adds as many numbers"
        return [float(sum(column)) for column in zip(*given, strict=True)]

    def largest(self, number: float) -> float:
        return max(x for (x,) in self._next())


class _Recorder:
    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.calls: list[list[float]] = []

    def total(self, *numbers: float) -> list[float]:
        self.calls.append(list(numbers))
        return list(numbers)

    def largest(self, number: float) -> float:
        self.calls.append([number])
        return number


@pytest.mark.parametrize("backend", ["auto", "closed_form"])
@settings(max_examples=6, deadline=None)
@given(size=st.integers(1, 9), cut=st.integers(0, 7))
def test_pieces_and_shares_make_no_difference(backend: str, size: int, cut: int) -> None:
    """Nor do shares without an image, as of two processes with one image."""
    q = GRAPHS["residual"]()
    g, data = converters.to_nir(q, T=T), labelled(q, 7)
    options: dict[str, Any] = {"backend": backend} | ({"check": 0} if backend == "closed_form" else {})
    whole = measure(g, q, data, **options)
    assert measure(g, q, data, size=size, **options) == whole
    parts = [measure(g, q, part, size=size, **options) for part in (data[:cut], data[cut:])]
    assert [part.of_all(Shares(parts)) for part in parts] == [whole, whole]  # type: ignore[arg-type]


def test_the_closed_form_stands_in_for_a_network_that_is_not_known() -> None:
    q = GRAPHS["lenet"]()
    g, data = converters.to_nir(q, T=T), labelled(q, 4)
    known, bare = measure(g, q, data, phase="none"), measure(g, None, data, phase="none")
    assert bare.compared_with == "closed form"
    assert bare.count_mismatches == known.count_mismatches > 0
    assert bare.layers == known.layers
    row = measure(g, None, data, backend="closed_form").as_dict()
    assert (row["counts_from"], row["images_simulated"], row["latency_steps"]) == ("closed form", 4, None)
    assert row["images_checked"] == 4


def test_what_runs_have_checked_adds_up() -> None:
    """One image of the first piece, and the next when 64 have passed; of each where that is asked for."""
    q = GRAPHS["lenet"]()
    g, data = converters.to_nir(q, T=T), labelled(q, 7)
    assert measure(g, q, data, size=3).as_dict()["images_checked"] == 1
    assert measure(g, q, data, size=3, check=True).images_checked == 3
    assert measure(g, q, data, size=3, check=False).images_checked == 0
    assert measure(g, q, data, phase="paper").images_checked == 0


def test_no_images() -> None:
    q = GRAPHS["lenet"]()
    for options in ({}, {"backend": "closed_form"}, {"phase": "none"}):
        row = measure(converters.to_nir(q, T=T), q, labelled(q, 0), **options).as_dict()  # type: ignore[arg-type]
        assert (row["images"], row["snn_accuracy"], row["counts_compared"]) == (0, 0.0, 0)
