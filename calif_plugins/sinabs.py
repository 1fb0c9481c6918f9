"""The Ca-LIF neuron as a Sinabs layer. Needs ``pip install --no-deps "sinabs>=3.1.3,<3.2" pbr``: it pins an old NIR."""

from __future__ import annotations

from typing import Any

import torch
from sinabs.layers import StatefulLayer
from sinabs.layers.reshape import SqueezeMixin
from torch import Tensor

from calif_plugins.parameters import CaLIFParameters
from calif_plugins.torch_step import Rule

__all__ = ["CaLIF", "CaLIFSqueeze"]


class CaLIF(Rule, StatefulLayer):
    """A layer of Ca-LIF neurons on ``(batch, time, C, ...)``; state stays until ``reset_states()``.

    Parameters
    ----------
    parameters : CaLIFParameters
    window : int, optional
        Steps until the rounding phase (see :class:`calif_plugins.torch_step.NeuronLayer`).

    Examples
    --------
    >>> layer = CaLIF(CaLIFParameters(threshold=2.0), window=1)
    >>> layer(torch.tensor([[[1.5], [0.0]]])).flatten()
    tensor([0., 1.])
    >>> layer.v.item(), layer.y.item(), layer.steps
    (-0.5, 1.0, 2)
    """

    v: Tensor
    y: Tensor

    def __init__(self, parameters: CaLIFParameters, window: int | None = None) -> None:
        super().__init__(state_names=["v", "y"])
        self.parameters_of_neuron = parameters
        self.hold(parameters, window)  # on the layer itself: sinabs.reset_states passes layers with submodules by
        self.steps = 0

    def forward(self, input_data: Tensor) -> Tensor:
        """All steps of ``(batch, time, C, ...)``; signed spikes of that shape."""
        shape = input_data[:, 0].shape
        state = (self.v, self.y, self.steps) if self.v.shape == shape else None
        out = []
        for x in input_data.unbind(1):
            spikes, state = self.step(x, state)
            out.append(spikes)
        if state is not None:
            self.v, self.y, self.steps = state
        return torch.stack(out, dim=1)

    def reset_states(self, randomize: bool = False, value_ranges: Any = None) -> None:
        """Back to the initial membrane potential, which need not be 0. There is nothing to randomise.

        Raises
        ------
        ValueError
            With ``randomize``: a random count would leave its range's meaning.
        """
        if randomize:
            raise ValueError("reset_states: Ca-LIF neurons start from one state; call it without randomize")
        self.v, self.y = self.v.new_zeros(0), self.y.new_zeros(0)
        self.steps = 0

    def __deepcopy__(self, memo: Any = None) -> CaLIF:
        new = super().__deepcopy__(memo)
        new.steps = self.steps
        return new

    @property
    def does_spike(self) -> bool:
        return True

    @property
    def _param_dict(self) -> dict[str, Any]:
        return {"parameters": self.parameters_of_neuron, "window": self.window}


class CaLIFSqueeze(SqueezeMixin, CaLIF):
    """The same on ``(batch * time, C, ...)``, which Sinabs' importer builds networks of.

    >>> layer = CaLIFSqueeze(CaLIFParameters(threshold=2.0), window=1, batch_size=1)
    >>> [layer(torch.tensor([[x]])).item() for x in (1.5, 0.0)]
    [0.0, 1.0]
    """

    def __init__(
        self,
        parameters: CaLIFParameters,
        window: int | None = None,
        batch_size: int | None = None,
        num_timesteps: int | None = None,
    ) -> None:
        super().__init__(parameters, window)
        self.squeeze_init(batch_size, num_timesteps)

    def forward(self, input_data: Tensor) -> Tensor:
        """All steps of ``(batch * time, C, ...)``."""
        return self.squeeze_forward(input_data, super().forward)

    @property
    def _param_dict(self) -> dict[str, Any]:
        return self.squeeze_param_dict(super()._param_dict)
