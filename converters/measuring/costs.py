"""What a network costs: connections and stored weights. The one place that counts them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from converters.operations import Shape, Synapse

__all__ = ["Connections", "connections", "stored_weights"]


@dataclass(frozen=True)
class Connections:
    """Connections of synapses, those of weight zero included.

    Attributes
    ----------
    multiplied : float
        Those with weights other than 1 and -1: multiply-accumulates of a dense pass.
    added : float
        All others, of pools, identities and moves: a dense pass only adds there.
    """

    multiplied: float
    added: float

    @property
    def total(self) -> float:
        return self.multiplied + self.added


def connections(synapses: Iterable[Synapse], shapes: Mapping[str, Shape]) -> Connections:
    """Count the connections of ``synapses`` between layers of these ``shapes``.

    >>> import torch
    >>> from converters.operations import Linear, SumPool2d
    >>> pool, dense = Synapse(("a",), (SumPool2d((2, 2), (2, 2)),)), Synapse(("b",), (Linear(torch.ones(3, 4).int()),))
    >>> connections([pool, dense], {"a": (1, 4, 4), "b": (4,)})
    Connections(multiplied=12.0, added=16.0)
    """
    found = {True: 0.0, False: 0.0}
    for synapse in synapses:
        found[synapse.multiplies] += synapse.connections(*(shapes[name] for name in synapse.sources))
    return Connections(found[True], found[False])


def stored_weights(synapses: Iterable[Synapse]) -> Iterator[Tensor]:
    """The integer weights that these synapses store, one tensor for each operation that has some."""
    for synapse in synapses:
        for op in synapse.ops:
            if op.stored is not None:
                yield op.stored
