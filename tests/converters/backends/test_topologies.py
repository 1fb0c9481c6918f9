"""Networks that every backend lays out in its own way: skips from a directly coded input, layers of two axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import converters
from converters.operations import Conv2d, Linear, Scale
from converters.quantised import GraphBuilder
from converters.results import compare_counts
from tests.converters.sample_graphs import images


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("options", [{"backend": "fast"}, {"backend": "snntorch"}, {"backend": "closed_form"}])
def test_a_directly_coded_input_beside_another_layer(options: dict[str, Any], batch: int) -> None:
    """A skip and a concatenation from the input: its charge and the layer's are added neuron by neuron."""
    gen = torch.Generator().manual_seed(0)

    def conv(out: int, inputs: int, k: int) -> Conv2d:
        w = torch.randint(-7, 8, (out, inputs, k, k), generator=gen, dtype=torch.int8)
        return Conv2d(w, padding=(k // 2, k // 2))

    b = GraphBuilder()
    x = b.input((2, 4, 4), scale=1 / 15, q_min=0, q_max=15)
    clip: dict[str, Any] = {"y_min": 0, "y_max": 15, "scale": 1 / 15}
    a = b.layer("a", [(x, conv(5, 2, 3))], threshold=9.3, bias=1.0, **clip)
    c = b.layer("c", [(x, conv(5, 2, 1)), (a, conv(5, 5, 3))], threshold=20.1, **clip)
    d = b.layer("d", [(b.concat("cat", [x, c]), conv(5, 7, 1))], threshold=11.7, **clip)
    q = b.build(d)
    r = converters.run(converters.to_nir(q, T=15, coding="direct"), images(q, 4), batch=batch, **options)
    rows = compare_counts(r, q.execute(images(q, 4)))
    assert [(row.layer, row.compared, row.differing) for row in rows] == [(k, 4 * 80, 0) for k in "acd"]
    assert all(len(counts.unique()) > 3 for counts in r.counts.values())


@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_layers_of_two_axes(coding: str) -> None:
    """Channels and places: parameters go by channel, whichever way a backend lays them out."""
    gen = torch.Generator().manual_seed(0)
    b = GraphBuilder()
    x = b.input((3, 4), scale=1 / 7, q_min=-7, q_max=7)
    y = b.layer("y", [(x, Scale(3))], threshold=[2.0, 5.5, 9.1], bias=[0.0, 4.0, -6.5], y_min=-7, y_max=7, scale=1 / 7)
    w = torch.randint(-7, 8, (4, 12), generator=gen, dtype=torch.int8)
    o = b.layer("o", [(b.flatten(y), Linear(w))], threshold=8.3, y_min=-7, y_max=7, scale=1.0)
    q = b.build(o)
    g, wanted = converters.to_nir(q, T=7, coding=coding), q.execute(images(q, 6))
    for options in ({"backend": "fast"}, {"backend": "snntorch"}, {"backend": "closed_form"}, {"backend": "brian2"}):
        r = converters.run(g, images(q, 6), **options)
        assert all(row.differing == 0 for row in compare_counts(r, wanted))
