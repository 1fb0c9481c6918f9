"""What spikes cost, against every event counted by hand, one after the other, in plain Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.experiments.energy_metrics import dense_macs
from converters.measuring.costs import connections
from converters.measuring.events import LayerCost, layer_costs
from converters.network import Network
from converters.operations import Linear, MatMul, Normalise, Product, Softmax
from converters.quantised import GraphBuilder, QuantGraph

LEVELS = 6
SIGNED: dict[str, Any] = {"y_min": -LEVELS, "y_max": LEVELS, "scale": 0.3}


def attention() -> QuantGraph:
    """Queries and keys of three tokens, their products, a softmax, a norm, a product place by place, a dense layer."""
    generator = torch.Generator().manual_seed(3)
    b = GraphBuilder()
    x = b.input((3, 4), scale=0.25, q_min=-LEVELS, q_max=LEVELS)
    y = b.input((2, 4), scale=0.25, q_min=-LEVELS, q_max=LEVELS, name="keys")
    s = b.layer("scores", [((x, y), MatMul(4, transposed=True))], threshold=9.0, **SIGNED)
    soft = Softmax.of(scale=0.3, axis=1, bits=16, largest=2 * LEVELS)
    p = b.layer("soft", [(s, soft)], threshold=2.0**16 / LEVELS, y_min=0, y_max=LEVELS, scale=1 / LEVELS)
    m = b.layer("mixed", [((p, y), MatMul(2))], threshold=3.0, **SIGNED)
    n = b.layer("norm", [(m, Normalise((1,), 4, bits=16))], threshold=2.0**15, **SIGNED)
    g = b.layer("gated", [((n, m), Product())], threshold=4.0, **SIGNED)
    weights = torch.randint(-4, 5, (2, 12), generator=generator, dtype=torch.int8)
    return b.build(b.layer("fc", [(b.flatten(g), Linear(weights))], threshold=5.0, **SIGNED))


def multiplied(a: list[Tensor], b: list[Tensor], transposed: bool) -> tuple[list[list[int]], int]:
    """``A @ B`` from spike trains: each spike adds a row, or a column, of the other's counts; and how many it adds."""
    n, terms = a[0].shape
    m = b[0].shape[0 if transposed else 1]
    held_a = [[0] * terms for _ in range(n)]
    held_b = [[0] * m for _ in range(terms)]
    total = [[0] * m for _ in range(n)]
    added = 0
    for now_a, now_b in zip(a, b, strict=True):
        for i in range(n):
            for k in range(terms):
                if spike := int(now_a[i, k]):
                    held_a[i][k] += spike
                    for j in range(m):
                        total[i][j] += spike * held_b[k][j]
                        added += 1
        for k in range(terms):
            for j in range(m):
                if spike := int(now_b[j, k] if transposed else now_b[k, j]):
                    held_b[k][j] += spike
                    for i in range(n):
                        total[i][j] += spike * held_a[i][k]
                        added += 1
    return total, added


@pytest.fixture(scope="module")
def run() -> tuple[QuantGraph, Network, Any, dict[str, LayerCost]]:
    q = attention()
    g = converters.to_nir(q, T=LEVELS)
    generator = torch.Generator().manual_seed(0)
    images = {
        "input": 3 * torch.rand(1, 3, 4, generator=generator) - 1.5,
        "keys": 3 * torch.rand(1, 2, 4, generator=generator) - 1.5,
    }
    network = Network.from_graph(g)
    r = converters.run(network, images, record="spikes")
    return q, network, r, {cost.name: cost for cost in layer_costs(network, r)}


@pytest.mark.parametrize(
    ("layer", "sources", "transposed"), [("scores", ("input", "keys"), True), ("mixed", ("soft", "keys"), False)]
)
def test_a_product_of_two_operands_in_spikes(run: Any, layer: str, sources: tuple[str, str], transposed: bool) -> None:
    _, _, r, costs = run
    a, b = ([step[0] for step in r.spikes[name]] for name in sources)
    total, added = multiplied(a, b, transposed)
    counts_a, counts_b = (r.spikes[name].sum(0)[0].double() for name in sources)
    assert total == (counts_a @ (counts_b.T if transposed else counts_b)).long().tolist()
    assert costs[layer].additions == added > 0
    assert costs[layer].anew == 0
    n, terms, m = (3, 4, 2) if transposed else (3, 2, 4)
    assert costs[layer].dense == n * terms * m
    spikes_a, spikes_b = (float(r.spikes[name].abs().sum()) for name in sources)
    assert added == n * terms * m * (spikes_a / (n * terms) + spikes_b / (terms * m))
    assert costs[layer].energy() == pytest.approx((0.03 * added, 0.23 * n * terms * m))


def test_a_product_place_by_place(run: Any) -> None:
    _, _, r, costs = run
    assert costs["gated"].dense == 12
    assert costs["gated"].additions == float(r.spikes["norm"].abs().sum() + r.spikes["mixed"].abs().sum())


@pytest.mark.parametrize(("layer", "source", "each"), [("norm", "mixed", 2), ("soft", "scores", 1)])
def test_norms_are_computed_anew_where_a_spike_arrives(run: Any, layer: str, source: str, each: int) -> None:
    _, _, r, costs = run
    rows = 0
    for step in r.spikes[source]:
        for row in step[0]:
            rows += any(int(x) for x in row)
    size = r.spikes[source].shape[-1]
    assert costs[layer].anew == rows * size * each > costs[layer].dense == 3 * size * each
    assert costs[layer].additions == 0


def test_weights_add_for_every_spike(run: Any) -> None:
    q, network, r, costs = run
    assert costs["fc"].additions == 2 * float(r.spikes["gated"].abs().sum())
    assert costs["fc"].dense == 24
    assert [cost.kind for cost in costs.values()] == ["product", "softmax", "product", "norm", "product", "weights"]
    assert dense_macs(q) == sum(cost.dense for cost in costs.values()) == 24 + 6 + 24 + 24 + 12 + 24
    found = connections(network.stages[0].synapses, network.shapes)
    assert (found.multiplied, found.macs) == (48, 24)  # a connection for each factor, one product for both


def test_a_direct_input_is_multiplied_once() -> None:
    b = GraphBuilder()
    x = b.input((4,), scale=0.25, q_min=0, q_max=LEVELS)
    h = b.layer("one", [(x, Linear(torch.ones(3, 4, dtype=torch.int8) * 2))], threshold=5.0, **SIGNED)
    q = b.build(b.layer("two", [(h, Linear(torch.ones(2, 3, dtype=torch.int8) * 2))], threshold=5.0, **SIGNED))
    network = Network.from_graph(converters.to_nir(q, T=LEVELS, coding="direct"))
    r = converters.run(network, torch.rand(2, 4), record="spikes")
    one, two = layer_costs(network, r)
    assert (one.additions, one.anew, one.dense) == (0, 12, 12)
    assert (two.anew, two.dense) == (0, 6)
    assert two.additions == 2 * float(r.spikes["one"].abs().sum()) / 2


def test_it_wants_trains() -> None:
    q = attention()
    g = converters.to_nir(q, T=LEVELS)
    r = converters.run(g, (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(ConversionError, match="a result without spikes"):
        layer_costs(Network.from_graph(g), r)
