"""Batch norms of snnTorch models join the weights in front of them, in float64, as they act in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from calif_plugins.torch_modules import copied
from converters.errors import ConversionError

__all__ = ["Joined", "folded"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NOTHING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)


class Joined(nn.Identity):
    """Stands where a batch norm was, and knows what kind of layer it has joined."""

    def __init__(self, layer: type) -> None:
        super().__init__()
        self.layer = layer


def folded(modules: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The same row without batch norms, whose place a :class:`Joined` takes.

    Raises
    ------
    ConversionError
        Naming a batch norm that is not behind a layer with weights, or that has no statistics of its own.

    Examples
    --------
    >>> row = [("0", nn.Linear(2, 3)), ("1", nn.BatchNorm1d(3).eval())]
    >>> [type(module).__name__ for _, module in folded(row)]
    ['Linear', 'Joined']
    """
    row = list(modules)
    for k, (path, module) in enumerate(row):
        if type(module) not in _NORMS:
            continue
        before = next((i for i in range(k - 1, -1, -1) if type(row[i][1]) not in _NOTHING), None)
        if before is None or type(row[before][1]) not in (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED):
            raise ConversionError(
                path or "model",
                f"a {type(module).__name__} that is not directly behind a layer with weights",
                "put it there, where it joins them",
            )
        row[before] = row[before][0], _joined(path, row[before][1], module)
        row[k] = path, Joined(type(row[before][1]))
    return row


def _joined(path: str, layer: Any, norm: Any) -> nn.Module:
    """A copy of the layer in float64 that does what both do."""
    if norm.running_mean is None:
        found = f"a {type(norm).__name__} without running statistics, which normalises each batch by itself"
        raise ConversionError(path, found, "train it with track_running_stats=True")
    own = copied(layer).double().cpu()
    weight, bias, mean, variance = (
        None if t is None else t.detach().double().cpu()
        for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = torch.rsqrt(variance + norm.eps) * (1.0 if weight is None else weight)
    before = torch.zeros_like(mean) if own.bias is None else own.bias.detach()
    if len(before) != len(mean):
        raise ConversionError(path, f"{len(mean)} channels behind {len(before)}", "let them agree")
    shift = (before - mean) * scale
    own.weight = nn.Parameter(own.weight.detach() * _along_outputs(scale, own), requires_grad=False)
    own.bias = nn.Parameter(shift if bias is None else shift + bias, requires_grad=False)
    return own


def _along_outputs(scale: Tensor, layer: Any) -> Tensor:
    """A number for each output channel, in the shape of the layer's weights."""
    if type(layer) not in _TRANSPOSED:
        return scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    each = scale.reshape(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1)
    return each.reshape(layer.in_channels, -1, *[1] * (layer.weight.ndim - 2))
