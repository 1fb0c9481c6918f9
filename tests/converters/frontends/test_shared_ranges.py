"""Branches that meet share one range: it moves once in a forward pass, towards the largest of theirs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.frontends.level_quantiser import LevelQuantiser, RangeObserver
from converters.frontends.pt2e_training import training_view

X = torch.rand(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1

MEETINGS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "addition": lambda parts: parts[0] + parts[1],
    "concatenation": lambda parts: torch.cat(parts, 1),
    "maximum": lambda parts: torch.maximum(parts[0], parts[1]),
}


class Branches(nn.Module):
    """One convolution for each branch, which gives the image a number of times as large; then they meet."""

    def __init__(self, sizes: list[float], meet: Callable[[list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(2, 2, 1, bias=False) for _ in sizes)
        for branch, size in zip(self.branches, sizes, strict=True):
            branch.weight.data = size * torch.eye(2)[:, :, None, None]
        self.meet = meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet([branch(x) for branch in self.branches])


def shared(model: Any) -> LevelQuantiser:
    """The quantiser of the branches."""
    node = next(n for n in model.graph.nodes if n.target == torch.ops.aten.conv2d.default)
    found = model.get_submodule(str(next(iter(node.users)).target))
    assert isinstance(found, LevelQuantiser)
    return found


def largest(quantiser: LevelQuantiser) -> float:
    return float(quantiser.scale[0]) * int(quantiser.quant_max)


@given(st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_largest_range_of_each_pass_is_averaged(passes: list[list[float]]) -> None:
    """Each inner list has the sizes of the branches of one pass; the oracle is the moving average, in float64."""
    one = torch.tensor([-1.0, 1.0])  # no range but the largest holds it without an error
    observer = RangeObserver(
        dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_tensor_symmetric, averaging_constant=0.05
    )
    expected = max(passes[0])
    for sizes in passes:
        expected += 0.05 * (max(sizes) - expected)
        for k, size in enumerate(sizes):
            observer.again = k > 0
            observer(size * one)
        assert float(observer.max_val) == pytest.approx(expected, rel=1e-5)
        assert float(observer.min_val) == -float(observer.max_val)


@pytest.mark.parametrize("name", MEETINGS)
def test_the_larger_branch_is_not_clipped(name: str) -> None:
    found = []
    for sizes in ([0.1, 9.0], [9.0, 0.1]):
        model = converters.prepare_qat(Branches(sizes, MEETINGS[name]), X, check=False)
        forward: Any = training_view(model) if sizes[0] == 9.0 else model
        for k in range(3):
            forward(X * (1 + k))
        found.append(largest(shared(model)))
    top = 9.0 * float(X.abs().max())
    assert 0.9 * top < found[0] < 1.3 * top
    assert found[0] == found[1]  # whichever comes first


def test_an_empty_batch_moves_nothing() -> None:
    model = converters.prepare_qat(Branches([1.0, 3.0], MEETINGS["addition"]), X, check=False)
    model(X)
    before = largest(shared(model))
    model(X[:0])
    assert largest(shared(model)) == before


def test_state_and_pickles_are_as_they_were() -> None:
    """A checkpoint holds a quantiser's range and nothing of the pass; a pickle goes on alike."""
    model = converters.prepare_qat(Branches([1.0, 3.0], MEETINGS["addition"]), X, check=False)
    model(X)
    names = {name.rsplit(".", 1)[-1] for name in model.state_dict() if "post_process" in name}
    assert names == {"min_val", "max_val", "eps", "scale", "zero_point", "fake_quant_enabled", "observer_enabled"}
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for m in (model, again):
        m(2 * X)
    assert largest(shared(again)) == largest(shared(model))


class Meetings(nn.Module):
    """Two inputs, and layers of them, that are added in pairs."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(3))
        self.ends = nn.ModuleList(nn.Conv2d(2, 1, 1) for _ in pairs)
        self.pairs = pairs

    def forward(self, one: Tensor, two: Tensor) -> list[Tensor]:
        met = [one, two, *(layer(x) for layer, x in zip(self.layers, (one, two, one), strict=True))]
        sums = [end(met[a] + met[b]) for end, (a, b) in zip(self.ends, self.pairs, strict=True)]
        return [*sums, *met[2:]]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4))
@example([(0, 1), (1, 3)])
@settings(deadline=None, database=None, max_examples=6)
def test_whatever_meets_anything_that_meets_has_one_scale(pairs: list[tuple[int, int]]) -> None:
    """Also where an input meets a layer after it has met another input."""
    model = converters.prepare_qat(Meetings(pairs), (X, 3 * X), levels=9, check=False)
    model(X, 3 * X)
    q = converters.from_pt2e(model)
    scales = {spec.name: spec.scale for spec in q.inputs} | {layer.name: layer.scale for layer in q.layers}
    names = ["one", "two", "layers.0", "layers.1", "layers.2"]
    groups = [{k} for k in range(5)]
    for a, b in pairs:
        both = groups[a] | groups[b]
        for k in both:
            groups[k] = both
    for group in groups:
        assert len({scales[names[k]] for k in group}) == 1, pairs
