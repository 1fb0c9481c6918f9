"""How the fast simulator evaluates synapses that count: what does not depend on the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from converters.backends.fast_moves import Moves, only_moves, permuted
from converters.network import Network
from converters.operations import MaskedSoftmax, MatMul, Normalise, Operation, Product, Shape, Softmax, Synapse

__all__ = ["Counting"]

Act = Callable[..., Tensor]  # as an operation acts, (N, C, ...)


@dataclass
class Counting:
    """How a synapse that counts goes on from spikes, or from charges of its linear operations in front.

    Attributes
    ----------
    shape : tuple of int
        Of what is counted.
    moves : tuple of Moves or None
        Of each source's spikes, into the order in which they are counted.
    in_order : bool
        Whether that is channels first, as operations have it; else channels are last.
    largest : int
        Nothing that is added up on the way is larger, nor is the layer's charge.
    acts : tuple of callables
        What acts on the counts, images first.
    rest : tuple of callables
        What acts on changes of that.
    """

    shape: Shape
    moves: tuple[Moves | None, ...]
    in_order: bool
    largest: int
    acts: tuple[Act, ...]
    rest: tuple[Act, ...]

    @classmethod
    def of(cls, synapse: Synapse, network: Network, change: int, lead: Synapse | None) -> Counting:
        """``change``: the layer's largest charge of a step. ``lead``: linear operations in front whose charges are what
        is counted."""
        first_ops, core, rest = synapse.parts
        shapes = [network.shapes[name] for name in synapse.sources]
        taken = [lead.output_shape(*shapes)] if lead is not None else shapes
        acts = core if lead is not None else (*first_ops, *core)
        moves: tuple[Moves | None, ...] = (None,) * len(taken)
        in_order = False
        if lead is None and (len(shapes) == 1 or not first_ops) and only_moves(first_ops):
            shape = shapes[0]
            for op in first_ops:
                shape = op.output_shape(shape)
            in_order, taken = _along_the_last(core[0], shape), [shape, *shapes[1:]]
            if first_ops or in_order:
                put = Moves.in_order if in_order else Moves.of
                moves, acts = tuple(put(first_ops, s) for s in shapes), core
        here = taken
        for op in acts:
            here = [op.output_shape(*here)]
        after: list[Act] = []
        for op in rest:
            after.append(permuted(op, *here))
            here = [op.output_shape(*here)]
        return cls(taken[0], moves, in_order, _largest(synapse, network, change), acts, tuple(after))


def _along_the_last(op: Operation, shape: Shape) -> bool:
    """Whether it adds up along the last axis of what it takes, which is better off close together in memory."""
    if type(op) is Normalise:
        return len(shape) > 1 and len(shape) - 1 in op.axes
    if type(op) in (Softmax, MaskedSoftmax):
        return len(shape) > 1 and op.axis == len(shape) - 1  # type: ignore[attr-defined]
    return type(op) is MatMul


def _largest(synapse: Synapse, network: Network, change: int) -> int:
    """The largest number that it counts, makes of counts, or adds up to a change; ``change``: of the whole layer.

    Of products alone: what else counts is given float64, as everywhere.
    """
    if not all(op.linear or type(op) in (MatMul, Product) for op in synapse.ops):
        return 2**53
    reach = tuple(network.reach[name] for name in synapse.sources)
    most, results = max(change, *reach), len(synapse.ops) - len(synapse.parts[2])
    for k, op in enumerate(synapse.ops):
        reach = (op.reach(*reach),)
        most = max(most, reach[0] if k + 1 < results else 2 * reach[0])  # changes are differences of results
    return min(most, 2**53)  # beyond which the network itself is refused
