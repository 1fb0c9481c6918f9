"""Layers with weights, and batch norms behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.walker import Grid, Pending, Walker
from converters.operations import Conv2d, Operation
from converters.quantised import Value

__all__ = ["conv", "pair", "weighted"]


def weighted(walker: Walker, node: fx.Node, x: Any, op: Operation, scale: Tensor, bias: Tensor | None) -> Pending:
    """A layer with weights; ``scale`` of the weights and ``bias`` in real units, float64."""
    value = walker.value(node, x)
    b = torch.zeros(1, dtype=torch.float64) if bias is None else bias.detach().double().cpu()
    return _layer(walker, where_is(node), value, op, scale * value.scale, b)


def _layer(walker: Walker, name: str, value: Value, op: Any, unit: Tensor, bias: Tensor) -> Pending:
    def emit(name: str, grid: Grid) -> Value:
        return walker.builder.layer(
            name,
            [(value, op)],
            threshold=grid.scale / unit,
            bias=bias / unit,
            y_min=grid.y_min,
            y_max=grid.y_max,
            scale=grid.scale,
        )

    def readout() -> Value:
        return walker.builder.layer(
            name,
            [(value, op)],
            threshold=1.0 / unit,
            bias=bias / unit,
            y_min=0,
            y_max=0,
            scale=1.0,
            spiking=False,
        )

    def normalised(factor: Tensor, shift: Tensor) -> Pending:
        sign = torch.sign(factor)  # a negative gamma turns the weight row round; 0 cuts it off
        rows = sign.to(op.weight.dtype).reshape(-1, *[1] * (op.weight.ndim - 1))
        new_unit = torch.where(sign == 0, 1.0, factor.abs()) * unit
        return _layer(walker, name, value, replace(op, weight=op.weight * rows), new_unit, bias * factor + shift)

    return Pending(name, emit, readout, normalised=normalised)


def conv(where: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Conv2d:
    dilation = pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise ConversionError(where, 'padding="same" with an even kernel', "use an odd kernel or numbers")
        padding = (total[0] // 2, total[1] // 2)
    return Conv2d(weight, pair(stride), pair(padding), dilation, groups)


def pair(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return (value[0], value[-1])
    return (value, value)
