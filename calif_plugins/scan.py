"""The rule for training: one or many steps in one compiled pass, and its gradient through time in another.

:func:`scan` is :func:`calif_plugins.torch_step.calif_step` step after step, value for value and gradient for gradient,
as one autograd function instead of twenty small operations. It runs compiled: on the CPU by Numba (the extra ``fast``),
on CUDA by Triton, which comes with PyTorch there. Everything else runs as plain PyTorch: other devices, surrogates of
other shapes than :class:`~calif_plugins.surrogates.Slope`, learned leaks and ranges, ``torch.compile``,
``torch.func``, and whatever traces or counts operations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from calif_plugins.multistep import available
from calif_plugins.parameters import TieRule
from calif_plugins.surrogates import Slope, slope_of
from calif_plugins.torch_step import calif_step, shaped, state_dtype

__all__ = ["Clock", "Scanner", "scan"]

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
        spikes: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :func:`scan`; ``limits`` are threshold, leak, ``y_min`` and ``y_max``.

        Kernels that can write ``spikes`` in that type do; otherwise they have the state's.
        """
        taken = self._look(v, y, charge, limits, surrogate) if compiled and _ordinary(v, y, charge, *limits) else None
        if taken is None:
            wide = tuple(shaped(t, v, name) for t, name in zip(limits, _NAMES, strict=True))
            return _plain(v, y, charge, wide, clock, tie, surrogate)
        if v.dtype != taken.dtype or y.dtype != taken.dtype:
            v, y = v.to(taken.dtype), y.to(taken.dtype)
        if charge.dtype != taken.dtype and not taken.widens:
            charge = charge.to(taken.dtype)
        setting = _Setting(taken, clock, tie == "even", (spikes if taken.widens else None) or taken.dtype)
        out: tuple[Tensor, Tensor, Tensor] = _Scan.apply(v, y, charge, limits[0], setting)
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
    engine: Any
    inner: int
    limits: tuple[Any, ...]  # as the engine takes them, each of one value, or one per channel
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
        engine = _engine(v.device.type)
        if engine is None or not all(t.is_contiguous() for t in limits):
            return None
        slope = _NONE if surrogate is None else _slope(surrogate)
        if slope is None:
            return None
        inner = math.prod(v.shape[v.ndim - len(wide[0]) + 1 :]) if wide else 1
        flat = tuple(t.detach().reshape(-1) for t in limits)
        return cls(dtype, engine, inner, *engine.prepared(flat, slope))

    @property
    def widens(self) -> bool:
        """Whether kernels take charges of other types, and write spikes of other types, than the state's."""
        return bool(self.engine.WIDENS)


@cache
def _triton() -> Any:
    """Its kernels, after one has run: Triton needs a C compiler for that, and knows recent GPUs alone."""
    if find_spec("triton") is None:
        return None
    try:
        engine = import_module("calif_plugins.scan_triton")
        x = torch.zeros(1, device="cuda")
        engine.forwards(x, x, x, (x + 1, x, x, x), 1, (1, 1), True, False, x.dtype)
    except Exception as error:  # of any kind: steps run as plain PyTorch then, as they do elsewhere
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(f"CaLIF: steps on CUDA run as plain PyTorch, Triton's kernels do not ({reason})", stacklevel=2)
        return None
    return engine


def _engine(device: str) -> Any:
    """The module whose kernels run on this kind of device, or None."""
    if device == "cuda":
        return _triton()
    return import_module("calif_plugins.scan_numba") if device == "cpu" and available() else None


class _Setting(NamedTuple):
    taken: _Taken
    clock: Clock
    even: bool
    spikes: torch.dtype


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
        taken, clock, even, spikes = setting
        keep = any(ctx.needs_input_grad)
        v_end, y_end, s, kept = taken.engine.forwards(
            charge, v, y, taken.limits, taken.inner, (clock.half, clock.dry), even, keep, spikes
        )
        if keep:
            ctx.set_materialize_grads(False)
            ctx.setting, ctx.charge = setting, charge.dtype
            ctx.save_for_backward(s, threshold, *kept)
        return v_end, y_end, s

    @staticmethod
    def backward(ctx: Any, gv: Tensor | None, gy: Tensor | None, gs: Tensor | None) -> Any:
        if torch.is_grad_enabled():  # once_differentiable would leave a part of it out, and say nothing
            raise RuntimeError("CaLIF: compiled steps have no gradient of a gradient; make neurons with compiled=False")
        s, threshold, *kept = ctx.saved_tensors
        taken, clock = ctx.setting.taken, ctx.setting.clock
        gv, gy, gx, gth = taken.engine.backwards(
            tuple(kept), s, gs, gv, gy, taken.limits, taken.inner, (clock.half, clock.dry), taken.slope,
            ctx.needs_input_grad[3], ctx.charge,
        )  # fmt: skip
        gradient = None
        if gth is not None:
            gradient = gth.sum_to_size(shaped(threshold.detach(), gth).shape).reshape(threshold.shape)
        return gv, gy, gx, gradient, None
