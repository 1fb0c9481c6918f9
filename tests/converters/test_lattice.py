"""The certificate: lattice neurons round where the exact ones do, for every integer input."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calif_plugins.parameters import TieRule
from converters import to_nir
from converters.errors import ConversionError
from converters.lattice import first_integers, fit
from converters.nir_export import certificates
from converters.operations import Linear, Synapse
from converters.quantised import Layer
from tests.converters.sample_graphs import GRAPHS


def _layer(threshold: Any, bias: Any, y_min: int = 0, y_max: int = 7, tie: TieRule = "even") -> Layer:
    weight = torch.ones(len(threshold), 1, dtype=torch.int8)
    return Layer(
        "fc", (Synapse(("input",), (Linear(weight),)),), threshold, bias, y_min, y_max, 1.0, (len(threshold),), tie
    )


def _rounded(a: int, threshold: float, bias: float, tie: str) -> int:
    x = (a + Fraction(bias)) / Fraction(threshold)
    return round(x) if tie == "even" else (x + Fraction(1, 2)).__floor__()


@settings(max_examples=60, deadline=None)
@given(
    threshold=st.floats(0.5, 60),
    bias=st.floats(-80, 80),
    tie=st.sampled_from(["even", "up"]),
    y_min=st.integers(-9, 0),
    y_max=st.integers(1, 9),
)
def test_every_integer_input_rounds_alike(threshold: float, bias: float, tie: TieRule, y_min: int, y_max: int) -> None:
    layer = _layer([threshold], [bias], y_min, y_max, tie)
    reach = 300
    c = fit(layer, reach)
    for a in range(-reach, reach + 1):
        exact = min(max(_rounded(a, threshold, bias, tie), y_min), y_max)
        lattice = min(max(_rounded(a, float(c.threshold[0]), float(c.bias[0]), tie), y_min), y_max)
        assert exact == lattice


def test_parameters_are_on_the_lattice() -> None:
    c = fit(_layer([3.3, 0.1], [7.7, -0.3]), 1000)
    for array in (c.threshold, c.bias):
        assert (array * 2.0**c.bits == np.round(array * 2.0**c.bits)).all()


@pytest.mark.parametrize("tie", ["even", "up"])
@pytest.mark.parametrize("off", [1e-9, -1e-9])
def test_a_threshold_beside_a_tie_is_nudged_to_the_right_side(off: float, tie: TieRule) -> None:
    # 4 + 1e-9 rounds to 4 on a coarse lattice, where every other boundary would become a tie
    threshold = 4 + off
    layer = _layer([threshold], [0.0], 0, 127, tie)
    c = fit(layer, 520, bits=20)
    # just below a boundary that itself goes up is the one place where 4 does as well
    assert c.nudged == (0 if tie == "up" and off < 0 else 1)
    for a in range(-520, 521):
        assert min(max(_rounded(a, threshold, 0.0, tie), 0), 127) == min(
            max(_rounded(a, float(c.threshold[0]), float(c.bias[0]), tie), 0), 127
        )


def test_too_few_bits_are_an_error_that_names_the_channel_and_the_bits() -> None:
    layer = _layer([20.0, 21.337], [0.0, 0.123], 0, 127)
    with pytest.raises(ConversionError, match=r"fc, channel 1.*it needs (\d+) bits") as caught:
        fit(layer, 3000, bits=2)
    need = int(str(caught.value).split("it needs ")[1].split()[0])
    fit(layer, 3000, bits=need)
    with pytest.raises(ConversionError, match="channel 1"):  # one bit fewer fails
        fit(layer, 3000, bits=need - 1)


def test_more_bits_than_float64_has_are_refused() -> None:
    with pytest.raises(ConversionError, match="float64 holds 53 bits"):
        fit(_layer([3.0], [0.0]), 2**30, bits=40)


def test_first_integers_decides_ties_exactly() -> None:
    third = 1 / 3  # 3 * (1/3) is 1.0 in floats, and below 1 in truth
    assert Fraction(third) * 3 < 1
    assert first_integers(np.array([2 * third]), np.array([0.0]), np.array([1]), "even").tolist() == [[1]]
    assert first_integers(np.array([2.0]), np.array([0.0]), np.array([0, 1]), "even").tolist() == [[2, 3]]
    assert first_integers(np.array([2.0]), np.array([0.0]), np.array([0, 1]), "up").tolist() == [[1, 3]]


@pytest.mark.parametrize("name", GRAPHS)
def test_networks_certify(name: str) -> None:
    for layer, c in certificates(GRAPHS[name]()).items():
        assert c.membrane_bits <= 53, layer


def test_leak_and_rest_add_up_to_the_bias_exactly() -> None:
    g = to_nir(GRAPHS["lenet"](), T=7 + 15)
    c = certificates(GRAPHS["lenet"]())["fc1"]
    node = g.nodes["fc1"]
    assert (node.v_init - 22 * node.leak == c.bias).all()
