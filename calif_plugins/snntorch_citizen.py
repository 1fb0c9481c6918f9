"""What makes a neuron of ours one of snnTorch's: its state is found, reset and detached by snnTorch's own helpers."""

from __future__ import annotations

import weakref
from typing import Any

import snntorch
from torch import Tensor, nn

from calif_plugins.torch_step import Exact

__all__ = ["Citizen", "enlist"]

_FLOOR = 2.0**-10


class Citizen(Exact, snntorch.Lapicque):
    """A spiking neuron that ``snntorch.utils.reset`` and ``snntorch.backprop`` treat as they treat their own.

    They know neurons by eight classes, written out, and reach their states through a list of all neurons ever made. So
    this one is a ``Lapicque``, the integrate-and-fire neuron among them, of which it takes nothing but the name; not a
    ``Leaky``, which ``export_to_nir`` would write as a LIF. And it is on the list, but weakly: the list keeps no neuron
    of ours alive.

    Subclasses keep their hidden state in ``v``, and forget it in ``reset()``.
    """

    v: Tensor

    def __init__(self, threshold: Tensor, **options: Any) -> None:
        snntorch.SpikingNeuron.__init__(self, threshold, **options)  # a Lapicque's own has a decay
        self.threshold_floor = float(threshold.min()) * _FLOOR
        instances = snntorch.SpikingNeuron.instances
        del instances[next(k for k in reversed(range(len(instances))) if instances[k] is self)]
        enlist(self)

    def __setstate__(self, state: Any) -> None:  # of copies and unpickled ones, which snnTorch forgets
        super().__setstate__(state)
        enlist(self)

    @property
    def threshold(self) -> Tensor:
        """``Vth``; a learned one is put back to ``threshold_floor`` where an optimiser took it below."""
        learned = self._parameters.get("threshold")
        if learned is not None:
            learned.data.clamp_(min=self.threshold_floor)
            return learned
        if "threshold" in self._buffers:
            return self._buffers["threshold"]
        raise AttributeError("threshold")

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _ = self.threshold
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        value = state_dict.get(f"{prefix}threshold")
        if value is not None and value.numel():
            least = float(value.min())
            if not least > 0:
                errors: list[str] = args[-1]
                errors.append(f"{prefix}threshold: must be > 0, found {least}")
            self.threshold_floor = min(self.threshold_floor, max(least, 0.0) * _FLOOR)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def mem(self) -> Tensor:
        """The membrane of the hidden state, by snnTorch's name; setting it to zeros is how snnTorch resets."""
        return self.v

    @mem.setter
    def mem(self, value: Tensor) -> None:
        # snnTorch resets all neurons that are alive, those without values among them
        if value.device.type != "meta" and bool(value.any()):
            raise ValueError("mem: set `v` and `y` of a Ca-LIF neuron; zeros reset it")
        self.reset()

    def __getattr__(self, name: str) -> Any:
        return self.v if name == "mem" else super().__getattr__(name)  # snnTorch's probes ask in this way

    def reset(self) -> None:
        raise NotImplementedError


def enlist(neuron: nn.Module) -> None:
    """Put a neuron on snnTorch's list of all neurons, by a reference that does not keep it alive."""
    instances = snntorch.SpikingNeuron.instances
    instances[:] = [n for n in instances if n is not None]
    instances.append(weakref.proxy(neuron, _leave))


def _leave(gone: Any) -> None:
    """Clear a neuron's place, but keep it: snnTorch may be going through the list by index at this moment."""
    instances = snntorch.SpikingNeuron.instances
    for k, n in enumerate(instances):
        if n is gone:
            instances[k] = None
