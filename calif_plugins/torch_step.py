"""The Ca-LIF rule in PyTorch, once, for every simulator that is built on it.

:func:`calif_step` is the rule; :class:`NeuronLayer` is the rule with one layer's parameters, for the plugins whose
simulators hold a torch module per layer (:mod:`~calif_plugins.norse`, :mod:`~calif_plugins.spikingjelly`,
:mod:`~calif_plugins.sinabs`).

State is never kept in half precision, whatever type the network computes in: in bfloat16 a count would end at 256,
in float16 at 2048, and a membrane would lose what arrives in it. float32 counts to 2^24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.parameters import CaLIFParameters, TieRule

__all__ = ["Exact", "NeuronLayer", "Rule", "calif_step", "shaped", "state_dtype"]

_HALVES = (torch.float16, torch.bfloat16)


def state_dtype(*tensors: Tensor) -> torch.dtype:
    """The type that membranes and counts are kept in, beside these tensors: the widest of them, at least float32.

    >>> state_dtype(torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.bfloat16))
    torch.float32
    """
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def calif_step(
    v: Tensor,
    y: Tensor,
    charge: Tensor,
    threshold: Tensor,
    leak: Tensor,
    y_min: Tensor,
    y_max: Tensor,
    *,
    tie: TieRule = "even",
    half: bool = False,
    leaking: bool = True,
    surrogate: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the rule (equation 2, section 3.2), as :func:`calif_plugins.reference.step` has it.

    Parameters
    ----------
    v, y, charge : tensors of one shape
        Membrane potential, signed count before the step, and what arrives in it.
    threshold, leak, y_min, y_max : tensors that broadcast to that shape
    tie : {"even", "up"}
        What exactly half a threshold rounds to in the rounding phase.
    half : bool
        Thresholds at half their value (rounding phase).
    leaking : bool
        Whether the leak acts; it does not after the window.
    surrogate : callable, optional
        A step function with a surrogate gradient (``snntorch.surrogate``): gradients then pass through both
        thresholds, where the gate is open. Values are the same with and without.

    Returns
    -------
    v, y, s : tensors of that shape
        State after the step, and the signed spike in {-1, 0, 1}, in the type of :func:`state_dtype`.

    Raises
    ------
    ValueError
        For shapes that disagree, or parameters that would broadcast to more neurons than there are.

    >>> one = torch.tensor(1.0)
    >>> v, y, s = calif_step(torch.zeros(3), torch.zeros(3), torch.tensor([2.5, 0.5, -1.0]), one, 0 * one, -one, one)
    >>> s, v
    (tensor([ 1.,  0., -1.]), tensor([1.5000, 0.5000, 0.0000]))
    """
    shape, dtype = charge.shape, state_dtype(v, y, charge, threshold, y_min, y_max)
    if v.shape != shape or y.shape != shape:
        raise ValueError(f"state: {tuple(v.shape)} and {tuple(y.shape)} do not fit an input of shape {tuple(shape)}")
    v, y = v.to(dtype), y.to(dtype)
    v = v + charge - leak if leaking else v + charge
    if not half:
        up, down = v >= threshold, v <= -threshold
    else:
        twice = 2 * v
        up, down = twice > threshold, twice < -threshold
        if tie == "up":
            up = up | (twice == threshold)
        else:  # a tie fires towards 0 when the count is odd, and so ends on the even one
            odd = torch.remainder(y, 2) == 1
            up = up | ((twice == threshold) & odd)
            down = down | ((twice == -threshold) & odd)
    may_rise, may_fall = y < y_max, y > y_min
    s = (up & may_rise).to(v.dtype) - (down & may_fall).to(v.dtype)
    if surrogate is not None:
        u = v / (threshold / 2 if half else threshold)
        g = (surrogate(u - 1) * may_rise - surrogate(-u - 1) * may_fall).to(v.dtype)
        s = s + (g - g.detach())  # the exact spike forwards, the surrogate's slope backwards
    v, y = v - s * threshold, y + s
    if v.shape != shape or y.shape != shape:
        raise ValueError(f"parameters: they broadcast to {tuple(v.shape)}, the input has shape {tuple(shape)}")
    return v, y, s


def shaped(t: Tensor, x: Tensor, name: str = "parameter") -> Tensor:
    """A parameter, scalar or one value per channel, so that it broadcasts against a batch ``(N, C, ...)``.

    One axis is the channels', whatever the batch looks like. With more, as ``(C, 1, 1)``, it says which batches it is
    for. A single row of channels, ``(C,)``, is taken without a batch too.

    Raises
    ------
    ValueError
        If the batch has another number of channels: broadcasting would make neurons that do not exist.

    >>> shaped(torch.zeros(3), torch.zeros(1, 3, 8, 8)).shape
    torch.Size([3, 1, 1])
    >>> shaped(torch.zeros(3), torch.zeros(4, 1), "threshold")
    Traceback (most recent call last):
    ValueError: threshold: values for 3 channels do not fit an input of shape (4, 1); give one value, or one per channel
    """
    if t.numel() == 1:
        return t.reshape(()) if t.ndim else t
    axis = 1 if x.ndim > 1 else 0
    wrong = x.ndim == 0 or x.shape[axis] != t.shape[0] or t.numel() != t.shape[0]
    if wrong or (t.ndim > 1 and x.ndim != t.ndim + 1):
        values = f"values for {t.shape[0]} channels" if t.ndim == 1 else f"values of shape {tuple(t.shape)}"
        raise ValueError(
            f"{name}: {values} do not fit an input of shape {tuple(x.shape)}; give one value, or one per channel"
        )
    return t.reshape(-1, *[1] * (x.ndim - 1 - axis))


class Exact:
    """To be mixed into a module: a neuron's own values stay in float32 when a network goes to half precision.

    ``module.half()`` and its like would turn a bound of 301 into 300, and a threshold of 1e-8 into 0, at which a neuron
    fires by itself. ``own`` names the parameters and buffers that are kept from that.
    """

    own = ("threshold", "leak", "y_min", "y_max", "v_init", "v", "y")

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        homes: list[dict[str, Any]] = [self._parameters, self._buffers]  # type: ignore[attr-defined]
        before = [(home, name, home[name].detach()) for home in homes for name in self.own if name in home]
        super()._apply(fn, *args, **kwargs)  # type: ignore[misc]
        for home, name, old in before:
            if home[name].dtype in _HALVES:
                home[name].data = old.to(home[name].device, state_dtype(old))  # an optimiser may know the parameter
        return self


class Rule(Exact):
    """What a module of one layer holds, and its step as a pure function of input and state; to be mixed into a module.

    For modules that must have no submodules; others take a :class:`NeuronLayer`.
    """

    threshold: Tensor
    leak: Tensor
    y_min: Tensor
    y_max: Tensor
    v_init: Tensor

    def hold(self, parameters: CaLIFParameters, window: int | None) -> None:
        """Keep these as parameters without gradient: some simulators own all buffers."""
        if window is not None and window < 1:
            raise ValueError(f"window: must be at least one step, found {window}")
        for name in ("threshold", "leak", "y_min", "y_max", "v_init"):
            value = torch.tensor(getattr(parameters, name), dtype=torch.float64)
            setattr(self, name, nn.Parameter(value, requires_grad=False))
        self.tie: TieRule = parameters.tie
        self.window = window

    def initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(v, y)`` before the first step, for input like ``x``."""
        v = torch.zeros(x.shape, dtype=state_dtype(x, self.threshold), device=x.device)
        return (v + shaped(self.v_init, x, "v_init")).to(v.dtype), torch.zeros_like(v)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, int] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
        """One step: ``x``, the charge that arrives, and ``(v, y, steps done)``, or None at the start.

        Returns the signed spikes, in ``x``'s dtype, and the state after the step.
        """
        v, y, t = (*self.initial(x), 0) if state is None else state
        over = self.window is not None and t >= self.window
        v, y, s = calif_step(
            v,
            y,
            x,
            *(shaped(getattr(self, name), x, name) for name in ("threshold", "leak", "y_min", "y_max")),
            tie=self.tie,
            half=over,
            leaking=not over,
        )
        return s.to(x.dtype), (v, y, t + 1)


class NeuronLayer(Rule, nn.Module):
    """A layer's parameters, and its step as a pure function of input and state.

    Parameters
    ----------
    parameters : CaLIFParameters
    window : int, optional
        ``T``, in steps. After that many steps the rounding phase begins by itself: no leak, thresholds at half
        their value (``settle``). Without it the layer never rounds.

    Raises
    ------
    ValueError
        For a window of less than one step.

    Examples
    --------
    >>> layer = NeuronLayer(CaLIFParameters(threshold=2.0), window=1)
    >>> state = None
    >>> for x in (1.5, 0.0, 0.0):
    ...     s, state = layer(torch.tensor([[x]]), state)
    ...     print(s.item(), state[0].item())
    0.0 1.5
    1.0 -0.5
    0.0 -0.5
    """

    def __init__(self, parameters: CaLIFParameters, window: int | None = None) -> None:
        super().__init__()
        self.hold(parameters, window)

    forward = Rule.step

    def extra_repr(self) -> str:
        return f"threshold={self.threshold.tolist()}, window={self.window}"
