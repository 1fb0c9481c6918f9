"""PyTorch's pointwise activations: a name of the table of functions for each, and its parameters in their order."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.handlers import constant, last, of_module
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker
from converters.ports.tails import TAILS

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "activate", "clamp"]


def activate(walker: Walker, node: fx.Node, name: str, input: Any, *parameters: Any) -> Any:
    """A function of :data:`converters.operations.activations.ACTIVATIONS`; the last one runs in float."""
    if last(node) and name in TAILS and not parameters:
        return walker.builder.tail(where_is(node), input, name)
    return walker.builder.activate(where_is(node), input, name, parameters)


def _relu(walker: Walker, node: fx.Node, input: Any, inplace: bool = False) -> Any:
    return walker.builder.rectify(where_is(node), input)


def _relu6(walker: Walker, node: fx.Node, input: Any, inplace: bool = False) -> Any:
    return walker.builder.rectify(where_is(node), input, 6.0)


def clamp(walker: Walker, node: fx.Node, input: Any, min: Any = None, max: Any = None) -> Any:
    """Between two numbers, of which one may be missing."""
    low, high = (None if b is None else constant(b) for b in (min, max))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise ConversionError(where_is(node), "a clamp between tensors", "give numbers")
    return walker.builder.clamp(where_is(node), input, low, high)


def _hardtanh(
    walker: Walker, node: fx.Node, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    return clamp(walker, node, input, min_val, max_val)


def _at_most(walker: Walker, node: fx.Node, input: Any, max: Any) -> Any:
    return clamp(walker, node, input, None, max)


def _gelu(walker: Walker, node: fx.Node, input: Any, approximate: str = "none") -> Any:
    return activate(walker, node, "gelu_tanh" if approximate == "tanh" else "gelu", input)


def _rrelu(
    walker: Walker, node: fx.Node, input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    inplace: bool = False,
) -> Any:  # fmt: skip
    if training:
        raise ConversionError(where_is(node), "a random slope that stays on in eval mode", "use nn.RReLU")
    return activate(walker, node, "leaky_relu", input, (lower + upper) / 2)


def _prelu(walker: Walker, node: fx.Node, input: Any, weight: Any) -> Any:
    slope = constant(weight)
    if slope is None:
        raise ConversionError(where_is(node), "a slope that forward computes", "use nn.PReLU")
    return activate(walker, node, "leaky_relu", input, slope)


def _power(walker: Walker, node: fx.Node, input: Any, exponent: Any) -> Any:
    if exponent != 2:
        raise ConversionError(where_is(node), f"the power {exponent}", "only squares are converted")
    return activate(walker, node, "square", input)


@dataclass(frozen=True)
class _Pointwise:
    """A function by its names in PyTorch; ``defaults`` are its parameters, in the order of the table of functions."""

    name: str
    modules: tuple[type, ...] = ()
    functions: tuple[Any, ...] = ()
    methods: tuple[str, ...] = ()
    defaults: tuple[tuple[str, float], ...] = ()

    @property
    def function(self) -> Handler:
        def handler(walker: Walker, node: fx.Node, input: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(self.defaults) | dict(zip((n for n, _ in self.defaults), args, strict=False)) | kwargs
            return activate(walker, node, self.name, input, *(float(given[n]) for n, _ in self.defaults))

        return handler

    @property
    def module(self) -> Handler:
        return of_module(self.function, *(n for n, _ in self.defaults))


_POINTWISE = (
    _Pointwise("leaky_relu", (nn.LeakyReLU,), (F.leaky_relu, F.leaky_relu_), (), (("negative_slope", 0.01),)),
    _Pointwise("elu", (nn.ELU,), (F.elu, F.elu_), (), (("alpha", 1.0),)),
    _Pointwise("celu", (nn.CELU,), (F.celu, torch.celu), (), (("alpha", 1.0),)),
    _Pointwise("selu", (nn.SELU,), (F.selu, torch.selu)),
    _Pointwise("silu", (nn.SiLU,), (F.silu,)),
    _Pointwise("mish", (nn.Mish,), (F.mish,)),
    _Pointwise("hardswish", (nn.Hardswish,), (F.hardswish,)),
    _Pointwise("hardsigmoid", (nn.Hardsigmoid,), (F.hardsigmoid,)),
    _Pointwise("sigmoid", (nn.Sigmoid,), (F.sigmoid, torch.sigmoid), ("sigmoid",)),
    _Pointwise("logsigmoid", (nn.LogSigmoid,), (F.logsigmoid,)),
    _Pointwise("tanh", (nn.Tanh,), (F.tanh, torch.tanh), ("tanh",)),
    _Pointwise("tanhshrink", (nn.Tanhshrink,), (F.tanhshrink,)),
    _Pointwise("softsign", (nn.Softsign,), (F.softsign,)),
    _Pointwise("softplus", (nn.Softplus,), (F.softplus,), (), (("beta", 1.0), ("threshold", 20.0))),
    _Pointwise("softshrink", (nn.Softshrink,), (F.softshrink,), (), (("lambd", 0.5),)),
    _Pointwise("hardshrink", (nn.Hardshrink,), (F.hardshrink, torch.hardshrink), (), (("lambd", 0.5),)),
    _Pointwise("threshold", (nn.Threshold,), (F.threshold,), (), (("threshold", 0.0), ("value", 0.0))),
    _Pointwise("abs", (), (torch.abs, abs), ("abs",)),
    _Pointwise("exp", (), (torch.exp,), ("exp",)),
    _Pointwise("square", (), (torch.square,), ("square",)),
    _Pointwise("sin", (), (torch.sin,), ("sin",)),
    _Pointwise("cos", (), (torch.cos,), ("cos",)),
    _Pointwise("erf", (), (torch.erf,), ("erf",)),
    _Pointwise("sign", (), (torch.sign,), ("sign",)),
)

MODULES: dict[type, Handler] = {
    nn.ReLU: of_module(_relu),
    nn.ReLU6: of_module(_relu6),
    nn.Hardtanh: of_module(_hardtanh, "min_val", "max_val"),
    nn.GELU: of_module(_gelu, "approximate"),
    nn.RReLU: of_module(_rrelu, "lower", "upper"),
    nn.PReLU: of_module(_prelu, "weight"),
    **{kind: p.module for p in _POINTWISE for kind in p.modules},
}

_POWERS: tuple[Callable[..., Any], ...] = (pow, operator.pow, operator.ipow, torch.pow)

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), _relu),
    F.relu6: _relu6,
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
    **dict.fromkeys((torch.clamp, torch.clip), clamp),
    torch.clamp_min: clamp,
    torch.clamp_max: _at_most,
    F.gelu: _gelu,
    F.rrelu: _rrelu,
    **dict.fromkeys((F.prelu, torch.prelu), _prelu),
    **dict.fromkeys(_POWERS, _power),
    **{function: p.function for p in _POINTWISE for function in p.functions},
}

METHODS: dict[str, Handler] = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("clamp", "clip", "clamp_min"), clamp),
    "clamp_max": _at_most,
    "pow": _power,
    **{method: p.function for p in _POINTWISE for method in p.methods},
}
