"""The layers of Brevitas, in the words of the verbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.brevitas_attention import multi_head_attention, scaled_dot_product_attention
from converters.frontends.brevitas_quantisers import BrevitasWalker, bias_of, half_even, weight_of
from converters.frontends.operations import add, refuse
from converters.frontends.pending import chain_of
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Grid, Pending, Weight, transposed
from converters.frontends.walker import Handler, Walker
from converters.operations import Linear
from converters.quantised import Value

__all__ = ["handlers"]

Form = Callable[[BrevitasWalker, fx.Node, Any, Value, Weight, Tensor | None], Pending]
"""A layer of a value, its integer weights and its bias."""


# --- layers with weights ----------------------------------------------------------------------------------------------


def _weighted(form: Form) -> Handler:
    def handler(walker: BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
        where = where_is(node)
        w = weight_of(where, module)
        if module.input_quant.is_quant_enabled:
            x = walker.quantise_input(node, module, x)
        value = walker.value(node, x)
        bias = bias_of(module, walker.traced.results[node.all_input_nodes[0]], w.scale, value)
        y = form(walker, node, module, value, w, bias)
        return walker.quantise_by(node, module.output_quant, y) if module.output_quant.is_quant_enabled else y

    return handler


def _linear(walker: Walker, node: fx.Node, module: Any, x: Value, w: Weight, bias: Tensor | None) -> Pending:
    return walker.builder.weigh(where_is(node), x, Linear(w.integers), w.scale, bias)


def _convolution(walker: Walker, node: fx.Node, module: Any, x: Value, w: Weight, bias: Tensor | None) -> Pending:
    where, padding = where_is(node), module.padding
    if module.is_same_padded_strided:  # as it pads in forward: so that there is a result for each stride begun
        sides = zip(x.shape[1:], module.kernel_size, module.stride, module.dilation, strict=True)
        totals = [max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in sides]
        amounts = [a for t in reversed(totals) for a in (t // 2, t - t // 2)]
        x, padding = walker.builder.move(where, x, lambda t: F.pad(t, amounts)), 0
    return walker.builder.convolve(
        where, x, w, bias, stride=module.stride, padding=padding, dilation=module.dilation, groups=module.groups,
        mode=module.padding_mode,
    )  # fmt: skip


def _transposed(walker: Walker, node: fx.Node, module: Any, x: Value, w: Weight, bias: Tensor | None) -> Pending:
    op = transposed(
        where_is(node), w.integers, module.stride, module.padding, module.output_padding, module.dilation, module.groups
    )
    return walker.builder.weigh(where_is(node), x, op, w.scale, bias)


def _scale_bias(walker: Walker, node: fx.Node, module: Any, x: Value, w: Weight, bias: Tensor | None) -> Pending:
    """A factor and a bias per channel."""
    where, shape = where_is(node), module.runtime_shape
    y = walker.builder.scale(where, x, (w.integers.double() * w.scale).view(shape))
    return y if bias is None else walker.builder.shift(where, y, bias.view(shape))


def _plain_scale_bias(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    y = walker.builder.scale(where_is(node), x, module.weight.view(module.runtime_shape))
    return y if module.bias is None else walker.builder.shift(where_is(node), y, module.bias.view(module.runtime_shape))


# --- activations ------------------------------------------------------------------------------------------------------


def _activation(function: Handler | None) -> Handler:
    def handler(walker: BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
        if getattr(module, "input_quant", None) is not None and module.input_quant.is_quant_enabled:
            x = walker.quantise_input(node, module, x)
        if function is not None:
            x = function(walker, node, x)
        return walker.quantise_by(node, module.act_quant, x) if module.act_quant.is_quant_enabled else x

    return handler


def _rectify(walker: Walker, node: fx.Node, x: Any) -> Any:
    return walker.builder.rectify(where_is(node), x)


def _pointwise(name: str) -> Handler:
    return lambda walker, node, x: walker.builder.activate(where_is(node), x, name)


def _hard_tanh(walker: BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
    """Its quantiser's own range is the clamp."""
    if not module.act_quant.is_quant_enabled:
        raise ConversionError(
            where_is(node), "an unquantised QuantHardTanh", "use nn.Hardtanh, or give it an act_quant"
        )
    return _activation(None)(walker, node, module, x)


# --- pools, interpolation, sums ---------------------------------------------------------------------------------------


def _trunc_pool(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    """A sum, and a division by a power of two that rounds, or truncates, to the input's own scale."""
    from brevitas.core.function_wrapper import FloorSte

    where, value = where_is(node), walker.value(node, x)
    if hasattr(module, "output_size"):
        pooled = walker.builder.adaptive_pool(where, value, module.output_size)
    else:
        pooled = walker.builder.average_pool(
            where, value, module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode,
            count_include_pad=module.count_include_pad,
        )  # fmt: skip
    if getattr(module, "divisor_override", None) or len(chain_of(pooled.inputs[0][1])) > 1:
        raise ConversionError(where, "a pool whose windows have different divisors", "use the plain one")
    out = walker.traced.results[node]
    if not module.is_trunc_quant_enabled or not hasattr(out, "bit_width"):
        raise ConversionError(where, "a pool that does not round", "give it a trunc_quant, and a quantised input")
    quant = module.trunc_quant.tensor_quant
    divisor = float(out.scale) * pooled.area / value.scale  # of the sum
    if abs(divisor - round(divisor)) > 1e-5 * divisor:
        raise ConversionError(where, f"a sum divided by {divisor}", "truncate by a power of two")
    divisor = float(round(divisor))
    bias = 0.0
    if type(quant.float_to_int_impl) is FloorSte:
        bias = 0.5 - divisor / 2  # floor(a / d) of an integer a is the nearest integer to (a + 1/2) / d - 1/2
    else:
        half_even(where, quant.float_to_int_impl)
    low, high = int(quant.min_int(out.bit_width, out.signed)), int(quant.max_int(out.bit_width, out.signed))
    return walker.builder.layer(
        where,
        pooled.inputs,
        threshold=divisor,
        bias=bias,
        y_min=low,
        y_max=high,
        scale=float(out.scale),
    )


def _upsample(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    """The nearest values; or interpolated ones, which it rounds to its input's own scale."""
    where = where_is(node)
    value = walker.value(node, x)
    y = walker.builder.interpolate(
        where, value, module.size, module.mode, module.align_corners, scale_factor=module.scale_factor
    )
    if type(y) is Value:
        return y
    low, high = walker.builder.range_of(value)
    reach = 2 * max(-low, high) if module.mode == "bicubic" else 0  # which overshoots, by less than that
    grid = Grid(value.scale, min(low, -reach), max(high, reach))
    return walker.builder.quantise(where, replace(y, name=where), grid, lambda bound: round(bound / value.scale))


def _eltwise_add(walker: BrevitasWalker, node: fx.Node, module: Any, *parts: Any) -> Any:
    if module.input_quant.is_quant_enabled:  # one quantiser for both branches
        where = where_is(node)
        parts = tuple(
            walker.quantise_input(node, module, x, x.name if type(x) is Pending else f"{where}.input{k}", k)
            for k, x in enumerate(parts)
        )
    y = add(walker, node, *parts)
    return walker.quantise_by(node, module.output_quant, y) if module.output_quant.is_quant_enabled else y


def _plain(walker: Walker, node: fx.Node, module: nn.Module, *_: Any) -> Any:
    raise ConversionError(
        where_is(node), f"an unquantised {type(module).__name__}", f"use brevitas.nn.Quant{type(module).__name__}"
    )


def handlers(qnn: Any) -> dict[type, Handler]:
    """Handler of each module type; ``qnn`` is ``brevitas.nn``."""
    recurrence = refuse("a recurrence over time", "only feed-forward networks can be converted")
    unquantised = (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
    )  # fmt: skip
    return {
        qnn.QuantLinear: _weighted(_linear),
        **dict.fromkeys((qnn.QuantConv1d, qnn.QuantConv2d, qnn.QuantConv3d), _weighted(_convolution)),
        **dict.fromkeys(
            (qnn.QuantConvTranspose1d, qnn.QuantConvTranspose2d, qnn.QuantConvTranspose3d), _weighted(_transposed)
        ),
        **dict.fromkeys(
            (qnn.QuantScaleBias, qnn.BatchNorm1dToQuantScaleBias, qnn.BatchNorm2dToQuantScaleBias),
            _weighted(_scale_bias),
        ),
        qnn.ScaleBias: _plain_scale_bias,
        qnn.QuantIdentity: _activation(None),
        qnn.QuantReLU: _activation(_rectify),
        qnn.QuantHardTanh: _hard_tanh,
        qnn.QuantSigmoid: _activation(_pointwise("sigmoid")),
        qnn.QuantTanh: _activation(_pointwise("tanh")),
        qnn.QuantHardSwish: _activation(_pointwise("hardswish")),
        qnn.QuantEltwiseAdd: _eltwise_add,
        **dict.fromkeys((qnn.TruncAvgPool2d, qnn.TruncAdaptiveAvgPool2d), _trunc_pool),
        **dict.fromkeys((qnn.QuantUpsample, qnn.QuantUpsamplingNearest2d, qnn.QuantUpsamplingBilinear2d), _upsample),
        qnn.QuantMultiheadAttention: multi_head_attention,
        qnn.QuantScaledDotProductAttention: scaled_dot_product_attention,
        **dict.fromkeys((qnn.QuantLSTM, qnn.QuantRNN), recurrence),
        **dict.fromkeys(unquantised, _plain),
    }
