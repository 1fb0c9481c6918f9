"""Many steps of the Ca-LIF rule in one compiled pass, on the CPU: the fast simulator's inner loop.

The rule of :func:`calif_plugins.reference.step`, once more, for arrays whose last axis is the channel. Spikes
leave as bytes ``s + 1`` in {0, 1, 2}, which is what integer convolutions take (zero point 1). Kernels are
compiled by Numba at first use, in seconds, and kept in its cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.parameters import CaLIFParameters

__all__ = ["CaLIFMultiStep", "available", "kernels", "totals", "use_threads_of_torch"]


def use_threads_of_torch() -> None:
    """As many threads as PyTorch has been given: two pools of threads on the same cores wait for each other."""
    import numba
    from numba.np.ufunc.parallel import _launch_threads

    threads = torch.get_num_threads()
    _launch_threads()  # once; its OpenMP pool sets the number of PyTorch's threads, too, which are put back here
    most: int = getattr(numba.config, "NUMBA_NUM_THREADS")  # noqa: B009  set when Numba is imported
    numba.set_num_threads(max(1, min(threads, most)))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def available() -> bool:
    """Whether Numba is installed (extra ``fast``) and compiles, which ``NUMBA_DISABLE_JIT=1`` forbids."""
    try:
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
        steps, _, channels = charge.shape[:3]
        last = charge.movedim(2, -1).contiguous()  # channels last
        places = last.shape[1:-1].numel()
        p = {k: self._row(k, channels) for k in ("threshold", "leak", "y_min", "y_max", "v_init")}
        if self.v.shape != (places, channels):
            self.v = p["v_init"].repeat(places, 1)
            self.y, self.fired = torch.zeros_like(self.v), torch.zeros(places, channels, dtype=torch.int32)
        out = torch.empty(steps, places, channels, dtype=torch.uint8)
        active = torch.empty(steps, places, dtype=torch.int32)
        use_threads_of_torch()
        kernels().scan(
            last.reshape(-1).numpy(), (self.v.numpy(), self.y.numpy(), self.fired.numpy()),
            tuple(p[k].numpy() for k in ("threshold", "leak", "y_min", "y_max")),
            (self.t, self.window, self.window, self.neuron.tie == "even"), out.numpy(), active.numpy(),
        )  # fmt: skip
        self.t += steps
        return (out.to(charge.dtype) - 1).reshape(last.shape).movedim(-1, 2)

    def _row(self, name: str, channels: int) -> Tensor:
        value = torch.from_numpy(getattr(self.neuron, name).astype("float64")).reshape(-1)
        return value.expand(channels).contiguous()
