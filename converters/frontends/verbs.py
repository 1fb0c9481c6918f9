"""The verbs of a front-end: what every toolkit's networks are made of, said once.

A front-end reads its toolkit's names, scales and arguments, and says for each operation one of these: this weighted
layer, this pool, this addition, this ReLU, this quantiser behind it. Values that no quantiser has seen yet are
:class:`~converters.frontends.pending.Pending`; geometry, batch-norm folding, clamps, unequal scales and all errors
about them stand in the verbs, one file per group.
"""

from __future__ import annotations

from converters.frontends.counting_verbs import CountingVerbs
from converters.frontends.pending import Embedded, Grid, Masked, Pending, Raw, Weight, describe, pair
from converters.frontends.pooling_verbs import PoolingVerbs
from converters.frontends.summing_verbs import SummingVerbs
from converters.frontends.weighted_verbs import convolution, transposed

__all__ = [
    "Embedded",
    "Grid",
    "Masked",
    "Pending",
    "Raw",
    "Verbs",
    "Weight",
    "convolution",
    "describe",
    "pair",
    "transposed",
]


class Verbs(CountingVerbs, PoolingVerbs, SummingVerbs):
    """A :class:`~converters.graph_builder.GraphBuilder` that front-ends talk to.

    Every verb takes ``name``, the place in the user's model for the layer and for errors, and operands as they were
    read: a :class:`~converters.graph_builder.Value`, a :class:`Pending`, or the :class:`Raw` input.
    """
