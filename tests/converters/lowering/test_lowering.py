"""Lowered networks in simulators that were not written here, spike for spike against the Ca-LIF step loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import converters
from calif_plugins.parameters import TieRule
from converters.errors import ConversionError
from converters.interop.feeding import Expected, expected, layer_nodes
from converters.interop.stock import CannotRun, run_stock
from converters.lowering import lattice_network, lower
from converters.lowering.lattice import certify
from converters.operations import Linear
from converters.quantised import GraphBuilder, QuantGraph
from converters.zoo.datasets import load
from converters.zoo.named import find_checkpoint, load_checkpoint
from tests.converters.sample_graphs import GRAPHS, images

CHAINS = ("lenet", "depthwise", "signed_input")  # graphs without branches


def dense(levels: int = 8, seed: int = 0, tie: TieRule = "even", signed: bool = True) -> QuantGraph:
    """Dense layers; the second has ties, a signed range, and pixels may be negative."""
    gen = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((6,), scale=1 / levels, q_min=-levels if signed else 0, q_max=levels)

    def weights(out: int, into: int) -> Linear:
        return Linear(torch.randint(-7, 8, (out, into), generator=gen, dtype=torch.int8))

    h = b.layer(
        "h.1", [(x, weights(7, 6))], threshold=torch.rand(7, generator=gen) * 10 + 5,
        bias=torch.rand(7, generator=gen) * 30 - 15, y_min=0, y_max=levels, scale=0.1, tie=tie,
    )  # fmt: skip
    h = b.layer("h2", [(h, weights(5, 7))], threshold=8.0, bias=4.0, y_min=-levels, y_max=levels, scale=0.1, tie=tie)
    return b.build(
        b.layer(
            "o", [(h, weights(4, 5))], threshold=torch.rand(4, generator=gen) * 10 + 5, bias=1.0, y_min=-3, y_max=5,
            scale=0.1, tie=tie,
        )
    )  # fmt: skip


def differing(simulator: str, path: Path, e: Any, nodes: Any, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    r = run_stock(simulator, path, e.inputs, [nodes[k] for k in e.spikes], dtype=dtype)
    return {k: int((r.outputs[nodes[k]].reshape(v.shape) != v).sum()) for k, v in e.spikes.items()}


def stored(tmp_path: Path, graph: nir.NIRGraph, **options: Any) -> tuple[Path, dict[str, str]]:
    path = tmp_path / "stock.nir"
    converters.write(path, lower(graph, **options))
    return path, layer_nodes(converters.read(path))


@pytest.mark.parametrize("simulator", ["spikingjelly", "snntorch", "norse", "sinabs"])
@pytest.mark.parametrize("tie", ["even", "up"])
def test_dense_networks_are_exact_in_every_simulator(simulator: str, tie: TieRule, tmp_path: Path) -> None:
    pytest.importorskip(simulator, reason=f"{simulator} is not installed")
    q = dense(tie=tie)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g)
    e = expected(lattice_network(g), images(q, 6))
    assert certify(lattice_network(g))["h2"].ties.any()
    assert e.negative > 20
    assert len(e.inputs) > e.window + 1
    assert differing(simulator, path, e, nodes) == dict.fromkeys(nodes, 0)


@pytest.mark.parametrize("simulator", ["spikingjelly", "snntorch", "norse"])
@pytest.mark.parametrize("name", CHAINS)
def test_feature_maps_are_exact(name: str, simulator: str, tmp_path: Path) -> None:
    q = GRAPHS[name](levels=8)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g)
    e = expected(lattice_network(g), images(q, 3))
    assert e.negative > 0
    assert set(differing(simulator, path, e, nodes).values()) == {0}


@pytest.mark.parametrize("name", ["residual", "residual_unequal", "concat"])
def test_branches_are_exact_where_the_executor_follows_them(name: str, tmp_path: Path) -> None:
    q = GRAPHS[name](levels=8)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g)
    e = expected(lattice_network(g), images(q, 3))
    for simulator in ("spikingjelly", "snntorch"):
        assert set(differing(simulator, path, e, nodes).values()) == {0}
    # walks depth first: an addition is computed before its second branch, one step late
    assert sum(differing("norse", path, e, nodes).values()) > 0


def test_counts_are_those_of_the_graph_and_of_the_quantised_network() -> None:
    for name in GRAPHS:
        q = GRAPHS[name](levels=8)
        e = expected(lattice_network(converters.to_nir(q)), images(q, 5))
        exact = q.execute(images(q, 5))
        for layer, counts in e.counts.items():
            assert (counts == exact[layer]).all(), (name, layer)


def test_wide_layers_run_in_float64_and_need_it(tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.input((1,), scale=1.0, q_min=0, q_max=8)
    # a (negative) leak of 100 units, far below what float32 can add to a membrane of 2**32; it decides when 4 fire
    threshold, bias = 4 + 600 * 2.0**-32, 800 * 2.0**-32
    h = b.layer("h", [(x, Linear(torch.tensor([[1]])))], threshold=threshold, bias=bias, y_min=0, y_max=8, scale=1.0)
    g = converters.to_nir(b.build(h), T=8)
    path, nodes = stored(tmp_path, g, bits=32)
    assert int(converters.read(path).metadata["calif_precision"]) == 64
    e = expected(lattice_network(g, bits=32), integers=torch.tensor([[4], [8]]))
    for simulator in ("spikingjelly", "norse"):
        assert differing(simulator, path, e, nodes, torch.float64) == {"h": 0}
        assert differing(simulator, path, e, nodes, torch.float32)["h"] > 0
    with pytest.raises(CannotRun, match=r"its spikes are float32.*(?i:float.*double)"):
        differing("snntorch", path, e, nodes, torch.float64)


def test_an_executor_that_cannot_says_why(tmp_path: Path) -> None:
    pytest.importorskip("sinabs", reason="sinabs is not installed")
    path, nodes = stored(tmp_path, converters.to_nir(GRAPHS["lenet"](levels=8)))
    with pytest.raises(CannotRun, match="fails on feature maps; ValueError: The truth value of an array"):
        run_stock("sinabs", path, torch.zeros(2, 1, 1, 8, 8), list(nodes.values()))
    with pytest.raises(ConversionError, match="unknown_sim"):
        run_stock("unknown_sim", path, torch.zeros(2, 1, 1, 8, 8), [])


FRESH = """
import contextlib, io, sys
import nir, numpy as np, torch
assert not [m for m in sys.modules if m.startswith(("converters", "calif"))]
path, data = sys.argv[1:]
given = np.load(data)
x = torch.from_numpy(given["inputs"])

def run(net):
    seen = {name: [] for name in given.files if name != "inputs"}
    modules = dict(net.named_modules())
    for name, to in seen.items():
        modules[name].register_forward_hook(lambda m, i, o, to=to: to.append(o))
    state = None
    with torch.no_grad():
        for step in x:
            _, state = net(step, state)
    return sum(int((torch.stack(o).numpy().reshape(given[n].shape) != given[n]).sum()) for n, o in seen.items())

with contextlib.redirect_stdout(io.StringIO()):
    from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly
    from snntorch.import_nir import import_from_nir as snntorch
    import norse.torch
    nets = [spikingjelly(path), snntorch(nir.read(path)), norse.torch.from_nir(nir.read(path), dt=1e-4)]
    differing = [run(net) for net in nets]
print(differing)
"""


def fresh(tmp_path: Path, path: Path, e: Expected, nodes: dict[str, str]) -> list[int]:
    """Differing spikes of all layers in SpikingJelly, snnTorch and Norse, without a line of ours in the process."""
    data = tmp_path / "data.npz"
    spikes: dict[str, Any] = {nodes[k]: v.numpy() for k, v in e.spikes.items()}
    np.savez(data, inputs=e.inputs.numpy(), **spikes)
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_fresh_process_with_the_simulators_alone(tmp_path: Path) -> None:
    """Convolution, pool and dense layers, from disk."""
    q = GRAPHS["lenet"](levels=8)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g)
    e = expected(lattice_network(g), images(q, 4))
    assert (e.spikes["fc2"] < 0).sum() > 5
    assert fresh(tmp_path, path, e, nodes) == [0, 0, 0]


@pytest.mark.slow
def test_a_trained_network_on_real_images(tmp_path: Path) -> None:
    """LeNet-5 with 8 levels on MNIST, full size: every spike of the window and of the rounding phase."""
    q, _ = load_checkpoint(str(find_checkpoint("lenet5-mnist-8")))
    try:
        data = load("mnist", "test", download=False).first(20)
    except ConversionError as error:
        pytest.skip(f"no MNIST: {error}")
    g = converters.to_nir(q, T=8)
    path, nodes = stored(tmp_path, g)
    e = expected(lattice_network(g), data.pixels)
    exact = q.execute(data.pixels)
    assert all((counts == exact[layer]).all() for layer, counts in e.counts.items())
    assert e.negative > 1000
    assert fresh(tmp_path, path, e, nodes) == [0, 0, 0]


@st.composite
def networks(draw: DrawFn) -> tuple[QuantGraph, int]:
    """Two small dense layers with any gate, ceiling, sign of the leak and tie rule."""
    seed, levels = draw(st.integers(0, 2**31)), draw(st.integers(1, 9))
    gen = torch.Generator().manual_seed(seed)
    tie: TieRule = draw(st.sampled_from(["even", "up"]))
    b = GraphBuilder()
    x = b.input((3,), scale=1.0, q_min=draw(st.sampled_from([0, -levels])), q_max=levels)
    size = 3
    for k in range(2):
        out = draw(st.integers(1, 4))
        whole = draw(st.booleans())  # whole thresholds have ties
        threshold = torch.randint(1, 9, (out,), generator=gen) if whole else torch.rand(out, generator=gen) * 8 + 0.3
        bias = torch.rand(out, generator=gen) * 20 - 10
        w = torch.randint(-5, 6, (out, size), generator=gen, dtype=torch.int8)
        x = b.layer(
            f"k{k}", [(x, Linear(w))], threshold=threshold, bias=bias.round() if whole else bias,
            y_min=draw(st.sampled_from([0, -1, -levels])), y_max=draw(st.integers(1, levels)), scale=1.0, tie=tie,
        )  # fmt: skip
        size = out
    return b.build(x), levels + draw(st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(networks(), st.integers(0, 2**31))
def test_random_networks_are_exact(tmp_path_factory: pytest.TempPathFactory, network: Any, seed: int) -> None:
    q, window = network
    g = converters.to_nir(q, T=window)
    path, nodes = stored(tmp_path_factory.mktemp("stock"), g)
    gen = torch.Generator().manual_seed(seed)
    integers = torch.randint(q.input.q_min, q.input.q_max + 1, (20, 3), generator=gen)
    e = expected(lattice_network(g), integers=integers)
    exact = q.execute(integers=integers)
    for layer, counts in e.counts.items():
        assert (counts == exact[layer]).all()
    assert set(differing("spikingjelly", path, e, nodes).values()) == {0}


def test_a_tie_rule_half_implemented_would_be_seen(tmp_path: Path) -> None:
    """The tempting mistake: without the parity row, ties on an odd count stay where they are."""
    q = dense()
    g = converters.to_nir(q)
    stock = lower(g)
    rows = stock.nodes["l001_f_pm"].tau.shape[0]
    assert rows == 4 * 5 + 2
    stock.nodes["l001_e_and"].weight[:, 6 * 5 : 7 * 5] = 0  # the parity's column
    path = tmp_path / "mistake.nir"
    converters.write(path, stock)
    e = expected(lattice_network(g), images(q, 20))
    wrong = differing("spikingjelly", path, e, layer_nodes(stock))
    assert wrong["h.1"] == 0
    assert wrong["h2"] > 0


@pytest.mark.parametrize("name", GRAPHS)
def test_primitives_are_exact_with_a_map_of_four_entries(name: str, tmp_path: Path) -> None:
    q = GRAPHS[name](levels=8)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g, target="primitives")
    e = expected(lattice_network(g), images(q, 3))
    assert e.negative > 0
    assert set(differing("nirtorch", path, e, nodes).values()) == {0}
    stock = {nir.Input, nir.Output, nir.I, nir.Threshold, nir.Scale, nir.Conv2d}
    assert {type(n) for n in nir.read(path, type_check=False).nodes.values()} == stock


@pytest.mark.parametrize("tie", ["even", "up"])
def test_dense_primitives(tie: TieRule, tmp_path: Path) -> None:
    q = dense(tie=tie)
    g = converters.to_nir(q)
    path, nodes = stored(tmp_path, g, target="primitives")
    e = expected(lattice_network(g), images(q, 20))
    assert differing("nirtorch", path, e, nodes) == dict.fromkeys(nodes, 0)
    nir.read(path)  # types checked


def test_direct_coding_is_refused() -> None:
    g = converters.to_nir(dense(), coding="direct")
    with pytest.raises(ConversionError, match="coding isi"):
        lower(g)


def test_unknown_target() -> None:
    with pytest.raises(ConversionError, match="chain, primitives, plain_if"):
        lower(converters.to_nir(dense()), target="verilog")


def test_files_are_stock_and_our_reader_takes_them(tmp_path: Path) -> None:
    path, nodes = stored(tmp_path, converters.to_nir(GRAPHS["lenet"](levels=8)))
    graph = nir.read(path)  # NIR's own reader, types checked
    assert {type(n) for n in graph.nodes.values()} == {nir.Input, nir.Output, nir.Conv2d, nir.LIF}
    assert list(nodes) == ["conv", "pool", "fc1", "fc2"]
    assert list(graph.nodes) == sorted(graph.nodes)
