"""The Ca-LIF neuron as a SpikingJelly module. Needs ``pip install "calif-plugins[spikingjelly]"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from calif_plugins.needing import needing
from calif_plugins.parameters import CaLIFParameters
from calif_plugins.torch_step import NeuronLayer, state_dtype

with needing("spikingjelly"):
    from spikingjelly.activation_based import base

__all__ = ["CaLIFNode"]


class CaLIFNode(base.MemoryModule):
    """A layer of Ca-LIF neurons with SpikingJelly's step modes, memories and ``functional.reset_net``.

    Parameters
    ----------
    parameters : CaLIFParameters
    window : int, optional
        Steps until the rounding phase (see :class:`calif_plugins.torch_step.NeuronLayer`).
    step_mode : {"s", "m"}
        One step, ``(N, C, ...)``, or all, ``(steps, N, C, ...)``.

    Examples
    --------
    >>> import torch
    >>> from spikingjelly.activation_based import functional
    >>> node = CaLIFNode(CaLIFParameters(threshold=2.0), window=1, step_mode="m")
    >>> node(torch.tensor([[[1.5]], [[0.0]]])).flatten()
    tensor([0., 1.])
    >>> node.v.item(), node.y.item(), node.steps
    (-0.5, 1.0, 2)
    >>> functional.reset_net(node)
    >>> node.steps
    0
    """

    v: Any
    y: Any
    steps: Any

    def __init__(self, parameters: CaLIFParameters, window: int | None = None, step_mode: str = "s") -> None:
        super().__init__()
        self.rule = NeuronLayer(parameters, window)
        self.register_memory("v", None)
        self.register_memory("y", None)
        self.register_memory("steps", 0)
        self.step_mode = step_mode

    @property
    def supported_backends(self) -> tuple[str, ...]:
        return ("torch",)

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Any:
        """State stays in its type in half precision too (see :class:`calif_plugins.torch_step.Exact`)."""
        before = {name: getattr(self, name) for name in ("v", "y")}
        super()._apply(fn)
        for name, old in before.items():
            if old is not None:
                setattr(self, name, old.to(getattr(self, name).device, state_dtype(old, getattr(self, name))))
        return self

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Any, ...], **kwargs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """One step as a pure function: ``(x,), (v, y, steps)`` in, spikes and state out."""
        (x,), (v, y, steps) = inputs, states
        spikes, after = self.rule(x, None if v is None else (v, y, steps))
        return (spikes,), after
