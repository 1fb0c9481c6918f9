"""Learned queries: constants, the same for each image, that a matrix product takes beside an activation, or a dropout.

Attention pooling, a decoder's queries and a Perceiver's latents are parameters, stretched to the batch. What is in a
matrix product must spike, and what a dropout has changed is no constant in training; so such a constant becomes
``0 x + c``: neurons that hear nothing of the input, and that their leak drives to ``c``.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from converters.frontends.aten import DROPOUT, Kind, arguments, kind_of, repeated
from converters.frontends.pt2e_rewriter import Rewriter

__all__ = ["driven_queries"]

_a = torch.ops.aten
_PRODUCTS = {
    _a.matmul.default: ("self", "other"),
    _a.bmm.default: ("self", "mat2"),
    _a.baddbmm.default: ("batch1", "batch2"),
    _a.scaled_dot_product_attention.default: ("query", "key", "value"),
}


def driven_queries(r: Rewriter) -> None:
    """Let neurons have what a product takes beside an activation and what is the same for each image, in place."""
    source = next((n for n in r.graph.nodes if _is_real(n)), None)
    if source is None:
        return
    order = {node: k for k, node in enumerate(r.graph.nodes)}
    for node in list(r.graph.nodes):
        if (node.target in _PRODUCTS or node.target in DROPOUT) and order[source] < order[node]:
            a = arguments(node)
            operands = [a[name] for name in _PRODUCTS.get(node.target, ("input",))]
            given = repeated(r.graph, r.fixed)
            random = node.target in DROPOUT or a.get("dropout_p")
            if random or not all(x in given or x in r.fixed for x in operands):
                for x in operands:
                    if x in repeated(r.graph, r.fixed):
                        _drive(r, x, source)


def _is_real(node: fx.Node) -> bool:
    """Whether a node is an input of real numbers, or the rows of one of tokens."""
    value = node.meta.get("val")
    here = node.op == "placeholder" or kind_of(node) is Kind.EMBEDDING
    return here and isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _drive(r: Rewriter, x: fx.Node, source: fx.Node) -> None:
    """Replace ``x``, or what it has been made from, where the images have had an axis of their own so far."""
    given = repeated(r.graph, r.fixed)
    plain = _plain(r.graph, source, given)
    while x not in plain:
        before = [n for n in x.all_input_nodes if n in given]
        if len(before) != 1:
            return
        (x,) = before
    shape = x.meta["val"].shape
    (axis,) = _axes(x)
    places = list(r.graph.nodes)
    at = places[1 + max(places.index(x), places.index(source))]
    silent = r.call(at, _a.mul.Tensor, _one_each(r, at, source), 0.0)
    for _ in range(len(shape) - 2):
        silent = r.call(at, _a.unsqueeze.default, silent, 1)
    silent = r.call(at, _a.movedim.int, silent, 0, axis)
    silent = r.call(at, _a.expand.default, silent, [-1 if k == axis else n for k, n in enumerate(shape)])
    driven = r.call(at, _a.add.Tensor, silent, x)
    behind = set(places[places.index(at) :])
    x.replace_all_uses_with(driven, delete_user_cb=lambda user: user in behind)


def _axes(x: fx.Node) -> list[int]:
    """Those whose size depends on how many images there are."""
    return [k for k, n in enumerate(x.meta["val"].shape) if not isinstance(n, int)]


def _plain(graph: fx.Graph, source: fx.Node, given: set[fx.Node]) -> set[fx.Node]:
    """Those in which images have an axis of their own, of two or more, and in all that they have been made from."""
    images, found = str(source.meta["val"].shape[0]), set[fx.Node]()
    for x in graph.nodes:
        if x in given and isinstance(x.meta.get("val"), Tensor):
            shape, axes = x.meta["val"].shape, _axes(x)
            own = len(shape) > 1 and len(axes) == 1 and str(shape[axes[0]]) == images
            if own and all(n in found for n in x.all_input_nodes if n in given):
                found.add(x)
    return found


def _one_each(r: Rewriter, at: fx.Node, source: fx.Node) -> fx.Node:
    """One number of each image: ``(N, 1)``."""
    flat = r.call(at, _a.flatten.using_ints, source, 1, -1) if source.meta["val"].ndim > 2 else source
    return r.call(at, _a.slice.Tensor, flat, 1, 0, 1)
