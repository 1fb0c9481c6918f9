"""A run looks at a sample of its own result: simulations by the closed form, the closed form by simulation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from converters.backends.closed_form import BACKEND, ClosedFormOptions
from converters.backends.contract import Settings
from converters.errors import ConversionError
from converters.exact.sums import adds_exactly
from converters.network import Network, Stage
from converters.results import RunResult

__all__ = ["compare_with_closed_form", "due", "has_closed_form", "sample_of", "spread"]

EVERY = 64  # images: one of them is looked at; its closed form takes as long as a few steps of it
SHORT = 1024  # images: of shorter runs a closed form would take as long as all of their steps


def sample_of(n: int, batch: int) -> Tensor:
    """One image of each batch, at most one in 64, each time at another place in it: int64 indices.

    >>> sample_of(100, 40).tolist(), sample_of(2, 1).tolist(), sample_of(0, 8).tolist()
    ([39, 72], [1], [])
    """
    size = max(batch, EVERY)
    starts = range(0, n, size)
    places = [start + int((k * 0.618 % 1) * min(size, n - start)) for k, start in enumerate(starts, start=1)]
    return torch.tensor(places, dtype=torch.int64)


def due(network: Network, n: int) -> bool:
    """Whether a run of ``n`` images of this network is to be looked at: the first, and when 1,024 have passed since."""
    passed = network.keep(("self_check", "passed"), lambda: [SHORT])
    passed[0] += n
    if passed[0] <= SHORT:
        return False
    passed[0] = 0
    return True


def spread(n: int, wanted: int) -> Tensor:
    """``wanted`` of ``n`` images, evenly spread: int64 indices.

    >>> spread(5, 3).tolist(), spread(2, 9).tolist()
    ([0, 2, 4], [0, 1])
    """
    return torch.linspace(0, n - 1, min(n, wanted), dtype=torch.float64).round().to(torch.int64)


def has_closed_form(network: Network) -> bool:
    """Whether float64 simulates the network without rounding, so that it ends on the closed form after ``settle``.

    Always so for networks of :func:`converters.to_nir`; a graph from elsewhere may have a threshold of 0.1.
    """

    def look() -> bool:
        return all(_on_a_lattice(stage, network.window, network.reach) for stage in network.stages)

    return network.keep(("self_check",), look)


def _on_a_lattice(stage: Stage, window: int, reach: dict[str, int]) -> bool:
    p = stage.parameters
    charge = sum(synapse.reach(*(reach[name] for name in synapse.sources)) for synapse in stage.synapses)
    # spikes take out no more than what came in, and so may leave as much of the other sign
    span = 2 * (charge + window * abs(p.leak).max() + abs(p.v_init).max() + p.threshold.max())
    return adds_exactly(float(span), p.threshold, p.leak, p.v_init)


def compare_with_closed_form(network: Network, integers: Tensor, result: RunResult, sample: Tensor) -> RunResult:
    """The result of a simulation, with ``checked`` images of it, those of ``sample``, found equal to the closed form.

    Raises
    ------
    ConversionError
        Naming the layer and the image where a count, or the output's membrane, differs.
    """
    sample = sample.to(integers.device)
    settings, options = Settings("settle", network.window, "counts", integers.device), ClosedFormOptions(on_bytes=False)
    size = max(1, 2_000_000 // max(network.neurons, 1))
    for part in sample.split(size):
        exact = BACKEND.simulate(network, integers[part], settings, options)
        pairs = {name: (counts[part], exact.counts[name]) for name, counts in result.counts.items()}
        for stage in network.output_stages:
            if stage.readout:
                pairs[stage.name] = result.membranes[stage.name][part], exact.membranes[stage.name]
        for name, (found, wanted) in pairs.items():
            wrong = (found.to(wanted.device) != wanted).flatten(1).sum(1)
            if bool(wrong.any()):
                k = int(wrong.argmax())
                size, image = found[0].numel(), int(part[k])
                raise ConversionError(
                    name,
                    f"{int(wrong[k])} of {size} values of image {image} that differ from the closed form",
                    "the simulation is wrong: report it with the network; check=False runs without this check",
                )
    return replace(result, checked=len(sample))
