"""How long converting, writing and reading take, and in whose code."""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir

from converters.files.nir_file import read, write
from converters.lowering import lower
from converters.measuring.costs import stored_weights
from converters.nir_export import to_nir
from converters.quantised import QuantGraph

__all__ = ["files"]

_WHOSE = (
    ("h5py", "HDF5 and its compression"),
    ("hdf5", "HDF5 and its compression"),
    ("nir", "HDF5 and its compression"),
    ("converters", "converters"),
)


def files(q: QuantGraph, window: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of each operation, the fastest of ``repeats`` (the first conversion), and each package's share in them.

    The file of Ca-LIF nodes, and that of stock nodes (target ``chain``), which NIR's own reader reads. Compiled
    functions count for the package that called them: deflate for HDF5, PyTorch's and NumPy's for whoever uses them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, lowered = Path(folder) / "net.nir", Path(folder) / "stock.nir"
        convert = _timed("convert (to_nir)", 1, lambda: to_nir(q, T=window))  # the first: gains are kept
        graph = to_nir(q, T=window)
        native = [
            convert,
            _timed("write", repeats, lambda: write(path, graph)),
            _timed("read, validated", repeats, lambda: read(path)),
        ]
        stock = lower(graph)
        other = [
            _timed("lower to stock nodes, certified", 1, lambda: lower(graph)),
            _timed("write them", repeats, lambda: write(lowered, stock)),
            _timed("nir.read", repeats, lambda: nir.read(lowered, type_check=False)),
        ]
        sizes = path.stat().st_size, lowered.stat().st_size
    weights = sum(w.numel() for layer in q.layers for w in stored_weights(layer.synapses))
    return [
        r | {"weights": weights, "file_bytes": size}
        for rows, size in zip((native, other), sizes, strict=True)
        for r in rows
    ]


def _timed(name: str, repeats: int, operation: Callable[[], Any]) -> dict[str, Any]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        times.append(time.perf_counter() - start)
    profile = cProfile.Profile(builtins=False)  # what is compiled then counts as its caller's time
    profile.runcall(operation)
    shares: dict[str, float] = {}
    stats: Any = pstats.Stats(profile)
    for (file, _line, _function), (_calls, _all, own, _cumulative, _callers) in stats.stats.items():
        parts = Path(file).parts
        whose = next((label for package, label in _WHOSE if package in parts), "NumPy, PyTorch, Python")
        shares[whose] = shares.get(whose, 0.0) + own
    total = sum(shares.values())
    return {"name": name, "seconds": min(times), "times": times, "shares": {k: v / total for k, v in shares.items()}}
