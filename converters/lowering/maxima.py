"""Maxima out of Ca-LIF neurons alone: ``max(a, b) = a + relu(b - a)``, in a tree.

Stock nodes have no maximum that remembers counts. But a layer of threshold 1 and range ``[0, ...]`` that is fed with
``b`` and ``-a`` ends on ``relu(b - a)``, and the sum of that and of ``a`` is the maximum; its spikes may come later
than those of the maximum itself, its final counts are the same. A minimum is ``a - relu(a - b)``. The values of a
window are spelled out as convolutions that each take one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from calif_plugins.parameters import CaLIFParameters
from converters.errors import ConversionError
from converters.graphs.naming import Names
from converters.network import Network, Stage
from converters.operations import (
    AdaptiveMaxPool,
    Conv2d,
    Flatten,
    Linear,
    Maximum,
    MaxOver,
    MaxPool,
    Minimum,
    Operation,
    Scale,
    Shape,
    Synapse,
)
from converters.operations.weights import Weighted

__all__ = ["spelled_out"]


@dataclass(frozen=True, eq=False)
class _Term:
    """A source, a chain of linear operations on it, and a sign."""

    source: str
    ops: tuple[Operation, ...]
    sign: int = 1

    def __neg__(self) -> _Term:
        return replace(self, sign=-self.sign)

    def synapse(self) -> Synapse:
        if self.sign > 0:
            return Synapse((self.source,), self.ops)
        for k in reversed(range(len(self.ops))):
            op = self.ops[k]
            if isinstance(op, Weighted):
                return Synapse((self.source,), (*self.ops[:k], op.with_weight(-op.stored), *self.ops[k + 1 :]))
        return Synapse((self.source,), (*self.ops, Scale(-1)))


def spelled_out(network: Network) -> Network:
    """The network with Ca-LIF layers in the place of maxima; the same one where it has none.

    Raises
    ------
    ConversionError
        For a maximum whose values cannot be spelled out in convolutions and dense layers, with the way out.
    """
    if not any(stage.relay for stage in network.stages):
        return network
    names = Names({*network.encoders, *(stage.name for stage in network.stages)})
    stages: list[Stage] = []
    for stage in network.stages:
        stages += _layers(network, stage, names) if stage.relay else [stage]
    return replace(network, stages=tuple(stages))


def _layers(network: Network, stage: Stage, names: Names) -> list[Stage]:
    (synapse,) = stage.synapses
    *moves, op = synapse.ops
    shapes = [network.shapes[name] for name in synapse.sources]
    for move in moves:
        if not move.rewires or len(shapes) > 1:
            raise _refused(stage, op, f"behind {type(move).__name__}")
        shapes = [move.output_shape(*shapes)]
    low, high = int(stage.parameters.y_min.min()), int(stage.parameters.y_max.max())
    smallest = type(op) is Minimum or (type(op) is MaxOver and op.smallest)
    if type(op) in (Maximum, Minimum):
        if len(set(shapes)) > 1:
            raise _refused(stage, op, f"of shapes {shapes}")
        values = [[_Term(name, ())] for name in synapse.sources]
    else:
        taps = _taps(stage, op, shapes[0], low)
        values = [[_Term(synapse.source, (*moves, *tap))] for tap in taps]
    made: list[Stage] = []

    def larger(a: list[_Term], b: list[_Term]) -> list[_Term]:
        """What is to be summed up for the larger of two sums (the smaller, for a minimum)."""
        one, two = (b, a) if smallest else (a, b)
        terms = [*two, *(-t for t in one)]
        name = names.new(f"{stage.name}.rest{len(made)}")
        made.append(_layer(name, terms, 0, high - low, stage))
        rest = _Term(name, ())
        return [*a, -rest if smallest else rest]

    while len(values) > 1:
        pairs = [larger(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return [*made, replace(_layer(stage.name, values[0], low, high, stage), parameters=stage.parameters)]


def _layer(name: str, terms: list[_Term], low: int, high: int, like: Stage) -> Stage:
    parameters = CaLIFParameters(threshold=np.array([1.0]), y_min=low, y_max=high, tie=like.parameters.tie)
    return Stage(name, tuple(t.synapse() for t in terms), parameters, like.shape, like.scale)


def _taps(stage: Stage, op: Operation, shape: Shape, low: int) -> list[tuple[Operation, ...]]:
    """Chains that each give one value of every window, of counts of ``shape`` that are at least ``low``."""
    if type(op) is MaxOver:
        return _over(stage, op, shape)
    if type(op) is AdaptiveMaxPool and all(n % s == 0 for n, s in zip(shape[1:], op.size, strict=True)):
        kernel = tuple(n // s for n, s in zip(shape[1:], op.size, strict=True))
        op = MaxPool(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))
    if type(op) is not MaxPool or len(shape) != 3:
        raise _refused(stage, op, f"of shape {shape}")
    if any(op.padding) and low < 0:
        raise _refused(stage, op, "with padding around negative counts")
    if op.ceil_mode and replace(op, ceil_mode=False).output_shape(shape) != op.output_shape(shape):
        raise _refused(stage, op, "with windows beyond the map")
    return [(_tap(op, shape[0], place),) for place in product(*map(range, op.kernel))]


def _tap(op: MaxPool, channels: int, place: tuple[int, ...]) -> Conv2d:
    weight = torch.zeros(channels, 1, *op.kernel, dtype=torch.int8)
    weight[:, 0, place[0], place[1]] = 1
    stride, padding, dilation = ((t[0], t[1]) for t in (op.stride, op.padding, op.dilation))
    return Conv2d(weight, stride, padding, dilation, channels)


def _over(stage: Stage, op: MaxOver, shape: Shape) -> list[tuple[Operation, ...]]:
    if len(shape) == 3 and set(op.axes) == {1, 2}:
        pool = MaxPool(shape[1:], shape[1:], (0, 0), (1, 1))
        after = () if op.keepdim else (Flatten(),)
        return [(_tap(pool, shape[0], place), *after) for place in product(*map(range, shape[1:]))]
    if len(shape) in (1, 3) and op.axes == (0,) and op.keepdim:
        rows = torch.eye(shape[0], dtype=torch.int8)
        if len(shape) == 1:
            return [(Linear(row[None]),) for row in rows]
        return [(Conv2d(row[None, :, None, None]),) for row in rows]
    raise _refused(stage, op, f"over axes {op.axes} of shape {shape}")


def _refused(stage: Stage, op: Operation, what: str) -> ConversionError:
    backends = "run the network on fast, snntorch or brian2, which have it as it is"
    return ConversionError(stage.name, f"{type(op).__name__} {what}, which has no form in stock NIR nodes", backends)
