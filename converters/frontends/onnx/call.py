"""What handlers are given: the reader that asks, and one node with its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.graph import Node
from converters.frontends.verbs import Verbs
from converters.graph_builder import Value

__all__ = ["Call", "Handler", "Reader"]


@dataclass(frozen=True, eq=False)
class Call:
    """A node and its operands, None where one is left out."""

    node: Node
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        return self.node.name

    def arg(self, k: int) -> Any:
        return self.args[k] if k < len(self.args) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, of the type of its default.

        Raises
        ------
        ConversionError
            If it is of another type.
        """
        value = self.node.attributes.get(name, default)
        kinds = (int, float) if type(default) is float else type(default)
        if default is not None and not isinstance(value, kinds):
            raise ConversionError(self.name, f"the attribute {name} of type {type(value).__name__}", "correct it")
        return value


class Reader(Protocol):
    """What handlers ask of whoever walks the graph."""

    builder: Verbs
    batch: int
    """Images in the shapes that the graph computes with."""
    quantised: dict[Any, Value]
    kept: list[Any]
    shown: list[tuple[str, Value, int | None]]
    """Tensors of integers, the layers that they are, and their zero points; None for one of real values."""
    narrow: set[str]
    """Those among them that have less than 8 bits."""
    places: dict[str, str]
    """Names of the nodes that give tensors."""

    def shape(self, x: Any) -> tuple[int, ...]:
        """Of a tensor, batch included."""

    def axis(self, x: Any, axis: int) -> int:
        """An axis of an activation as one of a batch with the images first; theirs is 0."""

    def constant(self, c: Call, x: Tensor) -> Tensor:
        """A constant operand, as it is to a batch with the images first."""

    def move(self, c: Call, x: Any, function: Callable[[Tensor], Tensor]) -> Any:
        """A tensor seen through a function that takes each value from one place."""

    def with_source(self, c: Call, codes: Any, value: Any) -> Any:
        """Integers on the same scale, of other counts."""

    def dequantised_input(self, c: Call, x: Any, scale: float, zero: int) -> Any:
        """An input that is integers already."""


Handler: TypeAlias = Callable[[Any, Call], Any]
"""From a node to a value, or a tuple of one for each of its outputs."""
