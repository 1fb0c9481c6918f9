"""Many steps of the Ca-LIF rule in one compiled pass, on the CPU: the fast simulator's inner loop.

The rule of :func:`calif_plugins.reference.step`, once more, for arrays whose last axis is the channel. Spikes
leave as bytes ``s + 1`` in {0, 1, 2}, which is what integer convolutions take (zero point 1). Kernels are
compiled by Numba at first use, in seconds, and kept in its cache.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.parameters import CaLIFParameters

__all__ = [
    "CaLIFMultiStep",
    "available",
    "kernels",
    "lost_in_fork",
    "moves",
    "numba_threads",
    "one_at_a_time",
    "totals",
    "use_threads_of_torch",
]

_FOR_KERNELS = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.bool: torch.uint8}
_lost = False
_turn = threading.RLock()


def _after_fork() -> None:
    """GNU OpenMP's threads do not come along into a forked child, and Numba ends a child that calls for them."""
    global _lost, _turn
    _turn = threading.RLock()  # whoever held it is not here
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    _lost = _lost or bool(getattr(parallel, "_is_initialized", False) and _threading_layer() == "omp")


def _threading_layer() -> str:
    import numba

    layer: str = numba.threading_layer()
    return layer


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def lost_in_fork() -> bool:
    """Whether this process was forked after Numba had started its threads, so that no compiled kernel can run in it.

    With ``NUMBA_THREADING_LAYER=workqueue``, and in processes that are spawned, kernels run.
    """
    return _lost


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """For a block that runs kernels: Numba's ``workqueue`` ends the process if two threads come to it at once."""
    use_threads_of_torch()
    if _threading_layer() != "workqueue":
        yield
        return
    with _turn:
        yield


def use_threads_of_torch() -> None:
    """As many threads as PyTorch has been given: two pools of threads on the same cores wait for each other."""
    import numba
    from numba.np.ufunc.parallel import _launch_threads

    threads = torch.get_num_threads()
    _launch_threads()  # once; its OpenMP pool sets the number of PyTorch's threads, too, which are put back here
    numba.set_num_threads(max(1, min(threads, numba_threads())))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def numba_threads() -> int:
    """How many threads a kernel may have, at the most: numbers of theirs are smaller."""
    import numba

    return int(getattr(numba.config, "NUMBA_NUM_THREADS"))  # noqa: B009  set when Numba is imported


def available() -> bool:
    """Whether compiled kernels can run: Numba is installed (extra ``fast``) and compiles, and not
    :func:`lost_in_fork`. ``NUMBA_DISABLE_JIT=1`` forbids to compile."""
    if lost_in_fork():
        return False
    try:
        import numba  # noqa: F401  an import of ours may have been kept from before

        from calif_plugins.compiling import compiles
    except ImportError:
        return False
    return compiles()


def kernels() -> Any:
    """The compiled kernels, :mod:`calif_plugins.multistep_kernels`."""
    from calif_plugins import multistep_kernels

    return multistep_kernels


def totals() -> Any:
    """The compiled passes at the end of a run, :mod:`calif_plugins.multistep_totals`."""
    from calif_plugins import multistep_totals

    return multistep_totals


def moves() -> Any:
    """The compiled passes that move spikes and count them, :mod:`calif_plugins.multistep_moves`."""
    from calif_plugins import multistep_moves

    return multistep_moves


class CaLIFMultiStep(nn.Module):
    """A layer of Ca-LIF neurons that takes many steps at once: ``(T, N, C, ...)`` to spikes of that shape.

    State (``v``, ``y``) is kept from call to call until :meth:`reset`, so a window may come in pieces. No
    gradient; for training use :class:`calif_plugins.snntorch.CaLIF`, whose spikes these are.

    Parameters
    ----------
    parameters : CaLIFParameters
    window : int, optional
        The step after which the leak ends and thresholds are half.

    Examples
    --------
    >>> layer = CaLIFMultiStep(CaLIFParameters(threshold=2.0), window=3)
    >>> charge = torch.tensor([3.0, 3.0, -5.0, 0.0, 0.0]).reshape(5, 1, 1)
    >>> layer(charge).flatten().tolist()
    [1.0, 1.0, -1.0, -1.0, 0.0]
    """

    def __init__(self, parameters: CaLIFParameters, window: int | None = None) -> None:
        super().__init__()
        self.neuron = parameters
        self.window = 2**30 if window is None else int(window)
        self.reset()

    def reset(self) -> None:
        """Forget the state."""
        self.t = 0
        self.v = self.y = torch.zeros(0, dtype=torch.float64)
        self.fired = torch.zeros(0, dtype=torch.int32)

    @torch.no_grad()
    def forward(self, charge: Tensor) -> Tensor:
        if charge.ndim < 3:
            raise ValueError(f"charge: expected (T, N, C, ...), found {tuple(charge.shape)}")
        if charge.is_complex() or (charge.is_floating_point() and not bool(torch.isfinite(charge).all())):
            raise ValueError("charge: must be real and finite, found complex numbers, NaN or infinity")
        if lost_in_fork():
            raise ValueError("CaLIFMultiStep: no threads in a process forked after they had started; spawn it instead")
        steps, _, channels = charge.shape[:3]
        last = charge.movedim(2, -1)  # channels last
        last = last.to(_FOR_KERNELS.get(last.dtype, last.dtype)).contiguous()
        places = last.shape[1:-1].numel()
        p = {k: self._row(k, channels) for k in ("threshold", "leak", "y_min", "y_max", "v_init")}
        if self.v.shape != (places, channels):
            self.v = p["v_init"].repeat(places, 1)
            self.y, self.fired = torch.zeros_like(self.v), torch.zeros(places, channels, dtype=torch.int32)
        out = torch.empty(steps, places, channels, dtype=torch.uint8)
        active = torch.ones(steps + 1, places, dtype=torch.int32)
        with one_at_a_time():
            kernels().scan(
                last.reshape(-1).numpy(), (self.v.numpy(), self.y.numpy(), self.fired.numpy()),
                tuple(p[k].numpy() for k in ("threshold", "leak", "y_min", "y_max")),
                (self.t, self.window, self.window, self.neuron.tie == "even"), out.numpy(), active.numpy(),
            )  # fmt: skip
        self.t += steps
        signed = charge.dtype if charge.dtype.is_signed else torch.int8
        return (out.to(signed) - 1).reshape(last.shape).movedim(-1, 2)

    def _row(self, name: str, channels: int) -> Tensor:
        value = torch.from_numpy(getattr(self.neuron, name).astype("float64")).reshape(-1)
        return value.expand(channels).contiguous()
