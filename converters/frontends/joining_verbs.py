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
from converters.frontends.pending import Pending, unmoved
from converters.graph_builder import Value

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
        all on one."""
        if axis % rank == 0:
            raise ConversionError(name, f"a concatenation along axis {axis}", "leave the axis of the images alone")
        values = self.operands(name, *operands)
        if len({v.scale for v in values}) == 1:
            return self.concat(name, values, axis % rank - 1)
        return Pending(name, parts=tuple(values), axis=axis % rank - 1)

    def rectify(self, name: str, x: Any, high: float = math.inf) -> Value | Pending:
        """ReLU, or ReLU6 with ``high``."""
        if type(x) is Pending:
            return replace(x, low=max(x.low, 0.0), high=min(x.high, high))
        value = self.value(name, x)
        if high == math.inf and self.range_of(value)[0] >= 0:
            return value
        base, move = unmoved(value)
        return Pending(name, terms=((base, 1.0),), low=0.0, high=high, move=move, base=base)
