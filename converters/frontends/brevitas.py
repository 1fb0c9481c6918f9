"""From a model of Brevitas layers to a QuantGraph.

The truth is the model's forward in eval mode. Batch norms are folded behind the integer accumulator: merging
them into the weights, as ``merge_bn`` does, would change what the weights round to, and so the function.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from converters.errors import ConversionError, MissingExtraError
from converters.frontends.checking import check_conversion, left_alone
from converters.frontends.in_place_proxies import InPlaceTracer
from converters.frontends.operations import FUNCTIONS, METHODS, MODULES, add
from converters.frontends.pending import chain_of
from converters.frontends.tracing import Traced, check_example, record, traced_graph, where_is
from converters.frontends.verbs import Grid, Pending, Raw, Weight, convolution
from converters.frontends.walker import Handler, Walker
from converters.frontends.watching import show
from converters.operations import Linear
from converters.operations.weights import Weighted
from converters.quantised import QuantGraph, Value

__all__ = ["from_brevitas"]


def from_brevitas(model: nn.Module, example: Tensor, *, check: bool | Tensor = True) -> QuantGraph:
    """Integers, scales and topology of a trained model of Brevitas layers.

    Parameters
    ----------
    model : torch.nn.Module
        ``QuantConv2d``, ``QuantLinear``, ``QuantReLU``, ``QuantIdentity``, ``QuantEltwiseAdd``,
        ``TruncAvgPool2d``..., batch norms behind layers with weights, average pools with a ``QuantIdentity``
        behind them. It is left as it is.
    example : float tensor of shape ``(N, C, H, W)`` or ``(N, n)``
        A batch in the range of the training images.
    check : bool or float tensor like ``example``
        The result is compared with the model's own forward, layer by layer, on the example, random and extreme images
        of its range (one forward pass of at most 15 images); on a tensor's images instead; with False on none.
        ``checked`` of the result says what was compared.

    Returns
    -------
    QuantGraph
        Layers bear the paths of their modules. An unquantised final layer is read from the membrane.

    Raises
    ------
    MissingExtraError
        If Brevitas is not installed.
    ConversionError
        For what is not converted, naming the module's path and the way out; and for a difference from the model that
        is no near-tie of its float sums, naming the first layer that has one.

    Examples
    --------
    >>> import brevitas.nn as qnn
    >>> net = nn.Sequential(
    ...     qnn.QuantIdentity(return_quant_tensor=True), qnn.QuantLinear(4, 3, bias=True),
    ...     qnn.QuantReLU(return_quant_tensor=True), qnn.QuantLinear(3, 2, bias=False))
    >>> _ = net(torch.rand(8, 4))                                      # training goes here
    >>> [(layer.name, layer.shape) for layer in from_brevitas(net, torch.rand(2, 4)).layers]
    [('_1', (3,)), ('_3', (2,))]
    """
    handlers = {**MODULES, **_modules()}
    check_example(model, example)
    with _quiet(), left_alone(example.device):
        twin = copy.deepcopy(model).eval()
        traced = record(twin, traced_graph(_Tracer(), twin), example)
        walker = _BrevitasWalker(traced, handlers, FUNCTIONS, METHODS, "brevitas")
        q = walker.walk()
        return check_conversion(
            q, lambda images: show(copy.deepcopy(model).eval(), walker.shown, images), example, check
        )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # a notice of named tensors, which Brevitas touches through torch's own functions
        warnings.filterwarnings("ignore", message="Named tensors", category=UserWarning)
        yield


class _Tracer(InPlaceTracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential and type(m).__module__.startswith(("torch.nn.", "brevitas."))


class _BrevitasWalker(Walker):
    advice: ClassVar[dict[str, str]] = {
        "activation": "put a QuantIdentity or a QuantReLU behind it",
        "input": "put a brevitas.nn.QuantIdentity before it",
    }

    def __init__(self, traced: Traced, modules: dict[type, Handler], functions: Any, methods: Any, source: str) -> None:
        super().__init__(traced, modules, functions, methods, source)

    def quantise_by(self, node: fx.Node, proxy: Any, x: Any, name: str | None = None) -> Value:
        """What an activation quantiser makes of ``x``."""
        grid = _grid(where_is(node), proxy)
        scale = proxy.scale()
        return self.quantise(node, grid, x, lambda bound: int(torch.round(bound / scale)), name)

    def quantise_input(self, node: fx.Node, module: Any, x: Any, name: str | None = None, number: int = 0) -> Value:
        """What the quantiser in front of a layer makes of its input ``number``."""
        value = self.quantise_by(node, module.input_quant, x, name or f"{where_is(node)}.input_quant")
        self.show(node, value, "input_quant", number)
        return value


# --- quantisers -------------------------------------------------------------------------------------


def _grid(where: str, proxy: Any) -> Grid:
    """Scale and range of an activation quantiser, in eval mode."""
    try:
        scale, zero, bits = proxy.scale(), proxy.zero_point(), proxy.bit_width()
    except RuntimeError as error:
        raise ConversionError(where, f"a scale that depends on the image ({error})", "use a static one") from None
    quant = getattr(proxy.fused_activation_quant_proxy.tensor_quant, "int_quant", None)
    if quant is None or scale is None:
        raise ConversionError(where, "an activation that is not quantised to integers", "use an integer quantiser")
    if scale.numel() != 1:
        raise ConversionError(where, "an activation quantised per channel", "use one scale for the layer")
    _half_even(where, quant.float_to_int_impl)
    zero = int(zero)
    return Grid(float(scale), int(quant.min_int(bits)) - zero, int(quant.max_int(bits)) - zero)


def _half_even(where: str, rounding: Any) -> None:
    from brevitas.core.function_wrapper import RoundSte

    if type(rounding) is not RoundSte:
        raise ConversionError(
            where, f"a quantiser that rounds by {type(rounding).__name__}", "round to the nearest (float_to_int ROUND)"
        )


def _weight(where: str, module: Any) -> Weight:
    if not module.weight_quant.is_quant_enabled:
        raise ConversionError(where, "unquantised weights", "give the layer a weight_quant")
    try:
        q = module.quant_weight()
        integers = q.int(float_datatype=True).double()
        scale, zero = q.scale.detach().double().cpu(), q.zero_point
    except (AttributeError, AssertionError) as error:
        raise ConversionError(where, f"weights that are no integers ({error})", "use an integer quantiser") from None
    if bool((zero != 0).any()):
        raise ConversionError(where, "weights with a zero point", "use a symmetric weight quantiser")
    channels = integers.shape[0]
    if scale.numel() not in (1, channels) or (scale.numel() > 1 and scale.shape[0] != channels):
        raise ConversionError(where, f"weight scales of shape {tuple(scale.shape)}", "one per output channel, or one")
    fits = integers.numel() == 0 or float(integers.abs().max()) < 128
    return Weight(integers.cpu().to(torch.int8 if fits else torch.int32), scale.reshape(-1))


def _bias(walker: Walker, node: fx.Node, module: Any, scale: Tensor, value: Value) -> Tensor | None:
    if module.bias is None:
        return None
    if not module.bias_quant.is_quant_enabled:
        return module.bias.detach().double().cpu()
    x = walker.traced.results[node.all_input_nodes[0]]
    if module.input_quant.is_quant_enabled:
        x = module.input_quant(x)
    q = module.bias_quant(module.bias, x, module.quant_weight())
    if module.bias_quant.requires_input_scale:  # integers on the accumulator's own grid
        return q.int(float_datatype=True).double().cpu() * scale * value.scale
    return q.value.detach().double().cpu()


# --- layers -----------------------------------------------------------------------------------------


def _with_weights(linear: bool) -> Handler:
    def handler(walker: _BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
        where = where_is(node)
        w = _weight(where, module)
        if module.input_quant.is_quant_enabled:
            x = walker.quantise_input(node, module, x)
        op: Weighted
        if linear:
            op = Linear(w.integers)
        else:
            if module.padding_mode != "zeros":
                raise ConversionError(where, f"padding_mode={module.padding_mode!r}", 'use padding_mode="zeros"')
            op = convolution(where, w.integers, module.stride, module.padding, module.dilation, module.groups)
        value = walker.value(node, x)
        y = walker.builder.weigh(where, value, op, w.scale, _bias(walker, node, module, w.scale, value))
        return walker.quantise_by(node, module.output_quant, y) if module.output_quant.is_quant_enabled else y

    return handler


def _activation(relu: bool) -> Handler:
    def handler(walker: _BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
        if getattr(module, "input_quant", None) is not None and module.input_quant.is_quant_enabled:
            x = walker.quantise_input(node, module, x)
        if relu and type(x) is not Raw:
            x = walker.builder.rectify(where_is(node), x)
        elif relu:
            raise ConversionError(where_is(node), "a ReLU on the unquantised input", walker.advice["input"])
        return walker.quantise_by(node, module.act_quant, x) if module.act_quant.is_quant_enabled else x

    return handler


def _batch_norm(walker: _BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Pending:
    return walker.builder.batch_norm(
        where_is(node), x, module.running_mean, module.running_var, module.eps, module.weight, module.bias
    )


def _trunc_pool(walker: _BrevitasWalker, node: fx.Node, module: Any, x: Any) -> Any:
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
        _half_even(where, quant.float_to_int_impl)
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


def _eltwise_add(walker: _BrevitasWalker, node: fx.Node, module: Any, *parts: Any) -> Any:
    if module.input_quant.is_quant_enabled:  # one quantiser for both branches
        where = where_is(node)
        parts = tuple(
            walker.quantise_input(node, module, x, x.name if type(x) is Pending else f"{where}.input{k}", k)
            for k, x in enumerate(parts)
        )
    y = add(walker, node, *parts)
    return walker.quantise_by(node, module.output_quant, y) if module.output_quant.is_quant_enabled else y


def _modules() -> dict[type, Handler]:
    try:
        import brevitas.nn as qnn
    except ImportError as error:
        raise MissingExtraError("brevitas", "brevitas", str(error)) from None
    return {
        qnn.QuantConv2d: _with_weights(linear=False),
        qnn.QuantLinear: _with_weights(linear=True),
        qnn.QuantReLU: _activation(relu=True),
        qnn.QuantIdentity: _activation(relu=False),
        qnn.QuantEltwiseAdd: _eltwise_add,
        qnn.TruncAvgPool2d: _trunc_pool,
        qnn.TruncAdaptiveAvgPool2d: _trunc_pool,
        nn.BatchNorm1d: _batch_norm,
        nn.BatchNorm2d: _batch_norm,
        nn.Conv2d: _plain,
        nn.Linear: _plain,
    }


def _plain(walker: Walker, node: fx.Node, module: nn.Module, *_: Any) -> Any:
    raise ConversionError(
        where_is(node), f"an unquantised {type(module).__name__}", f"use brevitas.nn.Quant{type(module).__name__}"
    )
