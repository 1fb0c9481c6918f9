"""The rule for training: one or many steps in one compiled pass, and its gradient through time in another.

:func:`scan` is :func:`calif_plugins.torch_step.calif_step` step after step, value for value and gradient for gradient,
as one autograd function instead of twenty small operations. It runs compiled on the CPU, by Numba (the extra ``fast``).
Everything else runs as plain PyTorch: other devices, surrogates of other shapes than
:class:`~calif_plugins.surrogates.Slope`, learned leaks and ranges, ``torch.compile``, ``torch.func``, and whatever
traces or counts operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from calif_plugins.multistep import available, lost_in_fork, one_at_a_time
from calif_plugins.parameters import TieRule
from calif_plugins.surrogates import Slope, slope_of
from calif_plugins.torch_step import calif_step, shaped, state_dtype

__all__ = ["Clock", "Scanner", "scan"]

_THREADS_FROM = 1 << 16  # neurons times steps: below that starting threads takes longer than the work
_SLOPES: dict[int, tuple[Any, Slope | None]] = {}
_FLOATS = (torch.float32, torch.float64)
_NAMES = ("threshold", "leak", "y_min", "y_max")
_NONE = Slope(0, 0.0, 0.0)  # spikes have no gradient; the membrane has
Surrogate: TypeAlias = Callable[[Tensor], Tensor]


class Clock(NamedTuple):
    """When a block of steps enters the rounding phase.

    Attributes
    ----------
    half : int
        The first step whose thresholds are half; the number of steps, or more, if none is.
    dry : int
        The first step without a leak.
    """

    half: int
    dry: int


def scan(
    v: Tensor,
    y: Tensor,
    charge: Tensor,
    threshold: Tensor,
    leak: Tensor,
    y_min: Tensor,
    y_max: Tensor,
    *,
    clock: Clock,
    tie: TieRule = "even",
    surrogate: Surrogate | None = None,
    compiled: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of the rule (equation 2, section 3.2).

    Parameters
    ----------
    v, y : tensors ``(N, C, ...)``
        Membrane potential and signed count before the first step.
    charge : tensor ``(T, N, C, ...)``, or ``(N, C, ...)``
        What arrives at each step, or at one.
    threshold, leak, y_min, y_max : tensors
        One value, or one per channel, as :func:`~calif_plugins.torch_step.shaped` takes them.
    clock : Clock
        When the rounding phase begins.
    tie : {"even", "up"}
        What exactly half a threshold rounds to in the rounding phase.
    surrogate : callable, optional
        A step function with a surrogate gradient, as for :func:`~calif_plugins.torch_step.calif_step`.
    compiled : bool
        False: as plain PyTorch, step by step.

    Returns
    -------
    v, y, s : tensors
        State after the last step, and the spikes, which have the shape of ``charge``.

    Raises
    ------
    ValueError
        For shapes that disagree.

    >>> one, x = torch.tensor(1.0), torch.tensor([2.5, 0.0, -3.0]).reshape(3, 1, 1)
    >>> v, y, s = scan(*torch.zeros(2, 1, 1), x, one, 0 * one, -2 * one, 2 * one, clock=Clock(3, 3))
    >>> s.flatten().tolist(), v.item(), y.item()
    ([1.0, 1.0, -1.0], -1.5, 1.0)
    """
    limits = (threshold, leak, y_min, y_max)
    return Scanner()(v, y, charge, limits, clock=clock, tie=tie, surrogate=surrogate, compiled=compiled)


class Scanner:
    """:func:`scan` for a layer that is called again and again: it remembers what it found out about the parameters.

    What it remembers are views of their memory, so values may change in place; for other tensors, or others' memory, it
    looks again. Copies and pickled ones have forgotten everything.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._kept: tuple[Tensor, ...] = ()  # alive, so that their numbers stay their own
        self._taken: _Taken | None = None

    def __reduce__(self) -> tuple[type[Scanner], tuple[()]]:
        return Scanner, ()

    def __call__(
        self,
        v: Tensor,
        y: Tensor,
        charge: Tensor,
        limits: tuple[Tensor, ...],
        *,
        clock: Clock,
        tie: TieRule,
        surrogate: Surrogate | None,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :func:`scan`; ``limits`` are threshold, leak, ``y_min`` and ``y_max``."""
        taken = self._look(v, y, charge, limits, surrogate) if compiled and _ordinary(v, y, charge, *limits) else None
        if taken is None:
            wide = tuple(shaped(t, v, name) for t, name in zip(limits, _NAMES, strict=True))
            return _plain(v, y, charge, wide, clock, tie, surrogate)
        if v.dtype != taken.dtype or y.dtype != taken.dtype or charge.dtype != taken.dtype:
            v, y, charge = v.to(taken.dtype), y.to(taken.dtype), charge.to(taken.dtype)
        out: tuple[Tensor, Tensor, Tensor] = _Scan.apply(v, y, charge, limits[0], _Setting(taken, clock, tie == "even"))
        return out

    def _look(
        self, v: Tensor, y: Tensor, charge: Tensor, limits: tuple[Tensor, ...], surrogate: Surrogate | None
    ) -> _Taken | None:
        """None where plain PyTorch has to do it, errors included."""
        shape = v.shape
        block = charge.shape if charge.ndim == v.ndim else charge.shape[1:]
        if block != shape or y.shape != shape or not charge.numel():
            return None
        places = [(id(t), t.data_ptr(), t.shape, t.requires_grad) for t in limits]
        key = (shape, v.dtype, y.dtype, charge.dtype, surrogate, *places)
        if key != self._key:
            self._taken, self._kept, self._key = _Taken.of(v, y, charge, limits, surrogate), limits, key
        return self._taken


def _plain(
    v: Tensor,
    y: Tensor,
    charge: Tensor,
    limits: tuple[Tensor, ...],
    clock: Clock,
    tie: TieRule,
    surrogate: Surrogate | None,
) -> tuple[Tensor, Tensor, Tensor]:
    spikes = []
    single = charge.ndim == v.ndim
    for t, x in enumerate([charge] if single else charge):
        half, leaking = t >= clock.half, t < clock.dry
        v, y, s = calif_step(v, y, x, *limits, tie=tie, half=half, leaking=leaking, surrogate=surrogate)
        spikes.append(s)
    return v, y, spikes[0] if single else torch.stack(spikes)


class _Taken(NamedTuple):
    """What the compiled passes need to know of tensors that they take."""

    dtype: torch.dtype
    limits: tuple[Any, ...]  # arrays, each of one value, or one per channel
    inner: int
    slope: tuple[Any, ...]

    @classmethod
    def of(
        cls, v: Tensor, y: Tensor, charge: Tensor, limits: tuple[Tensor, ...], surrogate: Surrogate | None
    ) -> _Taken | None:
        threshold, leak, y_min, y_max = limits
        dtype = state_dtype(v, y, charge, threshold, y_min, y_max)
        same = all(t.dtype == dtype for t in limits)  # or views of them would be copies
        if not same or dtype not in _FLOATS or leak.requires_grad or y_min.requires_grad or y_max.requires_grad:
            return None
        wide = [shaped(t, v, name).shape for t, name in zip(limits, _NAMES, strict=True) if t.numel() > 1]
        if v.device.type != "cpu" or not available() or not all(t.is_contiguous() for t in limits):
            return None
        slope = _NONE if surrogate is None else _slope(surrogate)
        if slope is None:
            return None
        inner = math.prod(v.shape[v.ndim - len(wide[0]) + 1 :]) if wide else 1
        number = threshold.detach().numpy().dtype.type
        arrays = tuple(t.detach().numpy().reshape(-1) for t in limits)
        return cls(dtype, arrays, inner, (slope.kind, number(slope.height), number(slope.width)))


class _Setting(NamedTuple):
    taken: _Taken
    clock: Clock
    even: bool


def _ordinary(*tensors: Tensor) -> bool:
    """Whether these are plain tensors on one device, and nobody traces what is done with them: NumPy is not seen."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    modes = torch._C._len_torch_dispatch_stack()  # noqa: SLF001  no other name
    if modes or torch.autograd.forward_ad._current_level >= 0:  # noqa: SLF001  no other name
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # noqa: SLF001  no other name
    device = tensors[0].device
    return all((type(t) is Tensor or type(t) is Parameter) and not wrapped(t) and t.device == device for t in tensors)


def _slope(surrogate: Surrogate) -> Slope | None:
    """Asked once of each surrogate; the callable is kept, so that its number stays its own."""
    known = _SLOPES.get(id(surrogate))
    if known is None:
        if len(_SLOPES) > 1000:
            _SLOPES.clear()
        known = _SLOPES[id(surrogate)] = (surrogate, slope_of(surrogate))
    return known[1]


class _Scan(torch.autograd.Function):
    """Forwards through the steps of ``charge``, one of ``v``'s shape or ``T`` of them, and backwards."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, y: Tensor, charge: Tensor, threshold: Tensor, setting: _Setting
    ) -> tuple[Tensor, Tensor, Tensor]:
        taken, clock, even = setting
        keep = any(ctx.needs_input_grad)
        x, v, y = charge.contiguous(), v.contiguous(), y.contiguous()
        v_end, y_end, s = torch.empty_like(v), torch.empty_like(y), torch.empty_like(x)
        before = torch.empty_like(x) if keep else s
        gates = torch.empty(x.shape if keep else 1, dtype=torch.uint8)
        _run(
            "forwards", x, _flat(v), _flat(y), taken.limits, taken.inner, (clock.half, clock.dry, even, keep),
            _flat(v_end), _flat(y_end), _flat(s), _flat(before), _flat(gates),
        )  # fmt: skip
        if keep:
            ctx.set_materialize_grads(False)
            ctx.setting, ctx.state = setting, v.shape
            ctx.save_for_backward(before, gates, s, threshold)
        return v_end, y_end, s

    @staticmethod
    def backward(ctx: Any, gv: Tensor | None, gy: Tensor | None, gs: Tensor | None) -> Any:
        if torch.is_grad_enabled():  # once_differentiable would leave a part of it out, and say nothing
            raise RuntimeError("CaLIF: compiled steps have no gradient of a gradient; make neurons with compiled=False")
        before, gates, s, threshold = ctx.saved_tensors
        taken, clock, _ = ctx.setting
        counted, learned = gy is not None, ctx.needs_input_grad[3]
        gs = torch.zeros_like(s) if gs is None else gs.contiguous()
        gv, gy = (
            torch.zeros(ctx.state, dtype=s.dtype) if g is None else g.clone(memory_format=torch.contiguous_format)
            for g in (gv, gy)
        )
        gth = torch.zeros(ctx.state if learned else 1, dtype=s.dtype)
        gx = torch.empty_like(s)
        _run(
            "backwards", gs, _flat(gv), _flat(gy), _flat(before), _flat(gates), _flat(s), taken.limits, taken.inner,
            (clock.half, clock.dry), (*taken.slope, learned), _flat(gx), _flat(gth),
        )  # fmt: skip
        gradient = None
        if learned:
            gradient = gth.sum_to_size(shaped(threshold.detach(), gth).shape).reshape(threshold.shape)
        return gv, gy if counted else None, gx, gradient, None


def _run(name: str, x: Tensor, *arguments: Any) -> None:
    """A kernel of :mod:`calif_plugins.scan_kernels`, on several cores where that is worth it."""
    from calif_plugins import scan_kernels

    if x.numel() < _THREADS_FROM or torch.get_num_threads() == 1 or lost_in_fork():
        getattr(scan_kernels, f"serial_{name}")(_flat(x), *arguments)
        return
    with one_at_a_time():
        getattr(scan_kernels, name)(_flat(x), *arguments)


def _flat(t: Tensor) -> Any:
    return t.numpy().reshape(-1)
