"""Networks and results at a prompt: what they are, in some lines, whatever they hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import converters
from converters.network import Network
from tests.converters.sample_graphs import GRAPHS, images


@pytest.mark.parametrize("name", GRAPHS)
def test_lines_without_tensors(name: str) -> None:
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=7))
    result = converters.run(network, images(q, 3), record="spikes")
    for thing in (q, network, result, *q.layers, *network.stages, *(s for layer in q.layers for s in layer.synapses)):
        told = repr(thing)
        assert "tensor" not in told
        assert "array" not in told
        assert len(told.splitlines()) <= 10
        assert max(map(len, told.splitlines())) <= 120
    assert all(layer.name in repr(q) for layer in (q.layers[0], q.layers[-1]))
    assert "T = 7" in repr(network)
    assert "3 images" in repr(result)


def test_names_of_strangers_do_not_steer_a_terminal() -> None:
    q = GRAPHS["lenet"]()
    layer = replace(q.layers[0], name="a\x1b[31m\nb")
    result = converters.run(converters.to_nir(q, T=7), images(q, 2))
    result.counts = {layer.name: result.counts["conv"]}
    for told in (repr(layer), repr(result)):
        assert "\\x1b[31m\\nb" in told
        assert "\x1b" not in told


def test_of_many_layers_the_first_and_the_last() -> None:
    q = GRAPHS["lenet"]()
    counts = {f"layer{k}": torch.zeros(2, 5, dtype=torch.int32) for k in range(100)}
    result = converters.run(converters.to_nir(q, T=7), images(q, 2))
    result.counts = counts
    lines = repr(result).splitlines()
    assert "layer0 " in lines[1]
    assert "92 more" in lines[5]
    assert "layer99 (5,)>" in lines[-1]
