"""Backends: a NIR graph and images in, a RunResult out. One file each, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nir
import torch
from torch import Tensor

from calif_plugins.parameters import PHASES, Phase
from converters.backends.contract import Backend, Settings, backend_for, backend_names, register, unregister
from converters.backends.self_check import compare_with_closed_form, due, has_closed_form, sample_of, spread
from converters.devices import usable
from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.network import Network
from converters.ports.inputs import Batches
from converters.results import RECORDS, RunResult, merge

__all__ = ["Backend", "Settings", "backend_names", "register", "run", "unregister"]


@exact
def run(
    graph: nir.NIRGraph | Network,
    images: Batches | None = None,
    *,
    backend: str | Backend = "auto",
    phase: Phase = "settle",
    settle_from: int | None = None,
    record: str = "counts",
    integers: Batches | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    check: bool | int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **own: Any,
) -> RunResult:
    """Run a converted network.

    Parameters
    ----------
    graph : nir.NIRGraph
        From :func:`converters.to_nir` or :func:`converters.read`.
    images : float tensor ``(N, *input shape)``
        In the range that the network was trained on. Of several inputs a tensor for each, in their order or in a
        dictionary by name.
    backend : {"auto", "fast", "snntorch", "brian2", "closed_form"}
        ``fast`` is this package's own simulator; ``snntorch`` and ``brian2`` are theirs, stepped with the networks of
        :func:`converters.to_snntorch` and :func:`converters.to_brian2`; ``closed_form`` computes the final counts.
        ``auto``: ``fast`` where it runs, else ``snntorch``. The result says what ran. Or a backend of your own, a
        :class:`Backend`, by the name that it is registered under or itself.
    phase : {"settle", "paper", "none"}
        The rounding phase. ``settle`` is exact; ``paper`` is one rounding spike per neuron (section 3.2).
    settle_from : int, optional
        Step from which thresholds are half; fewer extra steps for more spikes, and the same counts.
    record : {"output", "counts", "spikes"}
        What to keep: counts of the output, of all layers, or all spike trains and membranes too.
    integers : int tensor, optional
        The input's integers instead of images.
    batch : int, optional
        Images at a time; by default so that the state of the neurons, of ``fast`` their counts, stays within tens of
        megabytes.
    device : str or torch.device, optional
        Where to run, ``"cuda"`` for example; by default where the images are. Results are there, too.
    check : bool or int, optional
        How many images to compute in another way too, and compare neuron for neuron; the result says how many it were
        (``checked``). A simulation that settles is held against the closed form: by default, and with True, one image
        of each batch but at most one in 64, where that is exact
        (:func:`converters.backends.self_check.has_closed_form`). By default short runs of one ``Network`` count
        together: the first is looked at, and another when 1,024 images have passed. The closed form is simulated, for
        as many images as asked for, spread evenly (``check_mismatches``). False: none.
    progress : callable ``(done, total)``, optional
    **own
        Options of one backend: ``dtype`` of snntorch, ``target`` and ``max_synapses`` of brian2.

    Raises
    ------
    ConversionError
        For an unknown backend, phase or option, a device that is not here, images of another shape, NaN pixels; if a
        simulation differs from the closed form.

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
    if "fast" in own and backend in ("auto", "snntorch"):  # how it was asked for before `fast` had a name of its own
        backend = "fast" if own.pop("fast") else "snntorch"
    network = Network.from_graph(graph)
    if settle_from is None:
        settle_from = network.window
    _refuse(phase, record, settle_from, network.window)
    target = None if device is None else usable(device)
    given = network.accept(images, integers)
    if target is not None:
        given = given.to(target)
    settings = Settings(phase, settle_from if phase == "settle" else network.window, record, given.device)
    chosen = backend if isinstance(backend, Backend) else backend_for(backend, given.device)
    options = chosen.options_of(own)
    chosen.check(network, settings)
    if batch is None:
        batch = chosen.batch_size(network)
    if type(batch) is not int or batch < 1:
        raise ConversionError("batch", f"{batch}", "use at least 1, a whole number")
    if check is not None and (type(check) not in (bool, int) or check < 0):
        raise ConversionError("check", f"{check!r}", "use True, False or a number of images")
    parts: list[RunResult] = []
    done = 0
    with torch.no_grad():
        for part in given.split(batch) if len(given) else [given]:
            parts.append(chosen.simulate(network, part, settings, options))
            done += len(part)
            if progress is not None:
                progress(done, len(given))
    result = merge(parts)
    if check is False or check == 0 or not len(given):
        return result
    return _compared(network, given, result, check, settings, settle_from, batch)


def _refuse(phase: str, record: str, settle_from: Any, window: int) -> None:
    for name, value, known in (("phase", phase, PHASES), ("record", record, RECORDS)):
        if value not in known:
            raise ConversionError(name, f"{value!r}", f"use one of {', '.join(known)}")
    if type(settle_from) is not int or not 0 <= settle_from <= window:
        raise ConversionError("settle_from", f"{settle_from}", f"use a step between 0 and T = {window}")


def _compared(
    network: Network, integers: Tensor, result: RunResult, check: bool | int | None, settings: Settings,
    settle_from: int, batch: int,
) -> RunResult:  # fmt: skip
    """The result, after as many images as asked for have been computed in another way."""
    if result.exact_from == "closed form":
        return result if check is None else _simulated(network, integers, result, int(check), settle_from)
    if settings.phase == "settle" and has_closed_form(network):
        if check is None and not due(network, len(integers)):
            return result
        by_itself = check is None or check is True
        sample = sample_of(len(integers), batch) if by_itself else spread(len(integers), int(check or 0))
        return compare_with_closed_form(network, integers, result, sample)
    return result


def _simulated(network: Network, integers: Tensor, result: RunResult, n: int, settle_from: int) -> RunResult:
    """The closed form's result, after as many of its images as asked for have been simulated."""
    sample = spread(len(integers), n).to(integers.device)
    simulated = run(network, integers=network.by_input(integers[sample]), settle_from=settle_from, check=False)
    differing = sum(int((simulated.counts[k] != v[sample]).sum()) for k, v in result.counts.items())
    return replace(result, checked=len(sample), check_mismatches=differing)
