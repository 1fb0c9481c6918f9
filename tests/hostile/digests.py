"""One number for all that a graph holds, so that two readings of a file can be compared."""

from __future__ import annotations

import hashlib
from typing import Any

import nir
import numpy as np

__all__ = ["digest"]


def digest(graph: nir.NIRGraph) -> str:
    """A hash of edges, and of the type, shape and bytes of every field of every node."""
    found = hashlib.sha256(repr(list(graph.edges)).encode())
    for name, node in graph.nodes.items():
        found.update(repr((name, type(node).__name__)).encode())
        _add(found, vars(node))
    return found.hexdigest()


def _add(found: Any, fields: dict) -> None:
    for key, value in sorted(fields.items()):
        found.update(key.encode())
        if isinstance(value, dict):
            _add(found, value)
        elif isinstance(value, np.ndarray | np.generic):
            found.update(repr((value.dtype.str, value.shape)).encode())
            found.update(value.tobytes())
        else:
            found.update(repr(value).encode())
