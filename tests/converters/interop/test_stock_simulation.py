"""Files of stock neurons that other tools wrote: each tool's own simulation of what it exported is the oracle."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

import converters
from converters.cli import main
from converters.errors import ConversionError, FileFormatError
from converters.graphs.stock_simulation import simulate_stock

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")


def from_snntorch(tmp_path: Path, beta: float = 0.9, shape: tuple[int, int, int] = (2, 6, 6), classes: int = 5) -> Any:
    """A leaky network, its file, and what it does."""
    import snntorch as snn
    from snntorch.export_nir import export_to_nir

    def neuron(n: Any) -> Any:
        kw = {
            "beta": torch.full((n,), beta),
            "threshold": torch.ones(n),
            "reset_mechanism": "zero",
            "reset_delay": False,
        }
        return snn.Leaky(init_hidden=True, **kw)

    size = int(np.prod(shape))
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 9), neuron(9), nn.Linear(9, classes), neuron(classes))
    with redirect_stdout(io.StringIO()):
        graph = export_to_nir(net, torch.randn(1, *shape), ignore_dims=[0])
    nir.write(tmp_path / "snn.nir", graph)
    for layer in (net[2], net[4]):
        layer.reset_mem()
    return tmp_path / "snn.nir", net


def test_a_file_of_snntorch(tmp_path: Path) -> None:
    path, net = from_snntorch(tmp_path)
    with pytest.raises(FileFormatError, match="begins with a digit"):
        converters.read(path)
    graph = converters.read(path, rename=True)
    assert ("_0", "_1") in graph.edges
    x = 5 * torch.randn(60, 4, 2, 6, 6)
    with torch.no_grad():
        own = torch.stack([net(step) for step in x])
    r = converters.simulate_stock(graph, x, dt=1e-4)
    assert own.sum() > 20
    assert torch.equal(r.outputs.float(), own)
    assert torch.equal(r.spikes["_4"], r.outputs)


def test_a_file_of_spikingjelly(tmp_path: Path) -> None:
    home = pytest.importorskip("spikingjelly.activation_based.nir_exchange", reason="SpikingJelly is not installed")
    from spikingjelly.activation_based import functional, layer, neuron

    net = nn.Sequential(
        layer.Conv2d(1, 2, 3, padding=1), neuron.IFNode(), layer.AvgPool2d(2), layer.Flatten(), layer.Linear(32, 3),
        neuron.LIFNode(tau=2.0), layer.Linear(3, 4), neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=0.5),
    )  # fmt: skip
    with torch.no_grad():
        net[4].weight.mul_(12)
        net[6].weight.mul_(4)
    home.export_to_nir(net, torch.randn(1, 1, 8, 8), tmp_path / "sj.nir")
    x = 4 * torch.randn(40, 3, 1, 8, 8)
    functional.reset_net(net)
    net = net.double()
    with torch.no_grad():
        own = torch.stack([net(step) for step in x.double()])
    graph = converters.read(tmp_path / "sj.nir", rename=True)
    with pytest.raises(ConversionError, match="whose time step no file says; give dt"):
        simulate_stock(graph, x)
    found = simulate_stock(graph, x, dt=1e-4)
    assert own.sum() > 20
    assert torch.equal(found.outputs, own)


def test_a_file_of_norse(tmp_path: Path) -> None:
    nt = pytest.importorskip("norse.torch", reason="Norse is not installed")
    from norse.torch.functional.iaf import IAFParameters

    cells = [nt.IAFCell(IAFParameters(v_th=torch.full((n,), v))) for n, v in ((4, 1.0), (3, 0.5))]
    net = nt.SequentialState(nn.Linear(5, 4), cells[0], nn.Linear(4, 3), cells[1])
    nir.write(tmp_path / "norse.nir", nt.to_nir(net, torch.randn(1, 5)))
    graph = converters.read(tmp_path / "norse.nir", rename=True)
    x, state, own = torch.randn(30, 2, 1, 5), None, []
    with torch.no_grad():
        for step in x:
            s, state = net(step, state)
            own.append(s)
    found = simulate_stock(graph, x)  # r = 1: one unit of charge per step
    assert torch.stack(own).sum() > 10
    assert torch.equal(found.outputs.float(), torch.stack(own))


def one_if(weight: float = 0.5, threshold: float = 1.0, r: float = 1.0, v_reset: float = 0.0) -> Any:
    one = np.ones(1)
    return nir.NIRGraph.from_list(
        nir.Linear(weight=np.array([[weight]])), nir.IF(r=r * one, v_threshold=threshold * one, v_reset=v_reset * one)
    )


def test_strictly_above_the_threshold_as_nir_has_it() -> None:
    x = torch.ones(8, 1, 1)
    assert simulate_stock(one_if(), x).outputs.flatten().tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert simulate_stock(one_if(), x, strict=False).outputs.flatten().tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert simulate_stock(one_if(r=1e4), x).dt == 1e-4
    assert simulate_stock(one_if(r=1e4), x, dt=5e-5).outputs.sum() == 1  # half a unit per step


def lif(tau: float = 1e-3) -> Any:
    one = np.ones(1)
    return nir.NIRGraph.from_list(nir.LIF(tau=tau * one, r=one, v_leak=0 * one, v_threshold=one))


def cuba() -> Any:
    one = np.ones(1)
    return nir.NIRGraph.from_list(nir.CubaLIF(one, one, one, 0 * one, one, 0 * one, one))


def looped() -> Any:
    g = one_if()
    g.edges.append(("if", "linear"))
    return g


def mixed() -> Any:
    one = np.ones(1)
    parts = [nir.IF(r=r * one, v_threshold=one) for r in (1.0, 2.0)]
    return nir.NIRGraph.from_list(*parts)


REFUSED = [
    (lif, None, "lif: found a LIF node, whose time step"),
    (lif, 1e-2, "lif: found a time constant of 0.001 s with steps of 0.01 s"),
    (cuba, 1e-4, "cubalif: found a CubaLIF node; tools disagree"),
    (looped, None, "linear: found a cycle of edges"),
    (mixed, None, "IF nodes: found resistances"),
    (one_if, -1.0, "dt: found -1.0"),
]


@pytest.mark.parametrize(("make", "dt", "message"), REFUSED)
def test_what_is_not_clear_is_refused(make: Callable[..., Any], dt: float | None, message: str) -> None:
    with pytest.raises(ConversionError, match=f"^{message}"):
        simulate_stock(make(), torch.ones(2, 1, 1), dt=dt)
    with pytest.raises(ConversionError, match=r"^inputs: found shape"):
        simulate_stock(one_if(), torch.ones(2, 1, 7))


# --- IF neurons swapped for Ca-LIF ---------------------------------------------------------------


def relu_network() -> Any:
    """An IF network with weights on a grid of 1/64, as another tool would write it."""
    gen = torch.Generator().manual_seed(2)

    def weights(*shape: Any) -> Any:
        return (torch.randint(-40, 41, shape, generator=gen) / 64).numpy()

    def neurons(*shape: Any, threshold: Any) -> Any:
        return nir.IF(r=np.full(shape, 1e4), v_threshold=np.full(shape, threshold))

    return nir.NIRGraph.from_list(
        nir.Conv2d((6, 6), weights(4, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1, weights(4)),
        neurons(4, 6, 6, threshold=1.5),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        neurons(4, 3, 3, threshold=4.0),
        nir.Flatten(input_type={"input": np.array([4, 3, 3])}, start_dim=0, end_dim=-1),
        nir.Affine(weights(5, 36), weights(5)),
        neurons(5, threshold=2.0),
    )


def test_swapped_neurons_round_like_relu_layers(tmp_path: Path) -> None:
    T = 16
    nir.write(tmp_path / "if.nir", relu_network())
    swapped = converters.swap_if(converters.read(tmp_path / "if.nir"), T, scale=1 / T)
    x = torch.rand(3, 2, 6, 6)
    counts = converters.run(swapped, x).counts
    g = relu_network().nodes
    n = torch.round(x * T).double()
    z = torch.conv2d(n, torch.from_numpy(g["conv2d"].weight).double(), None, padding=1)
    z = z + T * torch.from_numpy(g["conv2d"].bias).double()[:, None, None]
    first = torch.round(z / 1.5).clamp(0, T)
    pooled = torch.round(nn.functional.avg_pool2d(first, 2)).clamp(0, T)
    z = pooled.flatten(1) @ torch.from_numpy(g["affine"].weight).double().T + T * torch.from_numpy(g["affine"].bias)
    last = torch.round(z / 2.0).clamp(0, T)
    assert list(counts) == ["_if", "if_1", "if_2"] or len(counts) == 3
    for found, right in zip(counts.values(), (first, pooled, last), strict=True):
        assert torch.equal(found.double(), right)
        assert right.unique().numel() > 3
    # the stock network, with its hard reset, does not do this
    stock = simulate_stock(relu_network(), n[None].expand(T, *n.shape) / T)
    assert not torch.equal(stock.outputs.sum(0), last)


def with_node(change: Callable[..., Any]) -> Any:
    g = relu_network()
    change(g.nodes)
    return g


def leaky_end(nodes: Any) -> None:
    one = np.ones(5)
    nodes["if_2"] = nir.LIF(tau=one, r=one, v_leak=0 * one, v_threshold=one)


def varied(nodes: Any) -> None:
    nodes["if"].v_threshold = nodes["if"].v_threshold + np.arange(6)


def reset_elsewhere(nodes: Any) -> None:
    nodes["if_1"].v_reset = nodes["if_1"].v_reset - 1


def wrong_size(nodes: Any) -> None:
    nodes["affine"] = nir.Affine(np.ones((5, 35)), np.ones(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (leaky_end, "if_2: found a LIF node; its membrane decays"),
        (varied, "if: found thresholds that vary within a channel"),
        (reset_elsewhere, "if_1: found a reset to another potential"),
        (wrong_size, "affine: found an input of shape"),
    ],
)
def test_what_cannot_be_swapped(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConversionError, match=f"^{message}"):
        converters.swap_if(with_node(change), 8)
    branching = relu_network()
    branching.edges.append(("if", "if_1"))
    with pytest.raises(ConversionError, match=r"^if: found a branch"):
        converters.swap_if(branching, 8)


def test_the_command_line_runs_a_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, net = from_snntorch(tmp_path, shape=(1, 32, 32), classes=10)

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["run", str(path), "--dataset", "digits", "--images", "20", *arguments])
        return int(stopped.value.code or 0), *capsys.readouterr()

    code, out, err = call("--window", "12", "--dt", "1e-4", "--coding", "direct", "--json")
    row = json.loads(out)["windows"][0]
    assert (code, err, row["images"], row["T"]) == (0, "", 20, 12)
    from converters.zoo.datasets import load

    data = load("digits", "test").first(20)
    for layer in (net[2], net[4]):
        layer.reset_mem()
    with torch.no_grad():
        total = torch.stack([net(data.pixels) for _ in range(12)]).sum(0)
    assert row["snn_accuracy"] == float((total.argmax(1) == data.labels).double().mean())
    assert call("--window", "12", "--dt", "1e-4")[0] == 0
    for missing, message in ((("--window", "12"), "give dt"), (("--dt", "1e-4"), "say how many steps")):
        code, out, err = call(*missing)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
