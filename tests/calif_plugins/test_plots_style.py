"""Text on colours can be read: its contrast is at least 4.5, which WCAG 2.2 asks of small text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from calif_plugins import plots_network
from calif_plugins.plots_style import text_colour
from converters.experiments import accuracy
from converters.experiments.paper import NETWORKS


def contrast(a: Any, b: Any) -> float:
    """WCAG 2.2, of two colours in any form that matplotlib has."""
    both = np.array([to_rgb(a), to_rgb(b)])
    linear = np.where(both <= 0.04045, both / 12.92, ((both + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_can_be_read_on_every_colour(rgb: tuple[int, int, int]) -> None:
    background = "#{:02x}{:02X}{:02x}".format(*rgb)
    assert contrast(text_colour(background), background) >= 4.5


@pytest.mark.parametrize("network", [*NETWORKS, "another"])
def test_names_in_bars_can_be_read(network: str) -> None:
    row = {
        "dataset": "cifar10", "network": network, "T": 128, "snn_accuracy": 0.94, "quantised_accuracy": 0.94,
        "paper_snn_accuracy": None, "whole_test_set": {"images": 10_000},
    }  # fmt: skip
    (ax,) = accuracy._bars([row]).axes
    (bar,) = [p for p in ax.patches if isinstance(p, Rectangle)]
    (name,) = [t for t in ax.texts if t.get_rotation() == 90]
    assert name.get_text() == NETWORKS.get(network, network)
    assert contrast(name.get_color(), bar.get_facecolor()) >= 4.5


def test_names_of_nodes_can_be_read() -> None:
    ax = plots_network.graph({"in": "Input", "fc": "CaLIF", "out": "Output"}, [("in", "fc"), ("fc", "out")])
    boxes = [(t.get_color(), t.get_bbox_patch()) for t in ax.texts if t.get_text()]
    assert len(boxes) == 3
    for colour, box in boxes:
        assert box is not None
        assert contrast(colour, box.get_facecolor()) >= 4.5
