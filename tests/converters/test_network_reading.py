"""What a Ca-LIF graph may mean: sizes, sums, weights and parameters are bounded, and walks over graphs are linear."""

from __future__ import annotations

import time
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
from converters.graphs.order import in_order
from converters.graphs.shapes import check_size
from converters.network import Network
from converters.nodes import CaLIF, SpikeEncoder


def net(
    nodes: dict[str, Any], *paths: str, shape: tuple[int, ...] = (2,), out: tuple[int, ...] = (2,), **own: Any
) -> Any:
    """``image > enc`` and ``y > result``, and what is between them: paths such as ``"enc > a > y"``."""
    window = own.pop("window", 4)
    fixed = {
        "image": nir.Input(np.array(own.pop("declared", shape))),
        "enc": SpikeEncoder(np.array(shape), 1.0, 0, 4, window),
        "y": CaLIF(np.array(out), own.pop("threshold", 2.0), own.pop("leak", 0.0), y_max=4, window=window),
        "result": nir.Output(np.array(own.pop("result", out))),
    }
    edges = [pair for path in ("image > enc", "y > result", *paths) for pair in pairwise(path.split(" > "))]
    return nir.NIRGraph({**fixed, **nodes}, edges, type_check=False)


def dense(weight: Any) -> nir.Linear:
    return nir.Linear(weight=np.asarray(weight))


def conv(**changed: Any) -> nir.Conv2d:
    fields: dict[str, Any] = {
        "input_shape": None, "weight": np.ones((1, 1, 1, 1)), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1),
        "groups": 1, "bias": np.zeros(1),
    }  # fmt: skip
    return nir.Conv2d(**{**fields, **changed})


def weighted(weight: Any) -> Any:
    return net({"fc": dense(weight)}, "enc > fc > y")


MAP: dict[str, Any] = {"shape": (1, 2, 2), "out": (1, 2, 2)}
SQUARE = np.array([[1, 2], [3, 4]])
REFUSED: dict[str, tuple[Any, str]] = {
    "-2**63": (lambda: weighted(np.full((2, 2), -(2**63))), "fc: found a weight of 9.223e.18; the limit is 16777216"),
    "2**64 - 1": (lambda: weighted(np.full((2, 2), 2**64 - 1, dtype=np.uint64)), "fc: found a weight of 1.845e.19"),
    "1e30": (lambda: weighted(np.full((2, 2), 1e30)), "fc: found a weight of 1e.30"),
    "2**24 + 1": (lambda: weighted(SQUARE * 2**24), "fc: found a weight"),
    "bool": (lambda: weighted(SQUARE > 1), "fc: found weights of type bool"),
    "complex": (lambda: weighted(SQUARE.astype(complex)), "fc: found weights of type complex128"),
    "NaN": (lambda: net({"s": nir.Scale(np.array([np.nan, 1]))}, "enc > s > y"), "s: found weights that are not whole"),
    "a product of scales": (
        lambda: net({f"s{k}": nir.Scale(np.full(2, 2.0)) for k in range(4000)},
                    " > ".join(["enc", *(f"s{k}" for k in range(4000)), "y"])),
        r"y: found sums of up to 2\^400\d; float64 holds whole numbers below 2\^53",
    ),
    "a sum with the leak": (lambda: net({}, "enc > y", leak=2.0**52), r"y: found sums of up to 2\^54"),
    "threshold 1e-320": (lambda: net({}, "enc > y", threshold=1e-320), "CaLIF.v_threshold: found 1e-320; below"),
    "threshold 1e308": (lambda: net({}, "enc > y", threshold=1e308), r"CaLIF.v_threshold: found 1e\+308; up to 2\^53"),
    "q_max": (lambda: SpikeEncoder(np.array([2]), 1.0, 0, np.inf), "SpikeEncoder.q_max: found inf; give a whole"),
    "a scale of many digits": (lambda: CaLIF(np.array([2]), 1.0, 0.0, scale=10**400), "CaLIF.scale: found a number of"),
    "no scale": (lambda: CaLIF(np.array([2]), 1.0, 0.0, scale=None), "CaLIF.scale: found None; it must be a number"),  # type: ignore[arg-type]
    "scales": (lambda: SpikeEncoder(np.array([2]), [1.0, 2.0]), "SpikeEncoder.scale: found"),
    "groups [1, 7]": (
        lambda: net({"c": conv(groups=[1, 7])}, "enc > c > y", **MAP), r"c: found groups of \[1, 7\]"
    ),
    "groups True": (
        lambda: net({"c": conv(groups=True)}, "enc > c > y", **MAP), r"c: found groups of \[True\]"
    ),
    "stride 0": (
        lambda: net({"c": conv(stride=(0, 1))}, "enc > c > y", **MAP), "c: found a geometry"
    ),
    "another input": (lambda: net({}, "enc > y", declared=(3,)), r"image: found a declared shape of \(3,\); "),
    "another output": (lambda: net({}, "enc > y", result=(3,)), r"result: found a declared shape of \(3,\); "),
    "two inputs": (
        lambda: net({"second": nir.Input(np.array([2]))}, "second > enc > y"), r"found 2 Input nodes \(image, second\)"
    ),
    "an input past the encoder": (lambda: net({}, "enc > y", "image > y"), "enc: found other edges than one"),
    "a long cycle": (
        lambda: net({"a": nir.Scale(np.ones(2)), "b": nir.Scale(np.ones(2))}, "enc > a > b > a", "b > y"),
        "(a|b): found a cycle of edges",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_exact_meaning_is_one_line(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ConversionError, match=message) as caught:
        Network.from_graph(make())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "f2", "f4", "f8"]
)
def test_whole_weights_of_every_type_are_the_same(dtype: str) -> None:
    x = torch.tensor([[1.0, 4.0]])
    found = converters.run(weighted(SQUARE.astype(dtype)), x, record="spikes", fast=False)
    assert found.counts["y"].tolist() == [[4, 4]]  # 9 / 2 and 19 / 2, at most 4


def diamonds(n: int) -> Any:
    nodes: dict[str, Any] = {}
    paths, last = list[str](), "enc"
    for k in range(n):
        nodes |= {f"{c}{k}": nir.Scale(np.ones(2)) for c in "abs"}
        paths += [f"{last} > a{k} > s{k}", f"{last} > b{k} > s{k}"]
        last = f"s{k}"
    return net(nodes, *paths, f"{last} > y")


def row(n: int, value: float = 1.0) -> Any:
    return net({f"s{k}": nir.Scale(np.full(2, value)) for k in range(n)},
               " > ".join(["enc", *(f"s{k}" for k in range(n)), "y"]))  # fmt: skip


def test_walks_take_time_in_proportion_to_the_graph() -> None:
    """Seconds are generous: what is not linear takes minutes, or the stack."""
    x = torch.tensor([[1.0, 4.0]])
    start = time.process_time()
    with pytest.raises(ConversionError, match=r"y: found 16,777,216 paths of operations .* merge equal ones"):
        Network.from_graph(diamonds(24))
    assert len(Network.from_graph(diamonds(6)).output.synapses) == 64
    assert converters.run(diamonds(1), x).counts["y"].tolist() == [[1, 4]]
    long = row(5_000, -1.0)
    check_size(long)
    assert Network.from_graph(long).output.synapses[0].ops == ()  # an even number of signs is no operation
    assert converters.run(long, x).counts["y"].tolist() == [[0, 2]]
    assert time.process_time() - start < 30


def test_the_size_of_a_network_is_known_before_it_is_built(tmp_path: Path) -> None:
    wide = net(
        {"c": conv(padding=(2**14, 2**14), input_shape=(2, 2))}, "enc > c > y", shape=(1, 2, 2), out=(1, 32770, 32770)
    )
    pool = nir.SumPool2d(np.array([2**15, 2**15]), np.array([1, 1]), np.array([2**14, 2**14]))
    kernel = net({"p": pool}, "enc > p > y", shape=(1, 2, 2), out=(1, 3, 3))
    long = net({}, "enc > y", window=2**31 - 1)
    for k, (graph, message) in enumerate(
        [
            (wide, r"c: found 1,073,872,908 values for each image .* the limit is 134,217,728; .*--allow-large"),
            (kernel, "p: found 1,073,741,8.. values"),
            (long, r"enc: found a window of 2,147,483,647 steps; the limit is 1,048,576"),
        ]
    ):
        path = tmp_path / f"{k}.nir"
        converters.write(path, graph)
        start = time.perf_counter()
        with pytest.raises(FileFormatError, match=message):
            converters.read(path)
        assert time.perf_counter() - start < 5
        assert set(converters.read(path, allow_large=True).nodes) == set(graph.nodes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=16))
def test_an_order_or_a_node_of_a_cycle(pairs: list[tuple[int, int]]) -> None:
    before = {str(k): [str(a) for a, b in pairs if b == k] for k in range(8)}
    order, stuck = in_order(before)
    at = {name: k for k, name in enumerate(order)}
    assert all(at[a] < at[name] for name in order for a in before[name])
    if stuck is None:
        assert sorted(order) == sorted(before)
        return
    reached = set(before[stuck])
    for _ in range(8):
        reached |= {a for name in reached for a in before[name]}
    assert stuck in reached
