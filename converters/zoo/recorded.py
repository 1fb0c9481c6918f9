"""A training step on an NVIDIA GPU, launched as a whole: recorded once as a CUDA graph, then replayed.

A quantised step is a thousand small kernels, which one by one take Python several times as long to launch as the card
to run (``tutorials/recorded_steps.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from converters.errors import first_line, warn

__all__ = ["Gradients"]

_BEFORE = 3  # steps before it is recorded: libraries choose their kernels, quantisers take their shapes


class Gradients:
    """The loss of a batch, and its gradients in ``.grad`` of parameters.

    Parameters
    ----------
    loss : callable ``(x, labels, whole)``
        A scalar tensor. Where it is recorded Python runs it once: what it decides, it decides for all batches.
    parameters : iterable of Parameter
    recorded : bool
        Whether it may be; on another device than an NVIDIA GPU it never is. A batch of another size, as the last one of
        an epoch, is computed as it comes. What cannot be recorded neither, with one warning.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([2.0]))
    >>> step = Gradients(lambda x, labels, whole: ((weight * x - labels) ** 2).sum() / whole, [weight])
    >>> step(torch.tensor([3.0]), torch.tensor([1.0]), 1), weight.grad
    (tensor(25.), tensor([30.]))
    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor, int], Tensor], parameters: Iterable[nn.Parameter], recorded: bool = True
    ) -> None:
        self.loss, self.parameters, self.recorded = loss, list(parameters), recorded
        self._calls = 0
        self._shape: torch.Size | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: tuple[Tensor, ...] = ()
        self._found: list[Tensor | None] = []
        self._value = torch.zeros(())

    def __call__(self, x: Tensor, labels: Tensor, whole: int) -> Tensor:
        """The loss, without a gradient; the next call may overwrite it. ``whole``: images of all processes."""
        if not self.recorded or x.device.type != "cuda" or len(x) != whole:
            return self._plain(x, labels, whole)
        self._shape = self._shape or x.shape
        if x.shape != self._shape:
            return self._plain(x, labels, whole)
        self._calls += 1
        if self._calls <= _BEFORE:
            return self._beside(x, labels, whole)
        self._graph = self._graph or self._record(x, labels, whole)
        if self._graph is None:
            return self._plain(x, labels, whole)
        for own, now in zip(self._batch, (x, labels), strict=True):
            own.copy_(now)
        for p, g in zip(self.parameters, self._found, strict=True):
            p.grad = g  # where the graph writes
        self._graph.replay()
        return self._value

    def _plain(self, x: Tensor, labels: Tensor, whole: int) -> Tensor:
        for p in self.parameters:
            p.grad = None
        loss = self.loss(x, labels, whole)
        loss.backward()
        return loss.detach()

    def _beside(self, x: Tensor, labels: Tensor, whole: int) -> Tensor:
        """On a stream of its own, as PyTorch asks of what runs before a recording."""
        side, here = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            loss = self._plain(x, labels, whole)
        here.wait_stream(side)
        return loss

    def _record(self, x: Tensor, labels: Tensor, whole: int) -> torch.cuda.CUDAGraph | None:
        """What was recorded has not run yet."""
        batch = (x.clone(), labels.clone())
        for p in self.parameters:
            p.grad = None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(x.device), torch.cuda.graph(graph):
                loss = self.loss(*batch, whole)
                loss.backward()
        except RuntimeError as error:
            warn(
                "training", f"steps that are launched kernel by kernel ({first_line(error)})", "expect it to be slower"
            )
            self.recorded = False
            return None
        self._batch, self._value = batch, loss.detach()
        self._found = [p.grad for p in self.parameters]
        return graph
