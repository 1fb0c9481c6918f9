"""Verbs of layers with weights, and of what is folded into them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.base_verbs import BaseVerbs
from converters.frontends.pending import Pending, pair, times
from converters.operations import Conv2d
from converters.operations.weights import Weighted

__all__ = ["WeightedVerbs", "convolution"]


class WeightedVerbs(BaseVerbs):
    """Layers with weights, batch norms, constants."""

    def weigh(self, name: str, x: Any, op: Weighted, scale: Tensor, bias: Tensor | None) -> Pending:
        """A convolution or dense layer: ``scale`` of its integer weights and ``bias`` in real units, per channel."""
        value = self.value(name, x)
        b = torch.zeros(1, dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        return Pending(name, ((value, op),), scale.double().cpu() * value.scale, bias=b)

    def batch_norm(
        self, name: str, x: Any, mean: Tensor | None, variance: Tensor | None, eps: float, gamma: Any, beta: Any
    ) -> Pending:
        """Behind the accumulator, in float64: ``gamma (z - mean) / sqrt(variance + eps) + beta``.

        Merged into the weights it would change what they round to. Gamma and beta are tensors or None.
        """
        if type(x) is not Pending or not x.weighted:
            raise ConversionError(
                name, "a batch norm that follows no unquantised convolution or linear layer", "move it there"
            )
        if mean is None or variance is None:
            raise ConversionError(
                name,
                "a batch norm without running statistics, whose output depends on the batch",
                "build it with track_running_stats=True",
            )
        mean, variance = mean.detach().double().cpu(), variance.detach().cpu()
        factor = 1 / torch.sqrt(variance.double() + float(eps))
        if gamma is not None:
            factor = factor * gamma.detach().double().cpu()
        bias = (torch.as_tensor(x.bias) - mean) * factor
        if beta is not None:
            bias = bias + beta.detach().double().cpu()
        if x.divided is not None:  # by the same factor in the toolkit's own precision, which is then 1 exactly
            short = (torch.ones_like(variance) if gamma is None else gamma.detach().cpu()) / torch.sqrt(variance + eps)
            factor = torch.where(short == x.divided, 1.0, factor / x.divided.double())
        return replace(times(x, factor), bias=bias)

    def divide(self, name: str, x: Any, factor: Any) -> Pending:
        """A division per channel, which a batch norm behind it takes back."""
        if type(x) is not Pending or not isinstance(factor, Tensor) or x.divided is not None:
            raise ConversionError(name, "a division", "scale the weights instead")
        by = factor.detach().cpu().flatten()
        return replace(x, bias=torch.as_tensor(x.bias) / by.double(), divided=by)

    def shift(self, name: str, x: Any, constant: Tensor) -> Pending:
        """A constant per channel, added to a layer that has no quantiser yet: part of its bias."""
        if type(x) is not Pending or not x.inputs or x.clamped:
            raise ConversionError(
                name,
                f"a constant of shape {tuple(constant.shape)} as an operand",
                "let it be the bias of the layer before it, or of a batch norm",
            )
        return replace(x, bias=torch.as_tensor(x.bias) + constant.flatten().double())


def convolution(name: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Conv2d:
    """A convolution of integer ``weight``, with padding in numbers or by name."""
    by = pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(by, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise ConversionError(name, 'padding="same" with an even kernel', "use an odd kernel or numbers")
        padding = (total[0] // 2, total[1] // 2)
    return Conv2d(weight, pair(stride), pair(padding), by, groups)
