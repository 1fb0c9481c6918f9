"""Activations with a scale for each channel, and the weights behind them, which take these scales in.

Norms of transformers have channels that are some ten times as large as others: with one scale for all, most channels
have few levels. With a scale ``s_c`` for each, and ``r_c = s_c / max s``, what the next layer adds up is ::

    sum_c w_c (s_c n_c) = max s  sum_c (w_c r_c) n_c

so its weights are rounded as ``w_c r_c``, on a scale of their own for each row, and integers times counts are what is
added up, as everywhere (RepQ-ViT, `Li et al. 2023 <https://arxiv.org/abs/2212.08254>`_, does so after training; here
scales and weights are trained together).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import MovingAveragePerChannelMinMaxObserver

from converters.frontends.range_search import best_range, moving_range

if TYPE_CHECKING:
    from converters.frontends.level_quantiser import LevelQuantiser

__all__ = ["PerChannelRangeObserver", "TakenIn", "relative"]

_VALUES = 2**16
"""Of a sample, of all channels together."""


class PerChannelRangeObserver(MovingAveragePerChannelMinMaxObserver):
    """As :class:`~converters.frontends.level_quantiser.RangeObserver`, with a range for each channel, of both signs.

    torchao hands the axis of channels on to observers with ``PerChannel`` in their names.
    """

    again = False

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().movedim(self.ch_axis, -1).flatten(0, -2)
        rows = rows[:: max(1, rows.numel() // _VALUES)]
        if len(rows):
            best = best_range(rows.T, int(self.quant_max), -1.0)
            for held, now in ((self.min_val, -best), (self.max_val, best)):
                before = held if held.numel() else torch.full_like(best, torch.inf)
                found = moving_range(before, now.to(held.dtype), self.averaging_constant)
                held.resize_(found.shape).copy_(found)
        return x


def relative(quantiser: LevelQuantiser) -> Tensor:
    """The scale of each channel over the largest, ``(C,)``, float64; of one for all, 1."""
    scale = quantiser.scale.detach().double()
    return scale / scale.max()


@dataclass(frozen=True)
class TakenIn:
    """The scales of the channels that a layer with weights reads.

    Attributes
    ----------
    quantiser : LevelQuantiser
        Of these channels.
    groups : int
        Of the layer.
    rows : bool
        Whether the channels that it reads lie along the weights' first axis, as those of a transposed convolution do.
    """

    quantiser: Any
    groups: int = 1
    rows: bool = False

    def of(self, weight: Tensor) -> Tensor:
        """The factor of each weight, in its precision, with as many axes.

        >>> from types import SimpleNamespace
        >>> quantiser = SimpleNamespace(scale=torch.tensor([0.5, 1.0, 2.0, 2.0]))
        >>> TakenIn(quantiser).of(torch.ones(3, 4)).tolist()
        [[0.25, 0.5, 1.0, 1.0]]
        >>> TakenIn(quantiser, groups=2).of(torch.ones(2, 2, 1)).flatten(1).tolist()
        [[0.25, 0.5], [1.0, 1.0]]
        """
        r = relative(self.quantiser).to(weight)
        rest = [1] * (weight.ndim - 2)
        if r.numel() == 1:
            return r.view(1, 1, *rest)
        if self.rows:
            return r.view(-1, 1, *rest)
        each = r.view(self.groups, 1, -1).expand(-1, len(weight) // self.groups if self.groups > 1 else 1, -1)
        return each.reshape(-1, r.numel() // self.groups, *rest)
