"""What the comparison of spike trains lets through, and what it does not: planted faults, each found by it alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

import converters
from calif_plugins.snntorch import CaLIF
from converters.errors import ConversionError
from converters.frontends import snntorch as frontend
from converters.frontends import snntorch_swap_if
from converters.frontends.snntorch import from_snntorch


def network() -> nn.Module:
    torch.manual_seed(0)
    neuron: dict[str, Any] = {"init_hidden": True, "y_min": -4, "y_max": 6}
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), CaLIF(threshold=torch.tensor([0.5, 0.75, 1.0]), leak=0.05, **neuron),
        nn.AvgPool2d(2), CaLIF(threshold=0.25, **neuron),
        nn.Flatten(), nn.Linear(12, 12), CaLIF(threshold=0.5, v_init=0.125, **neuron),
        nn.Linear(12, 12, bias=False), CaLIF(threshold=0.5, tie="up", **neuron),
    )  # fmt: skip


def change(name: str, **fields: Callable[[Any], Any]) -> Callable[[nir.NIRGraph], None]:
    def act(graph: nir.NIRGraph) -> None:
        for field, make in fields.items():
            setattr(graph.nodes[name], field, make(getattr(graph.nodes[name], field)))

    return act


def crossed(graph: nir.NIRGraph) -> None:
    a, b = graph.nodes["_6.s0.1_linear"], graph.nodes["_8.s0.0_linear"]
    a.weight, b.weight = b.weight, a.weight


def moved(w: np.ndarray) -> np.ndarray:
    return np.roll(w, 1, axis=-1)


FAULTS: dict[str, tuple[Callable[[nir.NIRGraph], None], str]] = {
    "lost bias": (change("_1", leak=lambda v: v * 0), "_1"),
    "bias of another sign": (change("_1", leak=lambda v: -v), "_1"),
    "leak of another layer": (change("_6", leak=lambda v: np.roll(v, 1)), "_6"),
    "threshold of another channel": (change("_1", v_threshold=lambda v: v[::-1].copy()), "_1"),
    "pool without its area": (change("_3", v_threshold=lambda v: v / 4), "_3"),
    "area off by one": (change("_3", v_threshold=lambda v: v * 5 / 4), "_3"),
    "threshold off by a thousandth": (change("_8", v_threshold=lambda v: v * 1.001), "_8"),
    "transposed weights": (change("_6.s0.1_linear", weight=lambda w: w.T.copy()), "_6"),
    "flipped kernel": (change("_1.s0.0_conv2d", weight=lambda w: w[..., ::-1].copy()), "_1"),
    "shifted kernel": (change("_1.s0.0_conv2d", weight=moved), "_1"),
    "one weight lost": (change("_8.s0.0_linear", weight=lambda w: np.where(w == w.max(), 0, w)), "_8"),
    "one weight off by a little": (change("_8.s0.0_linear", weight=lambda w: w + 9 * (w == w.max())), "_8"),
    "swapped layers": (crossed, "_6"),
    "initial membrane lost": (change("_6", v_init=lambda v: v * 0), "_6"),
    "initial membrane of no one": (change("_8", v_init=lambda v: v + 1e6), "_8"),
    "ceiling off by one": (change("_8", y_max=lambda y: y + 1), "_8"),
    "ceiling lost": (change("_3", y_max=lambda y: 2**31 - 1), "_3"),
    "floor lost": (change("_1", y_min=lambda y: 0), "_1"),
    "another tie rule": (change("_8", tie=lambda t: "even"), "_8"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found_and_named(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, layer = FAULTS[fault]
    whole = frontend.graph_of

    def faulty(*args: Any, **kwargs: Any) -> nir.NIRGraph:
        graph = whole(*args, **kwargs)
        plant(graph)
        return graph

    model = network()
    assert from_snntorch(model, (2, 4, 4), T=8, signed=True).metadata["calif_checked"].endswith(" 0 near-ties")
    monkeypatch.setattr(frontend, "graph_of", faulty)
    with pytest.raises(ConversionError, match=rf"^{layer}: found .*; please report it, with the model; check=False"):
        from_snntorch(model, (2, 4, 4), T=8, signed=True)
    from_snntorch(model, (2, 4, 4), T=8, signed=True, check=False)


def test_weights_that_need_no_rounding_must_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), CaLIF(threshold=1000.0, init_hidden=True))
    model[0].weight.data = torch.tensor([[2.0**20 + 1, 3.0]])
    from_snntorch(model, (2,), T=2)
    whole = frontend.graph_of

    def faulty(*args: Any, **kwargs: Any) -> nir.NIRGraph:
        graph = whole(*args, **kwargs)
        graph.nodes["_1.s0.0_linear"].weight[0, 1] += 1
        return graph

    monkeypatch.setattr(frontend, "graph_of", faulty)
    with pytest.raises(ConversionError, match=r"^_1: found a charge of"):
        from_snntorch(model, (2,), T=2)


def test_a_dropped_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frontend._flat
    monkeypatch.setattr(frontend, "_flat", lambda model: [pair for pair in whole(model) if pair[0] != "7"])
    with pytest.raises(ConversionError, match=r"^_8: found a charge of"):
        from_snntorch(network(), (2, 4, 4), T=8, signed=True)


def test_own_images_find_what_random_ones_do_not() -> None:
    """A hook that acts on one picture alone: only who has it can see that the converted network lacks it."""
    model = nn.Sequential(nn.Linear(2, 2), CaLIF(init_hidden=True))
    model[0].register_forward_hook(lambda m, x, y: y + 10 * (x[0][:, :1] == 1) * (x[0][:, 1:] == -1))
    graph = from_snntorch(model, (2,), T=4, scale=0.25)
    assert "8 images (random and extreme images)" in graph.metadata["calif_checked"]
    with pytest.raises(ConversionError, match=r"^_1: found a charge of"):
        from_snntorch(model, (2,), T=4, scale=0.25, signed=True, check=torch.tensor([[0.25, -0.25]]))
    graph = from_snntorch(model, (2,), T=4, scale=0.25, check=torch.rand(70, 2))
    assert "70 images (the user's own)" in graph.metadata["calif_checked"]
    for wrong in ("yes", 1):
        with pytest.raises(ConversionError, match=r"^check: found (str|int); give True, False or a batch of images"):
            from_snntorch(model, (2,), T=4, check=wrong)  # type: ignore[arg-type]


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    model(torch.rand(5, 2, 4, 4))  # in mid-run, with gradients
    before = {k: (id(v), v.detach().clone()) for m in model.modules() for k, v in m._buffers.items()}
    random = torch.random.get_rng_state()
    v = model[1].v
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        from_snntorch(model, (2, 4, 4), T=8)
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training
    assert model[1].training
    assert model[1].v is v
    assert v.requires_grad
    assert not model[1]._forward_hooks
    for module in model.modules():
        for k, value in module._buffers.items():
            if module is model[-1]:
                assert value is not None
                assert before[k][0] == id(value)
                assert torch.equal(before[k][1], value)


def test_it_runs_the_model_for_one_window() -> None:
    model = network()
    calls: list[int] = []
    model.register_forward_hook(lambda m, x, y: calls.append(len(x[0])))
    from_snntorch(model, (2, 4, 4), T=8)
    assert calls == [8] * 8


def test_float_weights_that_are_rounded_pass() -> None:
    """Weights over 40 binary orders lose their last bits in whole numbers; that is documented, and no fault."""
    torch.manual_seed(1)
    first, second = nn.Linear(30, 20), nn.Linear(20, 9)
    model = nn.Sequential(first, CaLIF(init_hidden=True), second, CaLIF(init_hidden=True))
    model.double()
    with torch.no_grad():
        for m in (first, second):
            m.weight *= 10.0 ** -torch.arange(m.weight.shape[1]).double()
            m.weight[:, 0] = 0.9
    assert " equal, " in from_snntorch(model, (30,), T=20).metadata["calif_checked"]


def test_a_model_that_does_not_run_is_said() -> None:
    class Odd(CaLIF):
        pass

    model = nn.Sequential(nn.Linear(2, 2), CaLIF(init_hidden=True))
    model[0].register_forward_pre_hook(lambda m, x: 1 / 0)
    with pytest.raises(ConversionError, match=r"^check: found that the model does not run \(division by zero\)"):
        from_snntorch(model, (2,), T=4)
    with pytest.raises(ConversionError, match=r"^1: found a Odd"):
        from_snntorch(nn.Sequential(nn.Linear(2, 2), Odd(init_hidden=True)), (2,), T=4)


# --- swap_if -------------------------------------------------------------------------------------------------


def integrate_and_fire() -> nir.NIRGraph:
    rng = np.random.default_rng(0)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([2, 4, 4])}),
        "conv": nir.Conv2d((4, 4), rng.normal(size=(3, 2, 3, 3)), 1, 1, 1, 1, rng.normal(size=3) / 4),
        "if": nir.IF(r=np.ones((3, 4, 4)), v_threshold=np.full((3, 4, 4), 0.75)),
        "pool": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "pooled": nir.IF(r=np.ones((3, 2, 2)), v_threshold=np.full((3, 2, 2), 0.25)),
        "flat": nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1),
        "fc": nir.Affine(rng.normal(size=(12, 12)), rng.normal(size=12) / 4),
        "last": nir.IF(r=np.ones(12), v_threshold=np.ones(12)),
        "output": nir.Output(output_type={"output": np.array([12])}),
    }
    return nir.NIRGraph(nodes=nodes, edges=list(pairwise(nodes)), type_check=False)


IF_FAULTS: dict[str, tuple[Callable[[nir.NIRGraph], None], str]] = {
    "transposed weights": (change("last.s0.1_linear", weight=lambda w: w.T.copy()), "last"),
    "lost bias": (change("if", leak=lambda v: v * 0), "if"),
    "pool without its area": (change("pooled", v_threshold=lambda v: v / 4), "pooled"),
    "shifted kernel": (change("if.s0.0_conv2d", weight=moved), "if"),
    "initial membrane": (change("last", v_init=lambda v: v + 0.4 * 2.0**22), "last"),
    "threshold": (change("last", v_threshold=lambda v: v * 1.01), "last"),
}


@pytest.mark.parametrize("fault", IF_FAULTS)
def test_faults_in_a_swapped_graph_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, layer = IF_FAULTS[fault]
    whole = snntorch_swap_if.graph_of

    def faulty(*args: Any, **kwargs: Any) -> nir.NIRGraph:
        graph = whole(*args, **kwargs)
        plant(graph)
        return graph

    text = converters.swap_if(integrate_and_fire(), 8).metadata["calif_checked"]
    assert text.startswith("IF neurons on 8 images (random and extreme images), up to their first spikes: ")
    monkeypatch.setattr(snntorch_swap_if, "graph_of", faulty)
    with pytest.raises(ConversionError, match=rf"^{layer}: found a (charge|spike) of"):
        converters.swap_if(integrate_and_fire(), 8)
    converters.swap_if(integrate_and_fire(), 8, check=False)


def test_what_was_compared_stays_with_the_file(tmp_path: Any) -> None:
    graph = from_snntorch(network(), (2, 4, 4), T=4)
    converters.write(tmp_path / "own.nir", graph)
    assert converters.read(tmp_path / "own.nir").metadata["calif_checked"] == graph.metadata["calif_checked"]
