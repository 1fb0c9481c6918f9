"""A report of a network and images of your own, from Python: what ``calif run`` and ``calif report`` do with theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from converters.console.typed import today
from converters.errors import ConversionError
from converters.measuring.cross_checking import cross_check
from converters.measuring.measure import measure
from converters.measuring.tasks import Labels, labels_of
from converters.network import Network
from converters.nir_export import to_nir
from converters.ports.answers import named
from converters.quantised import QuantGraph, check_images
from converters.reporting.details import describe, wrong_of
from converters.reporting.page import write_report
from converters.zoo.datasets import Images

__all__ = ["make_report"]

_DETAILED = 50  # images behind the numbers of each layer


def make_report(
    q: QuantGraph,
    images: Tensor,
    labels: Labels = None,
    path: str | os.PathLike = "report.html",
    *,
    windows: Sequence[int] | None = None,
    phases: Sequence[str] = ("settle",),
    checked: int = 0,
    name: str = "your network",
    dataset: str = "your images",
) -> dict[str, Any]:
    """Run a network at one window or several, compare every count, and write it all as one HTML page.

    Labels say what an output is for: integers ``(N,)`` are classes of the images, ``(N, *places)`` classes of a map's
    places (below 0, or 255: none), and real numbers of the output's shape are values of a regression (NaN: none). Of
    several outputs each has its own result; accuracies in ``windows`` are those of the main one, the first.

    Parameters
    ----------
    q : QuantGraph
        From :func:`from_pt2e`, :func:`from_brevitas` or :func:`from_torch_ao`.
    images : float tensor ``(N, *input shape)``
    labels : tensor, optional
        As above. Of several outputs a tensor for each, or None, in their order; or a dictionary by name: the keys and
        indices that lead to it (``"out"``, ``"aux.0"``). Without labels the two networks are held against each other.
    path : path
        Where the page goes.
    windows : sequence of int, optional
        ``T``, in steps; the number of levels by default.
    phases : sequence of {"settle", "paper", "none"}
    checked : int
        How many images Brian2 runs as well, at the longest window.
    name, dataset : str
        For the page's title.

    Returns
    -------
    dict
        ``windows``, with accuracies, counts compared and those that differ, latency, spikes and SOPs.

    Raises
    ------
    ConversionError
        If images and labels do not fit the network or each other, or the network has several inputs.

    Examples
    --------
    >>> from converters.zoo.datasets import load
    >>> from converters.zoo.named import load_checkpoint
    >>> q, _ = load_checkpoint("lenet5-mnist-4")
    >>> data = load("digits", "test").first(6)
    >>> import tempfile; page = tempfile.mkdtemp() + "/report.html"
    >>> run = make_report(q, data.pixels, data.labels, page, windows=[2, 4])
    >>> [(row["T"], row["count_mismatches"]) for row in run["windows"]]
    [(2, 0), (4, 0)]
    """
    if not isinstance(q, QuantGraph):
        raise ConversionError(
            "q",
            f"a {type(q).__name__}",
            "give the quantised network; of a graph, write the file and take calif run net.nir --json and calif report",
        )
    if len(q.inputs) > 1:
        names = ", ".join(spec.name for spec in q.inputs)
        raise ConversionError(
            "q",
            f"{len(q.inputs)} inputs ({names}), where a report shows one picture for each label",
            "give a tensor for each to converters.run and converters.cross_check",
        )
    if q.input.table is not None:
        raise ConversionError(
            "q",
            f"tokens as its input {q.input.name}, where a report shows pictures",
            "give them to converters.run and converters.cross_check",
        )
    check_images(images, q.input.shape)
    if not len(images):
        raise ConversionError("images", "none", "give some")
    first, *more = labels_of(labels, [name for name, _ in named(q.outputs)], len(images))
    data = Images(images, first, int(q.output.shape[0]), more_labels=tuple(more))
    networks = {t: Network.from_graph(to_nir(q, T=t)) for t in sorted(set(windows or [q.levels]))}
    runs = [(network, phase) for network in networks.values() for phase in phases]
    run: dict[str, Any] = {"network": name, "dataset": dataset, "toolkit": q.source, "levels": q.levels}
    run["windows"] = [measure(network, q, data, phase=phase).as_dict() for network, phase in runs]
    if checked:
        report = cross_check(networks[max(networks)], images[:checked])
        run |= {"cross_check": report.summary(), "checks": [report.as_dict()]}
    run["details"] = describe(runs, q, data, images=_DETAILED, wrong=wrong_of(run["windows"]))
    run |= {"command": f'converters.make_report(q, images, labels, "{os.fspath(path)}")', "date": today()}
    write_report(run, path)
    return run
