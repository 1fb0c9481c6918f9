"""Norms and softmax."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import is_constant, real

__all__ = ["HANDLERS"]


def _numbers(c: Call, k: int) -> Tensor | None:
    """A constant operand; None where it is left out."""
    x = c.arg(k)
    if x is not None and not is_constant(x):
        raise ConversionError(c.name, "a norm with numbers that the network computes", "use constants")
    return None if x is None else real(x)


def _batch_norm(r: Reader, c: Call) -> Any:
    if c.attr("training_mode", 0):
        raise ConversionError(c.name, "a batch norm in training mode", "export the model in evaluation mode")
    gamma, beta, mean, variance = (_numbers(c, k) for k in range(1, 5))
    eps = float(c.attr("epsilon", 1e-5))
    return r.builder.batch_norm(c.name, c.arg(0), mean, variance, eps, gamma, beta)


def _layer_norm(r: Reader, c: Call) -> Any:
    rank = len(r.shape(c.arg(0)))
    axis = int(c.attr("axis", -1))
    given = tuple(range(axis % rank, rank))
    gamma, beta = (_over(r, c, _numbers(c, k), given) for k in (1, 2))
    axes = tuple(r.axis(c.arg(0), a) for a in given)
    eps = float(c.attr("epsilon", 1e-5))
    if c.node.op == "RMSNormalization":
        return r.builder.rms_norm(c.name, c.arg(0), axes, gamma, eps)
    return r.builder.layer_norm(c.name, c.arg(0), axes, gamma, beta, eps)


def _over(r: Reader, c: Call, x: Tensor | None, axes: tuple[int, ...]) -> Tensor | None:
    """Numbers that broadcast to the normalised axes, one for each place of them."""
    shape = tuple(r.shape(c.arg(0))[a] for a in axes)
    return None if x is None else x.reshape(x.shape[-len(shape) :] if x.ndim > len(shape) else x.shape).expand(shape)


def _instance_norm(r: Reader, c: Call) -> Any:
    return r.builder.instance_norm(c.name, c.arg(0), _numbers(c, 1), _numbers(c, 2), float(c.attr("epsilon", 1e-5)))


def _group_norm(r: Reader, c: Call) -> Any:
    groups, channels = int(c.attr("num_groups", 1)), r.shape(c.arg(0))[1]
    gamma, beta = _numbers(c, 1), _numbers(c, 2)
    if c.node.version < 21:  # one for each group, then
        gamma, beta = (None if t is None else t.repeat_interleave(channels // groups) for t in (gamma, beta))
    return r.builder.group_norm(c.name, c.arg(0), groups, gamma, beta, float(c.attr("epsilon", 1e-5)))


def _local_response(r: Reader, c: Call) -> Any:
    size, x = int(c.attr("size", 1)), c.arg(0)
    given = float(c.attr("alpha", 1e-4)), float(c.attr("beta", 0.75)), float(c.attr("bias", 1.0))
    if size % 2:
        return r.builder.local_response_norm(c.name, x, size, *given)
    # of an even number ONNX has one more channel behind, PyTorch one more in front
    y = r.builder.local_response_norm(c.name, r.move(c, x, lambda t: t.flip(1)), size, *given)
    return r.move(c, y, lambda t: t.flip(1))


def _softmax(r: Reader, c: Call) -> Any:
    return r.builder.softmax(c.name, c.arg(0), r.axis(c.arg(0), int(c.attr("axis", -1))))


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LRN": _local_response,
    "Softmax": _softmax,
}
