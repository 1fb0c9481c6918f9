"""Maxima in stock NIR: layers of Ca-LIF neurons in their place, the same final counts, and other simulators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError
from converters.graph_builder import GraphBuilder, Value
from converters.interop.feeding import expected, layer_nodes
from converters.interop.stock import run_stock
from converters.lowering import lattice_network, lower
from converters.lowering.maxima import spelled_out
from converters.network import Network
from converters.operations import (
    AdaptiveMaxPool,
    Conv2d,
    Levels,
    Linear,
    Maximum,
    MaxOver,
    MaxPool,
    Minimum,
    Operation,
    Product,
)
from converters.quantised import QuantGraph
from tests.converters.operations.everywhere import agrees, integers

SIGNED: dict[str, Any] = {"y_min": -4, "y_max": 4, "scale": 0.3}
GATED: dict[str, Any] = {"y_min": 0, "y_max": 4, "scale": 0.3}

MAPS: dict[str, tuple[Operation, dict[str, Any]]] = {
    "pool": (MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), SIGNED),
    "overlapping, padded": (MaxPool((3, 2), (1, 2), (1, 0), (1, 1)), GATED),
    "dilated": (MaxPool((2, 1), (1, 1), (0, 0), (2, 1)), SIGNED),
    "adaptive": (AdaptiveMaxPool((2, 1)), SIGNED),
    "over places": (MaxOver((1, 2), keepdim=True), SIGNED),
    "smallest of places": (MaxOver((1, 2), smallest=True), SIGNED),
    "over channels": (MaxOver((0,), keepdim=True), SIGNED),
}


def pooled(op: Operation, kind: dict[str, Any], seed: int = 0) -> QuantGraph:
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 5, 5), scale=0.25, q_min=-4, q_max=4)
    conv = Conv2d(torch.randint(-3, 4, (3, 2, 2, 2), generator=g))
    c = b.layer("conv", [(x, conv)], threshold=[4.0, 5.0, 6.5], bias=0.5, **kind)
    m = b.layer("max", [(c, op)], threshold=1.0, **kind)
    flat = b.flatten(m)
    y = b.layer("fc", [(flat, Linear(torch.randint(-3, 4, (3, flat.shape[0]), generator=g)))], threshold=4.5, **SIGNED)
    return b.build(y)


def of_two(op: Operation, seed: int = 0) -> QuantGraph:
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((4,), scale=0.25, q_min=-4, q_max=4)

    def dense(into: Value, name: str, out: int) -> Value:
        weight = Linear(torch.randint(-3, 4, (out, into.shape[0]), generator=g))
        return b.layer(name, [(into, weight)], threshold=4.0, bias=0.5, **SIGNED)

    values = tuple(dense(x, name, 3) for name in ("one", "two", "three"))
    m = b.layer("max", [(values, op)], threshold=1.0, **SIGNED)
    top = b.layer("top", [(m, MaxOver((0,), keepdim=True))], threshold=1.0, **SIGNED)
    return b.build(dense(b.concat("both", [m, top]), "fc", 3))


def networks() -> dict[str, QuantGraph]:
    found = {name: pooled(op, kind) for name, (op, kind) in MAPS.items()}
    return found | {"maximum": of_two(Maximum()), "minimum": of_two(Minimum())}


@pytest.mark.parametrize("name", networks())
def test_final_counts_are_those_of_the_maximum(name: str) -> None:
    q = networks()[name]
    x = integers(q, 40)
    net = Network.from_graph(converters.to_nir(q))
    plain = spelled_out(net)
    assert not any(s.relay for s in plain.stages)
    assert all(s.linear for s in plain.stages)
    assert [s.name for s in plain.stages if ".rest" not in s.name] == [s.name for s in net.stages]
    expected_ = q.execute(integers=x)
    assert len(expected_["max"].unique()) > 3
    for window in (None, 2):
        short = q if window is None else q.at_window(window)
        x = x.clamp(short.input.q_min, short.input.q_max)
        graph = spelled_out(Network.from_graph(converters.to_nir(q, T=window)))
        r = converters.run(graph, integers=x)
        values = short.execute(integers=x)
        assert all(torch.equal(r.counts[k].long(), v) for k, v in values.items() if k in r.counts)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(MAPS)), st.integers(0, 10_000))
def test_any_weights(name: str, seed: int) -> None:
    op, kind = MAPS[name]
    q = pooled(op, kind, seed)
    x = integers(q, 6, seed)
    r = converters.run(lattice_network(converters.to_nir(q)), integers=x)
    values = q.execute(integers=x)
    assert all(torch.equal(r.counts[k].long(), v) for k, v in values.items() if k in r.counts)


@pytest.mark.parametrize("target", ["chain", "primitives"])
@pytest.mark.parametrize("name", ["pool", "maximum", "smallest of places"])
def test_stock_nodes_send_the_same_spikes(name: str, target: str, tmp_path: Path) -> None:
    q = networks()[name]
    g = converters.to_nir(q)
    converters.write(tmp_path / "stock.nir", lower(g, target=target))
    nodes = layer_nodes(converters.read(tmp_path / "stock.nir"))
    x = integers(q, 4)
    e = expected(lattice_network(g), x * q.input.scale)
    simulator = "snntorch" if target == "chain" else "nirtorch"
    r = run_stock(simulator, tmp_path / "stock.nir", e.inputs, [nodes[k] for k in e.spikes], dtype=torch.float32)
    assert {k: int((r.outputs[nodes[k]].reshape(v.shape) != v).sum()) for k, v in e.spikes.items()} == dict.fromkeys(
        nodes, 0
    )
    assert "max" in nodes
    assert agrees(converters.run(g, integers=x), q.execute(integers=x))


REFUSED: dict[str, tuple[Operation, dict[str, Any], str]] = {
    "padding": (MaxPool((3, 3), (1, 1), (1, 1), (1, 1)), SIGNED, "with padding around negative counts"),
    "beyond": (MaxPool((2, 2), (3, 3), (0, 0), (1, 1), ceil_mode=True), SIGNED, "with windows beyond the map"),
    "adaptive": (AdaptiveMaxPool((3, 3)), SIGNED, r"of shape \(3, 4, 4\)"),
    "over": (MaxOver((1,), keepdim=True), SIGNED, r"over axes \(1,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_spelled_out_is_refused(case: str) -> None:
    op, kind, match = REFUSED[case]
    with pytest.raises(ConversionError, match=rf"max: found .*{match}.*; run the network on fast, snntorch or brian2"):
        lower(converters.to_nir(pooled(op, kind)))


def test_other_operations_with_a_memory_say_where_they_run() -> None:
    b = GraphBuilder()
    x = b.input((3,), scale=0.25, q_min=-4, q_max=4)
    one = b.layer("one", [(x, Linear(torch.eye(3).int()))], threshold=1.0, **SIGNED)
    table = Levels.of("silu", units=(0.3,), offsets=(0.0,), scale=0.3, y_min=-1, y_max=4, limit=4)
    for op, threshold, low in ((table, 1.0, -1), (Product(), 2.0, -4)):
        before = list(b.layers)
        inputs = (one, one) if type(op) is Product else one
        y = b.layer("two", [(inputs, op)], threshold=threshold, **{**SIGNED, "y_min": low})
        q = b.build(y)
        for target in ("chain", "primitives", "plain_if"):
            with pytest.raises(ConversionError, match=r"two: found (Levels|Product), .*run the network on fast, snn"):
                lower(converters.to_nir(q), target=target)
        b.layers[:] = before
