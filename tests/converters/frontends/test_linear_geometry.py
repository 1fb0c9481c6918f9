"""Any geometry: the linear verbs against PyTorch's own functions in float64, which also say what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.verbs import Verbs, Weight, transposed
from converters.graph_builder import Value

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
RANKS = st.integers(1, 3)
ONE = torch.ones(1)


def sizes(rank: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * rank)


def integers(*shape: int, seed: int) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def unrounded(shape: tuple[int, ...], verb: Callable[[Verbs, Value], Any], x: Tensor) -> Tensor:
    """What a verb makes of counts, before any rounding: read from the membrane, in real units."""
    b = Verbs("test", activation="quantise it", unquantised_input="quantise the input")
    value = b.input(shape, scale=1.0, q_min=-4, q_max=4)
    y = b.output(verb(b, value))
    q = b.build(y)
    out = q.logits(q.execute(integers=x.long()))
    for function in q.outputs.tail:  # a change of shape
        out = function(out)
    return out


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-9)


@QUICK
@given(data=st.data(), rank=RANKS, seed=st.integers(0, 999))
def test_convolutions(data: st.DataObject, rank: int, seed: int) -> None:
    draw, groups = data.draw, data.draw(st.integers(1, 2))
    here, kernel = draw(sizes(rank, 1, 6)), draw(sizes(rank, 1, 4))
    stride, dilation = draw(sizes(rank, 1, 3)), draw(sizes(rank, 1, 2))
    padding = draw(st.one_of(sizes(rank, 0, 3), st.sampled_from(["same", "valid"])))
    act: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    w, x = integers(4, 2, *kernel, seed=seed), integers(2, 2 * groups, *here, seed=seed + 1)
    if padding == "same":
        stride = (1,) * rank
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = act(x.double(), w.double(), None, stride, padding, dilation, groups)
    except RuntimeError:
        assume(False)

    def verb(b: Verbs, v: Value) -> Any:
        weight = Weight(w, ONE)
        return b.convolve("y", v, weight, None, stride=stride, padding=padding, dilation=dilation, groups=groups)

    same(unrounded((2 * groups, *here), verb, x), theirs)


@QUICK
@given(data=st.data(), rank=RANKS, seed=st.integers(0, 999))
def test_transposed_convolutions(data: st.DataObject, rank: int, seed: int) -> None:
    draw, groups = data.draw, data.draw(st.integers(1, 2))
    here, kernel = draw(sizes(rank, 1, 4)), draw(sizes(rank, 1, 3))
    stride, dilation, padding = draw(sizes(rank, 1, 3)), draw(sizes(rank, 1, 3)), draw(sizes(rank, 0, 2))
    more = draw(sizes(rank, 0, 2))
    act: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    w, x = integers(2 * groups, 3, *kernel, seed=seed), integers(2, 2 * groups, *here, seed=seed + 1)

    def verb(b: Verbs, v: Value) -> Any:
        return b.weigh("y", v, transposed("y", w, stride, padding, more, dilation, groups), ONE, None)

    try:
        theirs = act(x.double(), w.double(), None, stride, padding, more, groups, dilation)
    except RuntimeError:
        theirs = torch.empty(0)
    if theirs.numel():
        same(unrounded((2 * groups, *here), verb, x), theirs)
        return
    try:
        unrounded((2 * groups, *here), verb, x)
    except ConversionError:
        return
    raise AssertionError("PyTorch refuses it, or leaves nothing")


@QUICK
@given(data=st.data(), rank=RANKS, seed=st.integers(0, 999), ceil=st.booleans(), counted=st.booleans())
def test_average_pools(data: st.DataObject, rank: int, seed: int, ceil: bool, counted: bool) -> None:
    draw = data.draw
    here, kernel, stride = draw(sizes(rank, 1, 6)), draw(sizes(rank, 1, 4)), draw(sizes(rank, 1, 4))
    padding = tuple(min(p, k // 2) for p, k in zip(draw(sizes(rank, 0, 2)), kernel, strict=True))
    divisor = draw(st.sampled_from([None, 1, 5])) if rank > 1 else None
    act: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    x = integers(2, 2, *here, seed=seed)
    try:
        rest = () if rank == 1 else (divisor,)
        theirs = act(x.double(), kernel, stride, padding, ceil, counted, *rest)
    except RuntimeError:
        assume(False)

    def verb(b: Verbs, v: Value) -> Any:
        how: dict[str, Any] = {"ceil_mode": ceil, "count_include_pad": counted, "divisor": divisor}
        return b.average_pool("y", v, kernel, stride, padding, **how)

    same(unrounded((2, *here), verb, x), theirs)


@QUICK
@given(data=st.data(), rank=RANKS, seed=st.integers(0, 999))
def test_adaptive_pools_and_interpolation(data: st.DataObject, rank: int, seed: int) -> None:
    draw = data.draw
    here, there = draw(sizes(rank, 1, 6)), draw(sizes(rank, 1, 7))
    x = integers(2, 2, *here, seed=seed)
    act: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]
    same(unrounded((2, *here), lambda b, v: b.adaptive_pool("y", v, there), x), act(x.double(), there))
    mode = ("linear", "bilinear", "trilinear")[rank - 1]
    corners = draw(st.booleans())
    for size, by in ((there, None), (None, draw(st.sampled_from([0.5, 1.5, 2.0])))):
        try:
            theirs = F.interpolate(x.double(), size, by, mode, corners)
        except (RuntimeError, ValueError):
            continue
        if theirs.numel():
            same(unrounded((2, *here), grown(size, by, mode, corners), x), theirs)


def grown(size: Any, by: float | None, mode: str, corners: bool) -> Callable[[Verbs, Value], Any]:
    return lambda b, v: b.interpolate("y", v, size, mode, corners, scale_factor=by)


@QUICK
@given(data=st.data(), rank=st.integers(1, 4), seed=st.integers(0, 999))
def test_sums_means_and_constants(data: st.DataObject, rank: int, seed: int) -> None:
    draw = data.draw
    here = draw(sizes(rank, 1, 4))
    axes = draw(st.lists(st.integers(1, rank), min_size=1, max_size=rank, unique=True))
    x = integers(2, *here, seed=seed)
    real = x.double()
    same(unrounded(here, lambda b, v: b.mean("y", v, axes, keepdim=True), x), real.mean(axes, keepdim=True))
    if len(axes) < rank:
        same(unrounded(here, lambda b, v: b.sum("y", v, axes), x), real.sum(axes))
    g = torch.Generator().manual_seed(seed)
    wide = [1 if draw(st.booleans()) else n for n in here[draw(st.integers(0, rank - 1)) :]]
    by, more = (torch.randn(wide, generator=g, dtype=torch.float64) for _ in range(2))
    by = by * (by.abs() > 0.3)
    if not bool((by == 0).all()):
        theirs = real * by + more
        same(unrounded(here, lambda b, v: b.shift("y", b.scale("y", v, by), more), x), theirs)
