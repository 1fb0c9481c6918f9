"""The closed form on bytes against its plain road, rationals and the simulator."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import converters
from calif_plugins import rounding_kernels
from calif_plugins.parameters import TieRule
from converters.backends import closed_form, integer_kernels
from converters.backends.closed_form_integers import integer_layers
from converters.backends.integer_kernels import int8_kernels
from converters.exact.rounding import round_fraction
from converters.lattice import first_integers
from converters.network import Network
from converters.operations import Conv2d, Linear
from converters.quantised import GraphBuilder
from tests.converters.sample_graphs import GRAPHS, images

needs_bytes = pytest.mark.skipif(not int8_kernels(), reason="this processor has no integer kernels")


@needs_bytes
@pytest.mark.parametrize("window", [1, 7, 128])
@pytest.mark.parametrize("name", GRAPHS)
def test_bytes_and_plain_road_agree(monkeypatch: pytest.MonkeyPatch, name: str, window: int) -> None:
    q = GRAPHS[name]()
    network, x = Network.from_graph(converters.to_nir(q, T=window)), images(q, 5)
    assert integer_layers(network)
    on_bytes = converters.run(network, x, backend="closed_form")
    monkeypatch.setattr(closed_form, "integer_layers", lambda _: {})
    plain = converters.run(network, x, backend="closed_form")
    assert on_bytes.counts.keys() == plain.counts.keys()
    assert all(torch.equal(on_bytes.counts[k], plain.counts[k]) for k in plain.counts)
    assert torch.equal(on_bytes.logits, plain.logits)


@pytest.mark.parametrize("tie", ["even", "up"])
@pytest.mark.parametrize(("threshold", "bias"), [(4.0, 0.0), (2.0, 0.5), (3.752412, 0.1), (0.5, -3.0), (7.25, 3.625)])
def test_rounding_kernel(threshold: float, bias: float, tie: TieRule) -> None:
    """Every integer in reach, with each tie and near-tie, against rationals."""
    low, high = -3, 12
    acc = np.arange(-80, 120)
    wanted = [min(max(round_fraction((int(a) + Fraction(bias)) / Fraction(threshold), tie), low), high) for a in acc]
    first = first_integers(np.array([threshold]), np.array([bias]), np.arange(low, high), tie)
    row = np.full(len(acc), 1 / threshold, dtype=np.float32), np.full(len(acc), bias / threshold, dtype=np.float32)
    for doubt in (1e-4, 0.3):  # the more is doubted, the more is looked up
        out = np.empty(len(acc), dtype=np.uint8)
        rounding = *row, np.float32(doubt), np.repeat(first, len(acc), 0), np.float32(low), np.float32(high)
        rounding_kernels.to_counts(acc.astype(np.float32), rounding, out)
        assert (out.astype(int) + low == wanted).all()


@needs_bytes
def test_sums_beyond_float32() -> None:
    """Sums above 2**24 that all decisions lie far below are taken on bytes; where decisions lie there, they are not."""
    b = GraphBuilder()
    x = b.input((300, 4, 4), scale=1.0, q_min=0, q_max=127)
    w = torch.full((2, 300, 3, 3), 127, dtype=torch.int8)
    small = b.layer("small", [(x, Conv2d(w, padding=(1, 1)))], threshold=90.5, y_min=0, y_max=127, scale=1.0)
    fc = Linear(torch.tensor([[3] * 32], dtype=torch.int8))
    q = b.build(b.layer("fc", [(b.flatten(small), fc)], threshold=5.5, y_min=0, y_max=127, scale=1.0))
    network = Network.from_graph(converters.to_nir(q, T=127))
    assert network.changes[network.stages[0].name] * 127 > 2**24
    assert set(integer_layers(network)) == {"small", "fc"}
    integers = torch.randint(0, 128, (3, 300, 4, 4), generator=torch.Generator().manual_seed(0))
    integers[0] = 127
    integers[1] = (torch.rand(300, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.02).to(torch.int64)
    r = converters.run(network, integers=integers, backend="closed_form")
    s = converters.run(network, integers=integers, backend="snntorch")
    assert torch.equal(r.counts["small"], s.counts["small"])
    large = network.stages[0]
    large = replace(large, parameters=replace(large.parameters, threshold=np.full(2, 200_000.5)))
    assert "small" not in integer_layers(replace(network, stages=(large,), outputs=None))


@needs_bytes
@pytest.mark.parametrize(
    ("channels", "kernel", "width", "padding", "columns"),
    [(1, (5, 5), 32, (0, 0), 4), (2, (3, 5), 12, (2, 0), 4), (1, (2, 9), 16, (1, 0), 4), (1, (1, 1), 8, (0, 0), 4),
     (1, (3, 3), 8, (1, 1), 1), (1, (3, 3), 8, (0, 0), 1), (3, (5, 5), 12, (0, 0), 1)],
)  # fmt: skip
def test_convolution_on_bytes(
    channels: int, kernel: tuple[int, int], width: int, padding: tuple[int, int], columns: int
) -> None:
    """With neighbouring columns taken as channels, where there are few, and without: the sums of float64."""
    gen = torch.Generator().manual_seed(0)
    op = Conv2d(torch.randint(-127, 128, (6, channels, *kernel), generator=gen, dtype=torch.int8), padding=padding)
    assert integer_kernels._columns_at_once(op, width) == columns
    x = torch.randint(0, 256, (3, 9, width, channels), generator=gen, dtype=torch.uint8)
    run = integer_kernels.convolution(op, 7)
    signed = x.permute(0, 3, 1, 2).to(torch.float64) - 7
    wanted = torch.nn.functional.conv2d(signed, op.weight.to(torch.float64), padding=padding).permute(0, 2, 3, 1)
    for _ in range(2):
        assert torch.equal(run(x).to(torch.float64), wanted)


def test_check_simulates_some_images() -> None:
    q = GRAPHS["lenet"]()
    network, x = Network.from_graph(converters.to_nir(q, T=7)), images(q, 5)
    assert converters.run(network, x, backend="closed_form").checked == 0
    r = converters.run(network, x, backend="closed_form", check=3, batch=2)
    assert (r.checked, r.check_mismatches, r.exact_from) == (3, 0, "closed form")
    assert converters.run(network, x, backend="closed_form", check=99).checked == 5


def test_check_finds_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    q = GRAPHS["lenet"]()
    network, x = Network.from_graph(converters.to_nir(q, T=7)), images(q, 5)
    right = closed_form.ClosedForm.simulate

    def wrong(*args: Any) -> Any:
        r = right(*args)
        name = next(iter(r.counts))
        return replace(r, counts={**r.counts, name: r.counts[name] + 1})

    monkeypatch.setattr(closed_form.ClosedForm, "simulate", wrong)
    r = converters.run(network, x, backend="closed_form", check=2)
    assert r.check_mismatches == 2 * network.stages[0].size
