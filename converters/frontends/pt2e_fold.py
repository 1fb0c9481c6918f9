"""torchao's folding of batch norms, without the searches that cannot find anything.

``convert_pt2e`` looks for convolution + batch norm in 12 variants of each of four kinds of convolution, and
exports two pattern graphs for every variant, whatever the network. The kinds that a network does not contain
are left out here, which takes a quarter of the time. The helper is torchao's private one; where it is gone,
nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx
from torchao.quantization.pt2e import qat_utils

__all__ = ["only_convolutions_present"]

_HELPER = "_fold_conv_bn_qat_helper"


@contextmanager
def only_convolutions_present() -> Iterator[None]:
    """Within it, torchao folds batch norms into the kinds of convolution that the network has."""
    helper: Callable[..., fx.GraphModule] | None = getattr(qat_utils, _HELPER, None)
    if helper is None:
        yield
        return

    def fold(m: fx.GraphModule, conv_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.GraphModule:
        return helper(m, conv_fn, *args, **kwargs) if conv_fn.__name__ in _kinds(m) else m

    setattr(qat_utils, _HELPER, fold)
    try:
        yield
    finally:
        setattr(qat_utils, _HELPER, helper)


def _kinds(m: fx.GraphModule) -> set[str]:
    """Names such as ``conv2d`` and ``conv_transpose2d`` of the convolutions in a graph of aten operators."""
    names = (str(n.target).split(".") for n in m.graph.nodes if n.op == "call_function")
    return {parts[1] for parts in names if parts[0] == "aten" and parts[1].startswith("conv")}
