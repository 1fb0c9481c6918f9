"""Fewer levels in some layers: the old layer's own real numbers, rounded to the new levels, are the oracle."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import ConversionError
from converters.quantised import QuantGraph
from converters.requantising import requantised, sharing
from converters.testing.networks import NETWORKS
from converters.testing.networks import images as any_images
from tests.converters.operations.everywhere import integers, simulated
from tests.converters.sample_graphs import GRAPHS, images, lenet

KINDS: dict[str, Callable[[], QuantGraph]] = {
    **GRAPHS,
    **{name: NETWORKS[name] for name in ("counting", "maxima", "levels", "gated", "normed", "two inputs", "heads")},
}


def own(q: QuantGraph) -> dict[str, int]:
    return {spec.name: spec.levels for spec in q.inputs} | {k.name: max(-k.y_min, k.y_max) for k in q.layers}


@st.composite
def asked(draw: st.DrawFn, q: QuantGraph) -> tuple[dict[str, int], dict[str, int]]:
    """Fewer levels, on smaller ranges, for some of the groups."""
    inputs = {spec.name for spec in q.inputs}
    levels, tops = {}, {}
    for group in sharing(q):
        whole = max(own(q)[name] for name in group)
        if not draw(st.booleans()):
            continue
        name = draw(st.sampled_from(group))
        top = whole if inputs & set(group) else draw(st.integers(1, whole))
        levels[name] = draw(st.integers(1, top))
        if top < whole:
            tops[name] = top
    return levels, tops


def check(q: QuantGraph, few: QuantGraph, levels: dict[str, int], tops: dict[str, int], x: Any) -> int:
    """How many counts are those of the old layers' real numbers, on the new levels; none may differ but at ties."""
    factor = dict.fromkeys(own(q), 1.0)
    for group in sharing(q):
        for name in set(group) & set(levels):
            top = tops.get(name, max(own(q)[n] for n in group))
            factor |= dict.fromkeys(group, levels[name] / top)
    found = few.execute(x)
    before = {name: values.double() / factor[name] for name, values in found.items()}  # in the old levels
    compared = 0
    for old, new in zip(q.layers, few.layers, strict=True):
        assert new.scale == pytest.approx(old.scale / factor[old.name])
        slack = float(old.slack.max()) + 1e-6
        exact = old.unrounded(before) * factor[old.name]
        if not new.spiking:
            assert torch.allclose(new.quotient(found[new.name]), exact, rtol=1e-6, atol=slack)
            continue
        low, high = ((exact + sign * slack).round().clamp(new.y_min, new.y_max) for sign in (-1, 1))
        assert bool(((low <= found[new.name]) & (found[new.name] <= high)).all()), new.name
        compared += exact.numel()
    return compared


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_counts_are_the_real_numbers_on_the_new_levels(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*KINDS]))
    q = KINDS[kind]()
    levels, tops = data.draw(asked(q))
    few = requantised(q, levels, tops)
    x = images(q, 3) if kind in GRAPHS else any_images(q, 3)
    assert check(q, few, levels, tops, x)
    for group in sharing(q):
        for name in set(group) & set(levels):
            assert max(own(few)[n] for n in group) <= levels[name]


@pytest.mark.parametrize("kind", ["lenet", "residual", "concat"])
def test_every_backend_has_its_counts(kind: str) -> None:
    q = GRAPHS[kind]()
    groups = [group for group in sharing(q) if q.input.name not in group]
    few = requantised(q, {group[0]: 1 + 3 * k for k, group in enumerate(groups)}, {groups[-1][0]: 3 * len(groups)})
    assert few.levels == 15
    simulated(few, integers(few, 2), brian=1 if kind == "residual" else 0)


def test_what_shares_its_scale() -> None:
    assert sharing(GRAPHS["residual"]())[2:4] == (("main.conv", "shortcut"), ("add",))
    assert sharing(lenet())[0] == ("input",)
    names = [name for group in sharing(NETWORKS["maxima"]()) for name in group]
    assert len(names) == len(set(names))


def test_nothing_asked_for_is_the_same_network() -> None:
    q = lenet()
    assert requantised(q, {}).layers == q.layers
    assert requantised(q, {"fc1": 15}).layers == q.layers


@pytest.mark.parametrize(
    ("levels", "tops", "message"),
    [
        ({"fc9": 3}, {}, "fc9: found a name that no input and no spiking layer has; use input, conv, pool, fc1, fc2"),
        ({"fc1": 0}, {}, "fc1: found 0 levels on counts up to 15; 1 <= levels <= top <= 15, which it has"),
        ({"fc1": 16}, {}, "fc1: found 16 levels on counts up to 15"),
        ({"fc1": 5}, {"fc1": 4}, "fc1: found 5 levels on counts up to 4"),
        ({"input": 5}, {"input": 9}, "input: found a top for an input"),
    ],
)
def test_what_is_refused(levels: dict[str, int], tops: dict[str, int], message: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(message)):
        requantised(lenet(), levels, tops)
    with pytest.raises(ConversionError, match=r"two numbers of levels for main\.conv, shortcut"):
        requantised(GRAPHS["residual"](), {"main.conv": 3, "shortcut": 4})
