"""Verbs of several operands: sums, concatenations; and clamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending, compact, unmoved
from converters.graph_builder import Value, common_unit
from converters.operations import Operation, Scale
from converters.values import moved

__all__ = ["JoiningVerbs"]


class JoiningVerbs(BaseVerbs):
    """Sums and concatenations of operands, and clamps."""

    def add(self, name: str, *terms: tuple[Any, float]) -> Pending:
        """A sum of operands times real factors; shapes broadcast."""
        values = self.operands(name, *(x for x, _ in terms))
        try:
            shape = torch.broadcast_shapes(*((1, *v.shape) for v in values))
        except RuntimeError:
            found = f"an addition of shapes {' and '.join(str(v.shape) for v in values)}"
            raise ConversionError(name, found, "add shapes that broadcast") from None

        def wide(t: Tensor) -> Tensor:
            return t.reshape(1, *[1] * (len(shape) - t.ndim), *t.shape[1:]).expand(shape)

        values = [v if (1, *v.shape) == shape else self.moved(name, v, wide) for v in values]
        return Pending(name, terms=tuple((v, float(f)) for v, (_, f) in zip(values, terms, strict=True)))

    def concatenate(self, name: str, operands: Sequence[Any], axis: int, rank: int) -> Value | Pending:
        """Along any axis but the batch's, of ``rank`` axes with it; where scales differ, the quantiser behind it puts
        all on one. Among the operands there may be constants, float tensors ``(1, ...)``, which become bias."""
        if axis % rank == 0:
            raise ConversionError(name, f"a concatenation along axis {axis}", "leave the axis of the images alone")
        if any(isinstance(x, Tensor) for x in operands):
            return self._beside_constants(name, operands, axis % rank - 1)
        values = self.operands(name, *operands)
        if len({v.scale for v in values}) == 1:
            return self.concat(name, values, axis % rank - 1)
        return Pending(name, parts=tuple(values), axis=axis % rank - 1)

    def _beside_constants(self, name: str, operands: Sequence[Any], axis: int) -> Pending:
        """A concatenation, as a sum of its operands, each in its place among zeros, plus a bias."""
        values = iter(self.operands(name, *(x for x in operands if not isinstance(x, Tensor))))
        found = [x.detach().double().cpu()[0] if isinstance(x, Tensor) else next(values) for x in operands]
        first = tuple(found[0].shape)
        sizes = [tuple(x.shape) for x in found]
        if {s[:axis] + s[axis + 1 :] for s in sizes} != {first[:axis] + first[axis + 1 :]}:
            raise ConversionError(name, f"a concatenation of shapes {sizes}", f"only axis {axis + 1} may differ")
        shape = (*first[:axis], sum(s[axis] for s in sizes), *first[axis + 1 :])
        unit, weights = common_unit([x.scale for x in found if isinstance(x, Value)])
        bias, start = torch.zeros(shape, dtype=torch.float64), 0
        inputs: list[tuple[Value, tuple[Operation, ...]]] = []
        for x, size in zip(found, sizes, strict=True):
            if isinstance(x, Value):
                index = torch.full(shape, -1)
                own = torch.arange(math.prod(size)).reshape(size)
                index.narrow(axis, start, size[axis]).copy_(own)
                inputs.append((moved(x, index), (Scale(weights[len(inputs)]),)))
            else:
                bias.narrow(axis, start, size[axis]).copy_(x)
            start += size[axis]
        return Pending(name, tuple(inputs), unit, bias=compact(bias))

    def rectify(self, name: str, x: Any, high: float = math.inf) -> Value | Pending:
        """ReLU, or ReLU6 with ``high``."""
        if type(x) is Pending:
            return replace(x, low=max(x.low, 0.0), high=min(x.high, high))
        value = self.value(name, x)
        if high == math.inf and self.range_of(value)[0] >= 0:
            return value
        base, move = unmoved(value)
        return Pending(name, terms=((base, 1.0),), low=0.0, high=high, move=move, base=base)
