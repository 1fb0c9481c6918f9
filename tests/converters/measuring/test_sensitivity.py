"""Sensitivity against whole executions of each changed network; divisions of levels against their own words."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import ConversionError
from converters.measuring.sensitivity import Sensitivity, allocations, best_tops, sensitivity
from converters.requantising import requantised, sharing
from tests.converters.sample_graphs import GRAPHS, images


@pytest.mark.parametrize("name", ["lenet", "residual", "signed_input"])
def test_each_row_is_a_network_of_its_own(name: str) -> None:
    q = GRAPHS[name]()
    x = images(q, 9)
    labels = q.predict(x)
    labels[0] = (labels[0] + 1) % 5
    seen: list[int] = []
    rows = sensitivity(q, x, labels, levels=(2, 7), batch=4, tick=seen.append)
    assert sum(seen) == 9
    asked = [group for group in sharing(q) if "input" not in group]
    assert [row.layers for row in rows] == [(), *(group for group in asked for _ in range(2))]
    assert (rows[0].divergence, rows[0].agreeing, rows[0].accuracy) == (0, 1, pytest.approx(8 / 9))
    was = torch.distributions.Categorical(logits=q.logits(q.execute(x)).flatten(1))
    for row in rows[1:]:
        few = requantised(q, {row.layers[0]: row.levels}, {row.layers[0]: row.top})
        values = few.execute(x)
        now = torch.distributions.Categorical(logits=few.logits(values).flatten(1))
        assert row.divergence == pytest.approx(float(torch.distributions.kl_divergence(was, now).mean()), abs=1e-9)
        assert row.agreeing == pytest.approx(float((was.logits.argmax(1) == now.logits.argmax(1)).double().mean()))
        assert row.accuracy == pytest.approx(float((few.predict(x) == labels).double().mean()))
        counts = sum(int(values[k.name].abs().sum()) for k in few.layers if k.spiking)
        assert row.counts == pytest.approx(counts / 9)
    assert sensitivity(q, x, levels=(2,))[1].accuracy is None


def test_the_range_has_the_least_error_of_those_tried() -> None:
    q = GRAPHS["lenet"]()
    x = images(q, 9)
    tops = best_tops(q, x, (3, 15, 40))
    assert {number for _, number in tops} == {3}  # the others are no fewer than there are
    counts = q.execute(x)
    for (name, number), top in tops.items():
        n = counts[name].abs().double()

        def error(top: int, n: torch.Tensor = n, number: int = number) -> float:
            step = top / number
            return float((torch.clamp((n / step).round(), max=number) * step - n).square().sum())

        assert error(top) == pytest.approx(min(error(t) for t in range(number, 16)))


def test_images_that_do_not_fit() -> None:
    q = GRAPHS["lenet"]()
    with pytest.raises(ConversionError, match="0 images, no labels"):
        sensitivity(q, images(q, 1)[:0])
    with pytest.raises(ConversionError, match="2 images, 1 labels"):
        sensitivity(q, images(q, 2), torch.tensor([1]))


@st.composite
def tables(draw: st.DrawFn) -> list[Sensitivity]:
    whole = Sensitivity((), 15, 15, 0.0, 1.0, None, 1000.0)
    rows = [whole]
    for k in range(draw(st.integers(0, 4))):
        for levels in (1, 3, 7):
            divergence, counts = draw(st.integers(0, 900)) / 100, float(draw(st.integers(0, 1100)))
            rows.append(Sensitivity((f"layer{k}",), levels, 15, divergence, 1.0, None, counts))
    return rows


@given(tables())
@settings(deadline=None)
def test_each_division_saves_counts_and_none_is_worth_more(rows: list[Sensitivity]) -> None:
    whole = rows[0]
    by_name = {(row.layers[0], row.levels): row for row in rows[1:]}
    steps = list(allocations(rows))
    assert steps[0].levels == {}
    for before, after in pairwise(steps):
        assert after.counts < before.counts
        (name,) = {n for n in after.levels if after.levels[n] != before.levels.get(n)}

        def worth(name: str, levels: int, now: dict[str, int] = before.levels) -> float:
            was = by_name[name, now[name]] if name in now else whole
            row = by_name[name, levels]
            usable = levels < was.levels and row.counts < was.counts
            return (was.counts - row.counts) / max(row.divergence - was.divergence, 1e-9) if usable else 0

        best = max(worth(*key) for key in by_name)
        assert worth(name, after.levels[name]) == pytest.approx(best)
    for step in steps:
        chosen = [by_name[item] for item in step.levels.items()]
        assert step.divergence == pytest.approx(sum(row.divergence for row in chosen))
        assert step.counts == pytest.approx(1000 + sum(row.counts - 1000 for row in chosen))
        assert step.tops == dict.fromkeys(step.levels, 15)
