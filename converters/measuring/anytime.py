"""Accuracy if one stops after any step: one simulation, one curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import torch
from torch import Tensor

from converters.backends import run
from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.measuring.replay import outputs_by_step
from converters.measuring.tasks import questions
from converters.network import Network
from converters.ports.answers import predicted
from converters.ports.outputs import leaves
from converters.results import RunResult

__all__ = ["AnytimeCurve", "anytime_curve", "predictions_by_step"]


@dataclass(frozen=True)
class AnytimeCurve:
    """``accuracy[t]`` is that of stopping after step ``t + 1``; steps beyond ``window`` are the rounding phase."""

    window: int
    accuracy: tuple[float, ...]


def anytime_curve(
    graph: nir.NIRGraph | Network, images: Tensor, labels: Tensor, *, batch: int = 32, **options: Any
) -> AnytimeCurve:
    """Accuracy after every step of one simulation.

    Parameters
    ----------
    graph : nir.NIRGraph
    images : float tensor ``(N, *input shape)``
    labels : int tensor ``(N,)``, or ``(N, *places)`` of a map of classes
        Places with a label below 0 take no part.
    batch : int
        Images at a time: the spike trains of a batch are kept.
    **options
        Of :func:`converters.run`: ``phase``, ``settle_from``, ``backend``.

    Examples
    --------
    >>> import converters
    >>> from converters.quantised import GraphBuilder
    >>> from converters.operations import Linear
    >>> b = GraphBuilder()
    >>> x = b.input((2,), scale=0.25, q_min=0, q_max=4)
    >>> y = b.layer("fc", [(x, Linear(torch.eye(2, dtype=torch.int8)))], threshold=1.0, y_min=0, y_max=4, scale=1.0)
    >>> g = converters.to_nir(b.build(y), T=4)
    >>> anytime_curve(g, torch.tensor([[0.25, 1.0]]), torch.tensor([1])).accuracy
    (1.0, 1.0, 1.0, 1.0)
    """
    network = Network.from_graph(graph)
    if len(images) != len(labels) or not len(labels):
        raise ConversionError("labels", f"{len(labels)} for {len(images)} images", "give one for each")
    (main, *_) = questions(network, [labels])
    if main.task == "values":
        raise ConversionError("labels", f"{main.name}, whose values are no classes", "an accuracy is of classes")
    right: list[Tensor] = []
    labelled = 0
    for start in range(0, len(images), batch):
        part, truth = images[start : start + batch], labels[start : start + batch]
        r = run(network, part, record="spikes", batch=len(part), **options)
        guesses = predictions_by_step(network, r, network.accept(part, None))
        known = main.truth(truth, guesses[0])
        right.append((guesses == known).flatten(1).sum(1))
        labelled += int((known >= 0).sum())
    steps = max(len(r) for r in right)
    # a batch that is quiet earlier keeps its answer
    total = torch.stack([torch.cat([r, r[-1:].expand(steps - len(r))]) for r in right]).sum(0)
    return AnytimeCurve(network.window, tuple((total.double() / max(labelled, 1)).tolist()))


@exact
def predictions_by_step(network: Network, result: RunResult, integers: Tensor) -> Tensor:
    """What the main output says after each step, int64 ``(steps, N)``, or ``(steps, N, *places)`` of a map, from a
    run's spike trains."""
    if result.spikes is None:
        raise ConversionError("result", "no spike trains", 'run with record="spikes"')
    levels = outputs_by_step(network, result.spikes, integers)
    says = predicted(next(leaves(network.outputs)), levels.to(torch.float64).flatten(0, 1) * network.output.scale)
    return says.unflatten(0, levels.shape[:2])
