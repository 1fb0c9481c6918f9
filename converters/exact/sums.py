"""Exact sums, whatever the caller has switched on: the state to compute in, the type that holds a sum, the addition.

Everything here is a whole number, and floats add whole numbers without rounding as long as they hold them. That is
true of the arithmetic that was asked for, and not of what autocast, a default device or a faster kind of float32 put
in its place. So there is one state (:func:`exact`), entered by whoever computes, one choice of a type
(:func:`whole_dtype`), and one addition (:func:`add_up`) that takes arrays of one shape only: charges of another shape
would often fit by broadcasting, and be wrong without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["add_up", "adds_exactly", "exact", "exact_state", "float32_is_exact", "in_forked_child", "whole_dtype"]

_FLOAT32, _FLOAT64 = 2**24, 2**53  # whole numbers up to these are all there
# kernels of other devices may round factors (TF32: 11 bits) or transform (Winograd); below these, to far less than 1/2
_ELSEWHERE, _TF32 = 2**18, 2**10
_HOME = os.getpid()
_AUTOCAST = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia")

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def exact_state() -> Iterator[None]:
    """PyTorch as this library computes in it, for the time of a block and for this thread alone.

    No autocast; no inference mode, whose tensors could not be kept for later; the CPU where no device is named; and
    one thread in a forked child, where PyTorch's others did not come along and would be waited for. Gradients are
    neither switched on nor off. May be entered again inside of itself.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16), exact_state():
    ...     torch.mm(torch.full((1, 1), 257.0), torch.ones(1, 1))
    tensor([[257.]])
    """
    with ExitStack() as stack:
        for device in _AUTOCAST:
            if _autocast_is_on(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if in_forked_child() and torch.get_num_threads() > 1:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in :func:`exact_state`."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with exact_state():
            return function(*args, **kwargs)

    return inside


def in_forked_child() -> bool:
    """Whether this process was forked from one that had this library imported."""
    return os.getpid() != _HOME


def _autocast_is_on(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except RuntimeError:  # a build without this kind of device
        return False


def whole_dtype(largest: int, device: torch.device, *, factor: int = 0, where: str = "weights") -> torch.dtype:
    """float32 if it sums whole numbers of up to ``largest`` exactly on ``device``, else float64.

    Parameters
    ----------
    largest : int
        What no partial sum exceeds in absolute value.
    device : torch.device
    factor : int
        Largest factor of the products that are summed, for devices that round factors.
    where : str
        Whose sums they are, for the message.

    Raises
    ------
    ConversionError
        Where float64 does not hold them either.

    >>> [whole_dtype(n, torch.device("cpu")) for n in (2**24, 2**24 + 1)]
    [torch.float32, torch.float64]
    """
    if largest > _FLOAT64:
        raise ConversionError(where, f"sums of up to {largest}", "float64 holds whole numbers up to 2**53")
    return torch.float32 if largest <= _FLOAT32 and float32_is_exact(largest, device, factor) else torch.float64


def float32_is_exact(largest: int, device: torch.device, factor: int = 0) -> bool:
    """Whether float32 kernels neither round nor transform, or too little to matter, under the settings of the moment.

    On a CPU without oneDNN PyTorch's convolutions are NNPACK's, which transform (Winograd, FFT); oneDNN's products
    may be told to round their factors (``torch.set_float32_matmul_precision``).
    """
    if device.type != "cpu":
        return largest <= _ELSEWHERE and factor <= _TF32
    onednn = torch.backends.mkldnn
    if not (onednn.is_available() and onednn.enabled):
        return False
    kinds = (onednn.matmul.fp32_precision, onednn.conv.fp32_precision)  # type: ignore[attr-defined]
    return all(kind in ("none", "ieee") for kind in kinds)


def adds_exactly(span: float, *values: np.ndarray) -> bool:
    """Whether float64 adds whole numbers and these values without rounding, as long as sums stay within ``span``.

    >>> adds_exactly(1000.0, np.array([0.25, 3.0])), adds_exactly(1000.0, np.array([0.1]))
    (True, False)
    """
    bits = 53 - int(np.ceil(np.log2(span)))  # of fraction that remain
    return all(bool((np.ldexp(x, bits) == np.rint(np.ldexp(x, bits))).all()) for x in values)


def add_up(parts: Iterable[Tensor], where: str) -> Tensor:
    """The sum of tensors of one shape.

    Raises
    ------
    ConversionError
        If there are none, or shapes differ: nothing is ever broadcast.

    >>> add_up([torch.tensor([1, 2]), torch.tensor([3, 4])], "layer")
    tensor([4, 6])
    """
    total: Tensor | None = None
    for part in parts:
        if total is not None and part.shape != total.shape:
            raise ConversionError(
                where, f"charges of shapes {tuple(total.shape)} and {tuple(part.shape)}", "all must have the layer's"
            )
        total = part if total is None else total + part
    if total is None:
        raise ConversionError(where, "no synapses", "every layer needs an input")
    return total
