"""The zoo's networks in Brevitas layers: every module replaced by its quantised counterpart, weights kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from converters.errors import ConversionError, MissingExtraError

__all__ = ["with_brevitas"]


class _Quantised(nn.Module):
    """The input's quantiser and the network."""

    def __init__(self, quantiser: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.image, self.net = quantiser, net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.image(x))


def with_brevitas(
    model: nn.Module,
    *,
    levels: int = 127,
    weight_bits: int = 8,
    signed_input: bool = False,
    quantise_output: bool = True,
) -> nn.Module:
    """A trainable copy of one of the zoo's networks, for :func:`converters.from_brevitas` after training.

    Parameters
    ----------
    model : nn.Module
        Convolutions, linear layers, ReLU, average pools, batch norms at the end of a branch that is added.
    levels : int
        Largest activation level: one less than a power of two, as Brevitas counts in bits.
    weight_bits : int
    signed_input, quantise_output : bool

    Raises
    ------
    MissingExtraError
        If Brevitas is not installed.
    ConversionError
        If ``levels`` is not of the form ``2^b - 1``.
    """
    try:
        import brevitas.nn as qnn
        from brevitas.quant import Int8WeightPerChannelFloat
    except ImportError as error:
        raise MissingExtraError("brevitas", "brevitas", str(error)) from None
    bits = levels.bit_length()
    if levels != 2**bits - 1:
        raise ConversionError(
            "levels", f"{levels}", f"Brevitas counts in bits: use {2 ** (bits - 1) - 1} or {2**bits - 1}, or pt2e"
        )
    weights = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": weight_bits}

    def quantiser(signed: bool = False, wrapped: bool = True) -> nn.Module:
        return qnn.QuantIdentity(
            bit_width=bits + signed, signed=signed, narrow_range=signed, return_quant_tensor=wrapped
        )

    def replaced(module: nn.Module, is_output: bool) -> nn.Module:
        new: Any
        if type(module) is nn.Conv2d:
            m = module
            geometry = (m.stride, m.padding, m.dilation, m.groups)
            new = qnn.QuantConv2d(
                m.in_channels, m.out_channels, m.kernel_size, *geometry, bias=m.bias is not None, **weights
            )
            new.load_state_dict(m.state_dict(), strict=False)
            return new
        if type(module) is nn.Linear:
            new = qnn.QuantLinear(module.in_features, module.out_features, bias=module.bias is not None, **weights)
            new.load_state_dict(module.state_dict(), strict=False)
            return nn.Sequential(new, quantiser(signed=True, wrapped=False)) if is_output and quantise_output else new
        if type(module) is nn.ReLU:
            return qnn.QuantReLU(bit_width=bits, return_quant_tensor=True)
        if type(module) in (nn.AvgPool2d, nn.AdaptiveAvgPool2d):
            return nn.Sequential(module, quantiser())
        return module

    net = copy.deepcopy(model)
    branches = [m for m in net.modules() if type(m) is nn.Sequential and len(m) and type(m[-1]) is nn.BatchNorm2d]
    _replace(net, replaced)
    for branch in branches:  # they will be added
        branch.append(quantiser(signed=True, wrapped=False))
    return _Quantised(quantiser(signed=signed_input), net)


def _replace(net: nn.Module, replaced: Callable[[nn.Module, bool], nn.Module]) -> None:
    """Every module below ``net`` by what ``replaced`` makes of it, told whether it is the last linear layer."""
    last = [m for m in net.modules() if type(m) is nn.Linear][-1:]
    done: dict[nn.Module, nn.Module] = {}  # a module at two places, or under two names, stays one
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in done:
                done[child] = replaced(child, any(child is m for m in last))
            parent._modules[name] = done[child]
