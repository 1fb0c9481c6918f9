"""The Ca-LIF neuron as a Norse cell: state in, state out. Needs ``pip install "calif-plugins[norse]"``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from calif_plugins.needing import needing
from calif_plugins.parameters import CaLIFParameters
from calif_plugins.torch_step import NeuronLayer

with needing("norse"):
    from norse.torch.module.snn import SNN, SNNCell

__all__ = ["CaLIF", "CaLIFCell", "CaLIFState", "calif_feed_forward_step"]


class CaLIFState(NamedTuple):
    """State of a layer: membrane, signed count, and how many steps it has done."""

    v: Tensor
    y: Tensor
    steps: int


def calif_feed_forward_step(
    input_tensor: Tensor, state: CaLIFState, p: NeuronLayer, dt: float = 0.001
) -> tuple[Tensor, CaLIFState]:
    """One step in Norse's form; charge arrives per step, so ``dt`` changes nothing."""
    spikes, state_after = p(input_tensor, state)
    return spikes, CaLIFState(*state_after)


def _initial_state(p: NeuronLayer, input_tensor: Tensor) -> CaLIFState:
    return CaLIFState(*p.initial(input_tensor), 0)


class CaLIFCell(SNNCell):
    """One step of a layer: ``spikes, state = cell(x, state)``, with ``x`` of shape ``(N, C, ...)``.

    Parameters
    ----------
    parameters : CaLIFParameters
    window : int, optional
        Steps until the rounding phase (see :class:`calif_plugins.torch_step.NeuronLayer`).

    Examples
    --------
    >>> cell = CaLIFCell(CaLIFParameters(threshold=2.0), window=1)
    >>> s, state = cell(torch.tensor([[1.5]]))
    >>> cell(torch.tensor([[0.0]]), state)
    (tensor([[1.]]), CaLIFState(v=tensor([[-0.5000]], dtype=torch.float64), y=tensor([[1.]], ...), steps=2))
    """

    def __init__(self, parameters: CaLIFParameters, window: int | None = None, dt: float = 0.001) -> None:
        super().__init__(calif_feed_forward_step, self.initial_state, NeuronLayer(parameters, window), dt)

    def initial_state(self, input_tensor: Tensor) -> CaLIFState:
        """State before the first step."""
        return _initial_state(self.p, input_tensor)


class CaLIF(SNN):
    """All steps of a layer: ``spikes, state = layer(x, state)``, with ``x`` of shape ``(steps, N, C, ...)``.

    >>> layer = CaLIF(CaLIFParameters(threshold=2.0), window=1)
    >>> layer(torch.tensor([[[1.5]], [[0.0]]]))[0].flatten()
    tensor([0., 1.])
    """

    def __init__(self, parameters: CaLIFParameters, window: int | None = None, dt: float = 0.001) -> None:
        super().__init__(calif_feed_forward_step, self.initial_state, NeuronLayer(parameters, window), dt)

    def initial_state(self, input_tensor: Tensor) -> CaLIFState:
        """State before the first step."""
        return _initial_state(self.p, torch.as_tensor(input_tensor)[0])
