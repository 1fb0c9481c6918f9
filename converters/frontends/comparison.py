"""What a comparison with a toolkit is made of: what its model showed, and an account of what was compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from converters.frontends.examples import Given
from converters.quantised import QuantGraph

__all__ = ["Comparison", "LayerComparison", "Runner", "Shown", "handed_over", "runners"]


@dataclass(frozen=True)
class Shown:
    """What the toolkit's own forward pass gave on a batch: real values, quantisation's zero points taken off.

    ``values`` are pairs of a layer's name (or the input's) and its values ``(N, ...)``, in the order in which they
    came; a layer may come several times. ``output`` is what the model returned, in its structure. ``partial`` are
    those of which a part is seen, with the places that are, bool of one image's shape. ``inverts``: its quantisers
    multiply by the inverse of a scale in float32, as PyTorch's do; others divide by the scale.
    """

    values: Sequence[tuple[str, Tensor]]
    output: Any
    partial: Sequence[tuple[str, Tensor, Tensor]] = ()
    inverts: bool = False


@dataclass
class LayerComparison:
    """Of one layer: what was compared, what differs, and how far that is from a tie.

    Attributes
    ----------
    integers : int
    near_ties, wrong : int
        Those that differ, by one level within rounding of a tie; and all others.
    furthest : float
        Distance of the exact quotient from the tie, in levels: the largest of near-ties.
    share : float
        The same as a part of what rounding can do there; at most 1.
    """

    integers: int = 0
    near_ties: int = 0
    wrong: int = 0
    furthest: float = 0.0
    share: float = 0.0

    @property
    def differing(self) -> int:
        """All that differ."""
        return self.near_ties + self.wrong

    def take(self, near: Tensor, distance: Tensor, bound: Tensor) -> None:
        """Another batch of the layer: which are near-ties, how far from the tie they are, and how far they may be."""
        self.near_ties += int(near.sum())
        if bool(near.any()):
            d, b = distance[near], bound.expand_as(distance)[near]
            self.furthest = max(self.furthest, float(d.max()))
            self.share = max(self.share, float((d / b).max()))


@dataclass
class Comparison:
    """What has been compared so far: layers with values of their own, integers, and near-ties among them.

    ``strict``: whether a difference that is no near-tie is an error, or goes into the account of its layer.
    """

    layers: set[str] = field(default_factory=set)
    integers: int = 0
    near_ties: int = 0
    strict: bool = True
    by_layer: dict[str, LayerComparison] = field(default_factory=dict)

    def of(self, layer: str) -> LayerComparison:
        """The account of a layer, or of an input or output."""
        return self.by_layer.setdefault(layer, LayerComparison())


@dataclass
class Runner:
    """A network, the forward pass of the model that it was made from, and the precision of that."""

    q: QuantGraph
    run: Callable[[Given], Shown]
    dtype: torch.dtype | None


_ASKED: ContextVar[list[Runner] | None] = ContextVar("asked", default=None)


@contextmanager
def runners() -> Iterator[list[Runner]]:
    """Within it, front-ends hand over their models' forward passes in the place of comparing with them."""
    found: list[Runner] = []
    token = _ASKED.set(found)
    try:
        yield found
    finally:
        _ASKED.reset(token)


def handed_over(q: QuantGraph, run: Callable[[Given], Shown], dtype: torch.dtype | None) -> bool:
    """Whether somebody has asked for the forward pass (:func:`runners`), and has it now."""
    found = _ASKED.get()
    if found is not None:
        found.append(Runner(q, run, dtype))
    return found is not None
