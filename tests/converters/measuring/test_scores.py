"""Scores against brute force and NumPy; what is asked follows from shapes and labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.measuring.anytime import anytime_curve
from converters.measuring.measure import Measurement, measure
from converters.measuring.scores import ClassScore, ValueScore, confusion, deviation
from converters.measuring.tasks import labels_of, questions, unlabelled
from converters.network import Network
from converters.quantised import QuantGraph
from converters.testing.networks import images
from converters.zoo.images import Images
from tests.converters.measuring.test_measure import Shares
from tests.converters.task_graphs import LEVELS, of, several

CLASSES = 4
pairs = st.lists(st.tuples(st.integers(-1, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=30)
reals = st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=30)


def score_of(found: list[tuple[int, int]]) -> ClassScore:
    labels, said = torch.tensor(found).unbind(1)
    return ClassScore("x", "map", CLASSES, images=1, spiking=confusion(labels, said, CLASSES))


@given(pairs, pairs)
def test_classes_by_brute_force(some: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    """Accuracy, and intersection over union of the sets of places."""
    score = score_of(some) + score_of(more)
    known = [(k, a, b) for k, (a, b) in enumerate(some + more) if a >= 0]
    right = sum(a == b for _, a, b in known)
    assert (score.labelled, score.spiking_right) == (len(known), right)
    assert score.accuracy(score.spiking) == (right / len(known) if known else None)
    for c, overlap in enumerate(score.overlaps(score.spiking)):
        true, said = {k for k, a, _ in known if a == c}, {k for k, _, b in known if b == c}
        assert overlap == (len(true & said) / len(true | said) if true | said else None)
    assert score.of_sums(iter(score.sums())) == score


@given(reals, st.integers(0, 30))
def test_numbers_against_numpy(found: list[tuple[float, float]], cut: int) -> None:
    x, y = torch.tensor(found, dtype=torch.float64).unbind(1)
    whole = deviation(x[:cut], y[:cut]) + deviation(x[cut:], y[cut:])
    a, b = x.numpy(), y.numpy()
    assert whole.count == len(a)
    assert whole.mean_absolute == pytest.approx(np.abs(a - b).mean())
    assert whole.rms == pytest.approx(np.sqrt(((a - b) ** 2).mean()))
    if min(a.std(), b.std()) > 1e-3 * (1 + max(np.abs(a).max(), np.abs(b).max())):
        assert whole.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-8)
    constant = deviation(x, torch.full_like(y, 3.7))
    assert constant.correlation is None


def test_what_is_not_known_takes_no_part() -> None:
    nan = torch.nan
    found = deviation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, nan, 9.0]))
    assert (found.count, found.mean_absolute) == (2, 0.5)
    assert deviation(torch.tensor([1.0]), torch.tensor([nan])).as_dict() == dict.fromkeys(
        ("mean_absolute", "rms", "correlation")
    )


def labels_for(q: QuantGraph, n: int) -> tuple[Tensor, ...]:
    gen = torch.Generator().manual_seed(5)
    maps = torch.randint(0, 3, (n, 6, 6), generator=gen)
    maps[:, 0] = 255
    maps[:, 1] = -100
    return torch.randint(0, 4, (n,), generator=gen), maps, torch.randn(n, 2, generator=gen)


def data_for(q: QuantGraph, n: int, *labels: Tensor) -> Images:
    return Images(images(q, n), labels[0], 4, more_labels=tuple(labels[1:]))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("phase", ["settle", "none"])
def test_every_output_has_its_own_result(phase: str, known: bool) -> None:
    """From runs of single images, by hand; without the quantised network, the closed form is the same."""
    q = several()
    label, maps, numbers = labels_for(q, 5)
    g = converters.to_nir(q, T=LEVELS)
    m = measure(g, q if known else None, data_for(q, 5, label, maps, numbers), phase=phase, size=2)
    classes, of_map, values = m.outputs
    assert [one.name for one in m.outputs] == ["label", "map", "numbers"]
    assert [one.task for one in m.outputs] == ["classes", "map", "values"]
    integers = q.execute(images(q, 5))
    x = images(q, 5)
    runs = [converters.run(g, x[k : k + 1], phase=phase) for k in range(5)]
    counts = {name: torch.cat([r.output_values[name] for r in runs]) for name in ("fc", "pixels", "read")}
    assert isinstance(classes, ClassScore)
    assert isinstance(of_map, ClassScore)
    assert isinstance(values, ValueScore)
    said, wanted = counts["fc"].argmax(1), integers["fc"].argmax(1)
    assert (classes.spiking_right, classes.quantised_right) == (
        int((said == label).sum()),
        int((wanted == label).sum()),
    )
    assert (classes.alike, classes.labelled) == (int((said == wanted).sum()), 5)
    said, wanted = counts["pixels"].argmax(1), integers["pixels"].argmax(1)
    right = [int(((x == maps)[:, 2:]).sum()) for x in (wanted, said)]
    assert [of_map.quantised_right, of_map.spiking_right] == right
    assert (of_map.labelled, of_map.places) == (5 * 4 * 6, 5 * 36)
    assert of_map.agreeing == int((said == wanted).sum())
    assert of_map.alike == sum(bool((a == b).all()) for a, b in zip(said, wanted, strict=True))
    a, b = counts["read"], q.returned(integers)["numbers"]
    y = numbers.double()
    assert values.spiking.mean_absolute == pytest.approx(float((a - y).abs().mean()))
    assert values.quantised.rms == pytest.approx(float((b - y).square().mean().sqrt()))
    assert values.spiking.correlation == pytest.approx(np.corrcoef(a.flatten(), y.flatten())[0, 1])
    assert values.largest == pytest.approx(float((a - b).abs().max()), abs=1e-12)
    assert (m.count_mismatches == 0) == (phase == "settle")
    if phase == "settle":
        assert (values.alike, of_map.alike, classes.alike) == (5, 5, 5)
        assert m.predictions_differing == 0
    row = m.as_dict()
    assert row["snn_accuracy"] == classes.spiking_right / 5
    assert [one["task"] for one in row["outputs"]] == ["classes", "map", "values"]
    assert row["outputs"][1]["snn_iou"] == of_map.overlap(of_map.spiking)
    assert sum(map(sum, row["outputs"][0]["confusion"])) == 5


@settings(max_examples=5, deadline=None)
@given(size=st.integers(1, 6), cut=st.integers(1, 4))
def test_pieces_and_shares_make_no_difference(size: int, cut: int) -> None:
    q = several()
    g, data = converters.to_nir(q, T=LEVELS), data_for(q, 5, *labels_for(q, 5))
    whole = measure(g, q, data)
    parts = [measure(g, q, part, size=size) for part in (data[:cut], data[cut:])]
    for found in (measure(g, q, data, size=size), *(p.of_all(Shares(parts)) for p in parts)):  # type: ignore[arg-type]
        assert found.outputs[:2] == whole.outputs[:2]
        same(found, whole)


def same(found: Measurement, whole: Measurement) -> None:
    a, b = found.outputs[2], whole.outputs[2]
    assert isinstance(a, ValueScore)
    assert isinstance(b, ValueScore)
    assert (a.images, a.values, a.alike, a.largest) == (b.images, b.values, b.alike, b.largest)
    np.testing.assert_allclose(a.sums(), b.sums(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", ["label", "map", "numbers"])
def test_without_labels_the_networks_are_held_against_each_other(output: str) -> None:
    """No accuracy is made up, least of all 0."""
    q = of(several(), output)
    (score,) = measure(converters.to_nir(q, T=LEVELS), q, data_for(q, 4, unlabelled(4))).outputs
    m = measure(converters.to_nir(q, T=LEVELS), q, data_for(q, 4, unlabelled(4)))
    assert (m.quantised_accuracy, m.snn_accuracy, m.agreeing, score.labelled) == (None, None, 4, 0)
    assert score.task == {"label": "classes", "map": "map", "numbers": "classes"}[output]
    assert "confusion" not in score.as_dict()


def test_values_have_no_accuracy() -> None:
    q = of(several(), "numbers")
    numbers = labels_for(q, 4)[2]
    m = measure(converters.to_nir(q, T=LEVELS), q, data_for(q, 4, numbers))
    row = m.as_dict()
    assert (row["task"], row["quantised_accuracy"], row["snn_accuracy"]) == ("values", None, None)
    assert (row["prediction_agreement"], row["outputs"][0]["between"]["largest"]) == (1.0, pytest.approx(0, abs=1e-9))
    assert math.isfinite(row["outputs"][0]["spiking"]["rms"])
    with pytest.raises(ConversionError, match="labels: found read, whose values are no classes"):
        anytime_curve(converters.to_nir(q, T=LEVELS), images(q, 4), numbers)


def test_a_curve_of_maps_ends_on_the_measured_accuracy() -> None:
    q = of(several(), "map")
    maps = labels_for(q, 4)[1]
    g = converters.to_nir(q, T=LEVELS)
    m = measure(g, q, data_for(q, 4, maps))
    assert anytime_curve(g, images(q, 4), maps, batch=3).accuracy[-1] == pytest.approx(m.snn_accuracy)


def test_a_cross_check_looks_at_every_output() -> None:
    q = several()
    x = images(q, 4)
    other = QuantGraph(q.input, (*q.layers[:-1], _moved(q.layers[-1])), outputs=q.outputs)
    one, two = (converters.to_nir(p, T=LEVELS) for p in (q, other))
    same_class = converters.cross_check(one, x, other=two, backends=("fast", "snntorch"))
    said = [p.returned(p.execute(x))["numbers"].argmax(1) for p in (q, other)]
    assert same_class.predictions_differing["snntorch"] == int((said[0] != said[1]).sum()) > 0


def _moved(layer: Any) -> Any:
    from dataclasses import replace

    return replace(layer, bias=torch.tensor([1e4, -1e4]))


WRONG = {
    "a class of each image for a map": ("map", torch.zeros(4).long(), r"int64 of shape \(4,\) for pixels.*\(N, 6, 6\)"),
    "a map for classes": ("label", torch.zeros(4, 6, 6).long(), r"int64 of shape \(4, 6, 6\) for fc; give one integer"),
    "a class too many": ("label", torch.tensor([0, 4, 1, 1]), "the class 4 for fc, which has 4; number"),
    "numbers for a map": ("map", torch.zeros(4, 6, 6), r"numbers of shape \(4, 6, 6\) for pixels; give numbers of .*3"),
    "too few numbers": ("numbers", torch.zeros(4, 1), r"numbers of shape \(4, 1\) for read; give numbers of .*N, 2"),
    "no void below 256 classes": ("label", torch.tensor([0, 255, 1, 1]), "the class 255 for fc, which has 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_do_not_fit(case: str) -> None:
    name, labels, message = WRONG[case]
    network = Network.from_graph(converters.to_nir(of(several(), name), T=LEVELS))
    with pytest.raises(ConversionError, match=f"labels: found {message}"):
        questions(network, [labels])


def test_labels_are_given_in_order_or_by_name() -> None:
    names, a, b = ["label", "map"], torch.zeros(2).long(), torch.ones(2, 6, 6).long()
    for given_as in ((a, b), [a, b], {"map": b, "label": a}):
        found = labels_of(given_as, names, 2)
        assert found[0] is a
        assert found[1] is b
    assert labels_of(a, names, 2)[1].tolist() == labels_of(None, names, 2)[0].tolist() == [-1, -1]
    for wrong, message in (
        ({"masks": a}, "of 'masks', which is no output; outputs are label, map"),
        ([a, b, b], "3 for 2 images; give one integer for each image, or one tensor for each of the 2 outputs"),
        ((), "0 for 2 images"),
        (a[:1], r"\(1,\) for 2 images; give one integer"),
        ("labels", "str; give one integer for each image"),
    ):
        with pytest.raises(ConversionError, match=f"labels: found {message}"):
            labels_of(wrong, names, 2)  # type: ignore[arg-type]
