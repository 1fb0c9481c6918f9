"""Operations in place, in every form, act in a prepared graph as they do in eager PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchao.quantization.pt2e import disable_fake_quant, disable_observer

from converters.frontends.pt2e import prepare_qat

X = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1


def assert_same_function(model: nn.Module, x: Tensor = X, **options: Any) -> None:
    """The prepared model without quantisers, and the model, in both modes, from the same random state."""
    prepared = prepare_qat(model, x, check=False, **options)
    prepared.apply(disable_fake_quant)
    prepared.apply(disable_observer)
    with torch.no_grad():
        for mode in (False, True):
            outputs = []
            for net in (model.train(mode), prepared.train(mode)):
                torch.manual_seed(1)
                outputs.append(net(x.clone()))
            torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-12)


Step = tuple[str, int, int]
Write = tuple[int, int, int, int, str]
"""Which part, its axis, from and to where, and what is done to it."""


class Program(nn.Module):
    """A forward that does ``steps``: each names an operation and the places of its operands among what there is."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.first, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in steps)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2, eps=0.01, momentum=0.3) for _ in steps)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x)]
        for k, (kind, i, j) in enumerate(self.steps):
            a, b = values[i % len(values)], values[j % len(values)]
            if kind == "convolution":
                values.append(self.norms[k](self.convolutions[k](a)))
            else:
                result = OPERATIONS[kind](a, b, self.training)
                if result is not None:
                    values.append(result)
        return self.last(values[-1] + values[len(values) // 2])


def unused(operation: Callable[..., Any]) -> Callable[..., None]:
    def act(a: Tensor, b: Tensor, training: bool) -> None:
        operation(a, b, training)

    return act


def on_a_view(a: Tensor, b: Tensor, training: bool) -> None:
    F.relu(a.flatten(1), inplace=True)


def through_a_view_made_before(a: Tensor, b: Tensor, training: bool) -> Tensor:
    view = a.detach()
    a.add_(b)
    return F.relu(view)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda a, b, training: F.relu(a),
    "relu_": lambda a, b, training: F.relu(a, inplace=True),
    "relu_, unused": unused(lambda a, b, training: torch.relu_(a)),
    "relu6_": lambda a, b, training: F.relu6(a, inplace=True),
    "hardtanh_, unused": unused(lambda a, b, training: F.hardtanh_(a, 0.0, 6.0)),
    "add": lambda a, b, training: a + b,
    "add_": lambda a, b, training: a.add_(b),
    "add_, unused": unused(lambda a, b, training: a.add_(b)),
    "iadd": lambda a, b, training: operator.iadd(a, b),
    "dropout_": lambda a, b, training: F.dropout(a, 0.3, training, inplace=True),
    "dropout of rate 0": lambda a, b, training: F.dropout(a, 0.0, training),
    "a view": on_a_view,
    "a view made before": through_a_view_made_before,
}
STEPS = st.tuples(st.sampled_from(["convolution", *OPERATIONS]), st.integers(0, 9), st.integers(0, 9))


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_in_place(kind: str) -> None:
    assert_same_function(Program([("convolution", 0, 0), (kind, 0, 1), ("convolution", 0, 0), (kind, 2, 0)]))


@settings(max_examples=8, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=7))
def test_random_programs(steps: list[Step]) -> None:
    assert_same_function(Program(steps))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=12))
def test_more_random_programs(steps: list[Step]) -> None:
    assert_same_function(Program(steps))


class Written(nn.Module):
    """Weights of which parts are written to, and parts of parts, before a layer has them."""

    def __init__(self, writes: list[Write]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.writes = writes
        self.weight, self.other = (nn.Parameter(torch.randn(6, 32, dtype=torch.float64)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.clone()
        parts = [weight]
        for of, axis, first, last, kind in self.writes:
            part = parts[of % len(parts)]
            axis = axis % part.ndim
            size = part.shape[axis]
            begin, end = first % size, max(first % size + 1, last % (size + 1))
            if kind == "select" and part.ndim > 1:
                part = part.select(axis, begin)
            else:
                part = part[begin:end] if axis == 0 else part[:, begin:end]
            parts.append(part)
            if kind == "zero":
                part.zero_()
            elif kind == "add":
                part.add_(part.detach() * self.other.flatten()[: part.numel()].view(part.shape))
            else:
                part.mul_(0.5)
        return F.linear(x.flatten(1), weight)


@settings(deadline=None, max_examples=5)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 1), st.integers(0, 31), st.integers(0, 31),
            st.sampled_from(["zero", "add", "mul", "select"]),
        ),
        min_size=1,
        max_size=5,
    )
)  # fmt: skip
def test_parts_of_weights_are_written_to(writes: list[Write]) -> None:
    assert_same_function(Written(writes))
