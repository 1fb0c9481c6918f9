"""Measured rows, kept between calls: an interrupted run goes on, and a new checkpoint costs its own rows alone.

A row is found again only if everything that it depends on is the same: the network's integers and thresholds, the
images and labels, the settings, and the source code that computes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import calif_plugins
import converters
from converters.errors import FileFormatError
from converters.files.atomic import atomic_path
from converters.operations.node import settings_of
from converters.ports.outputs import to_json
from converters.quantised import QuantGraph
from converters.reading import parse_json, read_bytes
from converters.zoo.images import Images

__all__ = ["Kept", "of_images", "of_network"]

# what a row does not depend on: how networks are trained, files, and how rows are shown
_ELSEWHERE = (
    "commands/",
    "frontends/",
    "zoo/",
    "reporting/",
    "experiments/",
    "interop/",
    "cli.py",
    "lowering/",
    "files/",
)
_LARGEST_ROW = 1 << 28  # bytes
_COMPUTES = ("experiments/measuring.py", "experiments/energy")


class Kept:
    """Rows in a folder, one JSON file each.

    >>> import tempfile
    >>> kept, calls = Kept(Path(tempfile.mkdtemp())), []
    >>> def measure():
    ...     calls.append(1)
    ...     return {"T": 8}
    >>> [kept("network", "images", {"T": 8}, measure) for _ in range(2)], len(calls)
    ([{'T': 8}, {'T': 8}], 1)
    """

    def __init__(self, folder: Path | None, fresh: bool = False) -> None:
        """``folder`` None: keep nothing; ``fresh``: measure again, whatever is there."""
        self.folder, self.fresh = folder, fresh

    def __call__(
        self, network: str, images: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        if self.folder is None:
            return measure()
        text = json.dumps([network, images, settings, _sources(), torch.__version__], sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        if not self.fresh:
            with suppress(FileFormatError):  # none yet, or damaged: measured again
                row = parse_json(path, read_bytes(path, max_bytes=_LARGEST_ROW), "")
                if isinstance(row, dict):
                    return row
        row = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(row), encoding="utf-8")
        return row


def of_network(q: QuantGraph) -> str:
    """Digest of a quantised network: topology, integers, thresholds."""
    digest = hashlib.sha256(repr([q.inputs, to_json(q.outputs)]).encode())
    for layer in q.layers:
        digest.update(repr([layer.name, layer.y_min, layer.y_max, layer.scale, layer.tie, layer.spiking]).encode())
        _add(digest, layer.threshold, layer.bias)
        for synapse in layer.synapses:
            digest.update(repr(synapse.sources).encode())
            for op in synapse.ops:
                plain, tensors = settings_of(op)
                digest.update(repr([type(op).__name__, plain]).encode())
                _add(digest, *tensors.values())
    return digest.hexdigest()


def of_images(data: Images) -> str:
    """Digest of images, labels and the filter's name."""
    return data.digest()


def _add(digest: Any, *tensors: Tensor) -> None:
    for t in tensors:
        digest.update(repr([tuple(t.shape), t.dtype]).encode())
        digest.update(t.contiguous().cpu().numpy().tobytes())


@cache
def _sources() -> str:
    """Digest of the code that rows are computed by."""
    digest = hashlib.sha256()
    for package in (calif_plugins, converters):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name.startswith(_ELSEWHERE) and not name.startswith(_COMPUTES):
                continue
            digest.update(name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
