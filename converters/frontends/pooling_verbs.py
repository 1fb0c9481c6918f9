"""Verbs of pools that divide, and of means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending, pair
from converters.operations import Flatten, SumPool2d

__all__ = ["PoolingVerbs"]


class PoolingVerbs(BaseVerbs):
    """Averages: weights 1, the division left to the threshold."""

    def average_pool(
        self,
        name: str,
        x: Any,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Pending:
        """An average pool (equation 6): weights 1, the division left to the threshold."""
        sides, pad = pair(kernel), pair(padding)
        steps = sides if stride is None or stride == [] else pair(stride)
        if ceil_mode:
            raise ConversionError(name, "an average pool with ceil_mode", "pad the image instead")
        if not count_include_pad and any(pad) and not divisor:
            raise ConversionError(name, "an average pool with count_include_pad=False", "count the padding")
        value = self.value(name, x)
        return Pending(name, ((value, SumPool2d(sides, steps, pad)),), value.scale, area=divisor or sides[0] * sides[1])

    def adaptive_pool(self, name: str, x: Any, size: Any) -> Pending:
        """An average pool to ``size``, which must divide the size that there is."""
        value = self.value(name, x)
        if len(value.shape) != 3:
            raise ConversionError(name, f"a pool of shape {value.shape}", "it needs channels, height and width")
        here = value.shape[1:]
        target = tuple(s if w is None else int(w) for s, w in zip(here, pair(size), strict=True))
        if any(s % t for s, t in zip(here, target, strict=True)):
            raise ConversionError(
                name, f"an adaptive pool from {here} to {target}", "let the input be a multiple of the output"
            )
        return self.average_pool(name, value, (here[0] // target[0], here[1] // target[1]))

    def mean(self, name: str, x: Any, axes: Any, *, keepdim: bool) -> Pending:
        """A mean over ``axes`` of a batch ``(N, C, H, W)``: over height and width it is a pool."""
        value = self.value(name, x)
        rank = len(value.shape) + 1
        given = [axes] if isinstance(axes, int) else list(axes or ())  # none at all are all of them
        if rank != 4 or sorted(int(d) % rank for d in given) != [2, 3]:
            what = f"the axes {given}" if given else "all axes, that of the batch too"
            raise ConversionError(name, f"a mean over {what}", "average over height and width: dim=(2, 3)")
        pooled = self.adaptive_pool(name, value, 1)
        return pooled if keepdim else replace(pooled, move=Flatten())
