"""The theorem, in exact rational arithmetic and in float64; and the tempting mistakes, failing.

The oracle here is Python's own ``round`` on ``Fraction``, written without the reference's code.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from calif_plugins import CaLIFParameters
from calif_plugins.parameters import TieRule
from calif_plugins.reference import closed_form, fire, initial_state, run, run_network, settle, step

ZERO = np.array(Fraction(0), dtype=object)


def rounded(z: Fraction, threshold: Fraction, tie: str) -> int:
    x = z / threshold
    if tie == "even":
        return round(x)
    return (x + Fraction(1, 2)).__floor__()


def clipped(n: int, low: float, high: float) -> int:
    return int(min(max(n, low), high))


@st.composite
def layers(draw: DrawFn) -> Any:
    """A layer of few neurons: rational parameters per channel, signed input trains in any order."""
    window = draw(st.integers(1, 256))
    inputs, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    denominator = draw(st.sampled_from([1, 2, 3, 4, 7]))

    def fraction(low: int, high: int) -> Fraction:
        return Fraction(draw(st.integers(low * denominator, high * denominator)), denominator)

    weights = np.array(
        [[Fraction(draw(st.integers(-7, 7))) for _ in range(inputs)] for _ in range(channels)], dtype=object
    )
    threshold = np.array([fraction(1, 12) for _ in range(channels)], dtype=object)
    leak = np.array([fraction(-20, 20) / window for _ in range(channels)], dtype=object)
    low, high = draw(st.sampled_from([(0, 127), (0, 5), (-4, 4), (-127, 127), (0, np.inf), (-np.inf, np.inf)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trains = rng.choice([-1, 0, 0, 1, 1], size=(window, inputs))
    tie: TieRule = draw(st.sampled_from(["even", "up"]))
    p = CaLIFParameters(threshold=threshold, leak=leak, y_min=low, y_max=high, tie=tie, v_init=ZERO)
    return weights, p, trains


@settings(max_examples=150, deadline=None)
@given(layers(), st.integers(0, 256))
def test_theorem_in_exact_arithmetic(layer: Any, start: int) -> None:
    weights, p, trains = layer
    charges = np.array([weights @ s for s in trains.astype(object)], dtype=object)
    z = [sum(charges[:, c], Fraction(0)) - len(trains) * p.leak[c] for c in range(len(weights))]
    expected = [clipped(rounded(z[c], p.threshold[c], p.tie), p.y_min, p.y_max) for c in range(len(weights))]
    for settle_from in (None, min(start, len(trains))):
        trace = run(charges, p, settle_from=settle_from)
        assert trace.y.tolist() == expected
        assert trace.v.tolist() == [z[c] - expected[c] * p.threshold[c] for c in range(len(weights))]
        assert (trace.spikes.sum(0) == trace.y).all()
    assert closed_form(np.array(z, dtype=object), p).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 256),
    st.sampled_from(["even", "up"]),
    st.sampled_from([(0, 127), (0, 6), (-6, 6), (-127, 127)]),
    st.floats(0.125, 40),
    st.floats(-60, 60),
)
def test_theorem_in_float64_on_a_lattice(
    seed: int, window: int, tie: TieRule, bounds: tuple[int, int], threshold: float, total_leak: float
) -> None:
    unit = 2.0**-20
    threshold, leak = round(threshold / unit) * unit, round(total_leak / window / unit) * unit
    rng = np.random.default_rng(seed)
    charges = rng.integers(-9, 10, size=(window, 5)).astype(float)
    p = CaLIFParameters(threshold=threshold, leak=leak, y_min=bounds[0], y_max=bounds[1], tie=tie)
    trace = run(charges, p)
    for k in range(5):
        z = Fraction(int(charges[:, k].sum())) - window * Fraction(leak)
        assert trace.y[k] == clipped(rounded(z, Fraction(threshold), tie), *bounds)
        assert Fraction(trace.v[k]) == z - int(trace.y[k]) * Fraction(threshold)


def _network(seed: int, window: int, tie: TieRule = "even") -> Any:
    """Three dense layers of integers with leaks of both signs, signed ranges and gates; random signed input."""
    rng = np.random.default_rng(seed)
    sizes = [6, 8, 7, 5]
    weights = [rng.integers(-7, 8, (b, a)) for a, b in pairwise(sizes)]
    parameters = [
        CaLIFParameters(
            threshold=rng.integers(4, 30, b) / 2,
            leak=np.round(rng.normal(0, 12, b) / window * 2**16) / 2**16,
            y_min=[-9, 0, -9][k],
            y_max=9,
            tie=tie,
        )
        for k, b in enumerate(sizes[1:])
    ]
    trains = rng.choice([-1, 0, 1], size=(window, sizes[0]), p=[0.2, 0.4, 0.4])
    return weights, parameters, trains


def _run(weights: Any, parameters: Any, trains: Any, **kwargs: Any) -> Any:
    silence = np.zeros_like(trains[0])

    def charge(k: Any) -> Any:
        def at(t: Any, spikes: Any) -> Any:
            before = (trains[t] if t < len(trains) else silence) if k == 0 else spikes[k - 1]
            return weights[k] @ before

        return at

    shapes = [(len(w),) for w in weights]
    return run_network([charge(k) for k in range(len(weights))], parameters, shapes, len(trains), **kwargs)


def _integers(weights: Any, parameters: Any, trains: Any) -> list[list[int]]:
    x, result = [int(n) for n in trains.sum(0)], []
    for w, p in zip(weights, parameters, strict=True):
        y = []
        for c, row in enumerate(w.tolist()):
            z = Fraction(sum(a * b for a, b in zip(row, x, strict=True))) - len(trains) * Fraction(p.leak[c])
            y.append(clipped(rounded(z, Fraction(p.threshold[c]), p.tie), p.y_min, p.y_max))
        result.append(y)
        x = y
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 256), st.sampled_from(["even", "up"]))
def test_whole_networks_settle_together_on_the_integers(seed: int, window: int, tie: TieRule) -> None:
    net = _network(seed, window, tie)
    expected = _integers(*net)
    for settle_from in (window, window // 2, 0):
        assert [t.y.tolist() for t in _run(*net, settle_from=settle_from)] == expected


def test_the_tests_contain_what_they_claim() -> None:
    """Negative spikes, closed gates, ceilings and exact ties do occur in the networks above."""
    negative = floors = ceilings = ties = 0
    for seed in range(40):
        weights, parameters, trains = _network(seed, 24)
        traces = _run(weights, parameters, trains)
        for trace, p in zip(traces, parameters, strict=True):
            negative += int((trace.spikes < 0).sum())
            floors += int(((trace.y == p.y_min) & (trace.v < -p.threshold / 2)).sum())
            ceilings += int(((trace.y == p.y_max) & (trace.v > p.threshold / 2)).sum())
            ties += int((2 * np.abs(trace.v) == p.threshold).sum())
    assert min(negative, floors, ceilings) > 50
    rng = np.random.default_rng(0)
    p = CaLIFParameters(threshold=4.0, y_min=-9, y_max=9)
    for _ in range(200):  # pools with a shared scale: integers over 4
        ties += int((2 * np.abs(run(rng.integers(-4, 5, (16, 3)).astype(float), p).v) == 4).sum())
    assert ties > 50


# --- the tempting mistakes ------------------------------------------------------------------------


def _wrong(**kwargs: Any) -> int:
    """Final counts that differ from the integers, over 30 networks of 20 neurons."""
    wrong = 0
    for seed in range(30):
        weights, parameters, trains = _network(seed, 24)
        changed = [CaLIFParameters(**{**_fields(p), **kwargs.get("change", {})}) for p in parameters]
        traces = _run(weights, changed, trains, phase=kwargs.get("phase", "settle"))
        wrong += sum(
            int((t.y != np.array(e)).sum()) for t, e in zip(traces, _integers(*_network(seed, 24)), strict=True)
        )
    return wrong


def _fields(p: CaLIFParameters) -> dict:
    return {n: getattr(p, n) for n in ("threshold", "leak", "y_min", "y_max", "tie", "v_init")}


def test_nothing_is_wrong_without_a_mistake() -> None:
    assert _wrong() == 0


def test_mistake_no_ceiling() -> None:
    assert _wrong(change={"y_max": np.inf}) > 20


def test_mistake_one_rounding_spike_only() -> None:
    assert _wrong(phase="paper") > 5


def test_mistake_no_rounding_phase() -> None:
    assert _wrong(phase="none") > _wrong(phase="paper")


def test_mistake_half_up_where_the_toolkit_rounds_half_to_even() -> None:
    even, up = (CaLIFParameters(threshold=4.0, y_max=127, tie=t) for t in ("even", "up"))
    totals = np.arange(0, 127 * 4, dtype=float)  # every sum that a pool of 2 x 2 can have
    assert (run(totals[None], even).y == np.round(totals / 4)).all()
    assert int((run(totals[None], up).y != np.round(totals / 4)).sum()) == 64


def test_mistake_symmetric_threshold_at_the_negative_half() -> None:
    """With ``<=`` on both sides a tie rounds away from zero below, and half-up must round it up."""
    p = CaLIFParameters(threshold=2.0, y_min=-9, tie="up")
    totals = np.array([-1.0, -3.0, -5.0])
    exact = np.floor(totals / 2 + 0.5)
    assert (run(totals[None], p).y == exact).all()
    v, y = totals.copy(), np.zeros(3)
    while ((v <= -1) | (v >= 1)).any():  # the mistake
        s = (v >= 1).astype(int) - (v <= -1)
        v, y = v - 2 * s, y + s
        if (np.abs(v) == 1).all():
            break
    assert (y != exact).any()


def test_mistake_leak_after_the_window() -> None:
    p = CaLIFParameters(threshold=2.0, leak=0.5)
    v, y, _ = step(np.array([2.0]), np.array([0]), 0, p, half=True, leak=False)
    assert (v, y) == (0, 1)
    v, y, _ = step(np.array([1.2]), np.array([0]), 0, p, half=True, leak=True)
    assert y == 0  # where settle would have fired


# --- single functions ------------------------------------------------------------------------------


def test_gate_looks_at_the_count_before_the_spike() -> None:
    p = CaLIFParameters(threshold=1.0, y_max=2)
    assert fire(np.array([5.0, 5.0, -5.0, -5.0]), np.array([1, 2, 0, 1]), p).tolist() == [1, 0, 0, -1]


def test_thresholds_are_met_at_equality() -> None:
    p = CaLIFParameters(threshold=2.0, y_min=-3)
    assert fire(np.array([2.0, -2.0, 1.999, -1.999]), np.zeros(4, int), p).tolist() == [1, -1, 0, 0]


@pytest.mark.parametrize(
    ("tie", "y", "expected"), [("even", 0, [0, 0]), ("even", 1, [1, -1]), ("up", 0, [1, 0]), ("up", 1, [1, 0])]
)
def test_ties_of_the_rounding_phase(tie: TieRule, y: int, expected: list[int]) -> None:
    p = CaLIFParameters(threshold=2.0, y_min=-9, tie=tie)
    assert fire(np.array([1.0, -1.0]), np.array([y, y]), p, half=True).tolist() == expected


def test_settle_alone_ends_within_half_a_threshold() -> None:
    v, _, spikes = settle(np.array([17.3, -17.3]), np.array([0, 0]), CaLIFParameters(threshold=2.0, y_min=-99))
    assert (np.abs(v) <= 1).all()
    assert spikes.sum(0).tolist() == [9, -9]


def test_parameters_per_channel_broadcast_over_maps() -> None:
    p = CaLIFParameters(threshold=[1.0, 2.0], v_init=[0.25, 0.5])
    v, y = initial_state((2, 2, 2), p)
    assert v[:, 0, 0].tolist() == [0.25, 0.5]
    _, _, s = step(v, y, np.full((2, 2, 2), 1.0), p)
    assert s[:, 1, 1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"phase": "later"}, "phase"), ({"settle_from": 9}, "settle_from"), ({"settle_from": -1}, "settle_from")],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(np.zeros((4, 1)), CaLIFParameters(), **kwargs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_charges_are_finite(bad: Any) -> None:
    with pytest.raises(ValueError, match="charges: must be finite"):
        run(np.full((4, 1), bad), CaLIFParameters())
    with pytest.raises(ValueError, match="z: must be finite"):
        closed_form(np.array([bad]), CaLIFParameters())


def test_a_run_needs_steps() -> None:
    with pytest.raises(ValueError, match="T >= 1"):
        run(np.zeros((0, 1)), CaLIFParameters())
