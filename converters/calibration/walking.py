"""A walk through a prepared network, with something else to be done where its quantisers stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from converters.frontends.aten import constants
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_module import PreparedModel

__all__ = ["Walk", "as_it_is", "quantised", "quantisers", "set_range"]

At = Callable[[fx.Node, LevelQuantiser, Tensor], Tensor]
Behind = Callable[[Tensor], Tensor]


def as_it_is(node: fx.Node, quantiser: LevelQuantiser, x: Tensor) -> Tensor:
    """What a float network has where a quantiser stands."""
    return x


def quantised(node: fx.Node, quantiser: LevelQuantiser, x: Tensor) -> Tensor:
    """What a quantised network has there, in evaluation."""
    return quantiser.quantised(x)


class Walk(fx.Interpreter):
    """Runs a network's operations.

    Parameters
    ----------
    model : PreparedModel
        In evaluation mode.
    at : callable ``(node, quantiser, x) -> values``
        What stands for the values behind a quantiser.
    behind : mapping of nodes to callables ``values -> values``
        What else stands for the values of some operations.
    """

    def __init__(self, model: PreparedModel, at: At, behind: Mapping[fx.Node, Behind] | None = None) -> None:
        super().__init__(model)
        self.at, self.behind = at, behind or {}
        self.extra_traceback = False  # would be written into the messages of errors

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_module":
            result = super().run_node(n)
            return self.behind[n](result) if n in self.behind else result
        quantiser = self.fetch_attr(str(n.target))
        (x, *_), _ = self.fetch_args_kwargs_from_env(n)
        return self.at(n, quantiser, x)


def quantisers(model: PreparedModel) -> dict[fx.Node, bool]:
    """The nodes of quantisers in order, and whether they quantise weights."""
    fixed = constants(model.graph)
    return {n: n.args[0] in fixed for n in model.graph.nodes if n.op == "call_module"}


@torch.no_grad()
def set_range(quantiser: LevelQuantiser, high: Tensor) -> None:
    """Give a quantiser its range, as if it had observed it: one number, or one for each channel."""
    observer: Any = quantiser.activation_post_process
    low = torch.zeros_like(high) if quantiser.qscheme == torch.per_tensor_affine else -high
    for held, value in ((observer.min_val, low), (observer.max_val, high)):
        held.resize_(value.shape).copy_(value)
    scale, zero = quantiser.calculate_qparams()
    for buffer, new in ((quantiser.scale, scale), (quantiser.zero_point, zero)):
        buffer.resize_(new.shape).copy_(new)
