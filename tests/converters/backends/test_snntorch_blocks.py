"""Blocks of steps on random networks: every number of a result is that of single steps, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

import converters
from converters.backends.closed_form import sums_of_bytes, takes_bytes_alone
from converters.errors import ConversionError
from converters.exact.whole_charges import whole_charge
from converters.input_spikes import InputSpikes
from converters.network import Network
from converters.testing.networks import NETWORKS, images, network
from converters.zoo.named import load_checkpoint
from tests.converters.backends.test_fast import assert_same
from tests.converters.backends.test_random_networks import SETTINGS, network_of, run
from tests.converters.random_networks import cases


@settings(SETTINGS, max_examples=25)
@given(st.data())
def test_blocks_are_their_steps(data: DataObject) -> None:
    case = data.draw(cases())
    net = network_of(case)
    steps = data.draw(st.integers(2, 2 * case.window + 5))
    blocks, single = (run(case, net, backend="snntorch", record="spikes", steps=k) for k in (steps, 1))
    assert_same(blocks, single)


@given(st.integers(1, 9), st.data(), st.integers(0, 2**16))
def test_a_block_of_the_input(window: int, data: DataObject, seed: int) -> None:
    net = network(NETWORKS["dense"]().at_window(window), window, "isi")
    integers = torch.randint(-window, window + 1, (3, *net.spec.shape), generator=torch.Generator().manual_seed(seed))
    source, steps = InputSpikes(net, integers), InputSpikes(net, integers)
    t = data.draw(st.integers(0, window - 1))
    count = data.draw(st.integers(1, window - t))
    assert torch.equal(source.block(t, count), torch.stack([steps.at(k) for k in range(t, t + count)]))
    assert torch.equal(source.at(t), steps.at(t))  # and steps in order still


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "8"])
def test_steps_are_a_number(steps: object) -> None:
    q = NETWORKS["dense"]()
    with pytest.raises(ConversionError, match=r"^steps: found .+; give a whole number of at least 1$"):
        converters.run(converters.to_nir(q, T=3), images(q, 2), backend="snntorch", steps=steps)


def test_sums_of_bytes_are_the_charge() -> None:
    """What CUDA computes in int8, where float64 would be slow: convolutions and dense layers of a trained network."""
    q, _ = load_checkpoint("lenet5-cifar10-127")
    net = Network.from_graph(converters.to_nir(q))
    x = torch.rand(5, *net.spec.shape, generator=torch.Generator().manual_seed(0)) * net.spec.scale * net.spec.q_max
    values = q.execute(x)
    taken = [stage for stage in net.stages if takes_bytes_alone(net, stage, torch.device("cuda"))]
    assert len(taken) >= 4
    for stage in taken:
        given = {s.source: values[s.source] for s in stage.synapses}
        assert torch.equal(sums_of_bytes(stage, given), whole_charge(stage.synapses, given, net.reach, "").long())
