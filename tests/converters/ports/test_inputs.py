"""Networks of several inputs: given in order or by name, each with its own encoder, on every backend and in files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

import converters
from converters.backends import Backend
from converters.backends.baselines import run_baseline
from converters.backends.fast import Fast
from converters.commands.given import Given
from converters.commands.given import given as read_given
from converters.errors import ConversionError, FileFormatError
from converters.frontends.verbs import Grid, Raw, Verbs
from converters.network import Network
from converters.operations import Flatten, Linear, Synapse
from converters.ports.inputs import packed, split, unpacked
from converters.ports.metadata import INPUTS
from converters.quantised import InputSpec, Layer, QuantGraph
from converters.testing import conformance
from converters.testing.networks import NETWORKS, images
from tests.converters.backends.numpy_backend import NumpyBackend

BACKENDS = ("snntorch", "fast", "closed_form", "brian2")


def two() -> QuantGraph:
    return NETWORKS["two inputs"]()


# --- the integers -----------------------------------------------------------------------------------


class TwoTowers(nn.Module):
    """A picture and some numbers, in float64 with fake quantisers written out: the oracle."""

    GRIDS: ClassVar = {"picture": Grid(0.125, 0, 7), "numbers": Grid(0.5, -8, 7)}
    WITHIN = Grid(0.25, -8, 7)

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.w = [torch.randint(-4, 5, shape, generator=g) for shape in ((4, 6), (4, 3), (3, 4))]

    def forward(self, picture: Tensor, numbers: Tensor) -> Tensor:
        w = [0.125 * w.double() for w in self.w]
        x, y = _fake(picture, self.GRIDS["picture"]), _fake(numbers, self.GRIDS["numbers"])
        a, b = _fake(x.flatten(1) @ w[0].T, self.WITHIN), _fake(y @ w[1].T, self.WITHIN)
        return _fake(_fake(a + b, self.WITHIN) @ w[2].T, self.WITHIN)

    def converted(self) -> QuantGraph:
        v = Verbs("test", activation="quantise it", unquantised_input="quantise the input")

        def quantised(name: str, x: Any, grid: Grid) -> Any:
            return v.quantise(name, x, grid, lambda bound: round(bound / grid.scale))

        def weigh(name: str, x: Any, k: int) -> Any:
            return quantised(name, v.weigh(name, x, Linear(self.w[k]), torch.tensor([0.125]), None), self.WITHIN)

        shapes = {"picture": (1, 2, 3), "numbers": (3,)}
        inputs = [quantised(name, Raw(shape, name=name), self.GRIDS[name]) for name, shape in shapes.items()]
        total = v.add("sum", (weigh("a", v.flatten(inputs[0]), 0), 1.0), (weigh("b", inputs[1], 1), 1.0))
        return v.build(v.output(weigh("fc", quantised("sum", total, self.WITHIN), 2)))


def _fake(x: Tensor, grid: Grid) -> Tensor:
    return (x / grid.scale).round().clamp(grid.y_min, grid.y_max) * grid.scale


def test_against_a_module_with_two_arguments() -> None:
    model, generator = TwoTowers(), torch.Generator().manual_seed(1)
    q = model.converted()
    assert [spec.name for spec in q.inputs] == ["picture", "numbers"]
    x = torch.rand(9, 1, 2, 3, generator=generator, dtype=torch.float64)
    y = 4 * torch.randn(9, 3, generator=generator, dtype=torch.float64)
    expected = model(x, y)
    assert torch.equal(q.logits(q.execute((x, y))), expected)
    graph = converters.to_nir(q)
    for backend in BACKENDS:
        assert torch.equal(converters.run(graph, (x, y), backend=backend).outputs, expected)
    for given_as in ([x, y], {"numbers": y, "picture": x}):
        assert torch.equal(converters.run(graph, given_as, backend="snntorch").outputs, expected)
    assert q.predict((x, y), batch=4).tolist() == expected.argmax(1).tolist()


@st.composite
def drawn(draw: DrawFn) -> tuple[QuantGraph, int, str, dict[str, Tensor]]:
    """One to three inputs of any shapes and ranges; dense layers, each fed by any of them and by layers before it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    specs = []
    for k in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        low, high = draw(st.sampled_from([(0, 1), (-3, 2), (-1, 9), (0, 15)]))
        specs.append(InputSpec(shape, float(2.0 ** draw(st.integers(-3, 1))), low, high, f"x{k}"))
    shapes: dict[str, tuple[int, ...]] = {spec.name: spec.shape for spec in specs}
    layers: list[Layer] = []
    for k in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 3))
        synapses = []
        for source in draw(st.lists(st.sampled_from(list(shapes)), min_size=1, max_size=4)):
            w = torch.from_numpy(rng.integers(-5, 6, (out, math.prod(shapes[source]))))
            flat = (Flatten(),) if len(shapes[source]) > 1 else ()
            synapses.append(Synapse((source,), (*flat, Linear(w))))
        threshold, bias = torch.from_numpy(1 + 9 * rng.random(out)), torch.from_numpy(8 * rng.random(out) - 4)
        layers.append(Layer(f"y{k}", tuple(synapses), threshold, bias, -4, 7, 0.5, (out,)))
        shapes[f"y{k}"] = (out,)
    q = QuantGraph(specs[0], tuple(layers), more_inputs=tuple(specs[1:]))
    window = draw(st.sampled_from([1, 3, 7, 15, 16, 33]))
    n = draw(st.integers(1, 3))
    coding = draw(st.sampled_from(["isi", "direct"]))
    limits = q.at_window(window, coding).inputs
    integers = {s.name: torch.from_numpy(rng.integers(s.q_min, s.q_max + 1, (n, *s.shape))) for s in limits}
    return q, window, coding, integers


def by_hand(q: QuantGraph, integers: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Every layer's integers in NumPy, written out."""
    values = {name: x.numpy().reshape(len(x), -1) for name, x in integers.items()}
    for layer in q.layers:
        total: Any = layer.bias.numpy()[None]
        for s in layer.synapses:
            total = total + values[s.source] @ s.ops[-1].weight.numpy().T  # type: ignore[attr-defined]
        values[layer.name] = np.clip(np.rint(total / layer.threshold.numpy()), layer.y_min, layer.y_max).astype(int)
    return values


@given(case=drawn())
@settings(deadline=None, database=None, max_examples=40)
def test_any_number_of_inputs(case: Any) -> None:
    q, window, coding, integers = case
    shorter = q.at_window(window, coding)
    expected = by_hand(shorter, integers)
    executed = shorter.execute(integers=integers)
    network = Network.from_graph(converters.to_nir(q, T=window, coding=coding))
    assert list(network.specs) == [spec.name for spec in q.inputs]
    assert list(network.specs.values()) == list(shorter.inputs)
    runs = [converters.run(network, integers=integers, backend=b, record="counts") for b in BACKENDS[:3]]
    for layer in q.layers:
        assert (executed[layer.name].numpy() == expected[layer.name]).all()
        assert all((r.counts[layer.name].numpy() == expected[layer.name]).all() for r in runs)
    assert torch.equal(runs[0].sops, runs[1].sops)
    assert torch.equal(runs[0].macs, runs[1].macs)


def test_the_scales_of_two_inputs_are_their_own() -> None:
    spec, other = InputSpec((1,), 1.0, 0, 4, "a"), InputSpec((1,), 0.25, -4, 4, "b")
    one = Linear(torch.tensor([[1]]))
    synapses = Synapse(("a",), (one,)), Synapse(("b",), (one,))
    layer = Layer("y", synapses, torch.ones(1), torch.zeros(1), -8, 8, 1.0, (1,))
    q = QuantGraph(spec, (layer,), more_inputs=(other,))
    assert q.execute((torch.tensor([[3.0]]), torch.tensor([[-0.5]])))["y"].tolist() == [[1]]
    assert q.levels == 8
    assert q.shapes == {"a": (1,), "b": (1,), "y": (1,)}


# --- what is given ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda x, y: x, r"images: found 1 for 2 inputs; give one tensor for each of picture, about"),
        (lambda x, y: (x,), "found 1 for 2 inputs"),
        (lambda x, y: (x, y, y), "found 3 for 2 inputs"),
        (lambda x, y: {"picture": x}, r"found those of \['picture'\]"),
        (lambda x, y: {"picture": x, "abuot": y}, "abuot"),
        (lambda x, y: (y, x), r"images of input picture: found a batch of shape \(4, 3\)"),
        (lambda x, y: (x, y[:2]), "found 4 of picture, 2 of about"),
        (lambda x, y: (x, y.long()), "images of input about: found torch.int64"),
        (lambda x, y: (x, y * float("nan")), "images of input about: found NaN"),
        (lambda x, y: "ab", "found 1 for 2"),
        (lambda x, y: None, "both images and integers, or neither"),
    ],
)
def test_what_does_not_fit_is_refused(arrange: Any, message: str) -> None:
    q = two()
    graph = converters.to_nir(q)
    wrong = arrange(*images(q, 4))
    for call in (q.execute, lambda x: converters.run(graph, x), lambda x: converters.to_snntorch(graph).encode(x)):
        with pytest.raises(ConversionError, match=message) as caught:
            call(wrong)
        assert "\n" not in str(caught.value)


def test_one_input_may_be_given_by_name_too() -> None:
    q = NETWORKS["dense"]()
    x = images(q, 3)
    expected = q.execute(x)
    for given_as in ({q.input.name: x}, (x,), [x]):
        assert all(torch.equal(a, b) for a, b in zip(q.execute(given_as).values(), expected.values(), strict=True))


@given(
    shapes=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4),
    n=st.integers(0, 3),
    steps=st.none() | st.integers(0, 3),
)
@settings(deadline=None, database=None)
def test_side_by_side_and_apart(shapes: Any, n: int, steps: int | None) -> None:
    named = {f"x{k}": shape for k, shape in enumerate(shapes)}
    values = {name: torch.randn(n, *shape) for name, shape in named.items()}
    whole = packed(values)
    assert all(torch.equal(part, values[name]) for name, part in unpacked(named, whole).items())
    if steps is not None:
        again = unpacked(named, whole.expand(steps, *whole.shape))
        assert all(part.shape == (steps, n, *named[name]) for name, part in again.items())
    assert [len(part["x0"]) for part in split(values, 2)] == ([2] * (n // 2) + [n % 2] * (n % 2) or [0])


# --- backends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_cross_check_and_baselines(coding: str) -> None:
    q = two()
    graph = converters.to_nir(q, T=5, coding=coding)
    x = images(q, 3)
    check = converters.cross_check(graph, x, batch=2)
    assert check.equal
    assert check.spikes_compared > 0
    by_name = dict(zip(("picture", "about"), x, strict=True))
    sampled = converters.cross_check(graph, by_name, backends=("fast", "brian2"), sample=3)
    assert sampled.equal
    assert run_baseline(graph, x, name="if_soft").logits.shape == (3, 3)


def test_the_module_takes_inputs_by_name_or_in_order() -> None:
    q = two()
    graph, x = converters.to_nir(q, T=5), images(q, 3)
    net = converters.to_snntorch(graph)
    fed = net.encode(x)
    assert isinstance(fed, dict)
    spikes = net(fed)
    assert spikes.shape == (5, 3, 3)
    rest = net.settle()
    total = spikes.sum(0) + sum(rest)
    assert torch.equal(total.long(), q.execute(x)["fc"])
    torch.testing.assert_close(net.read_out(), q.logits(q.execute(x)))
    net.reset()
    again = torch.stack([net((a, b)) for a, b in zip(fed["picture"], fed["about"], strict=True)])
    assert torch.equal(again, spikes)
    net.reset()
    with pytest.raises(ConversionError, match="blocks of different lengths"):
        net({"picture": fed["picture"], "about": fed["about"][:2]})
    with pytest.raises(ConversionError, match="about: found shape"):
        net({"picture": fed["picture"], "about": fed["about"][..., :2]})
    with pytest.raises(ConversionError, match="2 inputs"):
        net.sequential()


def test_a_backend_may_take_one_input_alone() -> None:
    class Single(Fast):
        name = "single"
        several_inputs = False

    names = [case.name for case in conformance(Single())]
    assert "refuses two inputs" in names
    assert not any(name.startswith("two inputs") for name in names)
    assert next(case for case in conformance(Single()) if case.name == "refuses two inputs").run() == 1


@pytest.mark.parametrize("backend", [NumpyBackend()], ids=["from outside"])
def test_backends_from_outside_take_them(backend: Backend) -> None:
    for case in conformance(backend):
        if case.name in ("two inputs, as many steps as levels", "two inputs, direct input"):
            assert case.run() > 100


# --- files ------------------------------------------------------------------------------------------


def test_through_both_files(tmp_path: Path) -> None:
    q, x = two(), images(two(), 3)
    expected = q.execute(x)
    converters.save_quantised(tmp_path / "q.safetensors", q)
    back = converters.load_quantised(tmp_path / "q.safetensors")
    assert back.inputs == q.inputs
    assert all(torch.equal(a, expected[name]) for name, a in back.execute(x).items())
    converters.write(tmp_path / "q.nir", converters.to_nir(back, T=5))
    graph = converters.read(tmp_path / "q.nir")
    # a file's nodes come back sorted by name, inputs do not
    assert list(Network.from_graph(graph).specs) == ["picture", "about"]
    assert sorted(k for k, node in graph.nodes.items() if type(node) is nir.Input) == ["image.about", "image.picture"]
    r = converters.run(graph, x, backend="fast")
    assert all(torch.equal(counts.long(), expected[name]) for name, counts in r.counts.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["about"]', "calif_inputs"),
        ('["about", "about"]', "calif_inputs"),
        ('{"about": 1}', "calif_inputs"),
        ("[", "no JSON"),
        ('["about", "picture", "fc"]', "calif_inputs"),
    ],
)
def test_metadata_of_strangers(text: str, message: str, tmp_path: Path) -> None:
    graph = converters.to_nir(two(), T=5)
    graph.metadata[INPUTS] = text
    with pytest.raises(ConversionError, match=message):
        Network.from_graph(graph)
    converters.write(tmp_path / "q.nir", graph)
    with pytest.raises(FileFormatError):
        converters.read(tmp_path / "q.nir")


def test_inputs_of_one_network_agree() -> None:
    graph = converters.to_nir(two(), T=5)
    graph.nodes["about"].window = 6
    with pytest.raises(ConversionError, match="about: found a window of 6 and coding isi; picture has 5"):
        Network.from_graph(graph)
    graph = converters.to_nir(two(), T=5)
    graph.edges = [edge for edge in graph.edges if edge != ("image.about", "about")] + [("image.picture", "about")]
    with pytest.raises(ConversionError, match="an Input feeds its encoder alone"):
        Network.from_graph(graph)


def test_names_of_inputs_are_unique() -> None:
    q = NETWORKS["dense"]()
    with pytest.raises(ConversionError, match="the name of two inputs"):
        QuantGraph(q.input, q.layers, more_inputs=(q.input,))


def test_an_input_with_two_quantisers_that_differ_is_refused() -> None:
    v = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
    raw = Raw((3,), name="x")
    same = [v.quantise("x", raw, Grid(0.5, -4, 3), round) for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(ConversionError, match="x: found an input with two quantisers"):
        v.quantise("x", raw, Grid(0.25, -4, 3), round)


# --- where one input is wanted ----------------------------------------------------------------------


def test_lowering_and_pictures_say_the_way_out(tmp_path: Path) -> None:
    q = two()
    network = Network.from_graph(converters.to_nir(q, T=5))
    for target in ("chain", "primitives", "plain_if"):
        with pytest.raises(ConversionError, match=r"2 inputs \(picture, about\); .* fast, snntorch or brian2"):
            converters.lower(network, target=target)
    with pytest.raises(ConversionError, match=r"2 inputs, picture, about, for one; give a tensor for each"):
        _ = network.spec
    wanted = r"q: found 2 inputs \(picture, about\), where a data set has one picture for each label; give a tensor"
    with pytest.raises(ConversionError, match=wanted) as caught:
        Given("q", q, {}, "auto").images("digits", None, 3)
    assert "\n" not in str(caught.value)
    path = tmp_path / "q.nir"
    converters.write(path, converters.to_nir(q, T=5))
    with pytest.raises(ConversionError, match="2 inputs"):
        read_given(path, None).images("digits", None, 3)


@pytest.mark.parametrize("name", ["heads", "two inputs"])
def test_other_simulators_are_asked_for_one_input_and_one_output(name: str) -> None:
    from converters.interop.comparing import compare_with_simulators

    q = NETWORKS[name]()
    with pytest.raises(
        ConversionError, match=r"network: found \d inputs and \d outputs; importers of other simulators"
    ):
        compare_with_simulators(converters.to_nir(q, T=5), images(q, 2))


def test_inspect_names_inputs_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from converters.cli import main

    for name in ("two inputs", "heads"):
        path = tmp_path / f"{name.split()[0]}.nir"
        converters.write(path, converters.to_nir(NETWORKS[name](), T=5))
        with pytest.raises(SystemExit) as ended:
            main(["inspect", str(path), "--json"])
        assert not ended.value.code
        about = json.loads(capsys.readouterr().out)
        with pytest.raises(SystemExit):
            main(["inspect", str(path)])
        text = " ".join(capsys.readouterr().out.split())
        if name == "heads":
            assert about["outputs"][0] == "classes: raw -> softmax(dim=1)"
            assert "output maps.1: stem -> permute(dims=(1, 2, 0)) -> argmax(dim=-1)" in text
        else:
            assert [given_as["name"] for given_as in about["inputs"]] == ["picture", "about"]
            assert "input about: 3, -5 to 3 times 0.4" in text
