from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calif_plugins import CaLIFParameters


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"threshold": 0.0}, "threshold: must be > 0"),
        ({"threshold": [1.0, -1.0]}, "threshold: must be > 0"),
        ({"threshold": float("nan")}, "threshold: must be finite"),
        ({"leak": float("inf")}, "leak: must be finite"),
        ({"v_init": float("nan")}, "v_init: must be finite"),
        ({"threshold": "one"}, "threshold: expected a number"),
        ({"threshold": np.ones((2, 3))}, "one value per channel"),
        ({"threshold": [1.0, 2.0], "leak": [0.0, 0.0, 0.0]}, "disagree on the number of channels"),
        ({"y_min": 1}, "must contain 0"),
        ({"y_max": -1}, "must contain 0"),
        ({"y_max": float("nan")}, "must not be NaN"),
        ({"y_max": 2.5}, "y_max: expected whole counts"),
        ({"threshold": []}, "threshold: expected a number"),
        ({"threshold": None}, "threshold: expected a number"),
        ({"tie": "down"}, "tie: expected one of even, up"),
    ],
)
def test_values_that_no_neuron_has(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaLIFParameters(**kwargs)


def test_parameters_do_not_change() -> None:
    mine = np.array([1.0, 2.0])
    p = CaLIFParameters(threshold=mine)
    mine[0] = 9
    assert p.threshold.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        p.threshold[0] = 9
    with pytest.raises(AttributeError):
        p.threshold = 3  # type: ignore[misc]


def test_channels_must_fit_the_layer() -> None:
    with pytest.raises(ValueError, match="3 channels do not fit"):
        CaLIFParameters(threshold=[1.0, 2.0, 3.0]).for_shape((2, 4, 4))
