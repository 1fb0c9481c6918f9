"""Modules, functions and methods of PyTorch that count: maxima, activations, norms, softmax; exact matches only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.handlers import of_module
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["COUNTING_FUNCTIONS", "COUNTING_METHODS", "COUNTING_MODULES"]


# --- maxima ---------------------------------------------------------------------------------------------------------


def _max_pool(
    walker: Walker, node: fx.Node, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    if return_indices:
        raise ConversionError(where_is(node), "a max pool that returns indices", "use return_indices=False")
    return walker.builder.max_pool(
        where_is(node), input, kernel_size, stride, padding, dilation, ceil_mode=bool(ceil_mode)
    )


def _adaptive(walker: Walker, node: fx.Node, input: Any, output_size: Any, return_indices: bool = False) -> Any:
    if return_indices:
        raise ConversionError(where_is(node), "a max pool that returns indices", "use return_indices=False")
    return walker.builder.adaptive_max_pool(where_is(node), input, output_size)


def _extremum(largest: bool) -> Handler:
    def handler(walker: Walker, node: fx.Node, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        verb = walker.builder.amax if largest else walker.builder.amin
        return verb(where_is(node), input, dim, keepdim=keepdim)

    return handler


def _of_two(largest: bool) -> Handler:
    def handler(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
        verb = walker.builder.maximum if largest else walker.builder.minimum
        return verb(where_is(node), input, other)

    return handler


# --- clamps, activations --------------------------------------------------------------------------------------------


def _clamp(walker: Walker, node: fx.Node, input: Any, min: Any = None, max: Any = None) -> Any:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        raise ConversionError(where_is(node), "a clamp between tensors", "give numbers")
    return walker.builder.clamp(where_is(node), input, min, max)


def _hardtanh(
    walker: Walker, node: fx.Node, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    return walker.builder.clamp(where_is(node), input, min_val, max_val)


def _active(name: str, **defaults: Any) -> Handler:
    """A pointwise function by name; its parameters, in order, and what they are by default."""

    def handler(walker: Walker, node: fx.Node, input: Any, *given: Any, **named: Any) -> Any:
        known = {**defaults, **dict(zip(defaults, given, strict=False)), **named}
        return walker.builder.activate(where_is(node), input, name, [known[k] for k in defaults])

    return handler


def _gelu(walker: Walker, node: fx.Node, input: Any, approximate: str = "none") -> Any:
    return walker.builder.activate(where_is(node), input, "gelu_tanh" if approximate == "tanh" else "gelu")


def _power(walker: Walker, node: fx.Node, input: Any, exponent: Any) -> Any:
    if isinstance(exponent, Tensor) or exponent != 2:
        raise ConversionError(where_is(node), f"the power {exponent}", "only squares are converted")
    return walker.builder.activate(where_is(node), input, "square")


def _prelu(walker: Walker, node: fx.Node, input: Any, weight: Any) -> Any:
    if not isinstance(weight, Tensor):
        raise ConversionError(where_is(node), "slopes that depend on the input", "use nn.PReLU")
    return walker.builder.activate(where_is(node), input, "leaky_relu", [weight])


# --- products, norms, softmax ---------------------------------------------------------------------------------------


def _matmul(walker: Walker, node: fx.Node, input: Any, other: Any) -> Any:
    if isinstance(input, Tensor) or isinstance(other, Tensor):
        raise ConversionError(where_is(node), "a matrix product with a constant", "use nn.Linear")
    return walker.builder.matmul(where_is(node), input, other)


def _layer_norm(
    walker: Walker, node: fx.Node, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    axes = range(-_length(normalized_shape), 0)
    return walker.builder.layer_norm(where_is(node), input, tuple(axes), weight, bias, eps)


def _rms_norm(
    walker: Walker, node: fx.Node, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    axes = range(-_length(normalized_shape), 0)
    small = torch.finfo(torch.float32).eps if eps is None else eps
    return walker.builder.rms_norm(where_is(node), input, tuple(axes), weight, small)


def _length(shape: Any) -> int:
    return len(shape) if isinstance(shape, tuple | list) else 1


def _group_norm(
    walker: Walker, node: fx.Node, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    return walker.builder.group_norm(where_is(node), input, num_groups, weight, bias, eps)


def _instance_norm(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    where, b = where_is(node), walker.builder
    if module.running_mean is not None:  # which it uses in evaluation
        return b.batch_norm(where, x, module.running_mean, module.running_var, module.eps, module.weight, module.bias)
    return b.instance_norm(where, x, module.weight, module.bias, module.eps)


def _local_response(
    walker: Walker, node: fx.Node, input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    return walker.builder.local_response_norm(where_is(node), input, size, alpha, beta, k)


def _softmax(
    walker: Walker, node: fx.Node, input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    if dim is None or dtype is not None:
        raise ConversionError(where_is(node), "a softmax without its axis, or of another type", "give it dim=1")
    return walker.builder.softmax(where_is(node), input, dim)


_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_SIZE = ("output_size", "return_indices")
# name: the module, its parameters; and functions and methods of the same arguments
_ACTIVE: dict[str, tuple[type[nn.Module] | None, tuple[str, ...], dict[str, Any], tuple[Callable[..., Any], ...]]] = {
    "silu": (nn.SiLU, (), {}, (F.silu,)),
    "hardswish": (nn.Hardswish, (), {}, (F.hardswish,)),
    "hardsigmoid": (nn.Hardsigmoid, (), {}, (F.hardsigmoid,)),
    "mish": (nn.Mish, (), {}, (F.mish,)),
    "selu": (nn.SELU, (), {}, (F.selu, torch.selu)),
    "sigmoid": (nn.Sigmoid, (), {}, (F.sigmoid, torch.sigmoid)),
    "tanh": (nn.Tanh, (), {}, (F.tanh, torch.tanh)),
    "softsign": (nn.Softsign, (), {}, (F.softsign,)),
    "tanhshrink": (nn.Tanhshrink, (), {}, (F.tanhshrink,)),
    "logsigmoid": (nn.LogSigmoid, (), {}, (F.logsigmoid,)),
    "abs": (None, (), {}, (torch.abs, operator.abs)),
    "square": (None, (), {}, (torch.square,)),
    "exp": (None, (), {}, (torch.exp,)),
    "sin": (None, (), {}, (torch.sin,)),
    "cos": (None, (), {}, (torch.cos,)),
    "erf": (None, (), {}, (torch.erf,)),
    "sign": (None, (), {}, (torch.sign,)),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",), {"negative_slope": 0.01}, (F.leaky_relu,)),
    "elu": (nn.ELU, ("alpha",), {"alpha": 1.0}, (F.elu,)),
    "celu": (nn.CELU, ("alpha",), {"alpha": 1.0}, (F.celu, torch.celu)),
    "softplus": (nn.Softplus, ("beta", "threshold"), {"beta": 1.0, "threshold": 20.0}, (F.softplus,)),
    "softshrink": (nn.Softshrink, ("lambd",), {"lambd": 0.5}, (F.softshrink,)),
    "hardshrink": (nn.Hardshrink, ("lambd",), {"lambd": 0.5}, (F.hardshrink,)),
    "threshold": (nn.Threshold, ("threshold", "value"), {"threshold": 0.0, "value": 0.0}, (F.threshold,)),
}

COUNTING_MODULES: dict[type, Handler] = {
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), of_module(_max_pool, *_POOL)),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), of_module(_adaptive, *_SIZE)),
    nn.Hardtanh: of_module(_hardtanh, "min_val", "max_val"),
    nn.GELU: of_module(_gelu, "approximate"),
    nn.PReLU: of_module(_prelu, "weight"),
    nn.LayerNorm: of_module(_layer_norm, "normalized_shape", "weight", "bias", "eps"),
    nn.RMSNorm: of_module(_rms_norm, "normalized_shape", "weight", "eps"),
    nn.GroupNorm: of_module(_group_norm, "num_groups", "weight", "bias", "eps"),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    nn.LocalResponseNorm: of_module(_local_response, "size", "alpha", "beta", "k"),
    nn.Softmax: of_module(_softmax, "dim"),
    **{
        kind: of_module(_active(name, **defaults), *own)
        for name, (kind, own, defaults, _) in _ACTIVE.items()
        if kind is not None
    },
}

COUNTING_FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d), _max_pool),
    torch.max_pool3d: _max_pool,
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), _adaptive),
    torch.amax: _extremum(True),
    torch.amin: _extremum(False),
    torch.maximum: _of_two(True),
    torch.minimum: _of_two(False),
    **dict.fromkeys((torch.clamp, torch.clip), _clamp),
    F.hardtanh: _hardtanh,
    F.gelu: _gelu,
    **dict.fromkeys((torch.pow, operator.pow), _power),
    **dict.fromkeys((F.prelu, torch.prelu), _prelu),
    **dict.fromkeys((torch.matmul, torch.bmm, operator.matmul), _matmul),
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.local_response_norm: _local_response,
    **dict.fromkeys((F.softmax, torch.softmax), _softmax),
    **{f: _active(name, **defaults) for name, (_, _, defaults, fs) in _ACTIVE.items() for f in fs},
}

COUNTING_METHODS: dict[str, Handler] = {
    "amax": _extremum(True),
    "amin": _extremum(False),
    "maximum": _of_two(True),
    "minimum": _of_two(False),
    **dict.fromkeys(("clamp", "clamp_", "clip"), _clamp),
    "pow": _power,
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "softmax": _softmax,
    **{name: _active(name) for name in ("sigmoid", "tanh", "abs", "square", "exp", "sin", "cos", "erf", "sign")},
    "sigmoid_": _active("sigmoid"),
    "tanh_": _active("tanh"),
}
