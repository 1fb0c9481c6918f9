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
        Those with weights other than 1 and -1. Products of counts and norms are among them: a connection for each
        factor, and for each pair that a norm takes together.
    added : float
        All others, of pools, identities and moves: a dense pass only adds there.
    compared : float
        Those of maxima: a dense pass compares there.
    looked_up : float
        Results read from tables, of activations; no connections of their own.
    macs : float
        Multiply-accumulates of a dense pass: as many as ``multiplied``, but one for a product of two counts, two for
        each count of a norm, and one for each of a softmax.

    An operation with a memory is not a free synapse. A spike that arrives there is counted as one synaptic operation
    for every result that it may change, as at any other connection; that the result then costs a comparison, a look-up,
    a product with the other factor's count or a root is what these numbers say beside it.
    """

    multiplied: float
    added: float
    compared: float = 0.0
    looked_up: float = 0.0
    macs: float = 0.0

    @property
    def total(self) -> float:
        return self.multiplied + self.added + self.compared


def connections(synapses: Iterable[Synapse], shapes: Mapping[str, Shape]) -> Connections:
    """Count the connections of ``synapses`` between layers of these ``shapes``.

    >>> import torch
    >>> from converters.operations import Flatten, Linear
    >>> flat, dense = Synapse(("a",), (Flatten(),)), Synapse(("b",), (Linear(torch.ones(3, 4).int()),))
    >>> connections([flat, dense], {"a": (1, 4, 4), "b": (4,)})
    Connections(multiplied=12.0, added=16.0, compared=0.0, looked_up=0.0, macs=12.0)
    """
    found = {"multiplied": 0.0, "added": 0.0, "compared": 0.0, "looked_up": 0.0, "macs": 0.0}
    for synapse in synapses:
        here = [shapes[name] for name in synapse.sources]
        kind = "compared" if synapse.passes and not synapse.linear else "multiplied" if synapse.multiplies else "added"
        found[kind] += synapse.connections(*here)
        found["macs"] += synapse.multiplications(*here)
        found["looked_up"] += synapse.lookups(*here)
    return Connections(**found)


def stored_weights(synapses: Iterable[Synapse]) -> Iterator[Tensor]:
    """The integer weights that these synapses store, one tensor for each operation that has some."""
    for synapse in synapses:
        for op in synapse.ops:
            if op.stored is not None:
                yield op.stored
