"""A class is certain only where every input with the same spikes so far has it: all of them are tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from calif_plugins.encoding import direct_charge, isi_encode
from converters.errors import ConversionError
from converters.measuring.certainty import certain_after, possible_outputs
from converters.network import Network
from converters.operations import Linear, MaxOver
from converters.quantised import GraphBuilder, QuantGraph
from converters.testing.networks import NETWORKS
from converters.testing.networks import images as any_images
from tests.converters.sample_graphs import GRAPHS, images


@st.composite
def small(draw: st.DrawFn) -> QuantGraph:
    """Three inputs of few levels, up to two hidden layers, perhaps a maximum, an output that spikes or does not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    b = GraphBuilder()
    top = draw(st.integers(1, 5))
    y = b.input((3,), scale=1.0, q_min=-top if draw(st.booleans()) else 0, q_max=top)
    for k in range(draw(st.integers(0, 2))):
        weight = torch.from_numpy(rng.integers(-4, 5, (4, length(y.shape))))
        threshold = torch.from_numpy(rng.integers(1, 12, 4) / 2)
        y = b.layer(
            f"hidden{k}", [(y, Linear(weight.to(torch.int8)))], threshold=threshold, bias=float(rng.integers(-4, 5)),
            y_min=draw(st.sampled_from([0, -3])), y_max=draw(st.integers(1, 6)), scale=1.0,
            tie=draw(st.sampled_from(["even", "up"])),
        )  # fmt: skip
    if draw(st.booleans()):
        y = b.layer("largest", [(y, MaxOver((0,), True))], threshold=1.0, y_min=-6, y_max=6, scale=1.0)
    spiking = draw(st.booleans())
    weight = torch.from_numpy(rng.integers(-4, 5, (3, length(y.shape)))).to(torch.int8)
    top = 4 if spiking else 0
    bias = torch.from_numpy(rng.integers(-6, 7, 3) / 2)
    out = b.layer(
        "out", [(y, Linear(weight))], threshold=1.5, bias=bias, y_min=-top, y_max=top, scale=1.0, spiking=spiking
    )
    return b.build(out)


def length(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


@given(small(), st.integers(1, 9), st.sampled_from(["isi", "direct"]), st.integers(0, 2**16))
@settings(deadline=None, max_examples=15)
def test_no_other_input_with_these_spikes_has_another_class(q: QuantGraph, window: int, coding: str, seed: int) -> None:
    window = max(window, q.levels)
    every = torch.tensor(list(itertools.product(range(q.input.q_min, q.input.q_max + 1), repeat=3)))
    network = Network.from_graph(converters.to_nir(q, T=window, coding=coding))
    outputs = q.logits(q.execute(integers=every))
    classes = outputs.argmax(1)
    if coding == "isi":
        sent = isi_encode(window=window, counts=every.numpy())
    else:
        first = q.layers[0].synapses[0]
        sent = np.stack([direct_charge(first(every.double()).numpy(), t, window) for t in range(window)])
    mine = np.random.default_rng(seed).integers(0, len(every), 2)
    steps, found = certain_after(network, integers=every[mine])
    for k, step, answer in zip(mine, steps.tolist(), found.tolist(), strict=True):
        alike = (sent[:step] == sent[:step, k : k + 1]).all(axis=(0, *range(2, sent.ndim)))
        assert set(classes[torch.from_numpy(alike)].tolist()) == {answer}
        for t in {0, max(step - 1, 0), step, window}:
            alike = (sent[:t] == sent[:t, k : k + 1]).all(axis=(0, *range(2, sent.ndim)))
            low, high = possible_outputs(network, every[k : k + 1], t)
            possible = outputs[torch.from_numpy(alike)]
            assert bool((low <= possible + 1e-9).all())
            assert bool((possible <= high + 1e-9).all())
        assert torch.equal(*possible_outputs(network, every[k : k + 1], window))


@pytest.mark.parametrize("name", ["lenet", "residual", "signed_input"])
def test_nothing_is_lost_and_the_rounding_phase_is_saved(name: str) -> None:
    q = GRAPHS[name]()
    for coding in ("isi", "direct"):
        network = Network.from_graph(converters.to_nir(q, T=15, coding=coding))
        x = images(q, 4)
        steps, classes = certain_after(network, x)
        assert torch.equal(classes, converters.run(network, x, backend="closed_form").predictions)
        assert 0 <= int(steps.min()) <= int(steps.max()) <= 15


@pytest.mark.parametrize("name", ["counting", "levels", "gated", "normed", "maxima", "two inputs"])
def test_operations_with_loose_bounds_are_certain_at_the_end(name: str) -> None:
    q = NETWORKS[name]()
    if len(q.output.shape) != 1:
        pytest.skip("no classifier")
    x = any_images(q, 3)
    from converters.testing.networks import network

    net = network(q, q.levels, "isi")
    steps, classes = certain_after(net, x)
    assert torch.equal(classes, converters.run(net, x).predictions)
    assert int(steps.max()) <= q.levels


def test_a_map_is_no_classifier() -> None:
    b = GraphBuilder()
    x = b.input((2, 2), scale=1.0, q_min=0, q_max=3)
    q = b.build(b.requantise("y", [(x, 1.0)], y_min=0, y_max=3, scale=1.0))
    with pytest.raises(ConversionError, match=r"y: found an output of shape \(2, 2\)"):
        certain_after(converters.to_nir(q), integers=torch.zeros(1, 2, 2, dtype=torch.int64))
