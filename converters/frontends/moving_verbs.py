"""Verbs of what only changes places and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Masked, Pending, Raw
from converters.operations import Shape
from converters.operations.moving import index_of, move_of, through
from converters.values import moved, places

__all__ = ["MovingVerbs"]


class MovingVerbs(BaseVerbs):
    """Whatever leaves every value as it is."""

    def move(self, name: str, x: Any, function: Callable[[Tensor], Tensor], batch: int = 1) -> Any:
        """Padding, slices, permutations, repetitions...: any function that takes each result from one place.

        Parameters
        ----------
        name : str
        x : Value, Pending, Masked or Raw
        function : callable
            The framework's own: from a batch ``(batch, *shape)`` to one with the same first axis. It is run on indices.
        batch : int
            Number of images that it is written for.

        Returns
        -------
        Of the type of ``x``, on the same scale.
        """
        if type(x) is Masked:
            index, _ = places(name, x.shape, function, batch)
            dropped = (index >= 0) & x.dropped.reshape(-1)[index.clamp(min=0)]
            return Masked(self.move(name, x.value, function, batch), dropped)
        x = x if type(x) in (Raw, Pending) else self.value(name, x)
        index, constants = places(name, x.seen if type(x) is Raw else x.shape, function, batch)
        if bool((constants != 0).any()):
            raise ConversionError(name, "a padding with another value than 0", "pad with zeros")
        return self._seen(x, index)

    def mask(self, name: str, x: Any, dropped: Tensor) -> Masked:
        """Leaves the places where ``dropped`` is true, which broadcasts to a batch of ``x``, out of a softmax.

        Behind it there may be moves, other masks, and the softmax.
        """
        before = x if type(x) is Masked else None
        value = x.value if type(x) is Masked else x if type(x) is Pending else self.value(name, x)
        try:
            wide = dropped.cpu().expand(1, *value.shape)[0]
        except RuntimeError:
            found = f"a mask of shape {tuple(dropped.shape)} for values of shape {value.shape}"
            raise ConversionError(name, found, "give one that is the same for all images") from None
        return Masked(value, wide if before is None else wide | before.dropped)

    def reshape(self, name: str, x: Any, before: Shape, after: Shape) -> Any:
        """From shape ``before`` to ``after``, batch included."""
        if before == after:
            return x
        if before[0] != after[0] or math.prod(before[1:]) != math.prod(after[1:]):
            kept = before[0] == after[0]  # a batch of any size has none to show
            what = f"a change of shape from {tuple(before[kept:])} to {tuple(after[kept:])}"
            todo = "leave the axis of the images alone"
            raise ConversionError(name, what if kept else f"{what}, batch included", todo)
        x = x if type(x) in (Raw, Pending) else self.value(name, x)
        return self._seen(x, torch.arange(math.prod(after[1:])).reshape(tuple(after[1:])))

    def _seen(self, x: Any, index: Tensor) -> Any:
        """``x`` seen through ``index``, places in what is seen of it now."""
        if type(x) not in (Raw, Pending):
            return moved(x, index)
        if type(x) is Pending and x.then:
            turn = move_of(index, x.shape)
            return x if turn is None else replace(x, then=(*x.then, ("", turn)))
        own = x.shape if type(x) is Raw else x.layer_shape
        here = index if x.move is None else through(index_of(x.move, own), index)
        return replace(x, move=move_of(here, own))
