"""What every network of a gallery must do: the counts of all backends are its integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import converters
from converters import QuantGraph
from converters.results import compare_counts

__all__ = ["counts_are_integers", "signed_images"]

WINDOW = 8


def signed_images(shape: Sequence[int], n: int, seed: int) -> Tensor:
    """Random ones of both signs, with zeros and extremes among them; the last is empty."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator) * 2 - 1
    x[torch.rand(x.shape, generator=generator) < 0.2] = 0
    x[torch.rand(x.shape, generator=generator) < 0.1] = 1
    x[-1] = 0
    return x


def counts_are_integers(q: QuantGraph, x: Tensor, backends: Sequence[str]) -> None:
    window = min(q.levels, WINDOW)
    graph, expected = converters.to_nir(q, window), q.at_window(window).execute(x)
    for backend in backends:
        rows = compare_counts(converters.run(graph, x, backend=backend, check=False), expected)
        assert len(rows) == sum(layer.spiking for layer in q.layers)
        assert [row for row in rows if row.differing] == [], backend
