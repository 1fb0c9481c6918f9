"""The same quantisation-aware network in fewer operations, for training it.

torchao simulates the folding of a batch norm with factor ``s`` per output channel as ``conv(x, q(w s)) / s``. The
division, and its gradient with respect to ``s``, run over every activation. ``conv(x, q(w s) / s)`` is the same
function, and there they run over the weights.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx

from converters.frontends.aten import CONV

__all__ = ["training_view"]

_DIVISIONS = (torch.ops.aten.div.Tensor, operator.truediv)
_RESHAPE = torch.ops.aten.reshape.default


def training_view(model: fx.GraphModule) -> fx.GraphModule:
    """A second forward of a network of :func:`~converters.frontends.pt2e.prepare_qat`, quicker to train with.

    Parameters
    ----------
    model : GraphModule
        Left as it is, and what to evaluate, save and convert: torchao recognises the folding by its division.

    Returns
    -------
    GraphModule
        Shares every parameter, buffer and fake quantiser with ``model``, so a step of one is a step of both. Take it
        after ``model`` has been moved to its device and memory format, and while it is in training mode.

    Examples
    --------
    >>> from converters import prepare_qat
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
    >>> model = prepare_qat(net.train(), torch.rand(4, 1, 8, 8))
    >>> view = training_view(model)
    >>> divisions = [sum(n.target in _DIVISIONS for n in m.graph.nodes) for m in (model, view)]
    >>> all(a is b for a, b in zip(model.parameters(), view.parameters())), divisions
    (True, [2, 2])
    """
    graph = copy.deepcopy(model.graph)
    for node in list(graph.nodes):
        if node.target in _DIVISIONS and _is_rescaled_convolution(*node.args):
            _move(graph, *node.args, node)
    view = fx.GraphModule(model, graph)
    view.train(model.training)
    return view


def _is_rescaled_convolution(numerator: Any, denominator: Any) -> bool:
    """A convolution used nowhere else, with fake-quantised weights, divided by one factor per output channel."""
    if not all(isinstance(n, fx.Node) for n in (numerator, denominator)) or numerator.target not in CONV:
        return False
    weight = numerator.args[1]
    alone = len(numerator.users) == 1 and weight.op == "call_module"
    return alone and denominator.target == _RESHAPE and list(denominator.args[1])[:2] == [1, -1]


def _move(graph: fx.Graph, convolution: fx.Node, factor: fx.Node, division: fx.Node) -> None:
    weight = convolution.args[1]
    shape: Any = factor.args[1]
    with graph.inserting_before(convolution):
        by_row = graph.call_function(_RESHAPE, (factor.args[0], [-1, 1, *shape[2:]]))
        convolution.update_arg(1, graph.call_function(division.target, (weight, by_row)))
    division.replace_all_uses_with(convolution)
    graph.erase_node(division)
