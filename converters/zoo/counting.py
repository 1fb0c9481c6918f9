"""Parameters and multiply-accumulates of a PyTorch network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerCost", "count"]


@dataclass(frozen=True)
class LayerCost:
    """A convolution or dense layer: output shape, parameters (its batch norm's not included), and MACs of one image."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def count(model: nn.Module, shape: tuple[int, ...]) -> list[LayerCost]:
    """Layers that multiply, in the order in which they run; a padded position counts as any other.

    >>> layers = count(nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten(), nn.Linear(6, 2)), (1, 5, 5))
    >>> [(layer.kind, layer.parameters, layer.macs) for layer in layers]
    [('Conv2d', 156, 150), ('Linear', 14, 12)]
    """
    found: list[LayerCost] = []
    handles = []
    for name, module in model.named_modules():
        if type(module) in (nn.Conv2d, nn.Linear):

            def hook(m: Any, inputs: Any, out: Tensor, name: str = name) -> None:
                each = m.weight[0].numel()  # products behind one output value
                found.append(
                    LayerCost(
                        name,
                        type(m).__name__,
                        tuple(out.shape[1:]),
                        sum(p.numel() for p in m.parameters()),
                        each * out[0].numel(),
                    )
                )

            handles.append(module.register_forward_hook(hook))
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *shape))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found
