"""What prepare_qat lets pass, from_pt2e converts; what from_pt2e cannot convert, prepare_qat refuses, in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends import pt2e
from converters.frontends.examples import example_of
from converters.frontends.pt2e import from_pt2e, prepare_qat
from converters.frontends.pt2e_reader import read_prepared
from converters.frontends.quantizer import CaLIFQuantizer
from tests.converters.frontends.test_pt2e_in_place import OPERATIONS, STEPS, Program, Step
from tests.networks import pixels

X = pixels(4, (2, 12, 12), seed=2)


class Net(nn.Module):
    """A forward of its own around a few layers: ``forward(net, x)``."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.body = body
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.p = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("running", torch.randn(4))
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


class Recurrent(nn.Module):
    def __init__(self, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.r = make(12, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.r(x.flatten(1, 2))[0]


def after_a(layer: nn.Module) -> Net:
    return Net(lambda net, x: net.layer(F.relu(net.a(x))), layer=layer)


def counts(net: Any, x: Tensor) -> Tensor:
    net.steps += 1
    return net.a(x)


def writes_to_a_buffer(net: Any, x: Tensor) -> Tensor:
    F.relu_(net.running)
    return net.a(x)


def in_place_on_a_view(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    y.flatten(1).add_(net.b(x).flatten(1))
    return y


def in_place_behind_dropout(net: Any, x: Tensor) -> Tensor:
    """In training dropout gives new values, in evaluation its input itself, which is then changed."""
    y = net.a(x)
    z = F.dropout(y, 0.2, net.training)
    F.relu_(z)
    return y + z


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "norm without statistics": (
        lambda: after_a(nn.BatchNorm2d(4, track_running_stats=False)),
        r"layer: found a batch norm without running statistics.*; build it with track_running_stats=True"),
    "norm with momentum None": (
        lambda: after_a(nn.BatchNorm2d(4, momentum=None)), r"layer: found a batch norm with momentum None; give it a"),
    "counter in the sum": (lambda: Net(lambda n, x: n.a(x) + n.steps.add_(1)), r"differs from its own \(of"),
    "a buffer that is put anew": (lambda: Net(counts), "^steps: found a weight or buffer that forward changes; leave"),
    "changed buffer": (lambda: Net(writes_to_a_buffer), "^running: found a weight or buffer that forward changes; le"),
    "in place on a view": (lambda: Net(in_place_on_a_view), r"found add_ on a view of another shape; write it out"),
    "modes differ": (lambda: Net(in_place_behind_dropout), r"differs from its own \(of .*; leave branches on self"),
    "random in evaluation": (
        lambda: Net(lambda n, x: F.dropout(n.a(x), 0.2)), "its forward draws random numbers in evaluation mode; use"),
    "recurrence": (lambda: Recurrent(nn.LSTM), "r: found the operation lstm; use convolutions or matrix products over"),
    "gated recurrence": (lambda: Recurrent(nn.GRU), "r: found the operation gru; use convolutions or matrix products"),
    "sorting": (lambda: Net(lambda n, x: n.a(x).sort(1)[0]), "found the operation sort; take it from the net"),
    "the largest": (lambda: Net(lambda n, x: n.a(x).flatten(1).topk(3)[0]), "found the operation topk; take it from"),
    "a choice by the data": (
        lambda: Net(lambda n, x: torch.where(n.a(x) > 0, n.a(x), n.b(x))), "the operation gt; use a pointwise"),
    "sampling": (
        lambda: Net(lambda n, x: n.a(x) + torch.rand_like(n.b(x))), "the operation rand_like; leave random numbers to"),
    "a quotient of two": (lambda: Net(lambda n, x: n.a(x) / n.b(x)), "found a division; scale the weights instead"),
    "indices of a maximum": (
        lambda: Net(lambda n, x: n.a(x).max(1)[1].float()), "found the indices of a maximum; use its values alone"),
    "padding with one": (
        lambda: Net(lambda n, x: n.b(F.pad(x, (1, 1), value=1.0))), r"found padding with 1\.0; pad with 0, and add"),
    "a part of the batch": (lambda: Net(lambda n, x: n.a(x)[:2]), "found a part of the batch; leave the axis"),
    "images mixed": (lambda: Net(lambda n, x: n.a(x).flip(0)), "found an operation that mixes images; leave the axis"),
    "images behind": (
        lambda: Net(lambda n, x: n.a(x).transpose(0, 1)),
        r"found an output of shape \(4, N, 10, 10\) that has the images elsewhere than first; return it transposed"),
    "another precision": (lambda: Net(lambda n, x: n.a(x).double()), "found a change of the numbers' type; leave"),
    "a mean over the batch": (lambda: Net(lambda n, x: n.a(x).mean()), "found the operation mean; average over"),
    "weights of the data": (lambda: Net(lambda n, x: F.conv2d(n.a(x), n.b(x))), "weights that forward computes; give"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message) as error:
        prepare_qat(make(), X)
    assert "\n" not in str(error.value)
    assert error.value.todo


OF_THE_READER = ("padding with", "a quotient", "a part", "images", "a change")


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith(OF_THE_READER)])
def test_the_same_words_after_training(name: str) -> None:
    """The reader itself says so, of a model that was trained all the same: there is no second list to keep."""
    make, message = REFUSED[name]
    model = make()
    exported = pt2e._exported(copy.deepcopy(model).train(), example_of(model, X))
    prepared = pt2e._prepared(exported, CaLIFQuantizer())
    prepared(X)
    with pytest.raises(ConversionError, match=message) as after:
        read_prepared(prepared)
    with pytest.raises(ConversionError) as before:
        prepare_qat(model, X)
    assert str(before.value) == str(after.value)


class Vector(nn.Module):
    """A flattened map beside a vector, on one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(2, 3, 5)
        self.side: nn.Module = nn.Linear(2 * 144, 7)
        self.fc: nn.Module = nn.Linear(3 * 64 + 7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([F.relu(self.conv(x)).flatten(1), F.relu(self.side(x.flatten(1)))], 1))


def counts_in_place(net: Any, x: Tensor) -> Tensor:
    net.steps.add_(1)
    return net.a(x)


def switched_off_channel() -> nn.Module:
    some, none = nn.BatchNorm2d(4), nn.BatchNorm2d(3)
    with torch.no_grad():
        some.weight.copy_(torch.tensor([0.0, 1.0, -1.0, 0.0]))
        some.bias.uniform_(0, 1)
        none.weight.zero_()
        none.bias.uniform_(-1, 1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), some, nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False), none)


def pooled(make: Callable[[int], nn.Module], k: int) -> Callable[[], nn.Module]:
    return lambda: after_a(make(k))


CONVERTED: dict[str, Callable[[], nn.Module]] = {
    **{f"pool of {k}": pooled(nn.AdaptiveAvgPool2d, k) for k in (1, 5, 10)},
    **{f"window of {k}": pooled(lambda k: nn.AvgPool2d(k, stride=1), k) for k in (1, 3, 6)},
    "padding counted": lambda: after_a(nn.AvgPool2d(3, 2, padding=1)),
    "x + x": lambda: Net(lambda n, x: (lambda y: y + y)(F.relu(n.a(x)))),
    "ceil mode": lambda: after_a(nn.AvgPool2d(3, ceil_mode=True)),
    "padding not counted": lambda: after_a(nn.AvgPool2d(3, padding=1, count_include_pad=False)),
    "pool that does not divide": lambda: after_a(nn.AdaptiveAvgPool2d(6)),
    "pool that grows": lambda: after_a(nn.AdaptiveAvgPool2d(11)),
    "norm behind a concatenation": lambda: Net(
        lambda n, x: n.layer(torch.cat([n.a(x), n.b(x)], 1)), layer=nn.BatchNorm2d(8)
    ),
    "norm behind a ReLU": lambda: after_a(nn.BatchNorm2d(4)),
    "norm behind a norm": lambda: Net(lambda n, x: n.layer(F.relu(n.norm(n.a(x)))), layer=nn.BatchNorm2d(4)),
    "mean of channels": lambda: Net(lambda n, x: n.a(x).mean(1)),
    "linear on a map": lambda: after_a(nn.Linear(10, 3)),
    "pool of the pixels' norm": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
    "parameter + x": lambda: Net(lambda n, x: n.p + n.a(x)),
    "x + parameter": lambda: Net(lambda n, x: n.a(x) + n.p),
    "x + 2 y": lambda: Net(lambda n, x: torch.add(n.a(x), n.b(x), alpha=2)),
    "concatenation of rows": lambda: Net(lambda n, x: torch.cat([n.a(x), n.b(x)], 2)),
    "unflattened": lambda: Net(lambda n, x: F.relu(n.a(x)).view(-1, 2, 200)),
    "one norm twice": lambda: Net(lambda n, x: F.relu(n.norm(n.a(x))) + F.relu(n.norm(n.b(x)))),
    "one convolution twice": lambda: Net(lambda n, x: n.layer(n.layer(x)), layer=nn.Conv2d(2, 2, 3)),
    "norm without weights": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    "norm of another eps": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps=0.5), nn.ReLU()),
    "channels switched off": switched_off_channel,
    "padding same": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU()),
    "map and vector": Vector,
    "double": lambda: Vector().double(),
    "a counter of calls": lambda: Net(counts_in_place),
    "unused layers": lambda: Net(lambda n, x: (n.b(x), n.a(x))[1]),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_converted(name: str) -> None:
    """Compared with the model itself by from_pt2e, and here once more."""
    torch.manual_seed(0)
    net = CONVERTED[name]()
    x = X.to(next(net.parameters()).dtype)
    prepared = prepare_qat(net, x, levels=11)
    prepared.train()
    for k in range(3):
        prepared(pixels(8, (2, 12, 12), seed=k).to(x.dtype))
    q = from_pt2e(prepared)
    assert q.checked is not None
    assert q.checked.integers > 100
    ours = q.logits(q.execute(x))
    theirs = prepared.eval()(x).detach().reshape(ours.shape).double()
    levels = ((ours - theirs) / q.output.scale).abs()
    assert float(levels.max()) < 1.01  # one near-tie further in front may move a level here
    assert float((levels > 0.01).double().mean()) < 0.01
    if name in ("map and vector", "x + x"):
        result = converters.run(converters.to_nir(q), x[:2])
        integers = q.execute(x[:2])
        assert all(torch.equal(c.long(), integers[layer]) for layer, c in result.counts.items())


def prepares_or_refuses(steps: list[Step]) -> None:
    """Whatever is prepared, is converted, and equals its model."""
    x = pixels(4, (2, 4, 4), signed=True, seed=5).double()
    try:
        prepared = prepare_qat(Program(steps), x, levels=7)
    except ConversionError:
        return
    prepared.train()(x)
    from_pt2e(prepared)


@settings(max_examples=6, deadline=None)
@example(steps=[("dropout_", 0, 0), ("a view", 0, 0), ("relu", 0, 0), ("add", 0, 0)])  # one scale is twice another
@given(steps=st.lists(STEPS, min_size=1, max_size=6))
def test_what_is_prepared_is_converted(steps: list[Step]) -> None:
    prepares_or_refuses(steps)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=10))
def test_more_that_is_prepared_is_converted(steps: list[Step]) -> None:
    prepares_or_refuses(steps)


def test_programs_are_rarely_refused() -> None:
    """So that the property above is not empty."""
    for kind in OPERATIONS:
        prepare_qat(Program([(kind, 0, 0)]), pixels(4, (2, 4, 4), signed=True).double())
