"""The anytime curve against the NumPy reference, stopped by hand after every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import converters
from converters.errors import ConversionError
from converters.measuring.anytime import anytime_curve
from converters.network import Network
from converters.testing import by_reference
from tests.converters.sample_graphs import GRAPHS, images, signed_input


@pytest.mark.parametrize("name", ["lenet", "residual"])
def test_against_the_reference(name: str) -> None:
    q = GRAPHS[name]()
    network = Network.from_graph(converters.to_nir(q, T=15))
    x = images(q, 7)
    labels = q.predict(x)
    labels[0] = (labels[0] + 1) % 5  # one is wrong in the end
    curve = anytime_curve(network, x, labels, batch=3)
    trains = by_reference(network, network.spec.quantise(x)).trains[network.output.name]
    traces = list(trains.numpy().swapaxes(0, 1))
    steps = len(curve.accuracy)
    right = np.zeros(steps)
    for train, label in zip(traces, labels, strict=True):
        padded = np.concatenate([train, np.zeros((max(0, steps - len(train)), *train.shape[1:]), dtype=train.dtype)])
        right += padded[:steps].cumsum(0).argmax(1) == int(label)
    assert np.allclose(curve.accuracy, right / 7)
    assert curve.window == 15
    assert steps > 15
    assert curve.accuracy[-1] == pytest.approx(6 / 7)
    assert len(set(curve.accuracy)) > 2  # it says something


def test_an_output_read_from_its_membrane() -> None:
    q = signed_input()
    g = converters.to_nir(q, T=15)
    x = images(q, 6)
    labels = q.predict(x)
    curve = anytime_curve(g, x, labels)
    assert curve.accuracy[-1] == 1.0
    assert min(curve.accuracy) < 1.0
    slow = anytime_curve(g, x, labels, backend="snntorch", batch=2)
    assert slow.accuracy == curve.accuracy


def test_misuse() -> None:
    q = signed_input()
    with pytest.raises(ConversionError, match="labels: found 2 for 3 images"):
        anytime_curve(converters.to_nir(q, T=15), images(q, 3), torch.zeros(2))
