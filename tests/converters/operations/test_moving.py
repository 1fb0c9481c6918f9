"""Moves, against PyTorch's own functions and, through a whole network, against its float64 results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import converters
from converters.errors import ConversionError
from converters.graph_builder import GraphBuilder, Value
from converters.network import Network
from converters.operations import Conv2d, Flatten, Linear, Move, Operation, Reshape, Scale, SumPool2d
from converters.operations.building import build_operation
from converters.operations.moving import folded, move_of
from converters.operations.node import settings_of
from converters.values import places

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "crop": lambda x: F.pad(x, (-1, 0, 0, -1)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 0, 2, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 1, 0), mode="circular"),
    "slice": lambda x: x[:, 1:3, ::2],
    "select": lambda x: x[:, :, 1],
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "flip": lambda x: x.flip(2, 3),
    "roll": lambda x: x.roll((1, -1), (1, 3)),
    "unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "nearest-exact": lambda x: F.interpolate(x, size=(3, 7), mode="nearest-exact"),
    "unfold": lambda x: F.unfold(x, 2, stride=2, padding=1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 3, -1),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "stack": lambda x: torch.stack([x, x.flip(1)], 2),
}
SHAPE = (4, 4, 4)


def builder() -> tuple[GraphBuilder, Value]:
    b = GraphBuilder()
    return b, b.input(SHAPE, scale=1.0, q_min=-9, q_max=9)


@settings(deadline=None)
@given(names=st.lists(st.sampled_from(sorted(MOVES)), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_moves_one_behind_the_other(names: list[str], seed: int) -> None:
    """Each is what PyTorch's own function does; all together are one operation, and its matrix and costs are right."""
    torch.manual_seed(seed)
    x = torch.randint(-9, 10, (3, *SHAPE)).double()
    b, value = builder()
    expected, here = x, value
    for name in names:
        if expected.ndim != 4 and name not in ("flatten", "stack"):
            continue  # it takes batches of three axes for images without one
        try:
            expected = MOVES[name](expected)
        except (RuntimeError, ValueError, IndexError, NotImplementedError):
            continue  # not for this shape
        if not expected.numel():
            with pytest.raises(ConversionError, match="a tensor without values"):
                b.moved(name, here, MOVES[name])
            return
        here = b.moved(name, here, MOVES[name])
    (part,) = here.parts
    assert here.shape == tuple(expected.shape[1:])
    if part.move is None:
        assert torch.equal(expected, x)
        return
    for dtype in (torch.float64, torch.float32, torch.int8, torch.int64):
        assert torch.equal(part.move(x.to(dtype)), expected.to(dtype))
    matrix = part.move.matrix(SHAPE)
    assert torch.equal(torch.from_numpy(matrix @ x.flatten(1).numpy().T).T.reshape(expected.shape), expected)
    (leaving,) = part.move.fan_out(SHAPE)
    assert leaving.flatten().tolist() == (matrix != 0).sum(0).tolist()
    plain, tensors = settings_of(part.move)
    again = build_operation("file", type(part.move).__name__, plain, tensors)
    assert torch.equal(again(x), expected)


@settings(max_examples=20, deadline=None)
@given(a=st.integers(1, 3), b=st.integers(1, 3), axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_what_is_seen_of_several_layers(a: int, b: int, axis: int, seed: int) -> None:
    """A move of a concatenation of any axis, in front of a dense layer, and behind the concatenation of such views."""
    torch.manual_seed(seed)
    shapes = [[2, 3, 2], [2, 3, 2]]
    shapes[0][axis], shapes[1][axis] = a, b
    build = GraphBuilder()
    x = build.input((3 * 4 * 3,), scale=1.0, q_min=-9, q_max=9)
    views, reals = [], []
    images = torch.randint(-9, 10, (2, 36)).double()
    for k, shape in enumerate(shapes):
        size = shape[0] * shape[1] * shape[2]
        weight = torch.randint(-2, 3, (size, 36), dtype=torch.int8)
        layer = build.layer(f"l{k}", [(x, Linear(weight))], threshold=1.0, y_min=-999, y_max=999, scale=1.0)
        views.append(build.moved("view", layer, lambda t, s=shape: t.reshape(-1, *s)))  # type: ignore[misc]
        reals.append((images @ weight.double().T).reshape(2, *shape))
    both, real = build.concat("cat", views, axis), torch.cat(reals, axis + 1)
    assert both.shape == tuple(real.shape[1:])
    for name in ("permute", "flip", "roll", "tokens"):
        seen, expected = build.moved(name, both, MOVES[name]), MOVES[name](real)
        assert seen.shape == tuple(expected.shape[1:])
        flat = build.flatten(build.concat("twice", [seen, seen], 0))
        twice = torch.cat([expected, expected], 1).flatten(1)
        weight = torch.randint(-2, 3, (2, twice.shape[1]), dtype=torch.int8)
        y = build.layer(name, [(flat, Linear(weight))], threshold=1.0, y_min=-(10**7), y_max=10**7, scale=1.0)
        values = build.build(y).execute(images)
        assert torch.equal(values[name].double(), twice @ weight.double().T)
        assert all(torch.equal(v.double(), values[k].double()) for k, v in seen.unmoved(expected).items())


def test_the_shortest_form() -> None:
    assert move_of(torch.arange(8).reshape(2, 4), (2, 4)) is None
    assert type(move_of(torch.arange(8), (2, 4))) is Flatten
    assert type(move_of(torch.arange(8).reshape(4, 2), (2, 4))) is Reshape
    assert type(move_of(torch.arange(7), (8,))) is Move
    flip = Move(torch.arange(7, -1, -1), 8)
    (op,) = folded((Flatten(), flip, Reshape((2, 4)), flip, Flatten()))
    assert isinstance(op, Move)
    assert op.index.tolist() == list(range(8))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: 2 * x,
        lambda x: x.relu(),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.flip(0),
        lambda x: x.sort(1).values,
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: x.reshape(1, -1),
    ],
)
def test_what_is_no_move(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ConversionError, match=r"^here: found an operation that does more than to move values"):
        places("here", SHAPE, function, 2)


def test_what_a_move_refuses() -> None:
    with pytest.raises(ConversionError, match="indices from 0 to 3"):
        Move(torch.arange(4), 3)
    with pytest.raises(ConversionError, match="indices from -2"):
        Move(torch.tensor([-2, 0]), 3)
    with pytest.raises(ConversionError, match="it moves 3 values, not 4"):
        Move(torch.arange(3), 3).output_shape((4,))
    with pytest.raises(ConversionError, match="give integers"):
        Move(torch.ones(3), 3)
    with pytest.raises(ConversionError, match="it becomes"):
        Reshape((2, 2)).output_shape((5,))


@pytest.mark.parametrize("op", [Scale(3), SumPool2d((2, 2), (2, 2)), Conv2d(torch.ones(4, 1, 1, 1).int(), groups=4)])
def test_parts_of_a_concatenation_cost_what_they_do(op: Operation) -> None:
    """A part's neurons reach their own places among the others' channels, and no more."""
    b, x = builder()
    half = b.moved("half", x, lambda t: t[:, :2])
    other = b.layer("other", [(half, Scale(1))], threshold=1.0, y_min=-9, y_max=9, scale=1.0)
    both = b.concat("cat", [half, other])
    y = b.layer("y", [(both, op)], threshold=1.0, y_min=-99, y_max=99, scale=1.0)
    graph = converters.to_nir(b.build(y))
    assert Network.from_graph(graph).fan_out["other"].unique().tolist() == [1.0]
    images = torch.randint(-9, 10, (2, *SHAPE)).double()
    seen = torch.cat([images[:, :2]] * 2, 1)
    assert torch.equal(converters.run(graph, images).counts["y"].double(), op(seen))
    assert converters.lower(graph).nodes  # whole channels have a stock form
