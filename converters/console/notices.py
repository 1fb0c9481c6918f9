"""Notices that libraries log while they are imported, and that nobody who uses this package can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NOTICES", "silenced"]

NOTICES = {
    "torch.utils._pytree": "torchao registers an enum that torch knows by itself",
    "torch.utils.cpp_extension": "Brevitas looks for CUDA",
}
"""Loggers, and what they would say."""


@contextmanager
def silenced() -> Iterator[None]:
    """Errors only from these loggers, for as long as it lasts."""
    before = {name: logging.getLogger(name).level for name in NOTICES}
    for name in NOTICES:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
