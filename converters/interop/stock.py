"""Stock NIR files in unmodified simulators, each through its own importer and executor.

One function per simulator: it reads the file from disk, steps through the inputs, and returns what the observed
nodes emitted. Where a simulator cannot run a graph, the reason is raised as :class:`CannotRun`, with that
simulator's own words.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from converters.errors import ConversionError

__all__ = ["SIMULATORS", "CannotRun", "StockRun", "run_module", "run_stock"]

DT = 1e-4
"""Time step in seconds that lowered files are written for; SpikingJelly's and snnTorch's own."""


class CannotRun(Exception):
    """The simulator refused the graph or failed on it; the text says how."""


_FLOAT32 = "its spikes are float32 whatever the weights are, and this file needs float64; "
# what a simulator's own words mean, where they do not say it: (simulator, part of its message, reason)
_REASONS = (
    ("snntorch", "Input type (float)", _FLOAT32),
    ("snntorch", "Float and Double", _FLOAT32),
    ("snntorch", "got (tuple", "its importer's IF neuron returns spikes and membrane as a tuple to the next layer; "),
    ("sinabs", "truth value", "its importer checks leaks with Python's any(), which fails on feature maps; "),
)


@dataclass(eq=False)
class StockRun:
    """What a simulator made of a file.

    Attributes
    ----------
    simulator, version : str
    outputs : dict of tensors ``(steps, N, *shape)``
        By node name: the signed spikes of a layer, or a membrane.
    import_seconds, run_seconds : float
    dtype : torch.dtype
    """

    simulator: str
    version: str
    outputs: dict[str, Tensor]
    import_seconds: float
    run_seconds: float
    dtype: torch.dtype
    said: list[str] = field(default_factory=list)


def run_stock(
    simulator: str, path: str | Path, inputs: Tensor, nodes: Sequence[str], *, dtype: torch.dtype = torch.float32
) -> StockRun:
    """Run a lowered file in one simulator.

    Parameters
    ----------
    simulator : {"spikingjelly", "snntorch", "norse", "sinabs", "nirtorch"}
    path : path of the ``.nir`` file
    inputs : float tensor ``(steps, N, *input shape)``
        From :func:`converters.interop.feeding.input_spikes`.
    nodes : names of nodes to observe
        From :func:`converters.interop.feeding.layer_nodes`.
    dtype : torch.dtype
        The file's ``calif_precision``.

    Raises
    ------
    CannotRun
        With the simulator's reason.
    ConversionError
        For an unknown simulator.
    """
    if simulator not in SIMULATORS:
        raise ConversionError("simulator", f"{simulator!r}", f"use one of {', '.join(SIMULATORS)}")
    package, load = SIMULATORS[simulator]
    return run_module(simulator, package, lambda: load(Path(path), len(inputs[0]), dtype), inputs, nodes, dtype=dtype)


def run_module(
    simulator: str,
    package: str,
    load: Callable[[], Any],
    inputs: Tensor,
    nodes: Sequence[str],
    *,
    dtype: torch.dtype = torch.float32,
) -> StockRun:
    """Load an executable graph of one simulator, and step it through ``inputs``; see :func:`run_stock`.

    ``load()`` returns a module that is called as ``y, state = module(x, state)``; ``package`` is the simulator's
    distribution, ``nodes`` are paths of its submodules.
    """
    said = io.StringIO()
    try:
        with _quiet(said), torch.no_grad():
            start = time.perf_counter()
            module = load()
            middle = time.perf_counter()
            outputs = _step(module, inputs.to(dtype), nodes)
            end = time.perf_counter()
    except Exception as error:  # whatever a foreign package raises is its answer
        reason = " ".join(str(error).split()) or "no message"
        why = next((w for s, part, w in _REASONS if s == simulator and part in reason), "")
        raise CannotRun(why + f"{type(error).__name__}: {reason[:300]}") from error
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return StockRun(simulator, version(package), outputs, middle - start, end - middle, dtype, lines)


@contextlib.contextmanager
def _quiet(to: io.StringIO) -> Iterator[None]:
    """Importers print and warn; what they say is kept, not shown."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(to):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _step(module: Any, inputs: Tensor, nodes: Sequence[str]) -> dict[str, Tensor]:
    """All steps, with the outputs of the observed nodes kept as they come."""
    kept: dict[str, list[Tensor]] = {name: [] for name in nodes}
    watched = dict(module.named_modules())
    hooks = [watched[name].register_forward_hook(_keeper(kept[name])) for name in nodes]
    state = None
    try:
        for x in inputs:
            _, state = module(x, state)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(values) for name, values in kept.items()}


def _keeper(to: list[Tensor]) -> Callable[[Any, Any, Any], None]:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        whole = (
            value.round().to(torch.int8) if bool((value == value.round()).all() & (value.abs() < 128).all()) else value
        )
        to.append(whole.clone())

    return hook


def _read(path: Path) -> nir.NIRGraph:
    """NIR's own reader. Its type check takes a kernel's height for its width, and so refuses some valid graphs."""
    try:
        return nir.read(path)
    except ValueError:
        return nir.read(path, type_check=False)


def _spikingjelly(path: Path, _batch: int, dtype: torch.dtype) -> Any:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return import_from_nir(_read(path), dt=DT, dtype=dtype)


def _snntorch(path: Path, _batch: int, dtype: torch.dtype) -> Any:
    from snntorch.import_nir import import_from_nir

    return import_from_nir(_read(path)).to(dtype)


def _norse(path: Path, _batch: int, dtype: torch.dtype) -> Any:
    import norse.torch

    return norse.torch.from_nir(_read(path), dt=DT).to(dtype)


def _sinabs(path: Path, batch: int, dtype: torch.dtype) -> Any:
    from sinabs.nir import from_nir

    return from_nir(_read(path), batch_size=batch).to(dtype)


def _nirtorch(path: Path, _batch: int, dtype: torch.dtype) -> Any:
    import nirtorch

    from converters.lowering.primitives import torch_map

    return nirtorch.nir_to_torch(_read(path), torch_map(DT), dtype=dtype)


# name: (distribution, loader (path, batch, dtype) -> module called as module(x, state) -> (y, state))
SIMULATORS: dict[str, tuple[str, Callable[[Path, int, torch.dtype], Any]]] = {
    "spikingjelly": ("spikingjelly", _spikingjelly),
    "snntorch": ("snntorch", _snntorch),
    "norse": ("norse", _norse),
    "sinabs": ("sinabs", _sinabs),
    "nirtorch": ("nirtorch", _nirtorch),  # target primitives, with the map of four entries
}
