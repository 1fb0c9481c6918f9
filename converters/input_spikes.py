"""What the input sends at each step, on tensors: ISI spikes, or a directly coded first layer's charge."""

from __future__ import annotations

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.exact.sums import add_up, whole_dtype
from converters.network import Network
from converters.operations import Synapse

__all__ = ["InputSpikes"]


class InputSpikes:
    """The encoders of a network, for a batch of input integers as :meth:`Network.accept` has them.

    ``spikes(t)`` are those of step ``t`` (from 0) in {-1, 0, 1}, by the inputs' names, and ``at(t)`` the same as the
    integers are given: of one input ``(N, *input shape)``, of several side by side. ``direct(stage, t)`` is the charge
    that directly coded inputs bring to a stage, in whole quanta. All are silent after the window.
    """

    def __init__(self, network: Network, integers: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.window = network.window
        self.network = network
        self.coded_directly = network.coding == "direct"
        self.integers = integers.to(torch.int64)
        self._sign, self._size = integers.sign(), integers.abs()
        self._silence = torch.zeros(integers.shape, dtype=dtype, device=integers.device)
        self._before = (self._size + self.window - 1) // self.window  # ceil(n / T), for step 0
        self._next = 0
        self.charges: dict[str, Tensor] = {}
        if self.coded_directly:
            given = network.by_input(self.integers)
            for stage in network.stages:
                own = [synapse for synapse in stage.synapses if set(given) & set(synapse.sources)]
                if own:
                    self.charges[stage.name] = add_up((self._charge(stage.name, k, given) for k in own), stage.name)

    @property
    def name(self) -> str:
        """The only input's; an error where there are several."""
        return self.network.encoder_name

    def spikes(self, t: int) -> dict[str, Tensor]:
        """Spikes of step ``t`` of every input, by name: ``(N, *input shape)``; steps must be asked for in order."""
        return self.network.by_input(self.at(t))

    def _charge(self, stage: str, synapse: Synapse, given: dict[str, Tensor]) -> Tensor:
        """What the integers bring beyond silence; an operation that counts is asked for silence at the first step."""
        if not set(synapse.sources) <= set(given):
            raise ConversionError(
                stage, f"an operation on the directly coded input and {synapse.sources}", "use coding isi"
            )
        reach = [self.network.reach[name] for name in synapse.sources]
        kind = torch.float64
        if synapse.linear:
            factor = synapse.largest_factor(*reach)
            kind = whole_dtype(synapse.reach(*reach), self.integers.device, factor=factor, where=stage)
        own = [given[name].to(kind) for name in synapse.sources]
        whole = synapse(*own).to(torch.int64)
        if synapse.linear:
            return whole
        return whole - synapse(*map(torch.zeros_like, own)).to(torch.int64)

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

    def block(self, t: int, steps: int) -> Tensor:
        """Spikes of ``steps`` steps from ``t`` on, within the window: ``(steps, *shape of at(t))``."""
        if self.coded_directly:
            return self._silence.expand(steps, *self._silence.shape)
        later = torch.arange(t + 1, t + steps + 2, device=self._size.device).reshape(-1, *[1] * self._size.ndim)
        return (self._sign * _ceil_div(later * self._size, self.window).diff(dim=0)).to(self._silence.dtype)

    def direct(self, stage: str, t: int) -> Tensor | None:
        """``floor((t+1) c / T) - floor(t c / T)`` of the stage's total charge ``c``, or None."""
        total = self.charges.get(stage)
        if total is None or t >= self.window:
            return None
        return (t + 1) * total // self.window - t * total // self.window


def _ceil_div(a: Tensor, b: int) -> Tensor:
    return -(-a // b)
