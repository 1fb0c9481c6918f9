"""PyTorch's norms, softmax and arg-max, in the words of the verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.handlers import constant, last, of_module
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["FUNCTIONS", "METHODS", "MODULES"]


def _layer_norm(
    walker: Walker, node: fx.Node, input: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    axes = tuple(range(-len(normalized_shape), 0))
    return walker.builder.layer_norm(where_is(node), input, axes, _real(weight), _real(bias), eps)


def _rms_norm(
    walker: Walker, node: fx.Node, input: Any, normalized_shape: Sequence[int], weight: Any = None,
    eps: float | None = None,
) -> Any:  # fmt: skip
    axes = tuple(range(-len(normalized_shape), 0))
    if eps is None:
        eps = torch.finfo(walker.traced.results[node].dtype).eps
    return walker.builder.rms_norm(where_is(node), input, axes, _real(weight), eps)


def _unit_length(
    walker: Walker, node: fx.Node, input: Any, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12,
    out: None = None,
) -> Any:  # fmt: skip
    return walker.builder.unit_length(where_is(node), input, dim, p, eps)


def _group_norm(
    walker: Walker, node: fx.Node, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    return walker.builder.group_norm(where_is(node), input, num_groups, _real(weight), _real(bias), eps)


def _instance_norm(
    walker: Walker, node: fx.Node, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if running_mean is not None and not use_input_stats:
        return _batch_norm(walker, node, input, running_mean, running_var, weight, bias, False, momentum, eps)
    return walker.builder.instance_norm(where_is(node), input, _real(weight), _real(bias), eps)


def _instance_norm_module(walker: Walker, node: fx.Node, module: Any, x: Any) -> Any:
    own = {n: getattr(module, n) for n in ("running_mean", "running_var", "weight", "bias", "eps")}
    return _instance_norm(walker, node, x, use_input_stats=not module.track_running_stats, **own)


def _batch_norm(
    walker: Walker, node: fx.Node, input: Any, running_mean: Any, running_var: Any, weight: Any = None,
    bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    mean, variance = (None if training else _real(t) for t in (running_mean, running_var))
    return walker.builder.batch_norm(where_is(node), input, mean, variance, eps, _real(weight), _real(bias))


def _local_response_norm(
    walker: Walker, node: fx.Node, input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    return walker.builder.local_response_norm(where_is(node), input, size, alpha, beta, k)


def _softmax(
    walker: Walker, node: fx.Node, input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    axis = _axis(node, dim)
    if last(node):
        return walker.builder.tail(where_is(node), input, "softmax", {"dim": axis})
    return walker.builder.softmax(where_is(node), input, axis)


def _axis(node: fx.Node, dim: int | None) -> int:
    if dim is None:
        raise ConversionError(where_is(node), "a softmax without its axis", "give it dim=1")
    return dim


def _log_softmax(
    walker: Walker, node: fx.Node, input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    return walker.builder.tail(where_is(node), input, "log_softmax", {"dim": _axis(node, dim)})


def _arg_max(walker: Walker, node: fx.Node, input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        raise ConversionError(where_is(node), "an arg-max over all axes", "name one: dim=1")
    return walker.builder.tail(where_is(node), input, "argmax", {"dim": dim, "keepdim": keepdim})


def _real(x: Any) -> Tensor | None:
    found = constant(x)
    return None if found is None else torch.as_tensor(found)


_LAYER = ("normalized_shape", "weight", "bias", "eps")
_BATCH = ("running_mean", "running_var", "weight", "bias", "eps")

MODULES: dict[type, Handler] = {
    nn.LayerNorm: of_module(_layer_norm, *_LAYER),
    nn.RMSNorm: of_module(_rms_norm, "normalized_shape", "weight", "eps"),
    nn.GroupNorm: of_module(_group_norm, "num_groups", "weight", "bias", "eps"),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm_module),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), of_module(_batch_norm, *_BATCH)),
    nn.LocalResponseNorm: of_module(_local_response_norm, "size", "alpha", "beta", "k"),
    nn.Softmax: of_module(_softmax, "dim"),
    nn.LogSoftmax: of_module(_log_softmax, "dim"),
}

FUNCTIONS: dict[Any, Handler] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.normalize: _unit_length,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.local_response_norm: _local_response_norm,
    **dict.fromkeys((F.softmax, torch.softmax), _softmax),
    **dict.fromkeys((F.log_softmax, torch.log_softmax), _log_softmax),
    torch.argmax: _arg_max,
}

METHODS: dict[str, Handler] = {"softmax": _softmax, "log_softmax": _log_softmax, "argmax": _arg_max}
