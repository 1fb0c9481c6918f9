"""The device that a run is asked for: one that PyTorch can use here, or an error of one line."""

from __future__ import annotations

from typing import Any

import torch

from converters.errors import ConversionError, first_line

__all__ = ["usable"]


def usable(device: Any, where: str = "device") -> torch.device:
    """``device``, a name or a :class:`torch.device`, if tensors can be made on it and hold values.

    Raises
    ------
    ConversionError
        For what names no device, and for one that is not here.

    >>> usable("cpu")
    device(type='cpu')
    >>> usable("gpu")
    Traceback (most recent call last):
    converters.errors.ConversionError: device: found 'gpu', which names no device; use cpu, cuda, cuda:1, ...
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConversionError(where, f"{device!r}, which names no device", "use cpu, cuda, cuda:1, ...") from None
    reason = _missing(found)
    if reason:
        raise ConversionError(where, f"{found}, which cannot be used here ({reason})", "use cpu")
    return found


def _missing(device: torch.device) -> str:
    """Why there are no values on it; empty where there are."""
    if device.type == "cpu":
        return ""
    if device.type == "meta":
        return "tensors on it have no values"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            return f"PyTorch sees {count or 'no'} CUDA device{'s' if count != 1 else ''}"
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # each kind of device has its own, AssertionError and ImportError among them
        return first_line(error)
    return ""
