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
    dtype = torch.get_default_dtype()
    autocast = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    torch.set_default_dtype(torch.float32)
    # as a context, autocast would keep the casts of weights that are made inside of it until it ends
    for kind in autocast:
        torch.set_autocast_enabled(kind, False)
    search, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True  # batches are of one size
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.benchmark = search
        torch.set_default_dtype(dtype)
        for kind, before in autocast.items():
            torch.set_autocast_enabled(kind, before)
