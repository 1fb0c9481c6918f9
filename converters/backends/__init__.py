"""Backends: a NIR graph and images in, a RunResult out. One file each, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import nir
import torch
from torch import Tensor

from calif_plugins.parameters import PHASES, Phase
from converters.errors import ConversionError
from converters.network import Network
from converters.results import RECORDS, RunResult, merge

__all__ = ["BACKENDS", "Options", "run"]

# name: (module with simulate(network, integers, options), extra that brings its simulator, its own options)
BACKENDS: dict[str, tuple[str, str, frozenset[str]]] = {
    "snntorch": ("converters.backends.snntorch", "", frozenset({"fast", "dtype"})),
    "closed_form": ("converters.backends.closed_form", "", frozenset({"check"})),
    "brian2": ("converters.backends.brian2", "", frozenset({"target", "max_synapses"})),
}


@dataclass(frozen=True)
class Options:
    """What a backend is told beside the network and the images.

    Attributes
    ----------
    phase : {"settle", "paper", "none"}
    settle_from : int
        Step from which thresholds are half; ``T`` unless asked otherwise.
    record : {"output", "counts", "spikes"}
    device : torch.device
    own : dict
        Options of this backend alone.
    """

    phase: Phase
    settle_from: int
    record: str
    device: torch.device
    own: dict[str, Any] = field(default_factory=dict)


def run(
    graph: nir.NIRGraph | Network,
    images: Tensor | None = None,
    *,
    backend: str = "snntorch",
    phase: Phase = "settle",
    settle_from: int | None = None,
    record: str = "counts",
    integers: Tensor | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    **own: Any,
) -> RunResult:
    """Run a converted network.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    images : float tensor ``(N, *input shape)``
        In the range that the network was trained on.
    backend : {"snntorch", "closed_form", "brian2"}
    phase : {"settle", "paper", "none"}
        The rounding phase. ``settle`` is exact; ``paper`` is one rounding spike per neuron (section 3.2).
    settle_from : int, optional
        Step from which thresholds are half; fewer extra steps for more spikes, and the same counts.
    record : {"output", "counts", "spikes"}
        What to keep: counts of the output, of all layers, or all spike trains and membranes too.
    integers : int tensor, optional
        The input's integers instead of images.
    batch : int, optional
        Images at a time; by default so that the state of the neurons stays within tens of megabytes.
    device : optional
        Where to run; by default where the images are.
    progress : callable ``(done, total)``, optional
    **own
        Options of one backend: ``fast`` and ``dtype`` of snntorch, ``target`` of brian2; ``check`` of closed_form, how
        many of the images to simulate as well and compare, neuron for neuron, spread evenly over them
        (``check_mismatches``).

    Raises
    ------
    ConversionError
        For an unknown backend, phase or option, images of another shape, NaN pixels.

    Examples
    --------
    >>> import converters, torch
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.tensor([[1, 2]])))], threshold=3.0, bias=1.0, y_min=0, y_max=4, scale=1.0)
    >>> g = converters.to_nir(b.build(y), T=4)
    >>> converters.run(g, torch.tensor([[1.0, 0.5]])).counts["fc"]
    tensor([[3]], dtype=torch.int32)
    """
    if backend not in BACKENDS:
        raise ConversionError("backend", f"{backend!r}", f"use one of {', '.join(BACKENDS)}")
    for name, value, known in (("phase", phase, PHASES), ("record", record, RECORDS)):
        if value not in known:
            raise ConversionError(name, f"{value!r}", f"use one of {', '.join(known)}")
    module, _extra, options = BACKENDS[backend]
    if set(own) - options:
        raise ConversionError(
            "options",
            f"{sorted(set(own) - options)}",
            f"backend {backend} takes {sorted(options) or 'none of its own'}",
        )
    network = Network.from_graph(graph)
    if settle_from is None:
        settle_from = network.window
    if not 0 <= settle_from <= network.window:
        raise ConversionError("settle_from", f"{settle_from}", f"use a step between 0 and T = {network.window}")
    integers = network.spec.accept(images, integers)
    if device is not None:
        integers = integers.to(device)
    home = import_module(module)
    if batch is None:
        by_itself = getattr(home, "batch_size", lambda network: max(1, min(256, 2_000_000 // max(network.neurons, 1))))
        batch = by_itself(network)
    if batch < 1:
        raise ConversionError("batch", f"{batch}", "use at least 1")
    settings = Options(phase, settle_from if phase == "settle" else network.window, record, integers.device, own)
    parts: list[RunResult] = []
    done = 0
    with torch.no_grad():
        for part in integers.split(batch) if len(integers) else [integers]:
            parts.append(home.simulate(network, part, settings))
            done += len(part)
            if progress is not None:
                progress(done, len(integers))
    result = merge(parts)
    if own.get("check"):
        result = _checked(network, integers, result, int(own["check"]), settle_from)
    return result


def _checked(network: Network, integers: Tensor, result: RunResult, n: int, settle_from: int) -> RunResult:
    """The closed form's result, after as many of its images as asked for have been simulated."""
    n = min(n, len(integers))
    if n < 1:
        return result
    sample = torch.linspace(0, len(integers) - 1, n).round().to(torch.int64).to(integers.device)
    simulated = run(network, integers=integers[sample], settle_from=settle_from)
    differing = sum(int((simulated.counts[k] != v[sample]).sum()) for k, v in result.counts.items())
    return replace(result, checked=n, check_mismatches=differing)
