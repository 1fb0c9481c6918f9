"""Graphs within graphs, repeated edges and declared shapes: the network that is meant, or one clear line."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.errors import ConversionError, FileFormatError
from converters.graphs.flattening import flat, without_repeats
from converters.graphs.shapes import infer_shapes
from converters.graphs.stock_simulation import simulate_stock, stock_neurons
from tests.converters.interop.stock_graphs import dense, graph, neuron


def block(weight: float = 0.5, shape: int = 1) -> nir.NIRGraph:
    return graph({"fc": dense([weight]), "if": neuron()}, "input > fc > if > output", shape=(shape,))


def test_a_feed_forward_graph_within_a_graph_runs_as_if_it_were_written_out(tmp_path: Path) -> None:
    """A block in a block, twice; read from disk and from memory."""
    nodes = {"a": graph({"b": block()}, "input > b > output"), "1": block(2.0)}
    nested = graph(nodes, "input > a > 1 > output")
    plain = graph(
        {"fc": dense([0.5]), "if": neuron(), "fc2": dense([2.0]), "if2": neuron()},
        "input > fc > if > fc2 > if2 > output",
    )
    x = torch.ones(12, 2, 1)
    nir.write(tmp_path / "nested.nir", nested)
    again = converters.read(tmp_path / "nested.nir", rename=True)
    assert sorted(again.nodes) == ["_1.fc", "_1.if", "a.b.fc", "a.b.if", "input", "output"]
    assert stock_neurons(nested) == ["a.b.if", "1.if"]
    for g in (nested, again):
        assert torch.equal(simulate_stock(g, x).outputs, simulate_stock(plain, x).outputs)
    with pytest.raises(FileFormatError, match="begins with a digit"):
        converters.read(tmp_path / "nested.nir")


def test_a_recurrent_graph_within_a_graph_says_what_is_recurrent() -> None:
    inner = graph({"lif": neuron(), "w": dense([1.0])}, "input > lif > w > lif", "lif > output")
    with pytest.raises(ConversionError, match=r"^r\.(lif|w): found a cycle of edges; NIR does not say what delay"):
        simulate_stock(graph({"r": inner}, "input > r > output"), torch.ones(1, 1, 1))


def door(times: int) -> nir.NIRGraph:
    """A graph that passes its input on."""
    return graph({}, *["input > output"] * times)


def itself(depth: int) -> nir.NIRGraph:
    g = block()
    for _ in range(depth):
        g = graph({"in": g}, "input > in > output")
    return g


WRONG = {
    "two inputs": (
        graph({"b": graph({"i": nir.Input(np.array([1]))}, "input > output", "i > output")}, "input > b > output"),
        "b: found a graph with 2 Input nodes; give it exactly one",
    ),
    "no output": (
        graph({"b": nir.NIRGraph({"input": nir.Input(np.array([1]))}, [], type_check=False)}, "input > b > output"),
        "b: found a graph with 0 Output nodes",
    ),
    "another declared shape": (
        graph({"b": block(shape=2)}, "input > b > output"),
        r"b.input: found an input of shape \(1,\); it declares \(2,\)",
    ),
    "nothing but itself": (
        graph({"b": door(1), "c": door(1)}, "input > b > output", "b > c > b"),
        "found a cycle of edges without a node in it",
    ),
    "too deep": (itself(9), "graphs more than 8 deep"),
    "unknown end": (graph({"b": graph({}, "input > nowhere")}, "input > b > output"), "no node 'nowhere'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_inner_graphs_without_a_meaning(kind: str) -> None:
    g, message = WRONG[kind]
    with pytest.raises(ConversionError, match=message) as caught:
        flat(g)
    assert "\n" not in str(caught.value)


def test_signals_that_come_several_ways_count_several_times() -> None:
    """Diamonds of graphs that do nothing: 2**24 ways at no cost; 3 of them fire where 2 do not."""
    nodes: dict[str, Any] = {}
    edges, last = [], "input"
    for k in range(24):
        nodes |= {f"a{k}": door(1), f"b{k}": door(1), f"s{k}": door(1)}
        edges += [f"{last} > a{k} > s{k}", f"{last} > b{k} > s{k}"]
        last = f"s{k}"
    g = flat(graph(nodes, *edges, f"{last} > output"))
    (scale,) = (n for n in g.nodes.values() if type(n) is nir.Scale)
    assert scale.scale.tolist() == [2.0**24]
    for times, right in ((2, 0), (3, 1)):
        g = graph({"b": door(times), "if": neuron(1, 2.5)}, "input > b > if > output")
        assert simulate_stock(g, torch.ones(1, 1, 1)).outputs.item() == right


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_repeated_edges_are_written_as_scales_of_ones(pairs: list[tuple[int, int]]) -> None:
    """Random graphs with repeated edges: no edge twice afterwards, and the same outputs."""
    names = [f"n{k}" for k in range(6)]
    inner = [(names[min(p)], names[max(p)]) for p in pairs if p[0] != p[1]]
    edges = [
        ("input", names[0]),
        *inner,
        *pairwise(names),
        (names[-1], "output"),
    ]
    nodes = {name: nir.Scale(np.full(1, 1.5)) for name in names}
    g = nir.NIRGraph({**graph({}).nodes, **nodes}, edges, type_check=False)
    again = without_repeats(g)
    assert max(Counter(again.edges).values()) == 1
    x = torch.ones(1, 1, 1)
    assert torch.equal(simulate_stock(again, x).outputs, simulate_stock(g, x).outputs)


# --- declared shapes and defaults ------------------------------------------------------------------


def conv(**changed: Any) -> nir.Conv2d:
    fields: dict[str, Any] = {
        "input_shape": None, "weight": np.ones((4, 1, 3, 2)), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2),
        "groups": 2, "bias": np.zeros(4),
    }  # fmt: skip
    return nir.Conv2d(**{**fields, **changed})


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 2)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.sampled_from([1, 2, 4]),
    st.tuples(*[st.integers(8, 12)] * 2),
)
def test_shapes_are_pytorchs(kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, size: Any) -> None:
    own = torch.nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups)
    weight, bias = own.weight.detach().numpy(), np.zeros(8)
    node = nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)
    half = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    pool = nir.SumPool2d(np.array(kernel), np.array(stride), np.array(half))
    flatten = nir.Flatten({"input": None}, start_dim=1, end_dim=-1)
    nodes = {"conv": node, "pool": pool, "flat": flatten}
    g = graph(nodes, "input > conv", "input > pool > flat", shape=(4, *size))
    x = torch.zeros(1, 4, *size)
    pools = torch.nn.functional.avg_pool2d(x, kernel, stride, half)
    found = infer_shapes(g)
    assert found["conv"] == tuple(own(x).shape[1:])
    assert found["pool"] == tuple(pools.shape[1:])
    assert found["flat"] == (4, pools[0, 0].numel())


def end(shape: tuple[int, ...]) -> nir.NIRGraph:
    return graph({"fc": nir.Linear(np.ones((3, 2)))}, "input > fc > output", shape=(2,), out=shape)


SHAPES = {
    "output": (end((4,)), r"output: found an input of shape \(3,\); it declares \(4,\)"),
    "features": (graph({"fc": dense([1.0, 1.0])}, "input > fc > output"), "fc: found an input of shape"),
    "channels": (graph({"c": conv()}, "input > c", shape=(3, 5, 5)), "c: found an input .* it takes 2 channels"),
    "groups": (graph({"c": conv(groups=np.array([1, 7]))}, "input > c", shape=(2, 5, 5)), "c: found a geometry"),
    "kernel": (graph({"c": conv()}, "input > c", shape=(2, 5, 2)), "c: .* smaller than the kernel"),
    "input of a conv": (
        graph({"c": conv(input_shape=(6, 6))}, "input > c", shape=(2, 5, 5)), r"c: .* it declares \(6, 6\)"
    ),
    "parameters": (graph({"if": neuron(3)}, "input > if", shape=(2,)), r"if: .* its parameters have shape \(3,\)"),
    "axes": (
        graph({"f": nir.Flatten({"input": None}, start_dim=2, end_dim=1)}, "input > f", shape=(2, 3, 3)),
        "f: found axes 2 to 1",
    ),
    "join": (
        graph({"a": nir.Linear(np.ones((2, 1))), "s": nir.Scale(np.ones(1))}, "input > a > s", "input > s"),
        "s: found inputs of shapes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_that_do_not_fit_are_named(kind: str, tmp_path: Path) -> None:
    g, message = SHAPES[kind]
    with pytest.raises(ConversionError, match=message):
        infer_shapes(g)
    if kind == "output":
        nir.write(tmp_path / "g.nir", g)
        with pytest.raises(FileFormatError, match="it declares"):
            converters.read(tmp_path / "g.nir")
        with pytest.raises(ConversionError, match="it declares"):
            simulate_stock(g, torch.ones(1, 1, 2))


def test_several_inputs_are_one_line() -> None:
    g = graph({"second": nir.Input(np.array([1])), "if": neuron()}, "input > if > output", "second > if")
    with pytest.raises(ConversionError, match="2 inputs and 1 outputs; give a graph with one of each"):
        simulate_stock(g, torch.ones(1, 1, 1))


def test_fields_that_nir_fills_in_may_be_missing(tmp_path: Path) -> None:
    """Every default of NIR's own classes is one of the reader's, in whatever version of NIR is here."""
    import dataclasses

    from converters.files.nir_building import _FIELDS

    for kind, (required, optional) in _FIELDS.items():
        cls = getattr(nir, kind, None)
        if cls is None or kind in ("Input", "Output"):
            continue
        for field in dataclasses.fields(cls):
            given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if field.init and given and field.name != "metadata":
                assert field.name in optional, (kind, field.name)
            assert field.name not in required or field.init
    import h5py

    one = np.ones(1)
    nir.write(tmp_path / "c.nir", graph({"c": nir.CubaLIF(one, one, one, 0 * one, one)}, "input > c > output"))
    with h5py.File(tmp_path / "c.nir", "r+") as f:
        for name in ("w_in", "v_reset"):
            del f[f"node/nodes/c/{name}"]
    node: Any = converters.read(tmp_path / "c.nir").nodes["c"]
    own: Any = nir.CubaLIF(one, one, one, 0 * one, one)
    assert (node.w_in.tolist(), node.v_reset.tolist()) == (own.w_in.tolist(), own.v_reset.tolist())
