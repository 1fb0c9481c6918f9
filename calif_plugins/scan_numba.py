"""Steps of the rule forwards, and their gradients backwards, on the CPU: the kernels of Numba on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from calif_plugins.multistep import lost_in_fork, one_at_a_time
from calif_plugins.surrogates import Slope

__all__ = ["WIDENS", "backwards", "forwards", "prepared"]

WIDENS = False
_THREADS_FROM = 1 << 16  # neurons times steps: below that starting threads takes longer than the work


def prepared(limits: tuple[Tensor, ...], slope: Slope) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Flat limits and a slope as the kernels take them: views of the limits' memory."""
    arrays = tuple(t.numpy() for t in limits)
    number = arrays[0].dtype.type
    return arrays, (slope.kind, number(slope.height), number(slope.width))


def forwards(
    x: Tensor, v: Tensor, y: Tensor, limits: tuple[Any, ...], inner: int, clock: tuple[int, int], even: bool,
    keep: bool, spikes: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """State after the steps of ``x``, their spikes, and what :func:`backwards` needs if it is to ``keep`` that.

    All tensors have one type, which ``spikes`` is, too; limits are arrays.
    """
    x, v, y = x.contiguous(), v.contiguous(), y.contiguous()
    v_end, y_end, s = torch.empty_like(v), torch.empty_like(y), torch.empty_like(x)
    before = torch.empty_like(x) if keep else s
    gates = torch.empty(x.shape if keep else 1, dtype=torch.uint8)
    _run(
        "forwards", x, _flat(v), _flat(y), limits, inner, (*clock, even, keep), _flat(v_end), _flat(y_end), _flat(s),
        _flat(before), _flat(gates),
    )  # fmt: skip
    return v_end, y_end, s, (before, gates, v_end) if keep else ()


def backwards(
    kept: tuple[Tensor, ...], s: Tensor, gs: Tensor | None, gv: Tensor | None, gy: Tensor | None,
    limits: tuple[Any, ...], inner: int, clock: tuple[int, int], slope: tuple[Any, ...], learned: bool,
    charge: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of ``v``, ``y``, ``x`` and, neuron by neuron, of the threshold."""
    before, gates, state = kept
    gs = torch.zeros_like(s) if gs is None else gs.contiguous()
    gv, counts = (
        torch.zeros_like(state) if g is None else g.clone(memory_format=torch.contiguous_format) for g in (gv, gy)
    )
    gth = torch.zeros(state.shape if learned else 1, dtype=s.dtype)
    gx = torch.empty_like(s)
    _run(
        "backwards", gs, _flat(gv), _flat(counts), _flat(before), _flat(gates), _flat(s), limits, inner, clock,
        (*slope, learned), _flat(gx), _flat(gth),
    )  # fmt: skip
    return gv, None if gy is None else counts, gx, gth if learned else None


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
