"""Layers with weights: the toolkit's own integers, batch norm folded as it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.torch_ao_trace import where_is
from converters.frontends.torch_ao_walker import Grid, Handler, Pending, Walker, Weight, quantise_weight
from converters.quantised import Value
from converters.synapses import Conv2d, Linear, Op

__all__ = ["functional_conv", "functional_linear", "layer", "pair"]


def weighted(walker: Walker, node: fx.Node, x: Any, op: Op, scale: Tensor, bias: Tensor | None) -> Pending:
    """A layer with weights; ``scale`` of the weights and ``bias`` in real units, float64."""
    value, name = walker.value(node, x), where_is(node)
    unit = scale * value.scale
    b = torch.zeros(1, dtype=torch.float64) if bias is None else bias.detach().double().cpu()

    def emit(name: str, grid: Grid) -> Value:
        return walker.builder.layer(
            name,
            [(value, op)],
            threshold=grid.scale / unit,
            bias=b / unit,
            y_min=grid.y_min,
            y_max=grid.y_max,
            scale=grid.scale,
        )

    def readout() -> Value:
        return walker.builder.layer(
            name,
            [(value, op)],
            threshold=1.0 / unit,
            bias=b / unit,
            y_min=0,
            y_max=0,
            scale=1.0,
            spiking=False,
        )

    return Pending(name, emit, readout)


def _conv(where: str, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Conv2d:
    dilation = pair(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise ConversionError(where, 'padding="same" with an even kernel', "use an odd kernel or numbers")
        padding = (total[0] // 2, total[1] // 2)
    return Conv2d(weight, pair(stride), pair(padding), dilation, groups)


def layer(linear: bool, norm: bool, relu: bool) -> Handler:
    def handler(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
        where, weight, bias = where_is(node), module.weight, module.bias
        if norm:
            weight, bias = _fold(where, module)
        w = quantise_weight(f"{where}.weight_fake_quant", module.weight_fake_quant, weight)
        op: Op
        if linear:
            op = Linear(w.integers)
        else:
            if module.padding_mode != "zeros":
                raise ConversionError(where, f"padding_mode={module.padding_mode!r}", 'use padding_mode="zeros"')
            op = _conv(where, w.integers, module.stride, module.padding, module.dilation, module.groups)
        y = weighted(walker, node, x, op, w.scale, bias)
        return walker.clamp(node, y) if relu else y

    return handler


@torch.no_grad()
def _fold(where: str, module: Any) -> tuple[Tensor, Tensor]:
    """Weights as the toolkit scales them before they are quantised, and the bias after the batch norm.

    The forward is ``bn(conv(x, fq(w * f)) / f + b)`` with ``f = gamma / std``: the batch norm multiplies by
    ``f`` again, which leaves ``conv(x, fq(w * f)) + (b - mean) * f + beta``.
    """
    bn = module.bn
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    if not bool((factor != 0).all()) and not getattr(module, "_enable_slow_path_for_better_numerical_stability", False):
        raise ConversionError(where, "a batch-norm weight of 0, by which the toolkit divides", "remove that channel")
    weight = module.weight * factor.reshape(-1, *(1,) * (module.weight.ndim - 1))
    exact = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    shift = -bn.running_mean.double() if module.bias is None else module.bias.double() - bn.running_mean.double()
    return weight, shift * exact + bn.bias.double()


def functional_conv(
    walker: Walker,
    node: fx.Node,
    input: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Pending:
    w = _is_weight(node, weight)
    return weighted(
        walker,
        node,
        input,
        _conv(where_is(node), w.integers, stride, padding, dilation, groups),
        w.scale,
        bias,
    )


def functional_linear(walker: Walker, node: fx.Node, input: Any, weight: Any, bias: Tensor | None = None) -> Pending:
    w = _is_weight(node, weight)
    return weighted(walker, node, input, Linear(w.integers), w.scale, bias)


def _is_weight(node: fx.Node, weight: Any) -> Weight:
    if type(weight) is not Weight:
        raise ConversionError(where_is(node), "unquantised weights", "give the function a qconfig, or use the module")
    return weight


def pair(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return (value[0], value[-1])
    return (value, value)
