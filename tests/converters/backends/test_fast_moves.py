"""Tokens in the fast simulator: moved as bytes, multiplied in their places, counted; against the operations, and the
step loop."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

import converters
from calif_plugins import multistep
from converters.backends import fast_plan, integer_kernels
from converters.backends.fast_moves import Moves, dense_in_places, permuted
from converters.network import Network
from converters.operations import (
    Conv1d,
    Flatten,
    Linear,
    MatMul,
    Mix,
    Move,
    Normalise,
    Operation,
    Product,
    Reshape,
    Shape,
    Softmax,
    Synapse,
)
from converters.quantised import GraphBuilder
from tests.converters.backends.test_fast import assert_same

QUICK = settings(deadline=None, max_examples=40)


@st.composite
def moves(draw: DrawFn, shape: Shape, most: int = 3) -> tuple[Operation, ...]:
    """A chain that takes each result from one place, or has 0 there."""
    ops: list[Operation] = []
    for _ in range(draw(st.integers(0, most))):
        size = math.prod(shape)
        kind = draw(st.sampled_from(["axes", "any", "reshape", "flatten"]))
        places = torch.arange(size).reshape(shape)
        if kind == "axes":
            op: Operation = Move(places.permute(draw(st.permutations(range(len(shape))))).contiguous(), size)
        elif kind == "any":
            out = draw(st.sampled_from([(3,), (2, 3), (4, 1, 2)]))
            drawn = draw(st.lists(st.integers(-1, size - 1), min_size=math.prod(out), max_size=math.prod(out)))
            op = Move(torch.tensor(drawn).reshape(out), size)
        else:
            first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            op = Flatten() if kind == "flatten" else Reshape((first, size // first))
        ops.append(op)
        shape = op.output_shape(shape)
    return tuple(ops)


def through(ops: tuple[Operation, ...], shape: Shape) -> Shape:
    for op in ops:
        shape = op.output_shape(shape)
    return shape


@st.composite
def tokens(draw: DrawFn) -> tuple[Shape, tuple[Operation, ...]]:
    """Moves, one matrix for many vectors, moves."""
    shape = draw(st.sampled_from([(5,), (3, 4), (2, 3, 2), (1, 6), (4, 1)]))
    before = draw(moves(shape))
    here = through(before, shape)
    axis = draw(st.integers(0, len(here) - 1))
    inner, outer = here[axis], draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**16))
    weight = torch.randint(-128, 128, (outer, inner), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    made: list[Operation] = [Mix(weight, axis)]
    if len(here) == 2:
        made.append(
            Conv1d(weight=(weight if axis == 0 else weight[:, :1].expand(-1, here[0]).contiguous())[:, :, None])
        )
    if len(here) == 1:
        made.append(Linear(weight))
    op = draw(st.sampled_from(made))
    return shape, (*before, op, *draw(moves(op.output_shape(here))))


def spikes(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of 3 steps and 2 images: as operations take them, and as the simulator has them, bytes with channels last."""
    s = torch.randint(-1, 2, (6, *shape), generator=torch.Generator().manual_seed(seed))
    return s, (s + 1).to(torch.uint8).movedim(1, -1).contiguous().unflatten(0, (3, 2))


def apply(ops: tuple[Operation, ...], x: Tensor) -> Tensor:
    for op in ops:
        x = op(x)
    return x


@given(st.data())
@QUICK
def test_bytes_go_where_the_operations_put_spikes(data: Any) -> None:
    shape = data.draw(st.sampled_from([(5,), (3, 4), (2, 3, 2)]))
    ops = data.draw(moves(shape))
    s, x = spikes(shape)
    wanted = apply(ops, s)
    assert torch.equal(Moves.in_order(ops, shape)(x).flatten(0, 1).long() - 1, wanted)
    for channel in range(wanted.ndim - 1):
        found = Moves.of(ops, shape, channel)(x).flatten(0, 1).long() - 1
        assert torch.equal(found, wanted.movedim(1 + channel, -1))


@pytest.mark.skipif(not integer_kernels.int8_kernels(), reason="without VNNI there is no product of bytes")
@given(tokens())
@QUICK
def test_a_matrix_for_many_vectors_brings_the_operations_charges(case: tuple[Shape, tuple[Operation, ...]]) -> None:
    shape, ops = case
    s, x = spikes(shape)
    charge = dense_in_places(ops, shape)
    assert charge is not None
    wanted = Synapse(("in",), ops)(s.double()).movedim(1, -1)
    assert torch.equal(charge(x).double(), wanted.reshape(3, -1, wanted.shape[-1]))


@pytest.mark.parametrize(
    "op",
    [
        Conv1d(torch.ones(4, 3, 2, dtype=torch.int8)),
        Conv1d(torch.ones(3, 1, 1, dtype=torch.int8), groups=3),
        Conv1d(torch.ones(4, 3, 1, dtype=torch.int8), stride=(2,)),
        Conv1d(torch.ones(4, 3, 1, dtype=torch.int8), padding=(1,)),
        Conv1d(torch.ones(4, 3, 1, dtype=torch.int16)),
    ],
)
def test_other_chains_are_left_to_others(op: Operation) -> None:
    assert dense_in_places((op,), (3, 4)) is None
    assert dense_in_places((op, op), (3, 4)) is None
    assert dense_in_places((), (3, 4)) is None


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 2, 2, 3)])
def test_exchanged_axes_are_a_view(shape: Shape) -> None:
    x = torch.rand(2, *shape)
    places = torch.arange(math.prod(shape)).reshape(shape)
    for axes in permutations(range(len(shape))):
        op = Move(places.permute(axes).contiguous(), math.prod(shape))
        y = permuted(op, shape)(x)
        assert torch.equal(y, op(x))
        assert y.data_ptr() == x.data_ptr()
    other = Move(places.reshape(-1).roll(1).reshape(shape), math.prod(shape))
    assert permuted(other, shape) is other


@given(st.integers(1, 3000), st.integers(1, 5), st.sampled_from([0, 1]), st.sampled_from([np.float32, np.float64]))
@settings(QUICK, max_examples=20)
def test_counts_are_running_sums(size: int, steps: int, zero: int, dtype: Any) -> None:
    rng = np.random.default_rng(size)
    x = rng.integers(0, 3, (steps, size)).astype(np.uint8 if zero else np.float32)
    before = rng.integers(-100, 100, size)
    total, out = before.astype(dtype), np.empty((steps, size), dtype=dtype)
    multistep.moves().counted_up(x, zero, total, out)
    wanted = before + np.cumsum(x.astype(np.int64) - zero, axis=0)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(total, wanted[-1])


def counting(kind: str, axis: int, shape: Shape, after: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if kind == "softmax":
        return (Softmax.of(scale=0.3, axis=axis, bits=10, largest=12), *after)
    return (Normalise(axes=(axis,), size=shape[axis], eps=0.1, bits=8), *after)


@given(st.data())
@settings(deadline=None, max_examples=12)
def test_every_spike_of_networks_of_tokens(data: Any) -> None:
    shape = data.draw(st.sampled_from([(3, 4), (2, 3, 2)]))
    b = GraphBuilder()
    x = b.input(shape, scale=1.0, q_min=-6, q_max=6)
    common: dict[str, Any] = {"y_min": -6, "y_max": 6, "scale": 1.0}
    lead = data.draw(moves(shape))
    a = b.layer("a", [(x, (*lead, Mix(torch.randint(-3, 4, (3, through(lead, shape)[0])))))], threshold=2.0, **common)
    here = (3, *through(lead, shape)[1:])
    before = data.draw(moves(here, 2))
    inner = through(before, here)
    kind, axis = data.draw(st.sampled_from(["softmax", "norm"])), data.draw(st.integers(0, len(inner) - 1))
    after = data.draw(moves(inner, 2))
    ops = (*before, *counting(kind, axis, inner, after))
    unit = 200.0 if kind == "softmax" else 100.0
    c = b.layer("c", [(a, ops)], threshold=unit, **common)
    rows = through(after, inner)
    flat = b.layer("flat", [(c, Move(torch.arange(math.prod(rows)).reshape(1, -1), math.prod(rows)))], threshold=1.0,
                   **common)  # fmt: skip
    m = b.layer("m", [((flat, flat), MatMul(math.prod(rows), transposed=True))], threshold=3.0, **common)
    q = b.build(b.layer("y", [(m, (Flatten(), Linear(torch.tensor([[2], [-1]]))))], threshold=1.0, y_min=-6, y_max=6,
                        scale=1.0))  # fmt: skip
    network = Network.from_graph(converters.to_nir(q, T=6))
    drawn = torch.randint(-6, 7, (3, *shape), generator=torch.Generator().manual_seed(1))
    slow, fast = (
        converters.run(network, integers=drawn, record="spikes", backend=name) for name in ("snntorch", "fast")
    )
    assert_same(slow, fast)


@pytest.mark.parametrize("most", [203, 204, 255, 257])
def test_cubes_are_exact_where_float32_ends(most: int) -> None:
    """Of counts of ``most`` and less, on both sides of 2^23 and 2^24, odd and even."""
    b = GraphBuilder()
    x = b.input((2, 2), scale=1.0, q_min=-most, q_max=most)
    y = b.layer("cube", [((x, x, x), Product())], threshold=1.0, y_min=0, y_max=0, scale=1.0, spiking=False)
    network = Network.from_graph(converters.to_nir(b.build(y), T=most))
    n = torch.tensor([[[most, most - 1], [most - 2, -most]]])
    r = converters.run(network, integers=n, backend="fast")
    assert torch.equal(r.logits.long().reshape(n.shape), n**3)


@pytest.mark.parametrize("terms", [520, 521, 1040, 1041])
def test_sums_of_products_are_exact_where_float32_ends(terms: int) -> None:
    b = GraphBuilder()
    x = b.input((2, terms), scale=1.0, q_min=-127, q_max=127)
    both = MatMul(terms, transposed=True)
    y = b.layer("scores", [((x, x), both)], threshold=1.0, y_min=0, y_max=0, scale=1.0, spiking=False)
    network = Network.from_graph(converters.to_nir(b.build(y), T=127))
    n = torch.full((1, 2, terms), 127)
    n[0, 1, 0] = 126
    r = converters.run(network, integers=n, backend="fast")
    assert torch.equal(r.logits.long().reshape(1, 2, 2), n @ n.mT)


def test_products_in_rounded_floats_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of 300 have more bits than bfloat16, to which PyTorch may have been told to round factors."""
    b = GraphBuilder()
    x = b.input((4, 4), scale=1.0, q_min=0, q_max=300)
    y = b.layer("square", [((x, x), MatMul(4))], threshold=1.0, y_min=0, y_max=0, scale=1.0, spiking=False)
    network = Network.from_graph(converters.to_nir(b.build(y), T=300))
    integers = torch.randint(0, 301, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    wanted = integers @ integers
    before = torch.get_float32_matmul_precision()
    plain = converters.run(network, integers=integers, backend="fast")
    try:
        torch.set_float32_matmul_precision("medium")
        told = converters.run(network, integers=integers, backend="fast")
    finally:
        torch.set_float32_matmul_precision(before)
    for r in (plain, told):
        assert torch.equal(r.logits.long().reshape(wanted.shape), wanted)


def test_a_layer_that_only_moves_spikes_adds_up_bytes() -> None:
    b = GraphBuilder()
    x = b.input((3, 4), scale=1.0, q_min=-3, q_max=3)
    turned = Move(torch.arange(12).reshape(3, 4).T.contiguous(), 12)
    y = b.layer("relay", [(x, turned)], threshold=1.0, y_min=-3, y_max=3, scale=1.0)
    plan = fast_plan.Plan(Network.from_graph(converters.to_nir(b.build(y), T=3)))
    assert plan.stages[0].factors == (1,)
    assert plan.stages[0].moves[0] is not None


def test_small_networks_move_spikes_too() -> None:
    """Without trains a small network is one compiled call, where layers add up in place."""
    b = GraphBuilder()
    x = b.input((3, 4), scale=1.0, q_min=-3, q_max=3)
    turned = Move(torch.arange(12).reshape(3, 4).T.contiguous(), 12)
    y = b.layer("relay", [(x, turned)], threshold=1.0, y_min=-3, y_max=3, scale=1.0)
    integers = torch.randint(-3, 4, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    r = converters.run(converters.to_nir(b.build(y), T=3), integers=integers, backend="fast")
    assert torch.equal(r.counts["relay"].long(), integers.mT)
