"""Layers of torch.ao with weights: the toolkit's own integers, batch norm folded as it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.torch_ao_quantisers import quantise_weight
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Pending, Weight, transposed
from converters.frontends.walker import Handler, Walker
from converters.operations import Linear

__all__ = ["functional_conv", "functional_linear", "functional_transposed", "layer"]


def layer(linear: bool, norm: bool, relu: bool) -> Handler:
    def handler(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
        where, weight, bias = where_is(node), module.weight, module.bias
        if norm:
            weight, bias = _fold(where, module)
        w = quantise_weight(f"{where}.weight_fake_quant", module.weight_fake_quant, weight)
        if linear:
            y = walker.builder.weigh(where, x, Linear(w.integers), w.scale, bias)
        else:
            y = walker.builder.convolve(
                where, x, w, bias, stride=module.stride, padding=module.padding, dilation=module.dilation,
                groups=module.groups, mode=module.padding_mode,
            )  # fmt: skip
        return walker.builder.rectify(where, y) if relu else y

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
    walker: Walker, node: fx.Node, input: Any, weight: Any, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Pending:  # fmt: skip
    return walker.builder.convolve(
        where_is(node), input, _is_weight(node, weight), bias, stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip


def functional_transposed(
    walker: Walker, node: fx.Node, input: Any, weight: Any, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Pending:  # fmt: skip
    where, w = where_is(node), _is_weight(node, weight)
    if w.scale.numel() > 1:
        raise ConversionError(where, "a transposed convolution quantised per channel", "use a per-tensor qscheme")
    op = transposed(where, w.integers, stride, padding, output_padding, dilation, groups)
    return walker.builder.weigh(where, input, op, w.scale, bias)


def functional_linear(walker: Walker, node: fx.Node, input: Any, weight: Any, bias: Tensor | None = None) -> Pending:
    w = _is_weight(node, weight)
    return walker.builder.weigh(where_is(node), input, Linear(w.integers), w.scale, bias)


def _is_weight(node: fx.Node, weight: Any) -> Weight:
    if type(weight) is not Weight:
        raise ConversionError(where_is(node), "unquantised weights", "give the function a qconfig, or use the module")
    return weight
