"""Several operands: sums, differences, products, maxima, concatenations; constants among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.frontends.onnx.call import Call, Handler, Reader
from converters.frontends.onnx.constants import is_constant, real
from converters.frontends.onnx.quantisers import Codes, counts_of
from converters.frontends.verbs import Pending
from converters.graph_builder import Value

__all__ = ["HANDLERS"]

_NEVER = -1e30  # what is added to leave a value out of a softmax: minus infinity, or the least number of float32


def _same_rank(r: Reader, c: Call, a: Any, b: Any) -> None:
    """Two activations of other ranks would be aligned with the images of one among the places of the other."""
    ranks = [len(r.shape(x)) for x in (a, b)]
    if ranks[0] != ranks[1]:
        shapes = f"{r.shape(a)} and {r.shape(b)}"
        raise ConversionError(c.name, f"operands of shapes {shapes}", "reshape them to as many axes")


def _numbers(r: Reader, c: Call, x: Any) -> Tensor:
    """A constant that is the same for all images."""
    return r.constant(c, real(x))


def _scaled(r: Reader, c: Call, x: Any, factor: Tensor) -> Any:
    """Times a constant; of counts times one positive number it is their scale that changes, and nothing is rounded."""
    terms = _terms(x)
    if not terms or factor.numel() != 1 or factor.ndim > len(r.shape(x)) or float(factor) == 0:
        return r.builder.scale(c.name, x, factor)
    if type(x) is Value and float(factor) > 0:
        return replace(x, scale=x.scale * float(factor))
    return Pending(c.name, terms=tuple((v, f * float(factor)) for v, f in terms))


def _terms(x: Any) -> tuple[tuple[Value, float], ...]:
    """Counts and their factors, of which ``x`` is the sum; none where it is something else."""
    if type(x) is Value:
        return ((x, 1.0),)
    plain = type(x) is Pending and not (x.clamped or x.function or x.then or x.move)
    return x.terms if plain else ()


def _shifted(r: Reader, c: Call, x: Any, constant: Tensor) -> Any:
    """Plus a constant; where that leaves values out of a softmax, with minus infinity or the like, it is a mask."""
    dropped = constant < _NEVER
    if bool(dropped.any()) and bool((constant[~dropped] == 0).all()):
        return r.builder.mask(c.name, x, dropped)
    return r.builder.shift(c.name, x, constant)


def _where(r: Reader, c: Call) -> Any:
    """One of two operands, by a constant condition: a constant among them is a mask, or takes the other's place."""
    condition, a, b = c.args
    if not is_constant(condition) or is_constant(a) == is_constant(b):
        raise ConversionError(c.name, "a choice by what the network computes", "let a constant choose, and be chosen")
    there = _numbers(r, c, condition).bool()
    x, constant, kept = (b, _numbers(r, c, a), ~there) if is_constant(a) else (a, _numbers(r, c, b), there)
    if bool((constant < _NEVER).all()):
        return r.builder.mask(c.name, x, ~kept)
    return r.builder.shift(c.name, r.builder.scale(c.name, x, kept.double()), constant * ~kept)


def _sum_of_two(r: Reader, c: Call, a: Any, b: Any, sign: float = 1.0) -> Any:
    if is_constant(b):
        return _shifted(r, c, a, sign * _numbers(r, c, b))
    if is_constant(a):
        y = b if sign > 0 else r.builder.scale(c.name, b, -1.0)
        return _shifted(r, c, y, _numbers(r, c, a))
    _same_rank(r, c, a, b)
    return _added(r, c, (a, 1.0), (b, sign))


def _added(r: Reader, c: Call, *terms: tuple[Any, float]) -> Any:
    """What no quantiser has seen is added up before it is rounded: sums of counts, a convolution and the branch beside
    it."""
    flat = [(v, g * f) for x, f in terms for v, g in _terms(x) or ((x, 1.0),)]
    open_ends = any(isinstance(x, Pending) and x.base is None for x, _ in flat)
    return (r.builder.add_unrounded if open_ends else r.builder.add)(c.name, *flat)


def _add(r: Reader, c: Call) -> Any:
    return _sum_of_two(r, c, c.arg(0), c.arg(1))


def _sub(r: Reader, c: Call) -> Any:
    return _sum_of_two(r, c, c.arg(0), c.arg(1), -1.0)


def _sum(r: Reader, c: Call) -> Any:
    """Of any number of operands, or their mean."""
    moving = [x for x in c.args if not is_constant(x)]
    for x in moving[1:]:
        _same_rank(r, c, moving[0], x)
    share = 1.0 / len(c.args) if c.node.op == "Mean" else 1.0
    y = moving[0] if len(moving) == 1 and share == 1 else _added(r, c, *((x, share) for x in moving))
    for x in c.args:
        if is_constant(x):
            y = r.builder.shift(c.name, y, real(x) * share)
    return y


def _mul(r: Reader, c: Call) -> Any:
    a, b = c.arg(0), c.arg(1)
    if is_constant(b):
        return _scaled(r, c, a, _numbers(r, c, b))
    if is_constant(a):
        return _scaled(r, c, b, _numbers(r, c, a))
    _same_rank(r, c, a, b)
    return r.builder.multiply(c.name, a, b)


def _neg(r: Reader, c: Call) -> Any:
    return _scaled(r, c, c.arg(0), torch.tensor(-1.0, dtype=torch.float64))


def _div(r: Reader, c: Call) -> Any:
    a, b = c.arg(0), c.arg(1)
    if not is_constant(b):
        raise ConversionError(c.name, "a division by an activation", "multiply, or divide by a constant")
    divisor = _numbers(r, c, b)
    if bool((divisor == 0).any()):
        raise ConversionError(c.name, "a division by 0", "give another constant")
    return _scaled(r, c, a, 1 / divisor)


def _extreme(r: Reader, c: Call) -> Any:
    largest = c.node.op == "Max"
    of_two: Callable[[str, Any, Any], Any] = r.builder.maximum if largest else r.builder.minimum
    moving = [x for x in c.args if not is_constant(x)]
    for x in moving[1:]:
        _same_rank(r, c, moving[0], x)
    y = reduce(lambda a, b: of_two(c.name, a, b), moving)
    for x in c.args:
        if is_constant(x):
            bound = real(x)
            if bound.unique().numel() != 1:
                raise ConversionError(c.name, "a maximum with a constant of several values", "use one number")
            value = float(bound.reshape(-1)[0])
            y = r.builder.clamp(c.name, y, value, None) if largest else r.builder.clamp(c.name, y, None, value)
    return y


def _concat(r: Reader, c: Call) -> Any:
    axis, rank = int(c.attr("axis", 0)), max(len(r.shape(x)) for x in c.args)
    if not -rank <= axis < rank:
        raise ConversionError(c.name, f"a concatenation along axis {axis} of {rank}", "give an axis that there is")
    first = next(x for x in c.args if not is_constant(x))
    axis, rank = r.axis(first, axis), 1 + len(first.source.shape if isinstance(first, Codes) else first.shape)
    if all(isinstance(x, Codes) for x in c.args):
        if any((x.scale, x.zero, x.low, x.high) != (first.scale, first.zero, first.low, first.high) for x in c.args):
            raise ConversionError(c.name, "a concatenation of integers on several scales", "dequantise them first")
        parts = [counts_of(r, x) for x in c.args]
        return r.with_source(c, first, r.builder.concatenate(c.name, parts, axis, rank))
    operands = [_one_image(r, c, x) if is_constant(x) else x for x in c.args]
    return r.builder.concatenate(c.name, operands, axis, rank)


def _one_image(r: Reader, c: Call, x: Any) -> Tensor:
    """What a constant, the same for all images, says of one."""
    found = _numbers(r, c, x)
    if len(found) != 1:
        raise ConversionError(
            c.name, "a concatenation with a constant that differs from image to image", "leave it out"
        )
    return found


HANDLERS: dict[str, Handler] = {
    "Add": _add,
    "Sub": _sub,
    "Sum": _sum,
    "Mean": _sum,
    "Mul": _mul,
    "Div": _div,
    "Neg": _neg,
    "Max": _extreme,
    "Min": _extreme,
    "Concat": _concat,
    "Where": _where,
}
