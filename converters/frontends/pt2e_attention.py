"""Attention as an exported graph has it, in its parts: matrix products, a mask, a softmax.

``scaled_dot_product_attention`` and ``einsum`` are spelled out, the factor of a query is taken behind the product,
where it is a part of the scale, and whatever keeps positions from being attended to (a constant mask of booleans, of
minus infinity or of large negative numbers, causality) becomes ``masked_fill(scores, dropped, -inf)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from converters.errors import ConversionError
from converters.frontends.aten import FAR, arguments, only_softmax_behind, where
from converters.frontends.pt2e_rewriter import Rewriter

__all__ = [
    "add_mask",
    "baddbmm",
    "einsum",
    "masked_fill",
    "scaled_dot_product_attention",
    "scaled_matmul",
    "where_else",
]

_a = torch.ops.aten


# --- products -------------------------------------------------------------------------------------------------------


def scaled_matmul(r: Rewriter, node: fx.Node, x: Any, y: Any) -> fx.Node | None:
    """``(c x) @ y`` as ``c (x @ y)``."""
    (a, one), (b, two) = (r.without_factor(node, v) for v in (x, y))
    if one * two == 1:
        return None
    return r.call(node, _a.mul.Tensor, r.call(node, _a.matmul.default, a, b), one * two)


def _matmul(r: Rewriter, at: fx.Node, x: fx.Node, y: fx.Node, factor: float = 1.0) -> fx.Node:
    (a, one), (b, two) = (r.without_factor(at, v) for v in (x, y))
    product = r.call(at, _a.matmul.default, a, b)
    return product if one * two * factor == 1 else r.call(at, _a.mul.Tensor, product, one * two * factor)


def baddbmm(r: Rewriter, node: fx.Node) -> Any:
    a = arguments(node)
    product = _matmul(r, node, a["batch1"], a["batch2"], float(a["alpha"]))
    other = r.times(node, a["self"], a["beta"])
    masked = _added(r, node, product, other) if other in r.fixed else None
    return masked or r.call(node, _a.add.Tensor, product, other)


def scaled_dot_product_attention(r: Rewriter, node: fx.Node) -> fx.Node:
    a = arguments(node)
    query, key, value, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    shapes = [tuple(n.meta["val"].shape) for n in (query, key)]
    if a["enable_gqa"]:
        times = int(shapes[0][-3]) // int(shapes[1][-3])
        key, value = (r.call(node, _a.repeat_interleave.self_int, n, times, -3) for n in (key, value))
    scale = 1 / math.sqrt(int(shapes[0][-1])) if a["scale"] is None else float(a["scale"])
    scores = _matmul(r, node, query, r.call(node, _a.transpose.int, key, -2, -1), scale)
    if a["is_causal"]:
        ones = torch.ones(int(shapes[0][-2]), int(shapes[1][-2]), dtype=torch.bool)
        scores = _masked(r, node, scores, r.constant(node, ~ones.tril()))
    if mask is not None:
        scores = _with_mask(r, node, scores, mask)
    weights = r.call(node, _a.softmax.int, scores, -1)
    if a["dropout_p"]:
        weights = r.call(node, _a.dropout.default, weights, float(a["dropout_p"]), True)
    return r.call(node, _a.matmul.default, weights, value)


def _with_mask(r: Rewriter, node: fx.Node, scores: fx.Node, mask: fx.Node) -> fx.Node:
    if mask in r.fixed:
        kept = mask.meta["val"].dtype is torch.bool
        if kept:
            return _masked(r, node, scores, r.constant(node, ~r.value(mask)))
        return _added(r, node, scores, mask) or r.call(node, _a.add.Tensor, scores, mask)
    if mask.meta["val"].dtype is torch.bool:
        raise ConversionError(where(node), "a mask that depends on the input", "give it a constant one")
    return r.call(node, _a.add.Tensor, scores, mask)


# --- masks ----------------------------------------------------------------------------------------------------------


def add_mask(r: Rewriter, node: fx.Node, x: fx.Node, constant: fx.Node) -> fx.Node | None:
    """``x + constant`` in front of a softmax, where the constant drops some positions; else None."""
    if not only_softmax_behind(node):
        return None
    while x.target is _a.add.Tensor and len(x.users) == 1 and not x.kwargs:  # masks and biases in a row
        known = [n for n in x.all_input_nodes if n in r.fixed]
        if len(known) != 1 or len(x.all_input_nodes) != 2:
            break
        (inner,) = (n for n in x.all_input_nodes if n is not known[0])
        x, constant = inner, r.call(node, _a.add.Tensor, known[0], constant)
    return _added(r, node, x, constant)


def masked_fill(r: Rewriter, node: fx.Node) -> fx.Node | None:
    x, mask, number = node.args
    if isinstance(number, fx.Node):
        number = float(r.value(number)) if number in r.fixed else 0.0
    return _filled(r, node, x, mask, number)


def where_else(r: Rewriter, node: fx.Node) -> fx.Node | None:
    """``where(mask, x, -inf)``, and the other way round."""
    mask, x, y = node.args
    for kept, value, other in ((True, x, y), (False, y, x)):
        number = r.value(other).max() if other in r.fixed and isinstance(other, fx.Node) else other
        if isinstance(number, float | int | Tensor) and isinstance(value, fx.Node) and mask in r.fixed:
            dropped = r.constant(node, ~r.value(mask)) if kept else mask
            return _filled(r, node, value, dropped, float(number))
    return None


def _filled(r: Rewriter, node: fx.Node, x: fx.Node, mask: fx.Node, number: float) -> fx.Node | None:
    if mask not in r.fixed or number > FAR or x in r.fixed or not only_softmax_behind(node):
        return None
    return _masked(r, node, x, mask)


def _added(r: Rewriter, at: fx.Node, x: fx.Node, constant: fx.Node) -> fx.Node | None:
    """``x + constant``, of which whatever is far below 0 drops positions; None where nothing is."""
    value = r.value(constant)
    dropped = value <= FAR
    if not bool(dropped.any()):
        return None
    mask = r.constant(at, dropped)
    if bool((value.masked_fill(dropped, 0) != 0).any()):
        x = r.call(at, _a.add.Tensor, x, r.call(at, _a.masked_fill.Scalar, constant, mask, 0.0))
    return _masked(r, at, x, mask)


def _masked(r: Rewriter, at: fx.Node, x: fx.Node, dropped: fx.Node) -> fx.Node:
    return r.call(at, _a.masked_fill.Scalar, x, dropped, -math.inf)


# --- einsum ---------------------------------------------------------------------------------------------------------


def einsum(r: Rewriter, node: fx.Node) -> fx.Node | None:
    """Of one or two tensors, as permutations, a matrix product or a product place by place, and sums."""
    operands = list(node.args[1])
    given, arrow, out = str(node.args[0]).replace(" ", "").partition("->")
    names = given.split(",")
    out = out if arrow else "".join(sorted(c for c in set(given) - {","} if given.count(c) == 1))
    if "." in given or not 1 <= len(operands) <= 2 or any(len(set(n)) < len(n) for n in (*names, out)):
        return None
    terms = [
        _summed(r, node, x, n, [c for c in n if c not in out and all(c not in m for m in names if m is not n)])
        for x, n in zip(operands, names, strict=True)
    ]
    if len(terms) == 1:
        ((x, n),) = terms
        return _permuted(r, node, x, n, out)
    (x, a), (y, b) = terms
    both = [c for c in a if c in b and c in out]
    inner = [c for c in a if c in b and c not in out]
    rows, columns = ([c for c in n if c in out and c not in both] for n in (a, b))
    if not inner:
        return r.call(node, _a.mul.Tensor, _spread(r, node, x, a, out), _spread(r, node, y, b, out))
    left = _permuted(r, node, x, a, "".join([*both, *rows, *inner]))
    right = _permuted(r, node, y, b, "".join([*both, *inner, *columns]))
    sizes = [dict(zip(n, t.meta["val"].shape, strict=True)) for t, n in ((x, a), (y, b))]
    left = _grouped(r, node, _grouped(r, node, left, len(both) + len(rows), len(inner)), len(both), len(rows))
    right = _grouped(r, node, _grouped(r, node, right, len(both) + len(inner), len(columns)), len(both), len(inner))
    if right in r.fixed and not both:
        product = r.call(node, _a.linear.default, left, r.call(node, _a.transpose.int, right, 0, 1))
    else:
        product = _matmul(r, node, left, right)
    if len(columns) != 1:
        product = _ungrouped(r, node, product, -1, [sizes[1][c] for c in columns])
    if len(rows) != 1:
        product = _ungrouped(r, node, product, len(both), [sizes[0][c] for c in rows])
    return _permuted(r, node, product, "".join([*both, *rows, *columns]), out)


def _summed(r: Rewriter, at: fx.Node, x: fx.Node, names: str, gone: list[str]) -> tuple[fx.Node, str]:
    if not gone:
        return x, names
    dims = [names.index(c) for c in gone]
    return r.call(at, _a.sum.dim_IntList, x, dims), "".join(c for c in names if c not in gone)


def _permuted(r: Rewriter, at: fx.Node, x: fx.Node, names: str, wanted: str) -> fx.Node:
    return x if names == wanted else r.call(at, _a.permute.default, x, [names.index(c) for c in wanted])


def _spread(r: Rewriter, at: fx.Node, x: fx.Node, names: str, out: str) -> fx.Node:
    x = _permuted(r, at, x, names, "".join(c for c in out if c in names))
    for k, c in enumerate(out):
        if c not in names:
            x = r.call(at, _a.unsqueeze.default, x, k)
    return x


def _grouped(r: Rewriter, at: fx.Node, x: fx.Node, start: int, count: int) -> fx.Node:
    """``count`` axes from ``start`` as one."""
    if count == 0:
        return r.call(at, _a.unsqueeze.default, x, start)
    return x if count == 1 else r.call(at, _a.flatten.using_ints, x, start, start + count - 1)


def _ungrouped(r: Rewriter, at: fx.Node, x: fx.Node, axis: int, sizes: list[Any]) -> fx.Node:
    if not sizes:
        return r.call(at, _a.squeeze.dim, x, axis)
    unknown = [k for k, n in enumerate(sizes) if not isinstance(n, int)]
    return r.call(at, _a.unflatten.int, x, axis, [-1 if k in unknown else n for k, n in enumerate(sizes)])
