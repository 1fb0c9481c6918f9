"""Notices that libraries log, and that nobody who uses this package can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["EXPORTER", "NOTICES", "silenced"]

NOTICES = {
    "torch.utils._pytree": "torchao registers an enum that torch knows by itself",
    "torch.utils.cpp_extension": "Brevitas looks for CUDA",
}
"""Loggers, and what they would say while libraries are imported."""
EXPORTER = {
    "torch.fx.experimental.symbolic_shapes": "torch.export prints a graph before it raises the error that is shown",
}
"""The same while a model is exported."""


@contextmanager
def silenced(notices: Mapping[str, str] = NOTICES) -> Iterator[None]:
    """Errors only from these loggers, for as long as it lasts."""
    before = {name: logging.getLogger(name).level for name in notices}
    for name in notices:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
