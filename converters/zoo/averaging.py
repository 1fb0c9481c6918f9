"""The mean of a network's weights along its training (stochastic weight averaging, Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WeightMean", "measure_batch_norms"]


class WeightMean:
    """The running mean of the parameters of a model, of every ``every``-th step.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> mean = WeightMean(model, every=1)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     mean.step()
    >>> mean.take()
    >>> model.weight.item()
    3.0
    """

    def __init__(self, model: nn.Module, every: int = 10) -> None:
        self.model, self.every = model, every
        self.steps = self.count = 0
        self.values: list[Tensor] = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]

    @torch.no_grad()
    def step(self) -> None:
        """After a step of the optimiser."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.count += 1
            for mean, p in zip(self.values, self.model.parameters(), strict=True):
                mean += (p - mean) / self.count

    @torch.no_grad()
    def take(self) -> None:
        """Put the mean into the model. Its batch norms' statistics are then those of other weights."""
        if self.count:
            for mean, p in zip(self.values, self.model.parameters(), strict=True):
                p.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "count": self.count, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.count = state["steps"], state["count"]
        self.values = [new.to(old.device) for new, old in zip(state["values"], self.values, strict=True)]


@torch.no_grad()
def measure_batch_norms(model: nn.Module, batches: Iterable[Any]) -> None:
    """Statistics of batch norms anew: their mean over calls of the model in training mode, which iterating makes.

    Those of an exported graph, which are no modules, move as they do in training.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the plain mean
    model.train()
    for _ in batches:
        pass
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
