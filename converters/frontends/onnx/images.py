"""Where the images are in every tensor: attention puts tokens in front of them, or heads beside them on their axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.layouts import FIRST, Layout, laid_out
from converters.frontends.onnx.constants import is_constant
from converters.frontends.onnx.graph import Node
from converters.frontends.onnx.pointwise import SIMPLE

__all__ = ["Images"]

_POINTWISE = (*SIMPLE, "Relu", "Clip", "HardSigmoid", "Selu", "Gelu", "Softplus", "ThresholdedRelu", "Shrink", "Pow",
              "Neg", "Swish", "Add", "Sub", "Mul", "Div", "Where")  # fmt: skip
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "Quant", "IntQuant")
_MOVES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Expand", "Tile",
          "Identity", "Dropout", "Cast", "Shape", "Size")  # fmt: skip
_ALONG = ("MatMul", "Gemm", "Softmax", "LayerNormalization", "RMSNormalization", "Concat")
_ANYWHERE = frozenset((*_POINTWISE, *_QUANTISERS, *_MOVES, *_ALONG))
_TODO = "put the axis of the images first"


class Images:
    """Follows them from node to node.

    Parameters
    ----------
    count : int
        Images in the shapes that the graph computes with.
    followed : bool
        Whether any number of them may be given; a model of a fixed number has them first, or is refused.
    """

    def __init__(self, count: int, followed: bool) -> None:
        self.count, self.followed = count, followed
        self.of: dict[str, Layout] = {}
        """Of tensors by name; those that are not there have the images first."""
        self._here: list[tuple[Any, Layout]] = []
        self._common = FIRST

    def layout(self, name: str) -> Layout:
        return self.of.get(name, FIRST)

    def enter(self, node: Node, values: tuple[Any, ...]) -> None:
        """A node is read: its operands have the images along one axis, counted from behind."""
        data = [(name, x) for name, x in zip(node.inputs, values, strict=True) if x is not None and not is_constant(x)]
        self._here = [(x, self.layout(name)) for name, x in data]
        self._common = self._here[0][1] if self._here else FIRST
        if all(layout == FIRST for _, layout in self._here):
            return
        if node.op not in _ANYWHERE:
            raise ConversionError(node.name, f"a {node.op} of values whose images are not along the first axis", _TODO)
        ranks = [len(self.shape(x)) for x, _ in self._here]
        behind = {replace(n, axis=n.axis - rank) for (_, n), rank in zip(self._here, ranks, strict=True)}
        if len(behind) > 1:
            raise ConversionError(node.name, "operands that have the images along different axes", _TODO)
        if node.op == "MatMul" and len(data) > 1 and max(n.axis - r for n, r in _pairs(self._here, ranks)) >= -2:
            raise ConversionError(node.name, "a matrix product along the axis of the images", _TODO)

    def leave(self, node: Node) -> None:
        """Its outputs have them where its operands had them, or where it has moved them to."""
        for name in filter(None, node.outputs):
            if self._common != FIRST:
                self.of[name] = self._common

    def shape(self, x: Any) -> tuple[int, ...]:
        """Of an activation as the model has it; of one image, its images first, it is ``x.shape`` or ``x.seen``."""
        inner = x.seen if hasattr(x, "seen") else x.shape
        layout = self._layout_of(x)
        if layout == FIRST:
            return (self.count, *inner)
        return tuple(layout.back(torch.empty(self.count, *inner, device="meta")).shape)

    def axis(self, x: Any, axis: int) -> int:
        """An axis of the model's as one of the same where the images come first; theirs is 0."""
        return self._layout_of(x).dim(axis, len(self.shape(x)))

    def constant(self, x: Tensor, rank: int) -> Tensor:
        """What a constant, for a result of ``rank`` axes, is to one image; the same for all of them, it stands once."""
        layout = self._common
        place = layout.axis - (rank - x.ndim)
        there = 0 <= place < x.ndim and not layout.kept and x.shape[place] == self.count
        if there and bool((x == x.narrow(place, 0, 1)).all()):
            x = x.narrow(place, 0, 1)
        return x if layout == FIRST else layout.constant(x, rank)

    def moved(self, where: str, x: Any, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A function that moves values, where the images come first; it is noted where it puts them."""
        inner = x.seen if hasattr(x, "seen") else x.shape
        if not self.followed:
            after = function(torch.empty(self.count, *inner, device="meta")).shape
            if not after or after[0] != self.count:
                found = f"a change of shape from {(self.count, *inner)} to {tuple(after)}, which moves the images"
                raise ConversionError(where, found, "leave their axis alone, or export the model with an open batch")
            return function
        self._common, inside = laid_out(where, inner, self._layout_of(x), function)
        return inside

    def note(self, x: Any) -> Any:
        """What a move has made has its images where that put them: a value of its own, which is nowhere else."""
        own = replace(x)
        self._here.append((own, self._common))
        return own

    def _layout_of(self, x: Any) -> Layout:
        return next((layout for y, layout in reversed(self._here) if y is x), self._common)


def _pairs(here: list[tuple[Any, Layout]], ranks: list[int]) -> list[tuple[Layout, int]]:
    return [(layout, rank) for (_, layout), rank in zip(here, ranks, strict=True)]
