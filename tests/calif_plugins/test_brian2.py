"""Brian2's groups count time in steps: no array over time, and no count, depends on ``defaultclock.dt``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import brian2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from calif_plugins.brian2 import calif_group, connect, isi_group, replay_group, schedule
from calif_plugins.encoding import isi_encode
from calif_plugins.parameters import CaLIFParameters
from calif_plugins.reference import closed_form
from tests.converters.sample_graphs import GRAPHS, images

CLOCKS = st.floats(1e-7, 10.0).map(lambda seconds: seconds * brian2.second)


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    before = brian2.defaultclock.dt
    yield
    brian2.defaultclock.dt = before


def count(charge: np.ndarray, before: Any, after: Any) -> float:
    """The count of one neuron of threshold 2 with this charge, made under one clock and run under another."""
    brian2.start_scope()
    brian2.defaultclock.dt = before
    group = calif_group(1, CaLIFParameters(threshold=2.0, y_min=-99, y_max=99), window=len(charge), charge=charge)
    brian2.defaultclock.dt = after
    brian2.Network(group).run((len(charge) + 30) * after)  # at most 27 spikes, one a step
    return float(group.y[0])


def test_a_charge_keeps_its_steps_under_a_clock_that_is_set_later() -> None:
    charge = np.array([[3.0], [0.0], [0.0], [4.0]])
    assert count(charge, 0.1 * brian2.ms, 1.0 * brian2.ms) == 4  # 7 / 2, to even


@settings(max_examples=6, deadline=None)
@given(before=CLOCKS, after=CLOCKS, data=st.data())
def test_charges_under_any_clock(before: Any, after: Any, data: st.DataObject) -> None:
    charge = np.array([[float(c)] for c in data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=6))])
    z = charge.sum(0)
    (right,) = closed_form(z, CaLIFParameters(threshold=2.0, y_min=-99, y_max=99))
    assert count(charge, before, after) == right


@settings(max_examples=6, deadline=None)
@given(before=CLOCKS, after=CLOCKS, seed=st.integers(0, 2**16))
def test_trains_under_any_clock(before: Any, after: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    recorded, counts = rng.integers(-1, 2, (5, 3)), rng.integers(-5, 6, 3)
    brian2.start_scope()
    brian2.defaultclock.dt = before
    groups = replay_group(recorded, layer="a"), isi_group(counts, 5, layer="b")
    monitors = [[brian2.EventMonitor(g, event) for event in ("pos", "neg")] for g in groups]
    brian2.defaultclock.dt = after
    net = brian2.Network(*groups, *monitors)
    net.schedule = schedule("a", "b")
    net.run(8 * after)
    for pair, right in zip(monitors, (recorded, isi_encode(counts=counts, window=5)), strict=True):
        found = np.zeros((8, 3), dtype=int)
        for monitor, sign in zip(pair, (1, -1), strict=True):
            found[np.round(np.asarray(monitor.t / after)).astype(int), np.asarray(monitor.i)] = sign
        assert found[:5].tolist() == right.tolist()
        assert not found[5:].any()


@settings(max_examples=2, deadline=None)
@given(clocks=st.lists(CLOCKS, min_size=2, max_size=2), coding=st.sampled_from(["isi", "direct"]))
def test_the_backend_under_any_clock(clocks: list[Any], coding: str) -> None:
    """One network, built once, run under one clock and then under another."""
    q = GRAPHS["signed_input"](4)
    graph, x = converters.to_nir(q, coding=coding), images(q, 2)
    right = converters.run(graph, x, record="spikes", fast=False)
    assert right.spikes is not None
    for clock in clocks:
        brian2.defaultclock.dt = clock
        found = converters.run(graph, x, backend="brian2", record="spikes")
        assert found.spikes is not None
        for name, train in found.spikes.items():
            n = max(len(train), len(right.spikes[name]))
            one, other = (torch.cat([t, t.new_zeros(n - len(t), *t.shape[1:])]) for t in (train, right.spikes[name]))
            assert torch.equal(one, other), (name, clock)


def test_layers_have_slots_of_their_own() -> None:
    names = ["a", "a_leak", "a_leak_leak", "start", "leak"]
    slots = schedule(*names)
    assert len(set(slots)) == len(slots)
    with pytest.raises(ValueError, match="found 'a' twice"):
        schedule("a", "b", "a")
    for name in ("before", "after_noon"):
        with pytest.raises(ValueError, match="no slot of Brian2's"):
            schedule(name)
    source = isi_group([1], 2, layer="x")
    with pytest.raises(ValueError, match="no slot of Brian2's"):
        connect(source, source, [0], [0], 1.0, layer="before")
