"""Traced graphs with in-place operations, made functional: against eager PyTorch, and through the toolkits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.in_place_proxies import InPlaceTracer
from converters.frontends.tracing import record, traced_graph

SHAPE = (2, 4, 3, 3)

# each takes tensors of one shape, the second a partner of the same shape; what it returns joins the others
STEPS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "relu_ function": lambda net, a, b: F.relu_(a),
    "relu_ of torch": lambda net, a, b: torch.relu_(a),
    "relu_ method": lambda net, a, b: a.relu_(),
    "relu in place": lambda net, a, b: F.relu(a, inplace=True),
    "relu in place, by position": lambda net, a, b: F.relu(a, True),
    "relu module": lambda net, a, b: net.relu(a),
    "relu6 module": lambda net, a, b: net.relu6(a),
    "hardtanh function": lambda net, a, b: F.hardtanh(a, -0.5, 0.7, inplace=True),
    "dropout in place": lambda net, a, b: net.dropout(a),
    "add_": lambda net, a, b: a.add_(b, alpha=0.5),
    "sub_": lambda net, a, b: a.sub_(b),
    "mul_": lambda net, a, b: a.mul_(0.75),
    "clamp_": lambda net, a, b: a.clamp_(-0.4, 0.9),
    "clamp_ of torch": lambda net, a, b: torch.clamp_(a, -0.6, 1.1),
    "+=": lambda net, a, b: _iadd(a, b),
    "-=": lambda net, a, b: _isub(a, b),
    "*=": lambda net, a, b: _imul(a, b),
    "add": lambda net, a, b: a + b,
    "relu": lambda net, a, b: F.relu(a),
    "scaled": lambda net, a, b: a * 1.25 - 0.1,
    "same": lambda net, a, b: net.identity(a),
    "detach": lambda net, a, b: a.detach(),
    "contiguous": lambda net, a, b: a.contiguous(),
    "clone": lambda net, a, b: a.clone(),
}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda a: a.flatten(1),
    "view": lambda a: a.view(a.shape[0], -1),
    "reshape": lambda a: torch.reshape(a, (2, -1)),
    "unflatten": lambda a: a.reshape(2, 4, 3, 3),
    "first half": lambda a: a[:, : a.shape[1] // 2],
    "second half": lambda a: a[:, a.shape[1] // 2 :],
    "chunk": lambda a: a.chunk(2, 1)[0],
    "transposed": lambda a: a.transpose(0, 1).transpose(1, 0),
    "turned": lambda a: a.transpose(-1, -2),
}


def _iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


def _isub(a: Tensor, b: Tensor) -> Tensor:
    a -= b
    return a


def _imul(a: Tensor, b: Tensor) -> Tensor:
    a *= b
    return a


Step = tuple[str, int, int, bool]


class Random(nn.Module):
    """Runs steps on a growing list of tensors; a result may be thrown away. Returns some of them."""

    def __init__(self, steps: list[Step], returned: list[int]) -> None:
        super().__init__()
        self.steps, self.returned = steps, returned
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.dropout, self.identity = nn.Dropout(0.5, inplace=True), nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        tensors, shapes = [x, x * 0.5 + 0.1], list[tuple[int, ...]]([SHAPE, SHAPE])
        for name, i, j, keep in self.steps:
            i %= len(tensors)
            if name in VIEWS:
                shape = tuple(VIEWS[name](torch.empty(shapes[i])).shape) if name != "unflatten" else SHAPE
                if name == "unflatten" and torch.Size(shapes[i]).numel() != torch.Size(SHAPE).numel():
                    continue
                made = VIEWS[name](tensors[i])
            else:
                partners = [k for k, s in enumerate(shapes) if s == shapes[i]]
                shape = shapes[i]
                made = STEPS[name](self, tensors[i], tensors[partners[j % len(partners)]])
            if keep:
                tensors.append(made)
                shapes.append(shape)
        return [tensors[k % len(tensors)] for k in self.returned]


STEP = st.tuples(
    st.sampled_from([*STEPS, *VIEWS]), st.integers(0, 9), st.integers(0, 9), st.sampled_from([True, True, False])
)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEP, min_size=1, max_size=12), st.lists(st.integers(0, 12), min_size=1, max_size=3))
def test_random_graphs_are_what_pytorch_does(steps: list[Step], returned: list[int]) -> None:
    model = Random(steps, returned).eval()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(len(steps)))
    with torch.no_grad():
        try:
            expected = [t.clone() for t in model(x.clone())]
        except RuntimeError:  # PyTorch refuses to change what overlaps with what it reads
            reject()
    given_ = x.clone()
    twin = copy.deepcopy(model)
    graph = InPlaceTracer().trace(twin)
    try:
        record(twin, graph, given_)
    except ConversionError as error:
        assert "changed in place through a view" in str(error)  # noqa: PT017 (the other way out)
        assert any(name in ("first half", "second half", "chunk", "turned") for name, *_ in steps)
        return
    assert torch.equal(given_, x)
    versions = Versions(fx.GraphModule(twin, graph))
    with torch.no_grad():
        found = versions.run(x.clone())
    assert not versions.changed, versions.changed
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Versions(fx.Interpreter):
    """Names the nodes that change anything."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.changed: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        before = {k: v._version for k, v in self.env.items() if isinstance(v, Tensor)}
        out = super().run_node(n)
        self.changed += [n.name for k, version in before.items() if self.env[k]._version != version]
        return out


def traced(forward: Callable[[Any, Tensor], Any], **parts: Any) -> tuple[nn.Module, fx.Graph]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = forward
    model = Net().eval()
    return model, InPlaceTracer().trace(model)


ERRORS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "part": (lambda self, x: (z := x + 1, z[:, 0].relu_())[0], r"a part was changed in place through a view"),
    "assignment": (lambda self, x: _assign(x + 1), r"^setitem: found setitem, which changes a tensor in place"),
    "out": (lambda self, x: _out(x + 1, x), r"^add_1: found add, which changes a tensor in place; write it out of"),
    "fill": (lambda self, x: (x + 1).zero_(), r"^zero_: found zero_, which changes a tensor in place"),
    "shape": (lambda self, x: (x + 1).unsqueeze_(0), r"^unsqueeze_: found unsqueeze_, which changes a tensor's shape"),
    "parameter": (lambda self, x: x + self.p.add_(1), r"^add_: found add_ on a parameter or buffer; leave the model's"),
    "detached": (lambda self, x: x + self.p.data.add_(1), r"found add_ on a parameter or buffer"),
}


def _assign(z: Tensor) -> Tensor:
    z[:, 0] = 3.0
    return z


def _out(z: Tensor, x: Tensor) -> Tensor:
    torch.add(x, x, out=z)
    return z


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_made_functional_is_one_error(case: str) -> None:
    forward, message = ERRORS[case]
    model, graph = traced(forward, p=nn.Parameter(torch.ones(1), requires_grad=False))
    with pytest.raises(ConversionError, match=message):
        record(model, graph, torch.rand(SHAPE))


def test_a_buffer_that_forward_changes() -> None:
    model, _ = traced(lambda self, x: x + self.count.shape[0], count=nn.Buffer(torch.zeros(1)))
    type(model).forward = lambda self, x: x + self.count.add_(1)
    with pytest.raises(ConversionError, match=r"^count: found a parameter or buffer that forward changes; leave it"):
        traced_graph(InPlaceTracer(), model)


def test_a_part_that_is_changed_and_then_used_alone() -> None:
    model, graph = traced(lambda self, x: (x + 1)[:, :2].mul_(2.0))
    record(model, graph, torch.rand(SHAPE))
    x = torch.rand(SHAPE)
    assert torch.equal(fx.GraphModule(model, graph)(x), (x + 1)[:, :2] * 2)


def test_any_number_of_images() -> None:
    """A view that follows a change is written for all batch sizes, not for that of the example."""

    def forward(self: Any, x: Tensor) -> Tensor:
        z = x + 0.0
        v = z.flatten(1)
        F.relu_(z)
        return v

    model, graph = traced(forward)
    record(model, graph, torch.randn(SHAPE))
    x = torch.randn(7, *SHAPE[1:])
    assert torch.equal(fx.GraphModule(model, graph)(x), x.relu().flatten(1))
