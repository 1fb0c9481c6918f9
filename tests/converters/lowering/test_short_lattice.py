"""The short lattice: for every integer input it rounds as the exact parameters, and membranes stay in bounds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from calif_plugins.parameters import TieRule
from converters.errors import ConversionError
from converters.lowering.lattice import certify, charge_ranges, with_lattice
from converters.network import Network
from converters.operations import Linear
from converters.quantised import GraphBuilder
from converters.zoo.named import find_checkpoint, load_checkpoint
from tests.converters.sample_graphs import GRAPHS


def one_layer(threshold: Any, bias: Any, y_min: Any, y_max: Any, tie: TieRule, reach: int = 40) -> Network:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=reach)
    w = Linear(torch.tensor([[1, -1]] * len(threshold)))
    y = b.layer("fc", [(x, w)], threshold=threshold, bias=bias, y_min=y_min, y_max=y_max, scale=1.0, tie=tie)
    return Network.from_graph(converters.to_nir(b.build(y), T=reach))


def rounded(a: Any, threshold: Fraction, bias: Fraction, tie: str) -> tuple[int, bool]:
    x = (a + bias) / threshold
    return (round(x) if tie == "even" else (x + Fraction(1, 2)).__floor__()), (2 * x).denominator == 1 and x % 1 != 0


@settings(max_examples=80, deadline=None)
@given(
    threshold=st.floats(0.5, 30) | st.integers(1, 12).map(float),
    bias=st.floats(-30, 30) | st.integers(-9, 9).map(float),
    tie=st.sampled_from(["even", "up"]),
    y_min=st.integers(-9, 0),
    y_max=st.integers(1, 9),
)
def test_every_integer_input_rounds_alike(threshold: Any, bias: Any, tie: TieRule, y_min: int, y_max: int) -> None:
    network = one_layer([threshold], [bias], y_min, y_max, tie)
    p = network.output.parameters
    k = certify(network)["fc"]
    unit = Fraction(1, 2**k.bits)
    own = Fraction(float(p.threshold[0])), Fraction(float(p.v_init[0])) - network.window * Fraction(float(p.leak[0]))
    short = int(k.threshold[0]) * unit, (int(k.v_init[0]) - network.window * int(k.leak[0])) * unit
    ties = False
    for a in range(-40, 41):
        want, _ = rounded(a, *own, tie)
        got, tied = rounded(a, *short, tie)
        assert min(max(got, y_min), y_max) == min(max(want, y_min), y_max)
        x = (a + short[1]) / short[0]
        ties |= tied and y_min <= x.__floor__() and x.__ceil__() <= y_max
    assert ties == k.ties[0]
    assert int(k.threshold[0]) % 2 == 0


def test_one_bit_fewer_fails_and_names_the_channel() -> None:
    network = one_layer([7.0, 3.337], [0.0, 0.123], 0, 12, "even")
    need = certify(network)["fc"].bits
    assert need > 1
    with pytest.raises(ConversionError, match=rf"fc, channel 1.*it needs {need} bits"):
        certify(network, bits=need - 1)
    assert certify(network, bits=need)["fc"].bits == need


@pytest.mark.parametrize("bits", [-1, 53, 64, 100, 10**9])
def test_bits_that_no_float_has(bits: int) -> None:
    network = one_layer([7.0], [0.0], 0, 12, "even")
    for wanted in (bits, {"fc": bits}):
        with pytest.raises(ConversionError, match=rf"^bits: found {bits}; use 0 to 52$"):
            certify(network, bits=wanted)


def test_bits_whose_sums_leave_float64() -> None:
    network = one_layer([7.0, 3.337], [0.0, 0.123], 0, 12, "even")
    for bits in (30, 44):
        k = certify(network, bits=bits)["fc"]
        assert abs(Fraction(int(k.threshold[1]), 2**bits) - Fraction(3.337)) < Fraction(1, 2 ** (bits - 12))
    for bits in (48, 52):
        with pytest.raises(ConversionError, match=r"fc, channel \d: found membranes of \d\d bits; float64 adds 53 exa"):
            certify(network, bits=bits)


def test_membranes_stay_in_bounds_whatever_the_order_of_spikes() -> None:
    rng = np.random.default_rng(0)
    touched = 0.0
    for trial in range(60):
        threshold, y_min, y_max = rng.uniform(1, 9, 2), -int(rng.integers(0, 4)), int(rng.integers(1, 6))
        network = one_layer(threshold, rng.uniform(-9, 9, 2), y_min, y_max, "even", reach=12)
        k = certify(network)["fc"]
        size = 2**k.bits
        counts = rng.integers(0, 13, 2)
        # all of one input first, then the other; or shuffled: any order that brings these counts
        charges = [1] * counts[0] + [-1] * counts[1]
        charges = charges if trial % 3 == 0 else charges[::-1] if trial % 3 == 1 else list(rng.permutation(charges))
        v, y = k.v_init.copy(), np.zeros(2, dtype=np.int64)
        for t in range(40):
            v = v + (size * charges[t] if t < len(charges) else 0) - (k.leak if t < network.window else 0)
            assert (v >= k.lowest).all()
            assert (v <= k.highest).all()
            touched = max(touched, float((v / np.where(v > 0, k.highest, k.lowest)).max()))
            limit = k.threshold // 2 + 1 if t >= network.window else k.threshold
            s = ((v >= limit) & (y < y_max)).astype(int) - ((-v >= limit) & (y > y_min)).astype(int)
            v, y = v - s * k.threshold, y + s
    assert touched > 0.8  # and the bounds are not idle


def test_charges_by_interval_arithmetic_hold_the_extremes() -> None:
    network = Network.from_graph(converters.to_nir(GRAPHS["depthwise"](levels=8)))
    low, high = charge_ranges(network)["dw"]
    w = network.stages[0].synapses[0].ops[0].stored.to(torch.int64)
    assert (high == 8 * w.clamp(min=0).flatten(1).sum(1).numpy()).all()
    assert (low == 8 * w.clamp(max=0).flatten(1).sum(1).numpy()).all()


def test_a_network_on_its_lattice_stays_there() -> None:
    once = with_lattice(n := Network.from_graph(converters.to_nir(GRAPHS["lenet"]())), certify(n))
    twice = with_lattice(once, certify(once))
    for a, b in zip(once.stages, twice.stages, strict=True):
        assert (a.parameters.threshold == b.parameters.threshold).all()
        assert (a.parameters.v_init == b.parameters.v_init).all()
        assert (a.parameters.leak == b.parameters.leak).all()


@pytest.mark.parametrize("name", ["lenet5-mnist-8", "lenet5-mnist-127", "resnet11h-cifar10-127"])
def test_trained_networks_are_certified(name: str) -> None:
    q, _ = load_checkpoint(str(find_checkpoint(name)))
    network = Network.from_graph(converters.to_nir(q))
    found = certify(network)
    assert list(found) == [s.name for s in network.stages]
    for stage in network.stages:
        k = found[stage.name]
        assert k.membrane_bits <= 53
        assert stage.readout or k.boundaries > 0
    hardest = max((k for k in found.values()), key=lambda k: k.bits)
    with pytest.raises(ConversionError, match=rf"{hardest.name}, channel \d+.*it needs {hardest.bits} bits"):
        certify(network, bits={hardest.name: hardest.bits - 1})


@pytest.mark.parametrize(("scale", "bits"), [(0.1743219, 12), (0.3000001, 12), (0.9138, 12)])
def test_additions_of_unequal_scales_get_short_weights(scale: float, bits: int) -> None:
    b = GraphBuilder()
    x = b.input((1,), scale=1.0, q_min=-9, q_max=9)
    one, minus = Linear(torch.tensor([[1]])), Linear(torch.tensor([[-1]]))
    u = b.layer("u", [(x, one)], threshold=1.0, y_min=-9, y_max=9, scale=0.3)
    v = b.layer("v", [(x, minus)], threshold=1.0, y_min=-9, y_max=9, scale=scale)
    y = b.requantise("add", [(u, 1.0), (v, 1.0)], y_min=-9, y_max=9, scale=0.25)
    network = Network.from_graph(converters.to_nir(b.build(y), T=9))
    k = certify(network)["add"]
    assert k.weights is not None
    assert max(k.weights).bit_length() <= bits
    operations: list[Any] = [s.ops[0] for s in network.stages[-1].synapses]
    long = [op.weight for op in operations]
    assert max(long) >= 2**29
    p = network.output.parameters
    for n in range(-9, 10):
        for m in range(-9, 10):
            a, c = n * long[0] + m * long[1], n * k.weights[0] + m * k.weights[1]
            want = round(Fraction(a) / Fraction(float(p.threshold[0])))
            got = round(Fraction(c * 2**k.bits + int(k.v_init[0]) - 9 * int(k.leak[0]), int(k.threshold[0])))
            assert min(max(want, -9), 9) == min(max(got, -9), 9)


def test_counts_out_of_reach_stay_there() -> None:
    """A range far wider than what can come in: a smaller threshold would round the lowest input to another count."""
    b = GraphBuilder()
    x = b.input((1,), scale=1.0, q_min=-2, q_max=12)
    w = Linear(torch.tensor([[4]]))
    y = b.layer("fc", [(x, w)], threshold=3.8933413, bias=5.00785, y_min=-7, y_max=1, scale=1.0)
    network = Network.from_graph(converters.to_nir(b.build(y), T=12))
    k = certify(network)["fc"]
    for a in range(-8, 49):
        want, _ = rounded(a, Fraction(3.8933413), Fraction(5.00785), "even")
        z = a * 2**k.bits + int(k.v_init[0]) - 12 * int(k.leak[0])
        assert min(max(round(Fraction(z, int(k.threshold[0]))), -7), 1) == min(max(want, -7), 1)
