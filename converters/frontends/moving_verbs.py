"""Verbs of what only changes places and shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending, Raw
from converters.graph_builder import Value
from converters.operations import Shape

__all__ = ["MovingVerbs"]


class MovingVerbs(BaseVerbs):
    """Whatever leaves every value as it is."""

    def reshape(self, name: str, x: Any, before: Shape, after: Shape) -> Any:
        """From shape ``before`` to ``after``, batch included: it flattens images, puts them back, or does nothing."""
        if before == after:
            return x
        x = x if type(x) in (Raw, Pending) else self.value(name, x)
        if before[0] == after[0] and len(after) == 2:
            if type(x) is Value:
                return self.flatten(x) if len(x.shape) > 1 else x
            return replace(x, flat=True, **({"shape": tuple(before[1:])} if type(x) is Pending and not x.flat else {}))
        if before[0] == after[0] and x.flat:
            plain = x.unflattened if type(x) is Value else replace(x, flat=False)
            if plain is not None and plain.shape == tuple(after[1:]):
                return plain
        kept = before[0] == after[0]  # a batch of any size has none to show
        what = f"a change of shape from {tuple(before[kept:])} to {tuple(after[kept:])}"
        raise ConversionError(name, what if kept else f"{what}, batch included", "only flatten images")
