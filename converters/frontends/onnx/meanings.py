"""What an integer operator means, in places of its operands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BINARY", "UNARY", "Meaning"]


@dataclass(frozen=True)
class Meaning:
    """Of an operator: the operation on real values, and where its operands stand.

    ``operands`` are places of (integers, scale, zero point); -1 for a scale of 1. ``result`` is where the scale and the
    zero point of what comes out stand, None for a result that is not rescaled. ``bias`` is the place of one on the grid
    of the accumulator. ``rows`` is the axis of the weights, the second operand, along which scales differ.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int] | None
    bias: int | None = None
    rows: int = 0
    dropped: tuple[str, ...] = ()


UNARY = ((0, 1, 2),)
BINARY = ((0, 1, 2), (3, 4, 5))
