"""The engine on random networks: every backend, coding, phase and window against the reference and exact rationals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import converters
from converters.backends import closed_form, fast_chunks, fast_events, fast_plan
from converters.backends.charges import DTYPES
from converters.errors import ConversionError
from converters.exact.rounding import round_fraction
from converters.network import Network
from converters.operations import Conv2d, Linear, Operation, Scale, SumPool2d
from converters.ports.outputs import places
from converters.quantised import GraphBuilder, QuantGraph
from converters.results import RunResult
from tests.converters.backends.test_fast import assert_same
from tests.converters.random_networks import Case, cases, integers_of, traces

SETTINGS = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def network_of(case: Case) -> Network:
    try:
        return Network.from_graph(converters.to_nir(case.q, T=case.window, coding=case.coding))
    except ConversionError as error:  # no lattice of 53 bits for this one
        assume("bits" not in str(error) and "24 bits" not in str(error))
        raise


def run(case: Case, network: Network, **options: object) -> RunResult:
    return converters.run(
        network,
        integers=case.integers,
        phase=case.phase,
        settle_from=case.settle_from,
        batch=case.batch,
        **options,
    )


def compare_with_reference(case: Case, network: Network, r: RunResult) -> int:
    """Every spike, membrane and extra step; how many numbers were compared."""
    assert r.spikes is not None
    assert r.extra_steps is not None
    compared = 0
    for k, image in enumerate(case.integers.numpy()):
        expected = traces(case, network, image)
        steps = max(len(t.spikes) for t in expected.values())
        assert int(r.extra_steps[k]) == max(t.extra_steps for t in expected.values())
        for name, trace in expected.items():
            spikes = r.spikes[name][:, k].numpy()
            np.testing.assert_array_equal(spikes[:steps], trace.spikes)
            assert not spikes[steps:].any()
            np.testing.assert_array_equal(r.membranes[name][k].numpy(), trace.v)
            assert int(r.positive[name][k]) == (trace.spikes > 0).sum()
            assert int(r.negative[name][k]) == (trace.spikes < 0).sum()
            compared += spikes.size + trace.v.size
    return compared


def compare_with_rationals(case: Case, r: RunResult) -> int:
    q = case.q.at_window(case.window, case.coding)
    executed = q.execute(integers=case.integers)
    compared = 0
    for k, image in enumerate(case.integers.numpy()):
        for name, wanted in integers_of(q, image).items():
            np.testing.assert_array_equal(executed[name][k].numpy(), wanted)
            if name in r.counts:
                np.testing.assert_array_equal(r.counts[name][k].numpy(), wanted)
                compared += wanted.size
    spiking = {layer.name: layer.scale for layer in q.layers if layer.spiking}
    for (_, output), (_, found) in zip(places(q.outputs), places(r.outputs), strict=True):
        if output.layer in spiking:
            assert torch.equal(found, executed[output.layer].double() * spiking[output.layer])
            compared += found.numel()
    return compared


def check(case: Case, dtype: str, share: float, int8: bool, chunk: int) -> int:
    network = network_of(case)
    slow = run(case, network, record="spikes", backend="snntorch", dtype=dtype, check=True)
    compared = compare_with_reference(case, network, slow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_events, "GATHER_SHARE", share)
        patch.setattr(fast_chunks, "_CHUNK_BYTES", chunk)
        if not int8:
            patch.setattr(fast_plan, "int8_kernels", lambda: False)
        fast = run(case, network, record="spikes", backend="fast", check=True)
    assert_same(slow, fast)
    if case.phase != "settle":
        return 2 * compared
    for r in (slow, fast):
        assert r.checked == (1 if len(case.integers) else 0)
    exact = run(case, network, backend="closed_form")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "integer_layers", lambda _: {})
        plain = run(case, network, backend="closed_form")
    for r in (exact, plain):
        assert torch.equal(r.logits, slow.logits)
        assert all(torch.equal(r.membranes[name], slow.membranes[name]) for name in case.q.output_names)
        assert [place for place, _ in places(r.outputs)] == [place for place, _ in places(case.q.outputs)]
        assert r.counts.keys() == slow.counts.keys()
    return 2 * compared + sum(compare_with_rationals(case, r) for r in (slow, fast, exact, plain))


ways = {
    "dtype": st.sampled_from(DTYPES),
    "share": st.sampled_from([0.0, 0.115, 1.1]),
    "int8": st.booleans(),
    "chunk": st.sampled_from([1, 2**12, 16 * 2**20]),
}


@given(case=cases(), **ways)
@settings(SETTINGS, max_examples=60)
def test_random_networks(case: Any, dtype: str, share: float, int8: bool, chunk: int) -> None:
    check(case, dtype, share, int8, chunk)


@pytest.mark.slow
@given(case=cases(), **ways)
@settings(SETTINGS, max_examples=5000)
def test_many_random_networks(case: Any, dtype: str, share: float, int8: bool, chunk: int) -> None:
    check(case, dtype, share, int8, chunk)


@st.composite
def concatenations(draw: DrawFn) -> tuple[QuantGraph, Operation, tuple[str, ...], bool, str]:
    """Branches, the input perhaps among them and perhaps twice, concatenated; and one operation on all of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    side, channels = (draw(st.integers(1, 4)), draw(st.integers(1, 4))), draw(st.integers(1, 3))
    b = GraphBuilder()
    values = [b.input((channels, *side), scale=1.0, q_min=-5, q_max=5)]
    for k in range(draw(st.integers(1, 3))):
        w = torch.from_numpy(rng.integers(-7, 8, (draw(st.integers(1, 3)), channels, 1, 1), dtype=np.int8))
        values.append(
            b.layer(f"b{k}", [(values[0], Conv2d(w))], threshold=4.0, y_min=-5, y_max=5, scale=1.0)
        )  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(values), min_size=2, max_size=4))
    whole = b.concat("cat", chosen)
    total, flat = sum(v.shape[0] for v in chosen), draw(st.booleans())
    op: Operation
    if flat:
        whole = b.flatten(whole)
        op = Linear(torch.from_numpy(rng.integers(-7, 8, (3, total * side[0] * side[1]), dtype=np.int8)))
    else:
        groups = draw(st.sampled_from([g for g in range(1, total + 1) if total % g == 0]))
        w = torch.from_numpy(rng.integers(-7, 8, (2 * groups, total // groups, 1, 1), dtype=np.int8))
        op = draw(st.sampled_from([Conv2d(w, groups=groups), SumPool2d((1, 1), (1, 1)), Scale(3)]))
    out = b.layer("out", [(whole, op)], threshold=6.5, bias=1.25, y_min=-5, y_max=5, scale=1.0)
    names = tuple(v.parts[0][0] for v in chosen)
    return b.build(out), op, names, flat, draw(st.sampled_from(["isi", "direct"]))


@given(case=concatenations())
@settings(SETTINGS, max_examples=60)
def test_concatenations(case: Any) -> None:
    """An operation on a concatenation is split into a sum over its parts: against the operation on the whole."""
    q, op, names, flat, coding = case
    integers = torch.randint(-5, 6, (3, *q.input.shape), generator=torch.Generator().manual_seed(0))
    values = q.execute(integers=integers)
    joined = torch.cat([values[name] for name in names], 1).double()
    acc = op(joined.flatten(1) if flat else joined) + 1.25
    exact = [min(max(round_fraction(Fraction(a) / Fraction(13, 2), "even"), -5), 5) for a in acc.flatten().tolist()]
    assert values["out"].flatten().tolist() == exact
    g = converters.to_nir(q, coding=coding)
    for backend in ("fast", "snntorch", "closed_form"):
        r = converters.run(g, integers=integers, backend=backend)
        assert all(torch.equal(counts.long(), values[name]) for name, counts in r.counts.items())


def check_in_brian2(case: Case) -> int:
    network = network_of(case)
    r = run(case, network, record="spikes", backend="brian2")
    if case.phase == "settle":
        return compare_with_reference(case, network, r) + compare_with_rationals(case, r)
    return compare_with_reference(case, network, r)


@given(case=cases(small=True))
@settings(SETTINGS, max_examples=3)
def test_random_networks_in_brian2(case: Any) -> None:
    check_in_brian2(case)


@pytest.mark.slow
@given(case=cases(small=True))
@settings(SETTINGS, max_examples=600)
def test_many_random_networks_in_brian2(case: Any) -> None:
    check_in_brian2(case)
