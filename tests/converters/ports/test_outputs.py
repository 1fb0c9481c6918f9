"""What a network returns: structures, the functions behind the last quantiser, and their way through files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError, FileFormatError
from converters.frontends.verbs import Grid, Verbs
from converters.network import Network
from converters.operations import Conv2d, Linear
from converters.ports.metadata import OUTPUTS
from converters.ports.outputs import Output, as_outputs, from_json, leaves, mapped, places, to_json
from converters.ports.tails import TAILS, Tail
from converters.quantised import GraphBuilder, QuantGraph
from converters.testing.networks import NETWORKS, images

BACKENDS = ("snntorch", "fast", "closed_form", "brian2")

# each function of the table: parameters, and PyTorch's own word for it
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "softmax": ({"dim": 1}, nn.Softmax(dim=1)),
    "log_softmax": ({"dim": 2}, nn.LogSoftmax(dim=2)),
    "normalize": ({"dim": 1, "eps": 1e-6}, lambda x: x / x.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)),
    "argmax": ({"dim": 1}, lambda x: x.max(1).indices),
    "argmin": ({"dim": -1, "keepdim": True}, lambda x: x.min(-1, keepdim=True).indices),
    "amax": ({"dim": [2, 3]}, lambda x: x.flatten(2).max(2).values),
    "amin": ({"dim": 1, "keepdim": True}, lambda x: x.min(1, keepdim=True).values),
    "mean": ({"dim": [2, 3], "keepdim": True}, nn.AdaptiveAvgPool2d(1)),
    "sum": ({"dim": 1}, lambda x: torch.einsum("nchw->nhw", x)),
    "sigmoid": ({}, nn.Sigmoid()),
    "logsigmoid": ({}, nn.LogSigmoid()),
    "tanh": ({}, nn.Tanh()),
    "exp": ({}, lambda x: torch.from_numpy(np.exp(x.numpy()))),
    "softplus": ({}, nn.Softplus()),
    "relu": ({}, nn.ReLU()),
    "hardsigmoid": ({}, nn.Hardsigmoid()),
    "hardtanh": ({}, nn.Hardtanh()),
    "abs": ({}, lambda x: torch.where(x < 0, -x, x)),
    "neg": ({}, lambda x: 0 - x),
    "clamp": ({"min": -0.5, "max": None}, lambda x: torch.where(x < -0.5, -0.5, x)),
    "mul": ({"other": 2.5}, lambda x: x + x + x / 2),
    "add": ({"other": -1}, lambda x: x - 1),
    "reshape": ({"shape": [4, -1]}, lambda x: x.unflatten(1, (4, 1)).flatten(2)),
    "permute": ({"dims": [1, 2, 0]}, lambda x: torch.from_numpy(np.moveaxis(x.numpy(), 1, -1).copy())),
    "flatten": ({"start_dim": 1}, nn.Flatten()),
    "squeeze": ({"dim": 3}, lambda x: x),
    "unsqueeze": ({"dim": 1}, lambda x: x[:, None]),
    "interpolate": (
        {"size": [6, 9], "mode": "bilinear", "align_corners": False},
        nn.Upsample(size=(6, 9), mode="bilinear", align_corners=False),
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_every_function_of_the_table(name: str) -> None:
    parameters, theirs = CASES[name]
    x = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(Tail(name, parameters)(x), theirs(x))
    assert from_json(json.loads(json.dumps(to_json(Output("fc", (Tail(name, parameters),)))))) == Output(
        "fc", (Tail(name, parameters),)
    )


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("eval", {}, "eval: found no function"),
        ("softmax", {}, r"missing \['dim'\]"),
        ("softmax", {"dim": 1, "out": 2}, r"unexpected \['out'\]"),
        ("softmax", {"dim": "1"}, "softmax.dim: found '1'"),
        ("softmax", {"dim": True}, "softmax.dim"),
        ("mul", {"other": float("nan")}, "mul.other"),
        ("interpolate", {"size": [2, 2], "mode": "__class__"}, "interpolate.mode"),
        ("reshape", {"shape": [2.0]}, "reshape.shape"),
    ],
)
def test_what_is_not_on_the_table_is_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        Tail(name, parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (Tail("softmax", {"dim": 5}), "softmax"),
        (Tail("mean", {"dim": 0}), "keep images apart"),
        (Tail("flatten", {"start_dim": 0}), "keep images apart"),
        (Tail("reshape", {"shape": (7,)}), "reshape"),
        (Tail("interpolate", {"size": (2**20,), "mode": "linear"}), "interpolate"),
    ],
)
def test_a_function_that_does_not_fit_its_layer_is_refused(tail: Tail, message: str) -> None:
    q = NETWORKS["dense"]()
    with pytest.raises(ConversionError, match=message):
        QuantGraph(q.input, q.layers, outputs=Output("fc3", (tail,)))


structures = st.recursive(
    st.none() | st.sampled_from(["stem", "one", "again", "sum", "raw"]).map(Output),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(structure=structures)
@settings(deadline=None, database=None, max_examples=60)
def test_structures_go_through_json_and_graphs(structure: Any) -> None:
    """Any nesting and any keys, some of which no name of a node could hold."""
    if not list(leaves(structure)):
        with pytest.raises(ConversionError, match="at least one"):
            as_outputs(structure)
        return
    there = json.loads(json.dumps(to_json(as_outputs(structure))))
    back = from_json(there)
    assert back == structure
    assert _keys(back) == _keys(structure), "dictionaries keep their order"
    q = NETWORKS["heads"]()
    network = Network.from_graph(converters.to_nir(QuantGraph(q.input, q.layers, outputs=structure), T=5))
    assert network.outputs == structure
    assert network.output.name == next(leaves(structure)).layer
    x = images(q, 2)
    r = converters.run(network, x, backend="closed_form")
    values = q.execute(x)
    for (a, found), (b, output) in zip(places(r.outputs), places(structure), strict=True):
        assert a == b
        torch.testing.assert_close(found, _layer(q, output.layer).real(values[output.layer]))


def _keys(structure: Any) -> Any:
    if isinstance(structure, dict):
        return [(key, _keys(part)) for key, part in structure.items()]
    return [type(structure), *map(_keys, structure)] if isinstance(structure, list | tuple) else type(structure)


def _layer(q: QuantGraph, name: str) -> Any:
    return next(layer for layer in q.layers if layer.name == name)


def test_through_both_files(tmp_path: Path) -> None:
    q, x = NETWORKS["heads"](), images(NETWORKS["heads"](), 3)
    expected = q.returned(q.execute(x))
    converters.save_quantised(tmp_path / "q.safetensors", q)
    back = converters.load_quantised(tmp_path / "q.safetensors")
    assert back.outputs == q.outputs
    converters.write(tmp_path / "q.nir", converters.to_nir(back, T=5))
    graph = converters.read(tmp_path / "q.nir")
    sinks = sorted(name for name, node in graph.nodes.items() if type(node) is nir.Output)
    assert sinks == ["result.classes", "result.maps.0", "result.rest.0", "result.rest.1"]
    assert Network.from_graph(graph).outputs == q.outputs
    converters.register()
    assert Network.from_graph(nir.read(tmp_path / "q.nir", type_check=False)).outputs == q.outputs
    for backend in BACKENDS:
        r = converters.run(graph, x, backend=backend, record="output")
        assert sorted(r.counts) == ["one", "stem", "sum"]
        assert sorted(r.membranes) == ["one", "raw", "stem", "sum"]
        _same(r.outputs, expected)
        merged = converters.run(graph, x, backend=backend, batch=1, record="output")
        _same(merged.outputs, expected)


def _same(found: Any, expected: Any) -> None:
    for (a, x), (b, y) in zip(places(found), places(expected), strict=True):
        assert a == b
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_a_single_plain_output_is_written_as_ever(tmp_path: Path) -> None:
    q = NETWORKS["dense"]()
    graph = converters.to_nir(q, T=5)
    assert graph.metadata == {}
    assert "result" in graph.nodes
    converters.save_quantised(tmp_path / "q.safetensors", q)
    assert b"outputs" not in (tmp_path / "q.safetensors").read_bytes()[:4000]
    r = converters.run(graph, images(q, 2))
    assert torch.equal(r.outputs, r.logits)


def test_several_output_nodes_without_metadata_are_a_dictionary() -> None:
    q = NETWORKS["heads"]()
    graph = converters.to_nir(QuantGraph(q.input, q.layers, outputs=["one", "raw"]), T=5)
    del graph.metadata[OUTPUTS]
    outputs = Network.from_graph(graph).outputs
    assert outputs == {"result.0": Output("one"), "result.1": Output("raw")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "structures are written"),
        ('{"layer": "nosuch", "tail": []}', r"outputs \['nosuch'\]"),
        ('{"layer": "one", "tail": []}', r"where the Output nodes have"),
        ('{"set": []}', "tuples, lists and dictionaries"),
        ('{"dict": [["a", null], ["a", null]]}', "twice the same"),
        ('{"list": []}', "at least one"),
        ('{"layer": "one", "tail": [["exec", {}]]}', "no function"),
        ('{"layer": "one", "tail": [["softmax", {"dim": 9}]]}', "."),
        ('{"tuple": [' * 30 + "null" + "]}" * 30, "structure"),
    ],
)
def test_metadata_of_strangers(text: str, message: str, tmp_path: Path) -> None:
    graph = converters.to_nir(NETWORKS["heads"](), T=5)
    graph.metadata[OUTPUTS] = text
    with pytest.raises(ConversionError, match=message):
        Network.from_graph(graph)
    converters.write(tmp_path / "q.nir", graph)
    with pytest.raises(FileFormatError) as caught:
        converters.read(tmp_path / "q.nir")
    assert "\n" not in str(caught.value)


def test_an_output_that_is_no_layer_is_refused() -> None:
    q = NETWORKS["dense"]()
    for outputs, message in (("input", "no layer"), ({"a": 3}, "a int"), ([], "none"), ({1.5: "fc3"}, "a dict")):
        with pytest.raises(ConversionError, match=message):
            QuantGraph(q.input, q.layers, outputs=outputs)


# --- the verbs of front-ends ------------------------------------------------------------------------

GRID = Grid(0.25, -8, 7)


def _fake(x: Tensor) -> Tensor:
    return (x / GRID.scale).round().clamp(GRID.y_min, GRID.y_max) * GRID.scale


class Heads(nn.Module):
    """A stem and three heads, in float64 with fake quantisers written out: the oracle."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = [torch.randint(-4, 5, shape, generator=generator) for shape in ((6, 4), (3, 6), (5, 6), (2, 4, 3, 3))]

    def forward(self, x: Tensor) -> dict[str, Any]:
        w = [0.125 * w.double() for w in self.w]
        h = _fake(_fake(x) @ w[0].T)
        a, b = h @ w[1].T, _fake(h @ w[2].T)
        return {"logits": a, "probabilities": (F.softmax(a, 1), b), "hidden": [h, torch.sigmoid(b)], "none": None}

    def converted(self) -> QuantGraph:
        v = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
        scale = torch.tensor([0.125])

        def weigh(name: str, x: Any, k: int) -> Any:
            return v.weigh(name, x, Linear(self.w[k]), scale, None)

        def quantised(name: str, x: Any) -> Any:
            return v.quantise(name, x, GRID, lambda bound: round(bound / GRID.scale))

        x = v.input((4,), scale=GRID.scale, q_min=GRID.y_min, q_max=GRID.y_max)
        h = quantised("h", weigh("h", x, 0))
        a, b = weigh("a", h, 1), quantised("b", weigh("b", h, 2))
        outputs = {
            "logits": a,
            "probabilities": (v.tail("softmax", a, "softmax", {"dim": 1}), b),
            "hidden": [h, v.tail("sigmoid", b, "sigmoid")],
            "none": None,
        }
        return v.build(v.output(outputs))


def test_the_verbs_make_what_a_model_returns() -> None:
    model = Heads()
    q = model.converted()
    assert [layer.name for layer in q.layers] == ["h", "b", "a"], "a membrane that is read twice is one layer"
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = model(x)
    _same(q.returned(q.execute(x)), expected)
    graph = converters.to_nir(q)
    for backend in BACKENDS:
        r = converters.run(graph, x, backend=backend)
        assert r.outputs["none"] is None
        assert isinstance(r.outputs["probabilities"], tuple)
        _same(r.outputs, expected)
    torch.testing.assert_close(r.logits, expected["logits"])
    check = converters.cross_check(graph, x[:2])
    assert check.equal
    assert {row.layer for row in check.layers["brian2"]} == {"input", "h", "a", "b"}


def test_a_function_in_the_middle_is_refused() -> None:
    v = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
    x = v.input((4,), scale=0.25, q_min=-8, q_max=7)
    soft = v.tail("block.soft", x, "softmax", {"dim": 1})
    with pytest.raises(ConversionError, match=r"fc: found an unquantised softmax.* output"):
        v.weigh("fc", soft, Linear(torch.ones(2, 4, dtype=torch.int8)), torch.ones(1), None)
    with pytest.raises(ConversionError, match=r"^block.soft: found no function"):
        v.tail("block.soft", x, "sort")


def test_what_is_joined_or_the_input_itself_becomes_a_layer() -> None:
    b = GraphBuilder()
    x = b.input((3,), scale=0.5, q_min=-4, q_max=4)
    y = b.layer("y", [(x, Linear(torch.eye(3).int()))], threshold=2.0, y_min=0, y_max=3, scale=0.5)
    q = b.build({"both": b.concat("c", [x, y]), "x": x, "y": y})
    assert q.outputs == {"both": Output("output.both"), "x": Output("output.x"), "y": Output("y")}
    images = torch.tensor([[1.0, -2.0, 0.5]])
    found = converters.run(converters.to_nir(q), images).outputs
    assert found["x"].tolist() == images.tolist()
    assert found["both"].tolist() == [[1.0, -2.0, 0.5, 0.5, 0.0, 0.0]]


def test_a_flattened_membrane_is_read_and_reshaped() -> None:
    """Nothing may stand behind a layer without spikes, so the change of shape is left to the output."""
    b = GraphBuilder()
    x = b.input((2, 1, 2), scale=1.0, q_min=0, q_max=4)
    y = b.layer(
        "y", [(x, Conv2d(torch.ones(1, 2, 1, 1).int()))], threshold=2.0, y_min=0, y_max=0, scale=1.0, spiking=False
    )
    q = b.build(b.flatten(y))
    r = converters.run(converters.to_nir(q), torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]))
    assert r.outputs.tolist() == [[2.0, 1.0]]
    assert mapped(lambda output: str(output), q.outputs) == "y -> reshape(shape=(2,))"


def test_lowered_networks_have_an_output_for_each() -> None:
    q = NETWORKS["heads"]()
    network = Network.from_graph(converters.to_nir(q, T=5))
    for target in ("chain", "primitives", "plain_if"):
        stock = converters.lower(network, target=target)
        sinks = {name: b for b, name in stock.edges if type(stock.nodes[name]) is nir.Output}
        assert list(sinks) == ["output_0", "output_1", "output_3", "output_4"], target
        assert len(set(sinks.values())) == 4
