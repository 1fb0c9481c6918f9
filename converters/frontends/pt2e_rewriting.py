"""Operations of an exported graph that are others in disguise, rewritten as those: one form for whoever reads on.

``x - c`` is ``x + (-c)``, ``x / c`` is ``x * (1 / c)``, ``x @ w`` with constant ``w`` a linear layer, ``x * x`` a
square, a gated linear unit a product with a sigmoid, stochastic depth a dropout of whole images. Functions that PyTorch
spells out (``softsign``, ``local_response_norm``, ``normalize``) are put together again; attention is taken apart
(:mod:`~converters.frontends.pt2e_attention`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from converters.frontends import pt2e_attention as attention
from converters.frontends.aten import POOLING, Kind, arguments, drop_images, kind_of
from converters.frontends.pt2e_queries import driven_queries
from converters.frontends.pt2e_rewriter import Rewriter

__all__ = ["rewrite"]

_a = torch.ops.aten
_MATMULS = {_a.matmul.default, _a.mm.default, _a.bmm.default}
_EXTREMA = {_a.max.dim: _a.amax.default, _a.min.dim: _a.amin.default}
_OF_TWO = {_a.max.other: _a.maximum.default, _a.min.other: _a.minimum.default}


def rewrite(model: fx.GraphModule) -> None:
    """Rewrite a functional graph of ATen operations, in place; what it computes stays the same."""
    rewriter = Rewriter(model)
    driven_queries(rewriter)
    for node in list(model.graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is not None and node not in rewriter.fixed:
            new = rule(rewriter, node)
            if new is not None:
                node.replace_all_uses_with(new)
    _drop(model.graph)
    model.graph.lint()
    model.recompile()


def _drop(graph: fx.Graph) -> None:
    """Drop what has been replaced, random numbers of a stochastic depth among it, and assertions."""
    for node in reversed(graph.nodes):
        replaced = node.target in _RULES or node.target in _NOISE or kind_of(node) is Kind.IGNORED
        if node.op == "call_function" and replaced and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code(lambda n: n.is_impure() or n.op == "get_attr")


# --- sums and products ----------------------------------------------------------------------------------------------


def _add(r: Rewriter, node: fx.Node) -> Any:
    a = arguments(node)
    x, y, factor = a["self"], a["other"], a["alpha"]
    if not isinstance(y, fx.Node):
        if y * factor == 0:
            return x
        return None if factor == 1 else r.call(node, _a.add.Tensor, x, y * factor)
    elif x in r.fixed and factor == 1:
        return attention.add_mask(r, node, y, x)
    elif y not in r.fixed:
        return None
    masked = attention.add_mask(r, node, x, r.times(node, y, factor))
    if masked is not None:
        return masked
    return None if factor == 1 else r.call(node, _a.add.Tensor, x, r.times(node, y, factor))


def _sub(r: Rewriter, node: fx.Node) -> Any:
    a = arguments(node)
    x, y, factor = a["self"], a["other"], a.get("alpha", 1)
    if node.target in (_a.rsub.Scalar, _a.rsub.Tensor):
        x, y = y, x
    if r.is_constant(x) or r.is_constant(y):
        minus = r.negative(node, r.times(node, y, factor))
        return r.call(node, _a.add.Tensor, *((x, minus) if isinstance(x, fx.Node) else (minus, x)))
    return r.call(node, _a.sub.Tensor, x, y, alpha=factor) if node.target is not _a.sub.Tensor else None


def _neg(r: Rewriter, node: fx.Node) -> fx.Node:
    return r.call(node, _a.mul.Tensor, node.args[0], -1.0)


def _mul(r: Rewriter, node: fx.Node) -> Any:
    x, y = node.args
    if x is y:
        return r.call(node, _a.square.default, x)
    if not isinstance(y, fx.Node) and float(y) == 1.0:
        return x
    for value, noise in ((x, y), (y, x)):
        kept = _chance(noise)
        if kept is not None:
            return _stochastic_depth(r, node, value, kept, noise)
    return None


def _div(r: Rewriter, node: fx.Node) -> Any:
    x, y = node.args
    if node.kwargs:
        return None
    if r.is_constant(y):
        return r.call(
            node, _a.mul.Tensor, x, r.call(node, _a.reciprocal.default, y) if isinstance(y, fx.Node) else 1 / y
        )
    if _is_softsign(x, y):
        return r.call(node, F.softsign, x)
    unit = _unit_length(x, y)
    if unit is not None:
        return r.call(node, F.normalize, x, *unit, shape_of=node)
    found = _response_norm(x, y)
    return None if found is None else r.call(node, F.local_response_norm, x, *found, shape_of=node)


def _pow(r: Rewriter, node: fx.Node) -> Any:
    x, power = node.args
    return x if power == 1 else r.call(node, _a.square.default, x) if power == 2 else None


def _addcmul(r: Rewriter, node: fx.Node) -> fx.Node:
    a = arguments(node)
    product = r.call(node, _a.mul.Tensor, a["tensor1"], a["tensor2"])
    if a["value"] != 1:
        product = r.call(node, _a.mul.Tensor, product, a["value"])
    return r.call(node, _a.add.Tensor, a["self"], product)


def _glu(r: Rewriter, node: fx.Node) -> fx.Node:
    a = arguments(node)
    parts = r.call(node, _a.chunk.default, a["self"], 2, a["dim"])
    x, gate = (r.call(node, operator.getitem, parts, k) for k in range(2))
    return r.call(node, _a.mul.Tensor, x, r.call(node, _a.sigmoid.default, gate))


# --- matrix products ------------------------------------------------------------------------------------------------


def _matmul(r: Rewriter, node: fx.Node) -> Any:
    x, y = node.args
    if y in r.fixed and x not in r.fixed:
        matrix = _matrix(r, node, y, _rank(x))
        return None if matrix is None else _linear(r, node, x, matrix, None)
    if x in r.fixed:  # it acts on the other axis: w @ y = (y' @ w')'
        matrix = _matrix(r, node, x, _rank(y))
        if matrix is None or _rank(y) < 3:
            return None
        turned = r.call(node, _a.transpose.int, y, -2, -1)
        return r.call(node, _a.transpose.int, r.call(node, _a.linear.default, turned, matrix), -2, -1)
    return attention.scaled_matmul(r, node, x, y)


def _addmm(r: Rewriter, node: fx.Node) -> Any:
    bias, x, y = node.args
    plain = not node.kwargs and bias in r.fixed and _rank(bias) == 1
    return _linear(r, node, x, y, bias) if plain else None


def _linear(r: Rewriter, node: fx.Node, x: fx.Node, y: fx.Node, bias: Any) -> Any:
    if x in r.fixed or y not in r.fixed or _rank(y) != 2:
        return None
    return r.call(node, _a.linear.default, x, r.call(node, _a.transpose.int, y, 0, 1), bias)


def _matrix(r: Rewriter, at: fx.Node, constant: fx.Node, rank: int) -> fx.Node | None:
    """A constant factor of something of ``rank`` axes as one matrix; None where it is several, or has more axes."""
    shape = [int(n) for n in constant.meta["val"].shape]
    if not 2 <= len(shape) <= max(rank, 2) or any(n != 1 for n in shape[:-2]):
        return None
    return constant if len(shape) == 2 else r.call(at, _a.reshape.default, constant, shape[-2:])


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else -1


# --- extrema --------------------------------------------------------------------------------------------------------


def _extremum(r: Rewriter, node: fx.Node) -> None:
    """Values alone: the indices stay, for the error that names them."""
    a = arguments(node)
    for part in list(node.users):
        if part.args[1] == 0:
            part.replace_all_uses_with(r.call(part, _EXTREMA[node.target], a["self"], [a["dim"]], a["keepdim"]))


def _cast(r: Rewriter, node: fx.Node) -> Any:
    """Nothing, where the type stays."""
    x = node.args[0]
    here, there = (n.meta.get("val") for n in (x, node))
    return x if here is not None and there is not None and here.dtype == there.dtype else None


def _of_two(r: Rewriter, node: fx.Node) -> fx.Node:
    return r.call(node, _OF_TWO[node.target], *node.args)


# --- stochastic depth -----------------------------------------------------------------------------------------------


def _chance(noise: Any) -> float | None:
    """The share of ones in a tensor of random zeros and ones over that share; None for anything else."""
    if not isinstance(noise, fx.Node) or noise.target is not _a.mul.Tensor:
        return None
    drawn, factor = noise.args
    if not isinstance(drawn, fx.Node) or drawn.target is not _a.bernoulli.p or isinstance(factor, fx.Node):
        return None
    p = arguments(drawn)["p"]
    share = 0.5 if p is None else float(p)  # export leaves the default out, and its schema does not say it
    return share if abs(share * factor - 1) < 1e-9 else None


def _stochastic_depth(r: Rewriter, node: fx.Node, x: fx.Node, kept: float, noise: fx.Node) -> Any:
    """The dropout that draws the very same numbers: of whole images, or of the batch."""
    shape = list(noise.meta["val"].shape)
    if any(n != 1 for n in shape[1:]):
        return None
    together = isinstance(shape[0], int) and shape[0] == 1
    return r.call(node, drop_images, x, 1 - kept, True, together)


# --- functions that PyTorch spells out ------------------------------------------------------------------------------


def _is_softsign(x: Any, y: Any) -> bool:
    """``x / (1 + |x|)``."""
    if y.target is not _a.add.Tensor or y.kwargs or y.args[1] != 1:
        return False
    size = y.args[0]
    return isinstance(size, fx.Node) and size.target is _a.abs.default and size.args[0] is x


def _unit_length(x: Any, y: Any) -> tuple[float, Any, float] | None:
    """Order, axes and eps, where ``x / y`` is ``F.normalize``: its length, at least eps, stretched to its shape."""
    steps = [y]
    for target in (_a.expand_as.default, _a.clamp_min.default, _a.linalg_vector_norm.default):
        if not isinstance(steps[-1], fx.Node) or steps[-1].target is not target:
            return None
        steps.append(steps[-1].args[0])
    stretched, floor, length, of = steps
    a = arguments(length)
    if of is not x or stretched.args[1] is not x or not a["keepdim"] or a["dtype"] is not None:
        return None
    return float(a["ord"]), a["dim"], float(floor.args[1])


def _response_norm(x: Any, y: Any) -> tuple[Any, ...] | None:
    """Size, alpha, beta and k, where ``x / y`` is a local response norm."""
    chain: list[fx.Node] = []
    steps = [
        {_a.pow.Tensor_Scalar}, {_a.add.Tensor}, {_a.mul.Tensor}, {_a.view.default, _a.squeeze.dim},
        {_a.squeeze.dim, *POOLING}, {_a.pad.default, *POOLING},
        {_a.pad.default, _a.unsqueeze.default, _a.view.default}, {_a.view.default, _a.mul.Tensor, _a.square.default},
        {_a.mul.Tensor, _a.square.default},
    ]  # fmt: skip
    node: Any = y
    for targets in steps:
        if not isinstance(node, fx.Node) or node.target not in targets:
            return None
        chain.append(node)
        squares = node.target is _a.square.default or (node.target is _a.mul.Tensor and node.args[0] is node.args[1])
        if squares:
            break
        node = node.args[0]
    pool = next((n for n in chain if n.target in POOLING), None)
    if pool is None or chain[-1].args[0] is not x:
        return None
    beta, k, alpha = (n.args[1] for n in chain[:3])
    return int(pool.args[1][0]), alpha, beta, k


_NOISE = {_a.bernoulli.p, _a.empty.memory_format, _a.new_empty.default, _a.empty_like.default}
_RULES: dict[Any, Callable[[Rewriter, fx.Node], Any]] = {
    _a.add.Tensor: _add,
    **dict.fromkeys((_a.sub.Tensor, _a.rsub.Scalar, _a.rsub.Tensor), _sub),
    _a.neg.default: _neg,
    **dict.fromkeys((_a.to.dtype, _a.to.other, _a.to.dtype_layout, _a.to.device, _a.type_as.default), _cast),
    _a.mul.Tensor: _mul,
    _a.div.Tensor: _div,
    _a.pow.Tensor_Scalar: _pow,
    _a.addcmul.default: _addcmul,
    _a.glu.default: _glu,
    **dict.fromkeys(_MATMULS, _matmul),
    _a.addmm.default: _addmm,
    _a.baddbmm.default: attention.baddbmm,
    _a.scaled_dot_product_attention.default: attention.scaled_dot_product_attention,
    _a.einsum.default: attention.einsum,
    **dict.fromkeys((_a.masked_fill.Scalar, _a.masked_fill.Tensor), attention.masked_fill),
    **dict.fromkeys((_a.where.self, _a.where.ScalarOther, _a.where.ScalarSelf), attention.where_else),
    **dict.fromkeys(_EXTREMA, _extremum),
    **dict.fromkeys(_OF_TWO, _of_two),
}
