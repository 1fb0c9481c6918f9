"""The optimisers of a training phase: SGD, or Muon for the hidden layers with SGD for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ConversionError

__all__ = ["OPTIMISERS", "Optimisers"]

OPTIMISERS = ("sgd", "muon", "muon-dense")
_MUON_LR = 0.02  # at an SGD rate of 0.1; per step, relative to matrices of spectral norm about 1
_MUON_DECAY = 0.025  # decoupled: the relative step levels off near sqrt(2 * lr * decay) = 3 %, as SGD's does


class Optimisers:
    """SGD with Nesterov momentum 0.9 for a model; with ``muon``, its hidden convolutions by Muon instead.

    With ``muon-dense`` its dense layers too, but for the last one, which tells classes apart: transformers are made of
    these.

    Muon (Jordan et al. 2024, ``torch.optim.Muon``) replaces a matrix's step by the nearest orthogonal one, and
    trains convolutions behind batch norms in about half of the epochs. It takes matrices: a convolution's
    weights ``(C_out, C_in, h, w)`` are seen as ``(C_out, C_in h w)``, in the same memory.

    Parameters
    ----------
    model : nn.Module
    kind : {"sgd", "muon"}
    lr, weight_decay : float
        Of SGD. Weights decay, biases and batch norms do not.
    nesterov : bool
        Whether SGD's momentum is Nesterov's.
    """

    def __init__(self, model: nn.Module, kind: str, *, lr: float, weight_decay: float, nesterov: bool = True) -> None:
        if kind not in OPTIMISERS:
            raise ConversionError("optimiser", f"{kind!r}", f"use one of {', '.join(OPTIMISERS)}")
        self.hidden: list[nn.Parameter] = []
        if kind != "sgd":
            self.hidden = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 3]  # not what sees pixels
        if kind == "muon-dense":
            self.hidden += [p for p in model.parameters() if p.ndim == 2][:-1]
        chosen = {id(p) for p in self.hidden}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        decay, other = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
        self.members: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=nesterov), 1.0)
        ]
        self.matrices = [nn.Parameter(_matrix(p.data, p.is_contiguous())) for p in self.hidden]
        if self.hidden:
            muon = torch.optim.Muon(self.matrices, lr=lr, momentum=0.8, nesterov=True, weight_decay=_MUON_DECAY)
            self.members.append((muon, _MUON_LR / 0.1))

    def set_rate(self, rate: float) -> None:
        """The learning rate of SGD; Muon's follows it."""
        for optimiser, factor in self.members:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def step(self) -> None:
        for matrix, p in zip(self.matrices, self.hidden, strict=True):
            matrix.grad = None if p.grad is None else _matrix(p.grad, p.is_contiguous())
        for optimiser, _ in self.members:
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(k): optimiser.state_dict() for k, (optimiser, _) in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, (optimiser, _) in enumerate(self.members):
            optimiser.load_state_dict(state[str(k)])


def _matrix(value: Tensor, plain: bool) -> Tensor:
    """``(C_out, rest)``: a view of a plain or a channels-last weight; its gradient with the columns in that order."""
    if plain:
        return value.contiguous().view(len(value), -1)
    return value.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(len(value), -1)
