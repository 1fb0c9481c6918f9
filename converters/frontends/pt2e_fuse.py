"""A convolution and its batch norm, trained as the one layer with folded weights that they will be.

The weights are quantised as they are after folding, with the running statistics; the batch norm still sees what the
convolution alone would give (`Krishnamoorthi 2018 <https://arxiv.org/abs/1806.08342>`_, section 3.2.2)::

    s = gamma / sqrt(running_var + eps)
    batch_norm(conv(x, q(w * s)) / s + b)

torchao has a pass that does so, by matching patterns: it writes its patterns' eps and momentum over the network's own.
This one makes the same operations in the same order, with the network's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

from converters.frontends.aten import BATCH_NORM, arguments

__all__ = ["fuse_batch_norms"]

_a = torch.ops.aten
_CONV = _a.conv2d.default


def fuse_batch_norms(model: fx.GraphModule) -> None:
    """Rewrite, in place, every convolution that only a batch norm reads. Its nodes keep their quantisers."""
    graph = model.graph
    pairs = [(n.args[0], n) for n in graph.nodes if n.target in BATCH_NORM and _is_pair(n.args[0], n)]
    for with_bias in (True, False):  # the order in which torchao numbers the quantisers
        for convolution, norm in pairs:
            if (_bias(convolution) is not None) == with_bias:
                _fuse(model, convolution, norm)
    graph.lint()
    model.recompile()


def _bias(convolution: fx.Node) -> Any:
    return arguments(convolution)["bias"]


def _is_pair(convolution: fx.Node, norm: fx.Node) -> bool:
    a = arguments(norm)
    scaled = isinstance(a["weight"], fx.Node) and a["weight"].op == "get_attr"
    return convolution.target is _CONV and len(convolution.users) == 1 and scaled


def _fuse(model: fx.GraphModule, convolution: fx.Node, norm: fx.Node) -> None:
    graph = model.graph
    following = next(n for n in graph.nodes if n in norm.users) if norm.users else norm.next
    a, (x, weight), bias = arguments(norm), convolution.args[:2], _bias(convolution)

    def call(target: Any, *args: Any) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta["nn_module_stack"] = convolution.meta.get("nn_module_stack", {})
        return node

    with graph.inserting_before(following):
        deviation = call(_a.sqrt.default, call(_a.add.Tensor, a["running_var"], a["eps"]))
        factor = call(_a.div.Tensor, a["weight"], deviation)
        if _has_zeros(model, a["weight"]):  # a channel that is switched off: 0 / 0 where it is divided again
            factor = call(_a.masked_fill.Scalar, factor, call(_a.eq.Scalar, factor, 0.0), 1.0)
        scaled = call(_a.mul.Tensor, weight, call(_a.reshape.default, factor, [-1, 1, 1, 1]))
        zero = None if bias is None else call(_a.zeros_like.default, bias)
        following.prepend(convolution)
        result = call(_a.div.Tensor, convolution, call(_a.reshape.default, factor, [1, -1, 1, 1]))
        if bias is not None:
            result = call(_a.add.Tensor, result, call(_a.reshape.default, bias, [1, -1, 1, 1]))
        following.prepend(norm)
    convolution.args = (x, scaled, zero, *convolution.args[3:])
    norm.update_arg(0, result)
    annotation: QuantizationAnnotation = convolution.meta["quantization_annotation"]
    specs = annotation.input_qspec_map
    annotation.input_qspec_map = {scaled if n is weight else n: spec for n, spec in specs.items()}


def _has_zeros(model: fx.GraphModule, weight: fx.Node) -> bool:
    value: Any = model
    for part in str(weight.target).split("."):
        value = getattr(value, part)
    return bool((value == 0).any())
