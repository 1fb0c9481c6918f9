"""Distillation (Hinton et al. 2015): the mean prediction of trained networks as a soft target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.zoo.networks import build
from converters.zoo.norms import fold_batch_norms
from converters.zoo.restored import names_quantised, restored
from converters.zoo.training_file import load_weights, read_checkpoint_of

__all__ = ["Teachers"]


class Teachers(nn.Module):
    """Networks of earlier runs on the same data set, in floating point.

    Parameters
    ----------
    paths : sequence of path
        ``.float.pt`` files of ``calif train``, of any network; or quantised networks, whose weights are taken and whose
        counts are not rounded (:mod:`~converters.zoo.restored`).
    about : dict
        Of the run that learns: ``shape`` and ``classes`` must be theirs.
    weight : float
        Of the soft target in the loss, 0 to 1; the rest is the label's.

    Raises
    ------
    ConversionError
        If a file is neither for such images and classes.
    """

    def __init__(self, paths: Sequence[Path], about: dict[str, Any], weight: float = 0.8) -> None:
        super().__init__()
        self.weight, self.networks = weight, nn.ModuleList()
        self.names: list[str] = []
        for path in paths:
            network, said = _quantised(path, about) if names_quantised(path) else _of_a_run(path, about)
            self.names.append(said)
            fold_batch_norms(network, torch.zeros(1, *about["shape"]))  # a quarter to a third of its time
            self.networks.append(network.to(memory_format=torch.channels_last))
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to probabilities ``(N, classes)``: the mean of the networks'."""
        return torch.stack([network(x).float().softmax(1) for network in self.networks]).mean(0)

    def loss(self, out: Tensor, x: Tensor, hard: Tensor) -> Tensor:
        """``hard``, the loss per image ``(N,)`` with labels, mixed with the cross entropy of the soft targets."""
        return (1 - self.weight) * hard + self.weight * F.cross_entropy(out, self(x), reduction="none")


def _quantised(path: Path, about: dict[str, Any]) -> tuple[nn.Module, str]:
    found = restored(path, about)
    return found.model, found.about


def _of_a_run(path: Path, about: dict[str, Any]) -> tuple[nn.Module, str]:
    todo = "learn from networks of the same data set"
    checkpoint = read_checkpoint_of(path, about, ("shape", "classes"), "a teacher", todo)
    network = build(checkpoint.about["network"], about["shape"][0], about["classes"], about["shape"][-1])
    load_weights(network, checkpoint, path)
    return network, f"{path.name} after {len(checkpoint.whole_log)} epochs"
