"""What a kept row is found by."""

from __future__ import annotations

import torch

import converters
from converters.experiments.kept import of_network
from tests.converters.sample_graphs import GRAPHS, images


def test_the_digest_of_a_network_is_that_of_what_it_is_not_of_what_was_run() -> None:
    q = GRAPHS["lenet"](levels=3)
    before = of_network(q)
    converters.run(converters.to_nir(q), images(q, 2))
    converters.run(converters.to_nir(q), images(q, 2), backend="closed_form")
    assert of_network(q) == before
    weight = q.layers[0].synapses[0].ops[0].stored
    weight.view(-1)[0] += 1 - 2 * torch.sign(weight.view(-1)[0]).clamp(min=0)
    assert of_network(q) != before
