"""Two operations that the package does not know, defined here alone: all that is done with its own is done with them.

One is linear, one remembers counts and takes several layers. Neither says more than the contract asks for, so the
defaults are tried too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.network import Network
from converters.operations import OPERATIONS, Conv2d, Linear, Operation, Shape, register
from converters.quantised import GraphBuilder, QuantGraph
from converters.results import compare_counts
from tests.command_line import Calif


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for cls in (Rolled, Halves):
        register(cls)
    yield
    for cls in (Rolled, Halves):
        del OPERATIONS[cls.__name__]


@dataclass(frozen=True, eq=False)
class Rolled(Operation):
    """Neighbours' difference on a ring of channels, times ``weight``: linear."""

    weight: int = 1

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        return (counts[0] - counts[0].roll(1, dims=1)) * self.weight

    @property
    def gain(self) -> int:
        return 2 * abs(self.weight)


@dataclass(frozen=True, eq=False)
class Halves(Operation):
    """The product of the first half of the channels with the second, plus a table's entry: it remembers counts."""

    table: Tensor
    linear = False

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][0] != 2 * len(self.table):
            raise ConversionError("Halves", f"an input of shape {shapes[0]}", f"give {2 * len(self.table)} channels")
        return (shapes[0][0] // 2, *shapes[0][1:])

    def __call__(self, *counts: Tensor) -> Tensor:
        one, two = counts[0].chunk(2, dim=1)
        return one * two + self.table.to(one).reshape(-1, *[1] * (one.ndim - 2))

    def reach(self, *reach: int) -> int:
        return reach[0] ** 2 + int(self.table.abs().max())


def network(spatial: bool, counting: bool, coding_levels: int = 5) -> QuantGraph:
    """Input, two branches, an operation of this file on one or both, a dense layer that is read from its membrane."""
    g = torch.Generator().manual_seed(3)
    b = GraphBuilder()

    def weights(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=g)

    shape = (2, 3, 3) if spatial else (4,)
    x = b.input(shape, scale=0.25, q_min=-coding_levels, q_max=coding_levels)
    make: Callable[..., Any] = (lambda: Conv2d(weights(3, 2, 2, 2))) if spatial else (lambda: Linear(weights(3, 4)))
    common: dict[str, Any] = {"y_min": -5, "y_max": 5, "scale": 0.5}
    one = b.layer("one", [(x, make())], threshold=[2.5, 3.0, 4.0], bias=[0.5, -1.0, 0.0], **common)
    two = b.layer("two", [(x, make())], threshold=3.0, bias=0.25, **common)
    rolled = b.layer("rolled", [(one, Rolled(-2)), (two, Rolled())], threshold=3.0, **common)
    after = rolled
    if counting:
        both = b.concat("both", [one, rolled])
        table = torch.tensor([1, -2, 0])
        after = b.layer("halves", [(both, Halves(table)), (two, Rolled(3))], threshold=4.0, bias=1.0, **common)
    flat = b.flatten(after)
    out = Linear(weights(2, flat.shape[0]))
    return b.build(b.layer("out", [(flat, out)], threshold=1.0, y_min=0, y_max=0, scale=0.1, spiking=False))


def integers(q: QuantGraph, n: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(q.input.q_min, q.input.q_max + 1, (n, *q.input.shape), generator=g)


def by_hand(q: QuantGraph, x: Tensor) -> dict[str, Tensor]:
    """The counting layer's accumulator from the other layers' counts, written out without the contract."""
    counts = q.execute(integers=x)
    one, rolled, two = counts["one"], counts["rolled"], counts["two"]
    table = torch.tensor([1, -2, 0]).reshape(-1, *[1] * (one.ndim - 2))
    return {"halves": one * rolled + table + 3 * (two - two.roll(1, dims=1))}


@pytest.mark.parametrize("spatial", [False, True])
def test_executor(spatial: bool) -> None:
    q = network(spatial, counting=True)
    x = integers(q, 16)
    acc = by_hand(q, x)["halves"].double()
    expected = ((acc + 1.0) / 4.0).round().clamp(-5, 5)  # ties to even
    got = q.execute(integers=x)["halves"]
    assert torch.equal(got.double(), expected)
    assert len(got.unique()) > 4


@pytest.mark.parametrize("coding", ["isi", "direct"])
@pytest.mark.parametrize("counting", [False, True])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize(
    ("backend", "options"),
    [("snntorch", {}), ("fast", {}), ("closed_form", {}), ("brian2", {})],
)
def test_backends(backend: str, options: dict[str, Any], spatial: bool, counting: bool, coding: str) -> None:
    q = network(spatial, counting)
    x = integers(q)
    graph = converters.to_nir(q, T=7, coding=coding)
    r = converters.run(graph, integers=x, backend=backend, **options)
    assert [row.differing for row in compare_counts(r, q.execute(integers=x))] == [0] * (3 + counting)
    assert torch.allclose(r.logits, q.logits(q.execute(integers=x)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("settle_from", [0, 3])
def test_early_rounding_and_batches(settle_from: int) -> None:
    q = network(True, True)
    x = integers(q, 5)
    for options in ({"backend": "snntorch"}, {"backend": "fast"}):
        r = converters.run(converters.to_nir(q), integers=x, settle_from=settle_from, batch=2, **options)
        assert sum(row.differing for row in compare_counts(r, q.execute(integers=x))) == 0


@pytest.mark.parametrize("spatial", [False, True])
def test_files(spatial: bool, tmp_path: Path) -> None:
    q = network(spatial, True)
    x = integers(q)
    save_quantised(tmp_path / "q.safetensors", q)
    back = load_quantised(tmp_path / "q.safetensors")
    assert all(torch.equal(a, back.execute(integers=x)[k]) for k, a in q.execute(integers=x).items())
    converters.write(tmp_path / "net.nir", converters.to_nir(q, T=7))
    read = converters.read(tmp_path / "net.nir")
    r = converters.run(read, integers=x)
    assert sum(row.differing for row in compare_counts(r, q.execute(integers=x))) == 0
    del OPERATIONS["Halves"]
    try:
        with pytest.raises(ConversionError, match=r"the unknown operation 'Halves'; known here are .*Rolled"):
            converters.read(tmp_path / "net.nir")
    finally:
        register(Halves)


@pytest.mark.parametrize("counting", [False, True])
def test_cross_check(counting: bool) -> None:
    q = network(True, counting)
    graph = converters.to_nir(q, T=6)
    images = integers(q, 2) * q.input.scale
    whole = converters.cross_check(graph, images, backends=("snntorch", "brian2"))
    assert whole.spike_mismatches == 0
    assert whole.spikes_compared > 0
    sampled = converters.cross_check(graph, images, backends=("snntorch", "brian2"), sample=3)
    assert sampled.spike_mismatches == 0


def test_inspect(tmp_path: Path, calif: Calif) -> None:
    converters.write(tmp_path / "net.nir", converters.to_nir(network(True, True), T=7))
    code, out, err = calif("inspect", tmp_path / "net.nir", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)["layers"]}
    assert rows["halves"]["sources"] == ["one", "rolled", "two"]


@pytest.mark.parametrize("target", ["chain", "primitives"])
def test_lowering(target: str) -> None:
    """A linear one between vectors is a dense layer by default; on maps it is refused; so is one with a memory."""
    q = network(False, False)
    stock = converters.lower(converters.to_nir(q, T=5), target=target)
    assert {type(n).__name__ for n in stock.nodes.values()} <= {
        "Affine", "I", "Input", "LIF", "Output", "Scale", "Threshold"
    }  # fmt: skip
    with pytest.raises(ConversionError, match=r"rolled: found an operation from shape .*; define its method stock"):
        converters.lower(converters.to_nir(network(True, False), T=5), target=target)
    with pytest.raises(ConversionError, match="halves: found Halves, an operation that remembers counts"):
        converters.lower(converters.to_nir(network(False, True), T=5), target=target)


def test_costs() -> None:
    q = network(False, True)
    net = Network.from_graph(converters.to_nir(q))
    # one: 2 in each rolled neuron, and every product by default; the input: 3 + 3 dense connections
    assert net.fan_out["input"].tolist() == [6.0] * 4
    assert net.fan_out["one"].tolist() == [2.0 + 3.0] * 3
    assert net.changes["halves"] == 2 * (25 + 2) + 6


def test_names_are_taken_once() -> None:
    @dataclass(frozen=True, eq=False)
    class Linear(Rolled):
        pass

    with pytest.raises(ConversionError, match="the name of another operation"):
        register(Linear)
