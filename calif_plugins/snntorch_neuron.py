"""The Ca-LIF neuron as an snnTorch layer.

The rule is written once, in :func:`calif_plugins.torch_step.calif_step`; :class:`CaLIF` only holds state and
parameters. snnTorch's own helpers know neurons by their class and by a list of all that were made
(``utils.reset``, ``backprop.BPTT``, probes); what they need is in :mod:`calif_plugins.snntorch_citizen`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from calif_plugins.parameters import CaLIFParameters, TieRule
from calif_plugins.scan import Clock, Scanner
from calif_plugins.snntorch_citizen import Citizen
from calif_plugins.snntorch_state import Membrane
from calif_plugins.torch_step import calif_step, shaped, state_dtype

__all__ = ["CaLIF", "calif_step", "reset", "settle"]

_ENDLESS = 1 << 30  # steps
_UNSEEN = 1e-6  # of a threshold: a starting membrane that is not shown


class CaLIF(Citizen):
    """Calcium-gated bipolar leaky integrate-and-fire neurons, batch first: ``(N, C, ...)``.

    Emits signed spikes in {-1, 0, 1} and takes signed spikes. Unlike ``snntorch.Leaky`` it fires on
    ``V >= Vth``, leaks a constant per step, and its signed output count ``y`` stays within its range.
    Parameters and state are kept in float32 at least, in networks of half precision too.

    Parameters
    ----------
    threshold : float or tensor ``(C,)``
        ``Vth`` > 0.
    leak : float or tensor ``(C,)``
        Subtracted at every step; of either sign.
    y_min, y_max : float or tensor ``(C,)``
        Calcium range. ``y_min=0`` is the paper's gate: never more negative spikes than positive ones.
    tie : {"even", "up"}
    v_init : float or tensor ``(C,)``
        Membrane potential before the first step.
    spike_grad : callable, optional
        snnTorch surrogate, applied to both thresholds, ``V/Vth - 1`` and ``-V/Vth - 1``; ATan by default.
    init_hidden : bool
        State lives in the layer: ``spk = neuron(x)``. Otherwise ``spk, v, y = neuron(x, v, y)``, and
        ``neuron(x)`` starts from the initial state.
    output : bool
        Return the state as well, ``(spk, v, y)``, with ``init_hidden`` too.
    learn_threshold : bool
        The threshold is a parameter, as it is when it is given as one: a ``nn.Parameter`` in the place of
        ``threshold``, ``leak`` or ``v_init`` stays the parameter that it is, and is learned. Training cannot take the
        threshold below ``threshold_floor``: it is put back there whenever it is read.
    packed : bool
        One state instead of two, ``spk, mem = neuron(x, mem)``: a membrane ``(N, C, ...)`` that carries its counts as
        ``mem.y`` (:class:`~calif_plugins.snntorch_state.Membrane`). This is what :func:`swap_neurons` uses in models
        written for ``Leaky``. An empty tensor, or one of zeros, stands for the initial state.
    window : int, optional
        After this many steps since the reset the layer enters the rounding phase by itself, for executors that
        know nothing of one. Needs ``init_hidden``; without it :func:`settle` does that for a whole network.
    multistep : bool
        Take a block of steps at once, time first: ``(T, N, C, ...)`` to spikes of that shape. Layers without a state
        run on ``T N`` images in one call then, and this one goes through the block in one compiled pass, and
        backwards through time in another. State before the block and after it is as for single steps.
    compiled : bool
        False: steps as plain PyTorch operations, whose gradient has a gradient, too. Compiled steps have the same
        values; they run where :mod:`calif_plugins.scan` says.

    Attributes
    ----------
    halved, leaking : bool
        Switches of the rounding phase (see :func:`settle`): thresholds at half their value, and whether the leak acts.
    v, y : tensors ``(N, C, ...)``
        State with ``init_hidden``; sized at first use, and in no ``state_dict``.
    threshold_floor : float
        Of a learned threshold: 2^-10 of the smallest that it was made or loaded with.

    Raises
    ------
    ValueError
        For parameters that no neuron can have (see :class:`CaLIFParameters`); when called with an input of another
        number of channels.
    TypeError
        When called with a state that is none.

    Examples
    --------
    >>> neuron = CaLIF(threshold=1.0, y_max=7, init_hidden=True)
    >>> [neuron(torch.tensor([[x]])).item() for x in (1.5, 0.5, -2.5, -1.0)]
    [1.0, 1.0, -1.0, -1.0]
    >>> block = CaLIF(threshold=1.0, y_max=7, init_hidden=True, multistep=True)
    >>> block(torch.tensor([1.5, 0.5, -2.5, -1.0]).reshape(4, 1, 1)).flatten()
    tensor([ 1.,  1., -1., -1.])
    """

    leak: Tensor
    y_min: Tensor
    y_max: Tensor
    v_init: Tensor
    v: Tensor
    y: Tensor

    def __init__(
        self,
        threshold: Any = 1.0,
        leak: Any = 0.0,
        y_min: Any = 0.0,
        y_max: Any = float("inf"),
        *,
        tie: TieRule = "even",
        v_init: Any = 0.0,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        output: bool = False,
        learn_threshold: bool = False,
        packed: bool = False,
        window: int | None = None,
        multistep: bool = False,
        compiled: bool = True,
    ) -> None:
        if window is not None and (window < 1 or not init_hidden):
            raise ValueError(
                f"window: {window} with init_hidden={init_hidden}; give at least one step, and hidden state"
            )
        values = {"threshold": threshold, "leak": leak, "y_min": y_min, "y_max": y_max, "v_init": v_init}
        learned = {k: value for k, value in values.items() if _is_learned(k, value)}
        tensors = {k: _tensor(value, whole=k in ("y_min", "y_max")) for k, value in values.items()}
        CaLIFParameters(tie=tie, **{k: t.detach().cpu().double().numpy() for k, t in tensors.items()})  # validates
        super().__init__(
            tensors.pop("threshold"),
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            init_hidden=init_hidden,
            learn_threshold=learn_threshold or "threshold" in learned,
            output=output,
        )
        for name, tensor in tensors.items():
            if name not in learned:
                self.register_buffer(name, tensor)
        self._parameters.update(learned)  # themselves, and no copies: an optimiser may have them already
        self.tie: TieRule = tie
        self.packed = packed
        self.window = window
        self.multistep = multistep
        self.compiled = compiled
        self._scan = Scanner()
        self.steps = 0
        self.halved = False
        self.leaking = True
        self.dense = False  # with True, per-channel parameters are for inputs (N, C) alone
        self.register_buffer("v", torch.zeros(0), persistent=False)
        self.register_buffer("y", torch.zeros(0), persistent=False)

    @classmethod
    def from_parameters(cls, p: CaLIFParameters, **kwargs: Any) -> CaLIF:
        """A layer with these parameters, in float64; ``kwargs`` are those of the constructor.

        >>> CaLIF.from_parameters(CaLIFParameters(threshold=[2.0, 3.0])).threshold
        tensor([2., 3.], dtype=torch.float64)
        """
        values: dict[str, Any] = {
            n: torch.tensor(getattr(p, n)) for n in ("threshold", "leak", "y_min", "y_max", "v_init")
        }
        return cls(tie=p.tie, **values, **kwargs)

    def parameters_of_neuron(self) -> CaLIFParameters:
        """The layer's parameters, as every other simulator takes them."""
        names = ("threshold", "leak", "y_min", "y_max", "v_init")
        tensors = {n: getattr(self, n).detach().cpu().double() for n in names}
        values = {n: (t.reshape(-1) if t.ndim else t).numpy() for n, t in tensors.items()}
        return CaLIFParameters(tie=self.tie, **values)

    def initial_state(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(v, y)`` before the first step, for input like ``x``."""
        v = torch.zeros(x.shape, dtype=state_dtype(x, self.threshold, self.y_min, self.y_max), device=x.device)
        return (v + shaped(self.v_init, x, "v_init")).to(v.dtype), torch.zeros_like(v)

    def extra_repr(self) -> str:
        shown = {name: _shown(getattr(self, name)) for name in ("threshold", "leak", "y_min", "y_max", "v_init")}
        if bool((self.v_init.detach().abs() <= _UNSEEN * self.threshold.detach().abs()).all()):
            del shown["v_init"]  # of a converted layer it is what float64 rounds off the leak of a whole window
        return ", ".join([*(f"{name}={value}" for name, value in shown.items()), f"tie={self.tie}"])

    def reset(self) -> None:
        """Forget the state; the next call starts from the initial one."""
        self.v = torch.zeros(0, dtype=self.v.dtype, device=self.v.device)
        self.y = torch.zeros(0, dtype=self.y.dtype, device=self.y.device)
        self.steps = 0

    def reset_mem(self) -> Any:
        """snnTorch's name for it. Returns the empty state that stands for the initial one."""
        self.reset()
        return torch.zeros(0) if self.packed else (torch.zeros(0), torch.zeros(0))

    init_leaky = init_lapicque = reset_mem

    def forward(self, x: Tensor, *given: Tensor | None) -> Any:
        """One step: ``x`` of shape ``(N, C, ...)`` is the charge that arrives; state follows without ``init_hidden``.
        Or ``T`` steps, ``(T, N, C, ...)``, of a ``multistep`` layer.

        (No argument is called ``state``: executors of NIR graphs would pass theirs.)
        """
        if self.init_hidden and any(s is not None for s in given):
            raise TypeError("CaLIF: the state should not be passed as an argument while `init_hidden=True`")
        if self.multistep and (x.ndim < 2 or not len(x)):
            raise ValueError(f"CaLIF: multistep takes (T, N, C, ...), at least one step; found {tuple(x.shape)}")
        now = x[0] if self.multistep else x
        v, y = self._hidden(now) if self.init_hidden else self._given(now, given)
        v, y, s = self._step(v, y, x, now)
        if self.init_hidden:
            self._buffers["v"], self._buffers["y"] = v, y  # which they are; a module's own way costs as much as a step
            if self.window is not None:  # a counter makes torch.compile compile each step anew
                self.steps += len(x) if self.multistep else 1
            if not self.output:
                return s
        if self.packed:
            return s, Membrane.of(v.clone() if self.init_hidden else v, y)
        return s, v, y

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        own: Any = self._buffers
        v, y = own["v"], own["y"]
        if v.shape != x.shape:
            self.steps = 0
            return self.initial_state(x)
        if y.requires_grad and not v.requires_grad:  # snnTorch detached the membrane, the one state it knows
            y = own["y"] = y.detach()
        return v, y

    def _given(self, x: Tensor, given: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
        state = [s for s in given if s is not None and s.numel()]
        if not state:
            return self.initial_state(x)
        if self.packed and len(given) == 1:
            if isinstance(state[0], Membrane) and hasattr(state[0], "y"):
                return state[0].plain(), state[0].y
            if not bool(state[0].any()):
                return self.initial_state(x)
            raise TypeError(
                "CaLIF: found a membrane without its counts; pass on the `mem` that the neuron returned, or zeros"
            )
        if not self.packed and len(state) == len(given) == 2:
            return state[0], state[1]
        wanted = "one packed state" if self.packed else "v and y"
        raise TypeError(f"CaLIF: expected {wanted} after the input, found {len(given)} tensors")

    def _step(self, v: Tensor, y: Tensor, x: Tensor, now: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.dense and now.ndim != 2:
            raise ValueError(
                f"threshold: a row of {self.threshold.numel()} values and an input of shape {tuple(now.shape)}; "
                "snnTorch puts them on the last axis, Ca-LIF on the channels: give them shape (C, 1, 1)"
            )
        if v.shape != now.shape or y.shape != now.shape:
            shapes = f"{tuple(v.shape)} and {tuple(y.shape)}"
            raise ValueError(f"state: {shapes} do not fit an input of shape {tuple(now.shape)}")
        left = _ENDLESS if self.window is None else max(self.window - self.steps, 0)
        differentiable = torch.is_grad_enabled() and not self.surrogate_disable
        limits = (self.threshold, self.leak, self.y_min, self.y_max)
        v, y, s = self._scan(
            v,
            y,
            x,
            limits,
            clock=Clock(0 if self.halved else left, left if self.leaking else 0),
            tie=self.tie,
            surrogate=self.spike_grad if differentiable else None,
            compiled=self.compiled,
            spikes=x.dtype if x.dtype.is_floating_point else None,
        )
        return v, y, s if s.dtype == x.dtype else s.to(x.dtype)


def reset(net: nn.Module) -> None:
    """Reset the state of every Ca-LIF and snnTorch neuron in ``net``, nested ones too, and of no other network.

    ``snntorch.utils.reset`` sees direct children alone, and resets all networks at once.

    >>> net = nn.Sequential(nn.Linear(2, 2), CaLIF(init_hidden=True))
    >>> _ = net(torch.ones(1, 2))
    >>> reset(net)
    >>> net[1].v.numel()
    0
    """
    for module in net.modules():
        if isinstance(module, snntorch.SpikingNeuron):
            module.reset_mem()


def settle(net: nn.Module, silence: Any, *, max_steps: int = 10_000) -> list[Any]:
    """The rounding phase of a network of Ca-LIF layers: half thresholds, no leak, until no neuron fires.

    Parameters
    ----------
    net : nn.Module
        Feed-forward, its Ca-LIF layers with ``init_hidden=True``, its synapses without bias.
    silence : tensor
        Input of a silent step, ``(N, ...)``.
    max_steps : int
        Where to give up: a network with biases is never silent.

    Returns
    -------
    list
        What ``net`` returned at each step, the last, silent one left out.

    Raises
    ------
    ValueError
        If there is no Ca-LIF layer, one has its state outside, or neurons still fire after ``max_steps``.

    >>> net = CaLIF(threshold=2.0, init_hidden=True)
    >>> _ = net(torch.tensor([[1.5]]))
    >>> [s.item() for s in settle(net, torch.zeros(1, 1))]
    [1.0]
    """
    layers = [m for m in net.modules() if type(m) is CaLIF]
    if not layers or not all(m.init_hidden for m in layers):
        raise ValueError("settle: needs Ca-LIF layers, all with init_hidden=True")
    outputs: list[Any] = []
    for layer in layers:
        layer.halved, layer.leaking = True, False
    try:
        while True:
            before = [layer.y for layer in layers]
            out = net(silence)
            before = [a if a.numel() else torch.zeros_like(m.y) for a, m in zip(before, layers, strict=True)]
            if all(torch.equal(a, m.y) for a, m in zip(before, layers, strict=True)):
                return outputs
            outputs.append(out)
            if len(outputs) >= max_steps:
                raise ValueError(f"settle: neurons still fire after {max_steps} steps; do the synapses have biases?")
    finally:
        for layer in layers:
            layer.halved, layer.leaking = False, True


def _shown(value: Tensor) -> str:
    """One number, or the range of several."""
    low, high = float(value.detach().min()) + 0.0, float(value.detach().max()) + 0.0  # -0 is 0
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def _is_learned(name: str, value: Any) -> bool:
    """Whether a value is a parameter that a neuron may have; an error for what would be copied and never learned."""
    if not isinstance(value, Tensor) or not (isinstance(value, nn.Parameter) or value.requires_grad):
        return False
    if name in ("y_min", "y_max"):
        raise ValueError(f"{name}: found a tensor with a gradient; a range of counts is not learned: give numbers")
    if not isinstance(value, nn.Parameter):
        raise ValueError(f"{name}: found a tensor that was computed from others; give a nn.Parameter, or detach it")
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: found a parameter in {value.dtype}; give it in float32 or float64")
    return True


def _tensor(value: Any, whole: bool) -> Tensor:
    """At least float32; counts in float64 where they are too large for that."""
    tensor = value.detach().clone() if isinstance(value, Tensor) else torch.as_tensor(value)
    held = tensor.to(state_dtype(tensor if tensor.is_floating_point() else torch.empty(0)))
    if whole and bool((held.double() != torch.as_tensor(value).double()).any()):
        held = tensor.double()
    return held.reshape(()) if held.numel() == 1 else held
