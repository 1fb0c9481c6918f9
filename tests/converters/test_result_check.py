"""A run looks at a sample of its own result: what is looked at, when, and what happens on a difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import converters
from converters.backends import snntorch, snntorch_fast
from converters.errors import ConversionError
from converters.network import Network
from converters.result_check import EVERY, has_closed_form, sample_of
from tests.converters.graphs import GRAPHS, images

WAYS: dict[str, dict[str, Any]] = {
    "fast": {"fast": True},
    "step loop": {"fast": False},
    "brian2": {"backend": "brian2"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lenet", "signed_input"])
def test_a_sample_is_compared_by_itself(name: str, way: str) -> None:
    q = GRAPHS[name]()
    g, x = converters.to_nir(q, T=3), images(q, 3)
    assert converters.run(g, x, **WAYS[way]).checked == 1
    assert converters.run(g, x, check=False, **WAYS[way]).checked == 0
    assert converters.run(g, x, check=2, **WAYS[way]).checked == 2
    assert converters.run(g, x[:0], check=2, fast=False).checked == 0
    assert converters.run(g, x, settle_from=0, record="output", **WAYS[way]).checked == 1
    for phase in ("paper", "none"):  # these have no closed form
        assert converters.run(g, x, phase=phase, **WAYS[way]).checked == 0


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (31, 8), (64, 1), (65, 64), (200, 40), (1000, 500)])
def test_one_image_of_each_batch(n: int, batch: int) -> None:
    sample = sample_of(n, batch)
    size = max(batch, EVERY)
    assert (sample // size).tolist() == list(range(-(-n // size)))
    assert sample.max() < n


class _Wrong:
    """A simulation that counts one spike too many, or leaves a membrane higher, in one neuron of one image."""

    def __init__(self, image: int, layer: str) -> None:
        self.image, self.layer = image, layer
        self.right = {snntorch_fast: snntorch_fast.simulate, snntorch: snntorch._result}

    def spoil(self, r: Any) -> Any:
        where = "counts" if self.layer in r.counts else "membranes"
        values = {k: v.clone() for k, v in getattr(r, where).items()}
        values[self.layer][self.image].reshape(-1)[-1] += 1
        return replace(r, **{where: values})

    def simulate(self, *args: Any) -> Any:
        return self.spoil(self.right[snntorch_fast](*args))

    def result(self, *args: Any) -> Any:
        return self.spoil(self.right[snntorch](*args))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("name", "layer"), [("lenet", "pool"), ("lenet", "fc2"), ("signed_input", "fc")])
def test_a_difference_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, layer: str, fast: bool) -> None:
    q = GRAPHS[name]()
    g, x = converters.to_nir(q, T=7), images(q, 5)
    looked_at = int(sample_of(5, 256)[0])
    wrong = _Wrong(looked_at, layer)
    monkeypatch.setattr(snntorch_fast, "simulate", wrong.simulate)
    monkeypatch.setattr(snntorch, "_result", wrong.result)
    message = rf"^{layer}: found 1 of \d+ values of image {looked_at} that differ from the closed form; .*check=False"
    with pytest.raises(ConversionError, match=message):
        converters.run(g, x, fast=fast)
    assert converters.run(g, x, fast=fast, check=False).checked == 0
    wrong.image = (looked_at + 1) % 5  # nobody looks there, unless all are looked at
    assert converters.run(g, x, fast=fast).checked == 1
    with pytest.raises(ConversionError, match=f"image {wrong.image} that differ"):
        converters.run(g, x, fast=fast, check=5)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("coding", ["isi", "direct"])
def test_every_exported_network_has_a_closed_form(name: str, coding: str) -> None:
    assert has_closed_form(Network.from_graph(converters.to_nir(GRAPHS[name](), T=9, coding=coding)))


def test_a_graph_off_the_lattice_is_not_compared() -> None:
    """Adding 0.1 many times rounds, and may fall on either side of a tie: nothing that a simulator could be held to."""
    q = GRAPHS["lenet"]()
    g = converters.to_nir(q, T=7)
    g.nodes["conv"].v_threshold = g.nodes["conv"].v_threshold * 0 + 0.1
    g.nodes["conv"].leak = g.nodes["conv"].leak * 0 + 0.3
    assert not has_closed_form(Network.from_graph(g))
    assert converters.run(g, images(q, 3)).checked == 0


@pytest.mark.parametrize("bad", [-1, 1.5, "all", None.__class__])
def test_bad_options(bad: Any) -> None:
    q = GRAPHS["lenet"]()
    with pytest.raises(ConversionError, match=r"check: found .*; use True, False or a number of images"):
        converters.run(converters.to_nir(q, T=3), images(q, 1), check=bad)


def test_the_sample_is_on_the_images_device_and_in_their_order() -> None:
    q = GRAPHS["lenet"]()
    g, x = converters.to_nir(q, T=3), images(q, 70)
    r = converters.run(g, x, batch=7)
    assert r.checked == 3
    assert torch.equal(r.predictions, q.at_window(3).predict(x))
