"""The quantisers of Brevitas: grids of activations, integers of weights, biases, and the walker that reads them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.tracing import where_is
from converters.frontends.verbs import Grid, Weight
from converters.frontends.walker import Walker
from converters.quantised import Value

__all__ = ["BrevitasWalker", "bias_of", "grid_of", "half_even", "weight_of"]


class BrevitasWalker(Walker):
    """A walker that knows Brevitas' activation quantisers."""

    advice: ClassVar[dict[str, str]] = {
        "activation": "put a QuantIdentity or a QuantReLU behind it",
        "input": "put a brevitas.nn.QuantIdentity before it",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.builder.sums = True

    def quantise_by(self, node: fx.Node, proxy: Any, x: Any, name: str | None = None) -> Value:
        """What an activation quantiser makes of ``x``."""
        grid = grid_of(where_is(node), proxy)
        scale = proxy.scale()
        return self.quantise(node, grid, x, lambda bound: int(torch.round(bound / scale)), name)

    def quantise_input(self, node: fx.Node, module: Any, x: Any, name: str | None = None, number: int = 0) -> Value:
        """What the quantiser in front of a layer makes of its input ``number``."""
        value = self.quantise_by(node, module.input_quant, x, name or f"{where_is(node)}.input_quant")
        self.show(node, value, "input_quant", number)
        return value


def grid_of(where: str, proxy: Any) -> Grid:
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
    if not bool(torch.isfinite(scale).all()):
        raise ConversionError(where, f"a scale of {float(scale)}", "calibrate it on finite values, or give it one")
    half_even(where, quant.float_to_int_impl)
    zero = int(zero)
    return Grid(float(scale), int(quant.min_int(bits)) - zero, int(quant.max_int(bits)) - zero)


def half_even(where: str, rounding: Any) -> None:
    """Raise a ConversionError unless a quantiser rounds to the nearest, ties to even."""
    from brevitas.core.function_wrapper import RoundSte

    if type(rounding) is not RoundSte:
        raise ConversionError(
            where, f"a quantiser that rounds by {type(rounding).__name__}", "round to the nearest (float_to_int ROUND)"
        )


def weight_of(where: str, module: Any) -> Weight:
    """Integers of a layer's weights, and their scales: one, or one per output channel."""
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
    axis = int(module.output_channel_dim)
    if scale.numel() > 1 and (scale.ndim <= axis or not scale.numel() == scale.shape[axis] == integers.shape[axis]):
        raise ConversionError(where, f"weight scales of shape {tuple(scale.shape)}", "one per output channel, or one")
    fits = integers.numel() == 0 or float(integers.abs().max()) < 128
    return Weight(integers.cpu().to(torch.int8 if fits else torch.int32), scale.reshape(-1))


def bias_of(module: Any, x: Any, scale: Tensor, value: Value) -> Tensor | None:
    """A layer's bias in real units; ``scale`` is that of its weights, ``value`` what it stands behind.

    ``x`` is what the toolkit gave the layer on the example, which knows its scale where ``input_quant`` does not.
    """
    if module.bias is None:
        return None
    if not module.bias_quant.is_quant_enabled:
        return module.bias.detach().double().cpu()
    if module.input_quant.is_quant_enabled:
        x = module.input_quant(x)
    q = module.bias_quant(module.bias, x, module.quant_weight())
    if module.bias_quant.requires_input_scale:  # integers on the accumulator's own grid
        return q.int(float_datatype=True).double().cpu() * scale * value.scale
    return q.value.detach().double().cpu()
