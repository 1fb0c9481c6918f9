"""The Ca-LIF rule in PyTorch, once, for every simulator that is built on it.

:func:`calif_step` is the rule; :class:`Layer` is the rule with one layer's parameters, for the plugins whose
simulators hold a torch module per layer (:mod:`~calif_plugins.norse`, :mod:`~calif_plugins.spikingjelly`,
:mod:`~calif_plugins.sinabs`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from calif_plugins.parameters import CaLIFParameters, TieRule

__all__ = ["Layer", "Rule", "calif_step", "shaped"]


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
    threshold, leak, y_min, y_max : tensors that broadcast against them
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
        State after the step, and the signed spike in {-1, 0, 1}, in ``v``'s dtype.

    >>> one = torch.tensor(1.0)
    >>> v, y, s = calif_step(torch.zeros(3), torch.zeros(3), torch.tensor([2.5, 0.5, -1.0]), one, 0 * one, -one, one)
    >>> s, v
    (tensor([ 1.,  0., -1.]), tensor([1.5000, 0.5000, 0.0000]))
    """
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
    return v - s * threshold, y + s, s


def shaped(t: Tensor, x: Tensor) -> Tensor:
    """A parameter, scalar or ``(C,)``, so that it broadcasts against a batch ``(N, C, ...)``.

    >>> shaped(torch.zeros(3), torch.zeros(1, 3, 8, 8)).shape
    torch.Size([3, 1, 1])
    """
    if t.numel() == 1 or x.ndim <= 2:
        return t
    return t.reshape(-1, *[1] * (x.ndim - 2))


class Rule:
    """What a module of one layer holds, and its step as a pure function of input and state; to be mixed into a module.

    For modules that must have no submodules; others take a :class:`Layer`.
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
        dtype = torch.promote_types(x.dtype, self.threshold.dtype)
        v = torch.zeros(x.shape, dtype=dtype, device=x.device)
        return v + shaped(self.v_init, x), torch.zeros_like(v)

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
            shaped(self.threshold, x),
            shaped(self.leak, x),
            shaped(self.y_min, x),
            shaped(self.y_max, x),
            tie=self.tie,
            half=over,
            leaking=not over,
        )
        return s.to(x.dtype), (v, y, t + 1)


class Layer(Rule, nn.Module):
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
    >>> layer = Layer(CaLIFParameters(threshold=2.0), window=1)
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
