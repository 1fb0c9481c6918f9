"""Stopping early by a margin: when the first class has led the second by enough, for long enough.

A rule of experience, not of proof: the margin is chosen on images of which it may lose a stated share, and what it
loses on others is measured. The rule that loses nothing is in :mod:`~converters.measuring.certainty`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nir
import torch
from torch import Tensor

from converters.backends import run
from converters.errors import ConversionError
from converters.exact.sums import exact
from converters.measuring.replay import outputs_by_step
from converters.network import Network

__all__ = ["MarginRule", "Traces", "choose_margin", "traces"]

_TRIED = 1000


@dataclass(frozen=True, eq=False)
class Traces:
    """What a classifier's main output was after each step, for ``N`` images.

    Attributes
    ----------
    leading : int64 tensor ``(steps, N)``
        The class with the largest value; of equal ones the first.
    leads : float64 tensor ``(steps, N)``
        How far it is in front of the second, in counts, or in thresholds of an output that does not spike.
    latency : int64 tensor ``(N,)``
        Steps until the network is quiet. From there on nothing changes.
    """

    leading: Tensor
    leads: Tensor
    latency: Tensor

    @property
    def classes(self) -> Tensor:
        """What each image is in the end: int64 ``(N,)``."""
        return self.leading[-1]


@dataclass(frozen=True)
class MarginRule:
    """Stop when one class has led by ``margin`` or more for ``patience`` steps on end, or when the network is quiet.

    Examples
    --------
    >>> leading = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 0]])
    >>> leads = torch.tensor([[5.0, 1.0], [1.0, 2.0], [3.0, 2.0], [3.0, 1.0]])
    >>> MarginRule(2.0).stop(Traces(leading, leads, torch.tensor([4, 4])))
    (tensor([1, 2]), tensor([0, 1]))
    >>> MarginRule(2.0, patience=2).stop(Traces(leading, leads, torch.tensor([4, 4])))
    (tensor([4, 3]), tensor([1, 1]))
    """

    margin: float
    patience: int = 1

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise ConversionError("margin", f"{self.margin}", "use a number that is not negative")
        if type(self.patience) is not int or self.patience < 1:
            raise ConversionError("patience", f"{self.patience!r}", "use a number of steps, at least 1")

    def stop(self, found: Traces) -> tuple[Tensor, Tensor]:
        """After how many steps each image stops, and the class that it then has: int64 ``(N,)`` each."""
        same = torch.zeros_like(found.leading[0])
        steps, classes = found.latency.clone(), found.classes.clone()
        running = torch.ones_like(found.classes, dtype=torch.bool)
        before = None
        for t, (leading, lead) in enumerate(zip(found.leading, found.leads, strict=True)):
            kept = torch.ones_like(running) if before is None else leading == before
            same = torch.where(lead >= self.margin, torch.where(kept, same, 0) + 1, 0)
            here = running & (same >= self.patience) & (t + 1 < found.latency)
            steps[here], classes[here] = t + 1, leading[here]
            running &= ~here
            before = leading
        return steps, classes


@torch.no_grad()
@exact
def traces(graph: nir.NIRGraph | Network, images: Tensor, *, batch: int = 16) -> Traces:
    """Run a classifier, and look at its main output after each step.

    Parameters
    ----------
    graph : nir.NIRGraph or Network
    images : float tensor ``(N, *input shape)``
    batch : int
        Images at a time: the spike trains of a batch are kept.

    Raises
    ------
    ConversionError
        If there are no images, or its output has no value for each of two classes or more.
    """
    network = Network.from_graph(graph)
    if network.output.size < 2:
        raise ConversionError(network.output.name, "an output of one value", "give a network with a value for a class")
    if not len(images):
        raise ConversionError("images", "none", "give some")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in images.split(batch):
        r = run(network, part, record="spikes", batch=len(part))
        assert r.spikes is not None
        assert r.latency is not None
        values = outputs_by_step(network, r.spikes, network.accept(part, None)).flatten(2).double()
        best = values.argmax(2)
        two = values.topk(2, 2).values
        parts.append((best, two[..., 0] - two[..., 1], r.latency))
    longest = max(len(leading) for leading, _, _ in parts)
    leading, leads = (torch.cat([_lengthened(p[k], longest) for p in parts], 1) for k in (0, 1))
    return Traces(leading, leads, torch.cat([p[2] for p in parts]))


def _lengthened(x: Tensor, steps: int) -> Tensor:
    """A batch that is quiet earlier stays as it is."""
    return torch.cat([x, x[-1:].expand(steps - len(x), *x.shape[1:])])


def choose_margin(
    found: Traces, *, loss: float, patience: int = 1, margins: Sequence[float] | None = None
) -> MarginRule:
    """The smallest margin with which at most a share ``loss`` of the images stops at another class than its final one.

    Parameters
    ----------
    found : Traces
        Of images that the network is not judged by.
    loss : float
        From 0 to 1.
    patience : int
    margins : sequence of float, optional
        Those that are tried, by default the leads that images have had (a thousand of them). One above all leads is
        taken where none of them will do: then the rule waits until the network is quiet.

    Examples
    --------
    >>> found = Traces(torch.tensor([[0], [1], [1]]), torch.tensor([[2.0], [3.0], [5.0]]), torch.tensor([3]))
    >>> choose_margin(found, loss=0.0)
    MarginRule(margin=3.0, patience=1)
    """
    if not 0 <= loss <= 1:
        raise ConversionError("loss", f"{loss}", "use a share from 0 to 1")
    leads = found.leads.flatten().unique().tolist()
    tried = sorted(margins) if margins is not None else leads[:: max(1, len(leads) // _TRIED)]
    for margin in tried:
        rule = MarginRule(margin, patience)
        if float((rule.stop(found)[1] != found.classes).double().mean()) <= loss:
            return rule
    return MarginRule(float(found.leads.max()) + 1, patience)
