"""Verbs of several operands: sums, concatenations; and clamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending
from converters.graph_builder import Value

__all__ = ["JoiningVerbs"]


class JoiningVerbs(BaseVerbs):
    """Sums and concatenations of operands, and clamps."""

    def add(self, name: str, *terms: tuple[Any, float]) -> Pending:
        """A sum of operands times real factors."""
        values = self.operands(name, *(x for x, _ in terms))
        for v in values[1:]:
            if v.shape != values[0].shape:
                raise ConversionError(
                    name, f"an addition of shapes {values[0].shape} and {v.shape}", "add equal shapes"
                )
        return Pending(name, terms=tuple((v, float(f)) for v, (_, f) in zip(values, terms, strict=True)))

    def concatenate(self, name: str, operands: Sequence[Any], axis: int, rank: int) -> Value | Pending:
        """Along channels; where scales differ, the quantiser behind it puts all on one."""
        if axis % rank != 1:
            raise ConversionError(name, f"a concatenation along axis {axis}", "concatenate channels: dim=1")
        values = self.operands(name, *operands)
        if len({v.scale for v in values}) == 1:
            return self.concat(name, values)
        return Pending(name, parts=tuple(values))

    def rectify(self, name: str, x: Any, high: float = math.inf) -> Value | Pending:
        """ReLU, or ReLU6 with ``high``."""
        if type(x) is Pending:
            return replace(x, low=max(x.low, 0.0), high=min(x.high, high))
        value = self.value(name, x)
        if high == math.inf and self.range_of(value)[0] >= 0:
            return value
        maps = value.unflattened if value.flat else None  # layers of maps can become maps again
        flat, base = maps is not None, maps or value
        return Pending(
            name, terms=((base, 1.0),), low=0.0, high=high, flat=flat, shape=base.shape if flat else (), base=base
        )
