"""Training as it is, whatever the caller has switched on around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["own_settings"]


@contextmanager
def own_settings() -> Iterator[None]:
    """Gradients, float32 and no autocast inside, and as it was afterwards.

    >>> with torch.inference_mode(), own_settings():
    ...     torch.ones(1, requires_grad=True).sum().requires_grad
    True
    """
    dtype, autocast = torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
    torch.set_default_dtype(torch.float32)
    # as a context, autocast would keep the casts of weights that are made inside of it until it ends
    torch.set_autocast_enabled("cpu", False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_autocast_enabled("cpu", autocast)
