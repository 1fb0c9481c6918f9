"""Models of several inputs, through training with fake quantisers to spikes: each input has its own range and sign."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import converters
from converters.errors import ConversionError
from converters.frontends.checking import Shown, check_layers
from converters.frontends.pt2e import from_pt2e, prepare_qat


class Two(nn.Module):
    """Two branches, and what is made of both: ``joined(net, left, right)``."""

    def __init__(self, joined: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.joined = joined
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(2, 3, 3, padding=1)
        self.same, self.vector = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(5, 3)
        self.fc = nn.LazyLinear(4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(self.joined(self, left, right).flatten(1))


def _shape(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(len(shape) + shape[0] + round(10 * high - low))
    return low + (high - low) * torch.rand(6, *shape, generator=g)


MAP, PADDED, SIGNED, VECTOR = (
    _shape(1, 6, 6),
    _shape(2, 4, 4, high=9),
    _shape(1, 6, 6, low=-3, high=2),
    _shape(5, low=-1),
)
CASES: dict[str, tuple[Callable[[Any, Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]] = {
    "added": (lambda m, x, y: F.relu(m.a(x)) + F.relu(m.b(y)), (MAP, PADDED)),
    "joined": (lambda m, x, y: torch.cat([F.relu(m.a(x)), F.relu(m.b(y))], 1), (MAP, PADDED)),
    "multiplied": (lambda m, x, y: F.relu(m.a(x)) * m.b(y), (MAP, PADDED)),
    "the larger one": (lambda m, x, y: torch.maximum(m.a(x), m.b(y)), (MAP, PADDED)),
    "the inputs themselves added": (lambda m, x, y: m.a(x + y), (MAP, SIGNED)),
    "the inputs themselves joined": (lambda m, x, y: m.b(torch.cat([x, y], 1)), (MAP, SIGNED)),
    "their product": (lambda m, x, y: m.a(x * y), (MAP, SIGNED)),
    "one used twice": (lambda m, x, y: F.relu(m.a(x)) + m.same(x)[:, :1, 1:-1, 1:-1] + m.a(y), (MAP, SIGNED)),
    "one net for both": (lambda m, x, y: F.relu(m.a(x)) - F.relu(m.a(y)), (SIGNED, MAP)),
    "a vector beside a map": (lambda m, x, y: torch.cat([F.relu(m.a(x)).flatten(1), m.vector(y)], 1), (MAP, VECTOR)),
    "a gate": (lambda m, x, y: m.a(x) * torch.sigmoid(m.vector(y))[:, :, None, None], (SIGNED, VECTOR)),
}


def trained(name: str, **options: Any) -> tuple[Any, tuple[Tensor, Tensor]]:
    joined, x = CASES[name]
    model = Two(joined)
    model(*x)
    prepared = prepare_qat(model, x, levels=7, **options)
    for _ in range(2):
        prepared(*x)
    return prepared.eval(), x


@pytest.mark.parametrize("name", CASES)
def test_spikes_equal_integers(name: str, tmp_path: Path) -> None:
    prepared, x = trained(name)
    q = from_pt2e(prepared)
    assert [(spec.name, spec.shape) for spec in q.inputs] == [("left", x[0].shape[1:]), ("right", x[1].shape[1:])]
    assert q.checked is not None
    assert q.checked.images == 4 + 4 + 3 + 4 + 2
    with torch.no_grad():
        expected = prepared(*x)
    torch.testing.assert_close(q.logits(q.execute(x)), expected.double(), rtol=1e-5, atol=1e-5)
    converters.write(tmp_path / "q.nir", converters.to_nir(q))
    graph = converters.read(tmp_path / "q.nir")
    integers = q.execute(x)
    for backend in ("snntorch", "fast", "closed_form"):
        r = converters.run(graph, {"right": x[1], "left": x[0]}, backend=backend)
        assert all(torch.equal(r.counts[layer.name].long(), integers[layer.name]) for layer in q.layers)


def test_in_brian2() -> None:
    prepared, x = trained("a gate")
    report = converters.cross_check(
        converters.to_nir(from_pt2e(prepared)), x, backends=("snntorch", "brian2"), sample=2
    )
    assert report.equal
    assert report.spikes_compared > 100


# --- how they are given -----------------------------------------------------------------------------


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.gate, self.fc = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, *, gate: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(gate)) * self.fc(x)


def test_by_name() -> None:
    """A keyword, in another order than forward's, whose name a module has too."""
    given_as = {"gate": torch.randn(4, 3), "x": torch.rand(4, 2)}
    prepared = prepare_qat(ByName(), given_as, levels=7)
    prepared(given_as["x"], gate=given_as["gate"])
    q = from_pt2e(prepared, check=given_as)
    assert [spec.name for spec in q.inputs] == ["x", "gate"]
    assert len({*(layer.name for layer in q.layers), "x", "gate"}) == len(q.layers) + 2
    with torch.no_grad():
        expected = prepared.eval()(**given_as)
    found = converters.run(converters.to_nir(q), given_as, backend="fast").outputs
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)


class Any_(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc = nn.Linear(2, 3)

    def forward(self, *images: Tensor) -> Tensor:
        return torch.stack([self.fc(x) for x in images], 1).sum(1)


@given(
    n=st.integers(1, 4),
    scales=st.lists(st.sampled_from([0.1, 1.0, 30.0]), min_size=4, max_size=4),
    signs=st.lists(st.booleans(), min_size=4, max_size=4),
)
@settings(deadline=None, database=None, max_examples=6)
def test_any_number(n: int, scales: list[float], signs: list[bool]) -> None:
    g = torch.Generator().manual_seed(n)
    x = tuple(k * (torch.rand(4, 2, generator=g) - 0.5 * s) for k, s in zip(scales[:n], signs, strict=False))
    prepared = prepare_qat(Any_(), x, levels=7)
    prepared(*x)
    q = from_pt2e(prepared)
    assert [spec.name for spec in q.inputs] == ([f"images_{k}" for k in range(n)] if n > 1 else ["input"])
    assert [spec.q_min < 0 for spec in q.inputs] == [bool((t < 0).any()) for t in x]
    with torch.no_grad():
        torch.testing.assert_close(q.logits(q.execute(x)), prepared.eval()(*x).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("signed", "expected"),
    [(None, [0, -7]), ((True, False), [-7, 0]), ({"right": False, "left": True}, [-7, 0]), (True, [-7, -7])],
)
def test_each_sign_is_its_own(signed: Any, expected: list[int]) -> None:
    joined, x = CASES["one net for both"]
    model = Two(joined)
    model(*x)
    prepared = prepare_qat(model, x[::-1], levels=7, signed_input=signed)
    prepared(*(t.abs() for t in x[::-1]))
    assert [spec.q_min for spec in from_pt2e(prepared, check=False).inputs] == expected


def test_one_in_a_tuple_is_one() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(4, 3)
    found = []
    for example in (x, (x,), {"input": x}):
        prepared = prepare_qat(copy.deepcopy(net), example, levels=7)
        assert torch.equal(prepared.meta["example"], x)
        prepared(x)
        found.append(from_pt2e(prepared, check=(x,)))
    assert all(q.inputs == found[0].inputs and q.input.name == "input" for q in found)


def test_the_same_batch_twice() -> None:
    model = Two(CASES["one net for both"][0])
    model(MAP, MAP)
    prepared = prepare_qat(model, (MAP, MAP), levels=7)
    prepared(MAP, MAP / 2)
    q = from_pt2e(prepared, check=(MAP, MAP / 2))
    with torch.no_grad():
        expected = prepared.eval()(MAP, MAP / 2)
    torch.testing.assert_close(q.logits(q.execute((MAP, MAP / 2))), expected.double(), rtol=1e-5, atol=1e-5)


def test_saved_and_copied(tmp_path: Path) -> None:
    prepared, x = trained("a gate")
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    for twin in (copy.deepcopy(prepared), torch.load(file, weights_only=False)):
        assert torch.equal(twin(*x), prepared(*x))
        assert from_pt2e(twin).inputs == from_pt2e(prepared).inputs


def test_exchanged_inputs_are_found() -> None:
    """Two inputs of one shape: the comparison sees which is which."""
    prepared, x = trained("one net for both")
    q = from_pt2e(prepared)
    with torch.no_grad():
        output = prepared(*x)
    check_layers(q, dict(zip(("left", "right"), x, strict=True)), Shown([], output))
    with pytest.raises(ConversionError, match=r"^fc: .*differ on the model's own inputs"):
        check_layers(q, dict(zip(("right", "left"), x, strict=True)), Shown([], output))


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (MAP, "example: found 1 for forward .*'right'.*; give a tensor for each of its parameters: a tuple"),
        ((MAP, PADDED, PADDED), "example: found 3 for forward"),
        ({"left": MAP, "rihgt": PADDED}, "example: found 2 for forward .*right"),
        ((MAP, PADDED[:3]), "example: found 6 of left, 3 of right; give as many of each; .* a buffer"),
        ((MAP, PADDED.long()), "example of right: found torch.int64 of shape"),
        ((MAP, [PADDED]), "example of right: found list"),
        ((MAP, PADDED * float("inf")), "example of right: found NaN or infinite"),
        ((MAP, None), "example of right: found NoneType"),
        ((), "example: found no tensor"),
        ("ab", "example: found 1 for forward"),
    ],
)
def test_what_does_not_fit(example: Any, message: str) -> None:
    model = Two(CASES["added"][0])
    model(MAP, PADDED)
    with pytest.raises(ConversionError, match=message) as caught:
        prepare_qat(model, example, levels=7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("joined", "message"),
    [
        (
            lambda m, x, y: m.a(x),
            "forward: found that no output depends on the values of its input right; leave it out",
        ),
        (lambda m, x, y: m.a(x) + 0 * y.shape[2], "values of its input right"),
        (lambda m, x, y: m.a(y), "values of its input left"),
    ],
)
def test_an_input_without_use(joined: Any, message: str) -> None:
    model = Two(joined)
    model(MAP, MAP)
    with pytest.raises(ConversionError, match=message) as caught:
        prepare_qat(model, (MAP, MAP), levels=7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (MAP, "check: found 1 for 2 inputs; give one tensor for each of left, right"),
        ((MAP, PADDED[:2]), "check: found 6 of left, 2 of right"),
        ((PADDED, MAP), "check of left: found torch.float32 of shape .* give images like the example"),
        ({"left": MAP}, "check: found those of"),
    ],
)
def test_checks_that_do_not_fit(check: Any, message: str) -> None:
    prepared, _ = trained("added")
    model = Two(CASES["added"][0])
    model(MAP, PADDED)
    for call in (lambda: prepare_qat(model, (MAP, PADDED), check=check), lambda: from_pt2e(prepared, check=check)):
        with pytest.raises(ConversionError, match=message):
            call()


def test_signs_that_do_not_fit() -> None:
    model = Two(CASES["added"][0])
    model(MAP, PADDED)
    with pytest.raises(ConversionError, match="signed_input: found 3 for 2 inputs"):
        prepare_qat(model, (MAP, PADDED), signed_input=(True, False, True))
