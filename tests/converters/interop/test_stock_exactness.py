"""Whole numbers stay whole in stock simulation: exact rationals are the oracle, at the threshold and beside it."""

from __future__ import annotations

from fractions import Fraction

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.graphs.stock_simulation import simulate_stock
from tests.converters.interop.stock_graphs import dense, graph, neuron, pooled


def fired(g: nir.NIRGraph, ones: int, kernel: int, *, steps: int = 1, strict: bool = True) -> list[int]:
    x = torch.zeros(kernel * kernel)
    x[:ones] = 1
    return (
        simulate_stock(g, x.view(1, 1, 1, kernel, kernel).repeat(steps, 1, 1, 1, 1), strict=strict)
        .outputs.flatten()
        .tolist()
    )


def test_a_sum_that_is_the_threshold() -> None:
    assert fired(pooled(5, 7.0), 7, 5) == [0]  # NIR fires above it
    assert fired(pooled(5, 7.0), 8, 5) == [1]
    assert fired(pooled(7, 1.0), 1, 7, strict=False) == [1]
    assert fired(pooled(7, 1.0, average=True), 1, 7, steps=49) == [0] * 49  # 49 forty-ninths are 1
    assert fired(pooled(7, 1.0, average=True), 1, 7, steps=50) == [0] * 49 + [1]
    assert fired(pooled(7, 1.0, average=True), 1, 7, steps=49, strict=False) == [0] * 48 + [1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=2),
    st.integers(1, 40),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_pools_before_a_threshold_are_rational(
    pools: list[tuple[int, bool]], numerator: int, steps: int, strict: bool, seed: int
) -> None:
    """Pools in a row into an IF, against Fractions; thresholds are whole shares of the pools' areas."""
    rng = np.random.default_rng(seed)
    size = int(np.prod([k for k, _ in pools]))
    x = rng.integers(0, 3, (steps, size, size))
    nodes, value = {}, x.astype(object) * Fraction(1)
    area = 1
    for n, (k, average) in enumerate(pools):
        kind = nir.AvgPool2d if average else nir.SumPool2d
        nodes[f"pool{n}"] = kind(np.array([k, k]), np.array([k, k]), np.array([0, 0]))
        m = value.shape[1] // k
        value = value.reshape(steps, m, k, m, k).sum((2, 4)) / (k * k if average else 1)
        area *= k * k if average else 1
    threshold = Fraction(numerator, 1) / area * len(pools)
    nodes["if"] = neuron((1, 1, 1), float(threshold))
    g = graph(nodes, " > ".join(["input", *nodes, "output"]), shape=(1, size, size), out=(1, 1, 1))
    inputs = torch.from_numpy(x.astype(np.float64)).view(steps, 1, 1, size, size)
    found = simulate_stock(g, inputs, strict=strict).outputs.flatten().tolist()
    threshold = Fraction(float(threshold) * area) / area  # the file has the float next to it, rounded once
    v, right = Fraction(0), []
    for step in value[:, 0, 0]:
        v += step
        fires = v > threshold if strict else v >= threshold
        right.append(int(fires))
        v = Fraction(0) if fires else v
    assert found == right


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 20))
def test_one_unit_adds_one_whatever_the_resistance(r: int, threshold: int) -> None:
    """``r dt = 1`` is meant; in floats 49 (1 / 49) is less."""
    g = graph({"if": neuron(1, float(threshold), r=float(r))}, "input > if > output")
    found = simulate_stock(g, torch.ones(threshold + 1, 1, 1), strict=False).outputs.flatten().tolist()
    assert found == [0] * (threshold - 1) + [1, int(threshold == 1)]
    assert simulate_stock(g, torch.ones(threshold, 1, 1)).outputs.sum() == 0


def test_divisors_meet_where_values_are_added() -> None:
    """An average of 3 x 3, one of 2 x 2 and a bias, into one neuron and out as they are."""

    def average(k: int) -> nir.AvgPool2d:
        return nir.AvgPool2d(np.array([k, k]), np.array([6, 6]), np.array([0, 0]))

    one = nir.Conv2d(None, np.ones((1, 1, 1, 1)), (1, 1), (0, 0), (1, 1), 1, np.full(1, 0.25))
    nodes = {"three": average(3), "two": average(2), "bias": one, "if": neuron((1, 1, 1), 4 / 9 + 1 / 2 + 1 / 4)}
    shape = {"shape": (1, 6, 6), "out": (1, 1, 1)}
    paths = ("input > three", "input > two > bias")
    x = torch.zeros(1, 1, 1, 6, 6)
    x[..., :2, :2] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    x[..., 2, :2] = 1.0
    out = simulate_stock(graph(dict(list(nodes.items())[:3]), *paths, "three > output", "bias > output", **shape), x)
    assert out.outputs.item() == pytest.approx(4 / 9 + 1 / 2 + 1 / 4, abs=1e-15)
    again = simulate_stock(graph(nodes, *paths, "three > if", "bias > if", "if > output", **shape), x, strict=False)
    assert again.outputs.item() == 1


def test_a_chain_of_average_pools_does_not_run_out_of_whole_numbers() -> None:
    size = np.array([1, 1])
    wide = nir.AvgPool2d(np.array([3, 3]), size, size)  # 3 x 3 to 3 x 3, again and again
    nodes = {f"p{k}": wide for k in range(40)}
    g = graph(nodes, " > ".join(["input", *nodes, "output"]), shape=(1, 3, 3), out=(1, 3, 3))
    x = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    right = x[0]
    for _ in range(40):
        right = torch.nn.functional.avg_pool2d(right, 3, 1, 1)
    assert torch.allclose(simulate_stock(g, x).outputs[0], right, rtol=1e-12)


def test_thousands_of_nodes_in_a_row() -> None:
    nodes = {f"s{k}": nir.Scale(np.ones(1)) for k in range(5000)}
    g = graph({**nodes, "if": neuron()}, " > ".join(["input", *nodes, "if", "output"]))
    assert simulate_stock(g, 2 * torch.ones(1, 1, 1)).outputs.item() == 1
    assert dense([1.0]).weight.shape == (1, 1)
