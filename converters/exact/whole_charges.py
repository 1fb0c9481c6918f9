"""The whole charge of a layer, exactly, from its sources' counts: what the executor and the closed form round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from converters.exact.sums import add_up, whole_dtype
from converters.operations import Synapse

__all__ = ["whole_charge"]


def whole_charge(
    synapses: Sequence[Synapse], values: Mapping[str, Tensor], largest: Mapping[str, int], where: str
) -> Tensor:
    """The sum of the synapses' charges: whole numbers, in a float dtype.

    A float product of integers is exact while they fit, and far faster than integer kernels; so whatever is linear
    takes the smallest type that holds its sums. What counts goes on from there in float64.

    Parameters
    ----------
    synapses : sequence of Synapse
    values : mapping of tensors ``(N, *shape)``
        Whole counts of their sources, in any type.
    largest : mapping of int
        The largest size of each.
    where : str
        The layer, for messages.

    Raises
    ------
    ConversionError
        Where not even float64 holds the sums.

    >>> from converters.operations import Linear
    >>> dense = Synapse(("a",), (Linear(torch.tensor([[1, 2]])),))
    >>> whole_charge([dense], {"a": torch.tensor([[3, -1]])}, {"a": 3}, "fc")
    tensor([[1.]])
    """
    if all(s.linear for s in synapses):
        bound = sum(s.reach(*(largest[name] for name in s.sources)) for s in synapses)
        factor = max(s.largest_factor(*(largest[name] for name in s.sources)) for s in synapses)
        dtype = whole_dtype(bound, next(iter(values.values())).device, factor=factor, where=where)
        return add_up((s(*(values[name].to(dtype) for name in s.sources)) for s in synapses), where).round()
    return add_up((_charge(s, values, largest, where) for s in synapses), where).round()


def _charge(synapse: Synapse, values: Mapping[str, Tensor], largest: Mapping[str, int], where: str) -> Tensor:
    """Of one synapse, float64."""
    first, core, last = synapse.parts
    lead = Synapse(synapse.sources, first) if first else None
    given = [values[name] for name in synapse.sources]
    if lead is not None:
        reach = [largest[name] for name in synapse.sources]
        dtype = whole_dtype(lead.reach(*reach), given[0].device, factor=lead.largest_factor(*reach), where=where)
        given = [lead(*(x.to(dtype) for x in given)).round()]
    given = [x.to(torch.float64) for x in given]
    for op in (*core, *last):
        given = [op(*given)]
    return given[0]
