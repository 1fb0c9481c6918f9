"""The margin rule against a loop over images and steps; traces against the NumPy reference's spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.measuring.margins import MarginRule, Traces, choose_margin, traces
from converters.network import Network
from converters.operations import Linear
from converters.quantised import GraphBuilder
from converters.testing import by_reference
from tests.converters.sample_graphs import GRAPHS, images


@st.composite
def some(draw: st.DrawFn) -> Traces:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps, n = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    latency = torch.from_numpy(rng.integers(1, steps + 1, n))
    leading, leads = torch.from_numpy(rng.integers(0, 2, (steps, n))), torch.from_numpy(rng.integers(0, 4, (steps, n)))
    for k, last in enumerate(latency.tolist()):  # then it is quiet
        leading[last:, k], leads[last:, k] = leading[last - 1, k], leads[last - 1, k]
    return Traces(leading, leads.double(), latency)


def by_hand(found: Traces, margin: float, patience: int, image: int) -> tuple[int, int]:
    latency = int(found.latency[image])
    leading, leads = found.leading[:, image].tolist(), found.leads[:, image].tolist()
    for stop in range(patience, latency):
        last = range(stop - patience, stop)
        if all(leads[t] >= margin for t in last) and len({leading[t] for t in last}) == 1:
            return stop, leading[stop - 1]
    return latency, leading[-1]


@given(some(), st.integers(0, 4), st.integers(1, 4))
@settings(deadline=None)
def test_it_stops_where_it_says(found: Traces, margin: int, patience: int) -> None:
    steps, classes = MarginRule(margin, patience).stop(found)
    expected = [by_hand(found, margin, patience, k) for k in range(len(steps))]
    assert list(zip(steps.tolist(), classes.tolist(), strict=True)) == expected


def wrong(rule: MarginRule, found: Traces) -> float:
    return float((rule.stop(found)[1] != found.classes).double().mean())


@given(some(), st.sampled_from([0.0, 0.25, 0.5]), st.integers(1, 3))
@settings(deadline=None)
def test_the_margin_is_the_smallest_that_loses_no_more(found: Traces, loss: float, patience: int) -> None:
    rule = choose_margin(found, loss=loss, patience=patience)
    assert wrong(rule, found) <= loss
    smaller = [m for m in range(5) if m < rule.margin and m in found.leads]
    assert all(wrong(MarginRule(m, patience), found) > loss for m in smaller)


def reference(network: Network, x: Tensor) -> Tensor:
    """Counts of the output after each step."""
    return by_reference(network, network.spec.quantise(x)).trains[network.output.name].to(torch.int64).cumsum(0)


@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_traces_are_those_of_the_reference(name: str) -> None:
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    x = images(q, 5)
    found = traces(network, x, batch=2)
    counts = reference(network, x)
    steps = min(len(counts), len(found.leads))
    ordered = counts.sort(2, descending=True).values
    assert torch.equal(found.leading[:steps], counts[:steps].argmax(2))
    assert torch.equal(found.leads[:steps], (ordered[..., 0] - ordered[..., 1])[:steps].double())
    assert torch.equal(found.classes, q.predict(x))
    steps_taken, classes = MarginRule(1e9).stop(found)
    assert torch.equal(steps_taken, found.latency)
    assert torch.equal(classes, found.classes)


def test_wrong_numbers() -> None:
    with pytest.raises(ConversionError, match="margin: found -1"):
        MarginRule(-1)
    with pytest.raises(ConversionError, match="patience: found 0"):
        MarginRule(1, 0)
    with pytest.raises(ConversionError, match="loss: found 2"):
        choose_margin(Traces(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1)), loss=2)
    q = GRAPHS["lenet"]()
    with pytest.raises(ConversionError, match="images: found none"):
        traces(converters.to_nir(q), images(q, 1)[:0])
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=3)
    y = b.layer("fc", [(x, Linear(torch.ones(1, 2).int()))], threshold=1.0, y_min=0, y_max=3, scale=1.0)
    with pytest.raises(ConversionError, match="fc: found an output of one value"):
        traces(converters.to_nir(b.build(y)), torch.ones(1, 2))
