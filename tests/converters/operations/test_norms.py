"""Norms and softmax over counts: by PyTorch's own in float64, integers where they can be, and on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.errors import ConversionError, FileFormatError
from converters.files.quantised_file import load_quantised, save_quantised
from converters.graph_builder import GraphBuilder
from converters.operations import Conv2d, Levels, Linear, LocalResponse, Normalise, Operation, Softmax
from converters.quantised import QuantGraph
from tests.converters.operations.everywhere import integers, simulated, written_and_read

SCALE = 0.125


def counts(*shape: int, seed: int = 0, low: int = -20, high: int = 21) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[Normalise, Callable[[Tensor], Tensor]]] = {
    "layer over all": (
        Normalise((0, 1, 2), 4 * 3 * 2, eps=1e-2 / SCALE**2),
        lambda x: F.layer_norm(x, (4, 3, 2), eps=1e-2),
    ),
    "layer over the last": (Normalise((2,), 2, eps=1e-5 / SCALE**2), lambda x: F.layer_norm(x, (2,), eps=1e-5)),
    "layer over channels": (
        Normalise((0,), 4, eps=1e-5 / SCALE**2),
        lambda x: F.layer_norm(x.movedim(1, -1), (4,), eps=1e-5).movedim(-1, 1),
    ),
    "group": (Normalise((0, 1, 2), 2 * 3 * 2, groups=2, eps=0.5 / SCALE**2), lambda x: F.group_norm(x, 2, eps=0.5)),
    "instance": (Normalise((1, 2), 3 * 2, eps=1e-5 / SCALE**2), lambda x: F.instance_norm(x, eps=1e-5)),
    "rms": (
        Normalise((1, 2), 3 * 2, centred=False, eps=1e-3 / SCALE**2),
        lambda x: F.rms_norm(x, (3, 2), eps=1e-3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_norms_are_pytorchs(case: str) -> None:
    op, theirs = CASES[case]
    n = counts(50, 4, 3, 2)
    n[0] = 3  # all alike
    n[1] = 0
    wanted = theirs(n.double() * SCALE)
    for dtype in (torch.float64, torch.int64):
        found = op(n.to(dtype)).double() / 2.0**op.bits
        assert float((found - wanted).abs().max()) <= 0.51 * 2.0**-op.bits + 1e-12
    assert op.output_shape((4, 3, 2)) == (4, 3, 2)
    assert int(op(n.double()).abs().max()) <= op.reach(20)
    assert float((op.unrounded(n.double()) - wanted * 2.0**op.bits).abs().max()) < 1e-5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-127, 127), min_size=2, max_size=40), st.sampled_from([0.0, 0.3, 7.0]))
def test_roots_and_quotients_round_as_they_should(row: list[int], eps: float) -> None:
    """Against integers alone: the rounded quotient's square is the nearest to the rational's."""
    m, total = len(row), sum(row)
    below = m * sum(n * n for n in row) - total * total + m * m * Fraction(eps)
    op = Normalise((0,), m, eps=eps, bits=20)
    for n, found in zip(row, op(torch.tensor([row], dtype=torch.float64))[0].tolist(), strict=True):
        above = (m * n - total) << 20
        if below == 0:
            assert found == 0
            continue
        nearest = math.isqrt(int(above * above * 4 / below))  # twice the quotient, rounded down
        assert abs(abs(int(found)) * 2 - nearest) <= 1
        assert found == 0 or (found > 0) == (above > 0)


def test_alike_counts_without_eps_are_nothing() -> None:
    assert Normalise((0,), 3)(torch.full((1, 3), 7)).tolist() == [[0, 0, 0]]
    assert Normalise((0,), 3, centred=False)(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_local_response_is_pytorchs(size: int, beta: float) -> None:
    op = LocalResponse(size, alpha=0.3 * SCALE**2, beta=beta, k=1.5)
    n = counts(20, 6, 3)
    wanted = F.local_response_norm(n.double() * SCALE, size, alpha=0.3, beta=beta, k=1.5) / SCALE
    assert float((op(n.double()) / 2.0**op.bits - wanted).abs().max()) <= 0.51 * 2.0**-op.bits + 1e-12
    assert int(op(n.double()).abs().max()) <= op.reach(20)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(-60, 60), min_size=3, max_size=3), min_size=1, max_size=4),
    st.sampled_from([0.01, 0.1, 0.5, 3.0]),
    st.integers(0, 1),
)
def test_softmax_is_pytorchs_and_integers(rows: list[list[int]], scale: float, axis: int) -> None:
    n = torch.tensor([rows])
    op = Softmax.of(scale=scale, axis=axis, bits=24, largest=120)
    found = op(n)
    wanted = torch.softmax(n.double() * scale, axis + 1)
    assert float((found / 2.0**24 - wanted).abs().max()) < 2.0**-23
    assert torch.equal(op(n.double()).long(), found)
    table = [round(2**30 * math.exp(-scale * d)) for d in range(121)]
    columns = rows if axis else [list(c) for c in zip(*rows, strict=True)]
    for column, theirs in zip(columns, found[0].movedim(axis, -1).tolist(), strict=True):
        e = [table[max(column) - k] for k in column]
        assert theirs == [math.floor(Fraction(2**24 * v, sum(e)) + Fraction(1, 2)) for v in e]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(-60, 60), min_size=3, max_size=3), min_size=2, max_size=4),
    st.integers(0, 1),
    st.integers(0, 2**12 - 1),
)
def test_a_masked_softmax_is_that_of_what_is_left(rows: list[list[int]], axis: int, bits: int) -> None:
    """The integers are those of a softmax over the places that are left, taken out; all others are exactly 0."""
    n = torch.tensor([rows])
    kept = torch.tensor([bits >> k & 1 for k in range(n.numel())], dtype=torch.int8).reshape(n.shape[1:])
    kept.select(axis, 0).fill_(1)  # something is left of every row
    plain = Softmax.of(scale=0.1, axis=0, largest=120)
    found = Softmax.of(scale=0.1, axis=axis, largest=120).masked(kept)(n)[0].movedim(axis, -1)
    wanted = torch.zeros_like(found)
    for row, theirs, left in zip(n[0].movedim(axis, -1), wanted, kept.movedim(axis, -1), strict=True):
        theirs[left != 0] = plain(row[left != 0][None])[0]
    assert torch.equal(found, wanted)


def test_a_mask_has_no_connections() -> None:
    kept = torch.tensor([[1, 0, 1]], dtype=torch.int8)
    op = Softmax.of(scale=0.1, axis=1).masked(kept)
    assert op.fan_out((2, 3))[0].tolist() == [[2, 0, 2], [2, 0, 2]]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Normalise((0,), 0), "size"),
        (lambda: Normalise((0,), 2, eps=-1.0), "eps"),
        (lambda: Normalise((0,), 2, bits=99), "99 bits"),
        (lambda: Normalise((3,), 2).output_shape((2, 3)), "name some of them"),
        (lambda: Normalise((0,), 3).output_shape((4, 3)), "it normalises 3"),
        (lambda: Normalise((0,), 3, groups=2).output_shape((3, 3)), "divide evenly"),
        (lambda: Normalise((0,), 10**6).reach(127), "use fewer levels"),
        (lambda: LocalResponse(3, alpha=1.0, beta=0.3), "multiple of 0.25"),
        (lambda: LocalResponse(3, alpha=1.0, k=0.0), "positive"),
        (lambda: LocalResponse(3, alpha=-1.0), "alpha"),
        (lambda: Softmax.of(scale=0.0, axis=0), "a scale of"),
        (lambda: Softmax.of(scale=1e-9, axis=0), "coarser scale"),
        (lambda: Softmax.of(scale=0.1, axis=0, bits=40), "40 bits"),
        (lambda: Softmax.of(scale=0.1, axis=2).output_shape((3,)), "axis 2"),
        (lambda: Softmax(0, 0.1, 8, torch.tensor([2**30, 5])), "not that of its scale"),
        (lambda: Softmax.of(scale=0.1, axis=0).masked(torch.tensor([[1, 0], [0, 0]])), "every place is masked"),
        (lambda: Softmax.of(scale=0.1, axis=0).masked(torch.tensor([2, 1])), "a mask of shape"),
        (lambda: Softmax.of(scale=0.1, axis=1).masked(torch.tensor([1, 1])), "a mask of shape"),
        (lambda: Softmax.of(scale=0.1, axis=0).masked(torch.tensor([1, 1])).output_shape((3,)), r"mask has shape \(2,"),
    ],
)
def test_what_makes_no_sense_is_said(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ConversionError, match=match):
        make()


def network(middle: Operation, seed: int = 0, *, table: bool = False) -> QuantGraph:
    """A convolution, a norm with gains of its own on signed maps, perhaps with a table behind it, a dense layer."""
    g = torch.Generator().manual_seed(seed)
    b = GraphBuilder()
    x = b.input((2, 3, 4), scale=0.25, q_min=-4, q_max=4)
    conv = Conv2d(torch.randint(-3, 4, (4, 2, 1, 3), generator=g))
    common: dict[str, Any] = {"y_min": -6, "y_max": 6, "scale": SCALE}
    h = b.layer("conv", [(x, conv)], threshold=[2.0, 2.5, 1.5, 3.0], bias=0.25, **common)
    unit = 2.0 ** -getattr(middle, "bits", 0)
    if table:
        more = Levels.of(
            "silu",
            units=(unit, -unit, 2 * unit, unit),
            offsets=(0.1, 0.0, -0.3, 0.0),
            scale=0.25,
            y_min=-1,
            y_max=6,
            limit=middle.reach(6),
        )
        h = b.layer("norm", [(h, (middle, more))], threshold=1.0, y_min=-1, y_max=6, scale=0.25)
    else:
        gains = torch.tensor([0.2, 0.5, 1.0, 0.3], dtype=torch.float64)
        h = b.layer("norm", [(h, middle)], threshold=gains / unit, bias=0.1 / unit, **common)
    y = b.layer("fc", [(b.flatten(h), Linear(torch.randint(-3, 4, (2, 24), generator=g)))], threshold=9.0, y_min=-6,
                y_max=6, scale=0.3)  # fmt: skip
    return b.build(y)


KEPT = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0], dtype=torch.int8).reshape(4, 1, 2)
MIDDLES: dict[str, Operation] = {
    "layer": Normalise((0, 1, 2), 24, eps=0.3),
    "group": Normalise((0, 1, 2), 12, groups=2, eps=0.0),
    "instance": Normalise((1, 2), 6, eps=0.3),
    "rms": Normalise((0,), 4, centred=False, eps=0.3),
    "local": LocalResponse(3, alpha=0.1),
    "softmax": Softmax.of(scale=SCALE, axis=0, largest=12),
    "masked": Softmax.of(scale=SCALE, axis=0, largest=12).masked(KEPT),
}


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("table", [False, True])
def test_every_backend(middle: str, table: bool) -> None:
    q = network(MIDDLES[middle], table=table)
    runs = simulated(q, integers(q, 8), brian=1)
    trains = runs["snntorch"].spikes
    assert trains is not None
    assert bool((trains["norm"] < 0).any())
    assert int((trains["norm"] > 0).sum()) > 3


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(MIDDLES)), st.booleans(), st.integers(0, 10_000), st.integers(1, 9))
def test_any_window(middle: str, table: bool, seed: int, window: int) -> None:
    q = network(MIDDLES[middle], seed, table=table)
    simulated(q, integers(q, 3, seed), window=window, brian=0)


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("window", [2, 4])
def test_shorter_windows_normalise_the_same_real_values(middle: str, window: int) -> None:
    """The shorter network's layer rounds the same function of its own real inputs to its own grid."""
    q = network(MIDDLES[middle])
    short = q.at_window(window)
    n = short.execute(integers=integers(short, 40))["conv"]
    whole, layer = (next(k for k in net.layers if k.name == "norm") for net in (q, short))
    conv = next(k for k in short.layers if k.name == "conv")
    scale = conv.scale
    assert scale == pytest.approx(SCALE * q.levels / window)
    eps = 0.3 * SCALE**2
    x = n.double() * scale
    real = {
        "layer": lambda: F.layer_norm(x, tuple(x.shape[1:]), eps=eps),
        "group": lambda: F.group_norm(x, 2, eps=1e-30),
        "instance": lambda: F.instance_norm(x, eps=eps),
        "rms": lambda: F.rms_norm(x.movedim(1, -1), (4,), eps=eps).movedim(-1, 1),
        "local": lambda: F.local_response_norm(x, 3, alpha=0.1 / SCALE**2, beta=0.75, k=1.0) / SCALE,
        "softmax": lambda: torch.softmax(x, 1),
        "masked": lambda: torch.softmax(x.masked_fill(KEPT == 0, -math.inf), 1),
    }[middle]()  # fmt: skip
    gains = torch.tensor([0.2, 0.5, 1.0, 0.3], dtype=torch.float64)[:, None, None]
    levels = (real + 0.1) / gains * (SCALE / layer.scale)  # the grid is as much coarser as all scales are
    wanted = levels.round().clamp(layer.y_min, layer.y_max)
    found = layer.round(short.accumulate(layer, {"conv": n}))
    clear = (levels.frac().abs() - 0.5).abs() > 1e-4
    assert torch.equal(found[clear].double(), wanted[clear])
    assert int(clear.sum()) > 900
    assert whole.y_max > layer.y_max


@pytest.mark.parametrize("middle", MIDDLES)
def test_files(middle: str, tmp_path: Path) -> None:
    q = network(MIDDLES[middle])
    written_and_read(q, integers(q, 4), tmp_path)


def test_a_file_with_another_table_of_exponentials_is_refused(tmp_path: Path) -> None:
    op = Softmax.of(scale=SCALE, axis=0, largest=12)
    op.table[3] += 2  # behind the back of the check
    save_quantised(tmp_path / "q.safetensors", network(op))
    with pytest.raises(FileFormatError, match="not that of its scale"):
        load_quantised(tmp_path / "q.safetensors")
