"""Names map one to one on every road: whatever layers are called, the file, the run and other simulators keep them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.files.nir_building import NAME
from converters.graphs.naming import Names
from converters.interop.dialects import spell
from converters.interop.feeding import expected, layer_nodes
from converters.interop.native import NATIVE, native, run_native
from converters.lowering import lower
from converters.lowering.metadata import numbered
from converters.network import Network
from converters.operations import Linear, Scale, Synapse
from converters.quantised import GraphBuilder, InputSpec, Layer, QuantGraph

# names that something else wants: nodes of to_nir and of lowered graphs, attributes of modules, words of Python
WANTED = [
    "input", "image", "result", "output", "fc", "fc.1", "fc_1", "fc 1", "fc/1", "fc.s0.0_linear", "fc_s0_0_linear",
    "fc.s1.0_scale", "0", "1", "", ".", "forward", "train", "children", "state_dict", "lambda", "None", "l000_p_out",
    "l000_a00_0_syn", "layer1", "layer1_neurons", "ф", "x" * 300, "x" * 301, "image_2", "a,b", "a%2Cb",
]  # fmt: skip
NAMES = st.lists(st.one_of(st.sampled_from(WANTED), st.text(max_size=6)), min_size=1, max_size=6)


def chain(names: list[str], repeated: int = 0) -> QuantGraph:
    """A network of two inputs, and one layer of two neurons for each name, each with weights of its own."""
    b = GraphBuilder()
    value = b.input((2,), scale=1.0, q_min=0, q_max=6, name=names[0])
    for k, name in enumerate(names):
        weight = Linear(torch.tensor([[1 + k % 3, 0], [-1, 2]]))
        parts: list[Any] = [(value, weight), *[(value, Scale(1))] * (repeated if k else 0)]
        value = b.layer(name, parts, threshold=2.0, bias=float(k), y_min=-6, y_max=6, scale=1.0)
    return b.build(value)


def through_a_file(graph: nir.NIRGraph) -> nir.NIRGraph:
    with tempfile.TemporaryDirectory() as folder:
        converters.write(Path(folder) / "g.nir", graph)
        return converters.read(Path(folder) / "g.nir")


IMAGES = torch.tensor([[0.0, 0.0], [6.0, 1.0], [3.0, 5.0]])


@settings(max_examples=25, deadline=None)
@given(NAMES, st.integers(0, 3))
def test_any_names_through_a_file(names: list[str], repeated: int) -> None:
    q = chain(names, repeated)
    assert len({q.input.name, *(layer.name for layer in q.layers)}) == len(names) + 1
    graph = converters.to_nir(q)
    assert all(NAME.match(n) and len(n) <= 200 for n in graph.nodes)
    assert len(set(graph.edges)) == len(graph.edges)
    again = through_a_file(graph)
    assert set(again.nodes) == set(graph.nodes)
    right = q.execute(IMAGES)
    for g in (graph, again):
        found = converters.run(g, IMAGES, fast=False).counts
        assert {n: found[n].tolist() for n in found} == {layer.name: right[layer.name].tolist() for layer in q.layers}


def test_all_wanted_names_at_once_on_every_road(tmp_path: Path) -> None:
    q = chain(WANTED, repeated=1)
    graph = converters.to_nir(q)
    converters.write(tmp_path / "g.nir", graph)
    again = converters.read(tmp_path / "g.nir")
    right = q.execute(IMAGES)
    for backend in ("snntorch", "closed_form"):
        found = converters.run(again, IMAGES, backend=backend).counts
        assert {n: c.tolist() for n, c in found.items()} == {k.name: right[k.name].tolist() for k in q.layers}
    for target in ("chain", "primitives"):
        stock = lower(again, target)
        converters.write(tmp_path / "s.nir", stock)
        found_layers = list(layer_nodes(converters.read(tmp_path / "s.nir")))
        assert found_layers == [s.name for s in Network.from_graph(again).stages]


def test_wanted_names_in_brian2() -> None:
    q = chain(["layer1", "layer1_neurons", "input_neurons", "brian2", "defaultclock"])
    found = converters.run(converters.to_nir(q), IMAGES, backend="brian2").counts
    right = q.execute(IMAGES)
    assert {n: c.tolist() for n, c in found.items()} == {k.name: right[k.name].tolist() for k in q.layers}


@pytest.mark.parametrize("simulator", NATIVE)
def test_names_in_other_simulators(simulator: str) -> None:
    pytest.importorskip(simulator)
    q = chain(WANTED, repeated=1)
    graph = converters.to_nir(q)
    spelt, layers = spell(graph, simulator)
    assert len(set(layers.values())) == len(q.layers)
    assert set(layers.values()) < set(spelt.nodes)
    _, paths = native(simulator, graph, batch=3)
    assert paths == layers
    right = expected(graph, IMAGES)
    found = run_native(simulator, graph, right.inputs)
    for name, train in right.spikes.items():
        assert torch.equal(found.outputs[name].reshape(train.shape), train), name


def test_a_layer_that_is_called_as_another_ones_synapse() -> None:
    """Names straight from a QuantGraph, without the builder's care."""
    two = torch.tensor([[2, 0], [0, 2]])
    kw: dict[str, Any] = {"threshold": torch.ones(1), "bias": torch.zeros(1), "y_min": 0, "y_max": 99, "scale": 1.0}
    layers = [
        Layer("fc.s0.0_linear", (Synapse(("image",), (Linear(two),)),), shape=(2,), **kw),
        Layer("fc", (Synapse(("fc.s0.0_linear",), (Linear(two),)),), shape=(2,), **kw),
    ]
    q = QuantGraph(InputSpec((2,), 1.0, 0, 6, "image"), tuple(layers))
    counts = converters.run(converters.to_nir(q), IMAGES).counts
    assert counts["fc"].tolist() == (4 * IMAGES).int().tolist()


def test_lowered_names_sort_in_the_order_of_computation() -> None:
    for count in (1, 10, 1000, 1001, 12345):
        names = [numbered("l", k, count, least=3) for k in (0, 1, 9, 10, 99, 100, 999, 1000, 12344) if k < count]
        assert names == sorted(names)
        assert len(set(names)) == len(names)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "a_2", "a_2_2", "b", "a_3"]), max_size=30))
def test_every_name_is_given_out_once(wishes: list[str]) -> None:
    names = Names(["a_3"])
    given_out = [names.new(w) for w in wishes]
    assert len(set(given_out)) == len(given_out)
    assert "a_3" not in given_out
    assert all(g.startswith(w) for w, g in zip(wishes, given_out, strict=True))


# --- one source several times ---------------------------------------------------------------------


def test_a_value_added_to_itself_is_written_and_read(tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=6)
    y = b.requantise("twice", [(x, 1.0), (x, 1.0)], y_min=0, y_max=12, scale=1.0)
    z = b.requantise("five", [(y, 1.0)] * 5, y_min=0, y_max=99, scale=1.0)
    q = b.build(z)
    graph = converters.to_nir(q)
    converters.write(tmp_path / "g.nir", graph)
    again = converters.read(tmp_path / "g.nir")
    for g in (graph, again):
        r = converters.run(g, IMAGES)
        assert r.counts["five"].tolist() == (10 * IMAGES).int().tolist() == q.execute(IMAGES)["five"].tolist()
    assert converters.run(again, IMAGES).sops.tolist() == converters.run(graph, IMAGES).sops.tolist()


PARTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 1, -1, 2])), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=4))
def test_random_graphs_with_repeated_edges_round_trip(layers: list[list[tuple[int, int]]]) -> None:
    b = GraphBuilder()
    values = [b.input((2,), scale=1.0, q_min=0, q_max=6)]
    for k, parts in enumerate(layers):
        inputs = [(values[j % len(values)], float(factor)) for j, factor in parts]
        values.append(b.requantise(f"l{k}", inputs, y_min=-99, y_max=99, scale=2.0))
    everything = [(value, 1.0) for value in values[1:]]
    q = b.build(b.requantise("all", everything, y_min=-99, y_max=99, scale=2.0))
    graph = converters.to_nir(q, T=6)
    again = through_a_file(graph)
    assert sorted(again.edges) == sorted(set(graph.edges))
    right = converters.run(graph, IMAGES, fast=False)
    found = converters.run(again, IMAGES, fast=False)
    assert {n: c.tolist() for n, c in found.counts.items()} == {n: c.tolist() for n, c in right.counts.items()}
    assert {n: c.tolist() for n, c in right.counts.items()} == {
        n: v.tolist() for n, v in q.at_window(6).execute(IMAGES).items() if n != q.input.name
    }


def test_written_by_hand_with_an_edge_twice(tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.input((2,), scale=1.0, q_min=0, q_max=6)
    graph = converters.to_nir(b.build(b.requantise("add", [(x, 1.0)], y_min=0, y_max=99, scale=1.0)))
    graph.edges.append(("input", "add"))
    converters.write(tmp_path / "g.nir", graph)
    found = converters.run(converters.read(tmp_path / "g.nir"), IMAGES).counts
    assert found["add"].tolist() == (2 * IMAGES).int().tolist()
