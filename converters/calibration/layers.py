"""The layers with weights of a prepared network, and which of their parameters may be moved one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from converters.frontends.aten import BATCH_NORM, Kind, arguments, constants, data_users, kind_of
from converters.frontends.pt2e_module import PreparedModel

__all__ = ["WeightedLayer", "weighted_layers"]

_a = torch.ops.aten
_LINEAR = _a.linear.default


@dataclass(frozen=True, eq=False)
class WeightedLayer:
    """A convolution or linear layer, with the batch norm behind it.

    Attributes
    ----------
    node : fx.Node
        The convolution, transposed convolution or linear layer.
    end : fx.Node
        The batch norm behind it, or ``node``.
    quantiser : fx.Node
        Of its weights.
    weight : str or None
        The parameter that ``quantiser`` has, but for a factor for each channel; None where others have it too, or it
        is computed from something else.
    factor : fx.Node or None
        That factor, where a batch norm is folded in.
    bias : str or None
        The parameter that is added to ``end`` and to nothing else.
    rectified : bool
        Whether a ReLU is all that reads ``end``.
    """

    node: fx.Node
    end: fx.Node
    quantiser: fx.Node
    weight: str | None
    factor: fx.Node | None
    bias: str | None
    rectified: bool

    @property
    def axis(self) -> int:
        """Of ``end``, on which the channels lie."""
        return -1 if self.end.target is _LINEAR else 1

    def correction(self, wanted: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of what ``end`` lacks and of the values that show it, of each channel: ``(C,)``, in float64.

        Their quotient is the shift to take. Behind a ReLU what is negative in both networks shows nothing: the least
        squared error there asks for the mean over the rest.
        """
        if self.rectified:
            shows = (wanted > 0) | (values > 0)
            wanted, values = wanted.clamp(min=0), values.clamp(min=0)
        else:
            shows = torch.ones_like(wanted, dtype=torch.bool)
        rows = (x.movedim(self.axis, 0).flatten(1).double() for x in (wanted - values, shows))
        lacking, showing = (x.sum(1) for x in rows)
        return lacking, showing

    def shifted(self, values: Tensor, by: Tensor) -> Tensor:
        """``end`` with a number added to each channel."""
        view = [1] * values.ndim
        view[self.axis] = -1
        return values + by.to(values).view(view)


def weighted_layers(model: PreparedModel) -> list[WeightedLayer]:
    """All of them, in graph order."""
    fixed = constants(model.graph)
    uses = Counter(str(n.target) for n in model.graph.nodes if n.op == "get_attr" for _ in n.users)
    found = []
    for node in model.graph.nodes:
        weight = node.args[1] if kind_of(node) is Kind.WEIGHTED else None
        if isinstance(weight, fx.Node) and weight.op == "call_module" and weight.args[0] in fixed:
            end = _batch_norm(node, fixed) or node
            source: Any = weight.args[0]
            parameter, factor = (source.args[0], source.args[1]) if source.target is _a.mul.Tensor else (source, None)
            bias = arguments(end)["bias"]
            found.append(
                WeightedLayer(
                    node,
                    end,
                    weight,
                    _own(model, parameter, uses) if len(weight.users) == 1 and _is_fold(factor) else None,
                    factor,
                    _own(model, bias, uses),
                    [kind_of(user) for user in data_users(end)] == [Kind.RECTIFIER],
                )
            )
    return found


def _batch_norm(node: fx.Node, fixed: set[fx.Node]) -> fx.Node | None:
    """The batch norm that reads a layer, or what is left of it after constants are added and divided by."""
    while True:
        users = data_users(node)
        if len(users) != 1:
            return None
        (user,) = users
        if user.target in BATCH_NORM:
            return user if user.args[0] is node else None
        if user.target not in (_a.div.Tensor, _a.add.Tensor) or user.args[0] is not node or user.args[1] not in fixed:
            return None
        node = user


def _is_fold(factor: Any) -> bool:
    """Whether a factor of the weights is one for each channel, as a batch norm's is."""
    return factor is None or (isinstance(factor, fx.Node) and factor.target is _a.reshape.default)


def _own(model: PreparedModel, node: Any, uses: Counter[str]) -> str | None:
    """The parameter of a node, if nothing else uses it."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or uses[str(node.target)] != 1:
        return None
    owner, _, name = str(node.target).rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    return str(node.target) if isinstance(found, nn.Parameter) and found.is_floating_point() else None
