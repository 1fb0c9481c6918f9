"""A run looks at a sample of its own result: what is looked at, when, and what happens on a difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import converters
from calif_plugins.parameters import Phase
from converters.backends import Backend, fast, snntorch
from converters.backends.self_check import EVERY, has_closed_form, sample_of
from converters.errors import ConversionError
from converters.network import Network
from tests.converters.sample_graphs import GRAPHS, images


@pytest.mark.parametrize("backend", ["fast", "snntorch"])
@pytest.mark.parametrize("name", ["lenet", "signed_input"])
def test_a_sample_is_compared_by_itself(name: str, backend: str) -> None:
    q = GRAPHS[name]()
    g, x = converters.to_nir(q, T=3), images(q, 3)
    assert converters.run(g, x, backend=backend).checked == 1
    assert converters.run(g, x, backend=backend, check=False).checked == 0
    assert converters.run(g, x, backend=backend, check=2).checked == 2
    assert converters.run(g, x[:0], backend=backend, check=2).checked == 0
    assert converters.run(g, x, backend=backend, settle_from=0, record="output").checked == 1
    phases: tuple[Phase, ...] = ("paper", "none")  # these have no closed form
    for phase in phases:
        assert converters.run(g, x, backend=backend, phase=phase).checked == 0


def test_brian2_is_compared_too() -> None:
    q = GRAPHS["signed_input"]()
    assert converters.run(converters.to_nir(q, T=3), images(q, 2), backend="brian2").checked == 1


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (31, 8), (64, 1), (65, 64), (200, 40), (1000, 500)])
def test_one_image_of_each_batch(n: int, batch: int) -> None:
    sample = sample_of(n, batch)
    size = max(batch, EVERY)
    assert (sample // size).tolist() == list(range(-(-n // size)))
    assert sample.max() < n


@pytest.mark.parametrize("backend", [fast.BACKEND, snntorch.BACKEND])
@pytest.mark.parametrize(("name", "layer"), [("lenet", "pool"), ("lenet", "fc2"), ("signed_input", "fc")])
def test_a_difference_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, layer: str, backend: Backend) -> None:
    """A count, or the membrane of an output without spikes, that is one higher in one neuron of one image."""
    q = GRAPHS[name]()
    g, x = converters.to_nir(q, T=7), images(q, 5)
    looked_at = image = int(sample_of(5, 256)[0])
    right = type(backend).simulate

    def wrong(*args: Any) -> Any:
        r = right(*args)
        where = "counts" if layer in r.counts else "membranes"
        values = {k: v.clone() for k, v in getattr(r, where).items()}
        values[layer][image].reshape(-1)[-1] += 1
        changed: dict[str, Any] = {where: values}
        return replace(r, **changed)

    monkeypatch.setattr(type(backend), "simulate", wrong)
    message = rf"^{layer}: found 1 of \d+ values of image {looked_at} that differ from the closed form; .*check=False"
    with pytest.raises(ConversionError, match=message):
        converters.run(g, x, backend=backend.name)
    assert converters.run(g, x, backend=backend.name, check=False).checked == 0
    image = (looked_at + 1) % 5  # nobody looks there, unless all are looked at
    assert converters.run(g, x, backend=backend.name).checked == 1
    with pytest.raises(ConversionError, match=f"image {image} that differ"):
        converters.run(g, x, backend=backend.name, check=5)


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
    g, x = converters.to_nir(q, T=3), images(q, 140)
    r = converters.run(g, x, batch=7)
    assert r.checked == 3
    assert torch.equal(r.predictions, q.at_window(3).predict(x))
