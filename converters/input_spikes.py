"""What the input sends at each step, on tensors: ISI spikes, or a directly coded first layer's charge."""

from __future__ import annotations

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.exact_sums import add_up
from converters.network import Network
from converters.operations import Synapse

__all__ = ["InputSpikes"]


class InputSpikes:
    """The encoder of a network, for a batch of input integers ``(N, *input shape)``.

    ``at(t)`` are the spikes of step ``t`` (from 0) in {-1, 0, 1}, ``direct(stage, t)`` the charge that a
    directly coded input brings to a stage, in whole quanta. Both are silent after the window.
    """

    def __init__(self, network: Network, integers: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.window = network.window
        self.name = network.encoder_name
        self.coded_directly = network.encoder.coding == "direct"
        self.integers = integers.to(torch.int64)
        self._sign, self._size = integers.sign(), integers.abs()
        self._silence = torch.zeros(integers.shape, dtype=dtype, device=integers.device)
        self._before = (self._size + self.window - 1) // self.window  # ceil(n / T), for step 0
        self._next = 0
        self.charges: dict[str, Tensor] = {}
        if self.coded_directly:
            for stage in network.stages:
                own = [synapse for synapse in stage.synapses if self.name in synapse.sources]
                if own:
                    self.charges[stage.name] = add_up((self._charge(stage.name, k) for k in own), stage.name)

    def _charge(self, stage: str, synapse: Synapse) -> Tensor:
        """What the integers bring beyond silence; an operation that counts is asked for silence at the first step."""
        if len(synapse.sources) > 1:
            raise ConversionError(
                stage, f"an operation on the directly coded input and {synapse.sources}", "use coding isi"
            )
        whole = synapse(self.integers.to(torch.float64)).to(torch.int64)
        if synapse.linear:
            return whole
        return whole - synapse(torch.zeros_like(self.integers, dtype=torch.float64)).to(torch.int64)

    def at(self, t: int) -> Tensor:
        """Spikes of step ``t``; steps must be asked for in order (see ``calif_plugins.encoding``)."""
        if t >= self.window or self.coded_directly:
            return self._silence
        if t != self._next:
            self._before = _ceil_div((t + 1) * self._size, self.window)
        now = _ceil_div((t + 2) * self._size, self.window)
        spikes = self._sign * (now - self._before)
        self._before, self._next = now, t + 1
        return spikes.to(self._silence.dtype)

    def direct(self, stage: str, t: int) -> Tensor | None:
        """``floor((t+1) c / T) - floor(t c / T)`` of the stage's total charge ``c``, or None."""
        total = self.charges.get(stage)
        if total is None or t >= self.window:
            return None
        return (t + 1) * total // self.window - t * total // self.window


def _ceil_div(a: Tensor, b: int) -> Tensor:
    return -(-a // b)
