"""Whole numbers as an input: each token is a row of a constant table, and that row is what the input spikes.

``nn.Embedding`` is a one-hot vector times its table, which nothing needs to compute: the table's integers stand with
the input, and a token's row of them is coded as the pixels of an image are.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["TokenTable"]

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class TokenTable:
    """A row of integers for each token, from 0.

    Attributes
    ----------
    rows : int64 tensor ``(vocabulary, size)``

    Examples
    --------
    >>> table = TokenTable(torch.tensor([[0, 0], [3, -1], [2, 5]]))
    >>> table.look_up("images", torch.tensor([[2, 1, 1]]), (3,)).tolist()
    [[[2, 5], [3, -1], [3, -1]]]
    >>> table.vocabulary, table.limits
    (3, (-1, 5))
    """

    rows: Tensor

    def __post_init__(self) -> None:
        rows = self.rows
        if not isinstance(rows, Tensor) or rows.dtype not in _WHOLE or rows.ndim != 2 or 0 in rows.shape:
            found = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ConversionError("table", found, "give integers, a row for each token: (vocabulary, size)")
        object.__setattr__(self, "rows", rows.detach().to("cpu", torch.int64))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenTable) and torch.equal(self.rows, other.rows)

    def __hash__(self) -> int:
        return hash((self.vocabulary, self.size, int(self.rows.sum())))

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """Integers of a row."""
        return self.rows.shape[1]

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest of all integers."""
        low, high = (int(x) for x in self.rows.aminmax())
        return low, high

    def look_up(self, where: str, tokens: Any, shape: tuple[int, ...]) -> Tensor:
        """Rows of a batch of tokens ``(N, *shape)``: int64 ``(N, *shape, size)``.

        Raises
        ------
        ConversionError
            Naming ``where``: for what is no tensor of whole numbers, another shape, or a token without a row.
        """
        wanted = f"give whole numbers from 0 to {self.vocabulary - 1}, ({', '.join(map(str, ('N', *shape)))})"
        if not isinstance(tokens, Tensor) or tokens.dtype not in _WHOLE:
            found = f"{tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ConversionError(where, f"{found} for tokens", wanted)
        if tokens.layout != torch.strided or tokens.is_nested or tokens.device.type == "meta":
            raise ConversionError(where, "tokens that are no plain tensor", wanted)
        if tuple(tokens.shape[1:]) != tuple(shape) or tokens.ndim < 1:
            raise ConversionError(where, f"tokens of shape {tuple(tokens.shape)}", wanted)
        index = tokens.to(torch.int64)
        outside = index[(index < 0) | (index >= self.vocabulary)]
        if outside.numel():
            raise ConversionError(where, f"the token {int(outside[0])}", wanted)
        return self.rows.to(index.device)[index]

    def coarsened(self, factor: Fraction, low: int, high: int) -> TokenTable:
        """The table where one level is ``1 / factor`` times as large, in a range (ties to even).

        >>> TokenTable(torch.tensor([[1, 2], [3, 127]])).coarsened(Fraction(1, 2), -2, 63).rows.tolist()
        [[0, 1], [2, 63]]
        """
        scaled = (self.rows * factor.numerator).to(torch.float64) / factor.denominator  # a half is one in float64 too
        return TokenTable(scaled.round().clamp(low, high).to(torch.int64))
