"""Heads that a network has in training alone: what it does not return in evaluation is no part of its conversion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from converters.errors import ConversionError
from converters.frontends.aten import COUNT
from converters.frontends.examples import Example

__all__ = ["drop_auxiliary", "outputs_in_evaluation"]


def outputs_in_evaluation(model: nn.Module, example: Example) -> Any:
    """What a model returns in evaluation; it is left in training mode."""
    try:
        with torch.no_grad(), torch.random.fork_rng():
            return example.call(model.eval())
    finally:
        model.train()


def drop_auxiliary(graph_module: fx.GraphModule, model: nn.Module, example: Example) -> None:
    """Take the auxiliary heads out of a graph that was exported in training mode, in place.

    Where ``model`` returns one tensor in evaluation, and several in training, the first of that shape is kept, and all
    that only the others need is dropped.

    Raises
    ------
    ConversionError
        If no output has that shape.
    """
    (output,) = (n for n in graph_module.graph.nodes if n.op == "output")
    leaves = [n for n in tree_leaves(output.args) if isinstance(n, fx.Node)]
    if len(leaves) < 2:
        return
    kept = outputs_in_evaluation(model, example)
    if not isinstance(kept, Tensor):
        return
    main = next((n for n in leaves if tuple(n.meta["val"].shape)[1:] == tuple(kept.shape)[1:]), None)
    if main is None:
        raise ConversionError(
            "forward", "no output in training like the one in evaluation", "return the same, and others behind it"
        )
    output.args = ((main,),)
    codegen: Any = graph_module.graph._codegen
    codegen.pytree_info = codegen.pytree_info._replace(out_spec=tree_flatten(kept)[1])
    graph_module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or n.target is COUNT)
    graph_module.recompile()
