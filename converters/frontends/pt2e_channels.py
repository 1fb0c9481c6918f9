"""Norms whose quantiser may have a scale for each channel, and the layers that take these scales into their weights.

A scale for each channel needs readers with weights alone, each of which has the norm's channels where its weights' are:
perhaps moved, as tokens are to windows. Whatever else reads a norm (an addition, a product) wants one scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx, nn

from converters.frontends.aten import TRANSPOSED, Kind, arguments, data_users, kind_of, operation
from converters.frontends.level_quantiser import LevelQuantiser
from converters.frontends.pt2e_channel_scales import TakenIn

__all__ = ["channel_axis", "link_scales"]

_a = torch.ops.aten
_THROUGH = (Kind.MOVE, Kind.PARTS, Kind.IDENTITY)
_LAST = ("layer_norm", "rms_norm")


def channel_axis(norm: fx.Node, fixed: Collection[fx.Node]) -> int | None:
    """The axis along which a norm's quantiser may have a scale for each channel; None where it needs one for all.

    ``fixed`` are the constants of the graph.
    """
    if kind_of(norm) is not Kind.NORM or not hasattr(norm.target, "_schema"):
        return None
    last = operation(norm) in _LAST
    if last and len(arguments(norm)["normalized_shape"]) != 1:
        return None
    shape = [_size(n) for n in norm.meta["val"].shape]
    axis = len(shape) - 1 if last else 1
    numbers = torch.arange(1.0, shape[axis] + 1).reshape(-1, *[1] * (len(shape) - axis - 1)).expand(shape)
    seen = {norm: numbers.contiguous()}
    readers = list(_readers(norm))
    return axis if readers and all(_takes(reader, seen, fixed) for reader in readers) else None


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Who reads a node's values, perhaps moved."""
    for user in data_users(node):
        if kind_of(user) in _THROUGH:
            yield from _readers(user)
        else:
            yield user


def _takes(reader: fx.Node, seen: dict[fx.Node, Any], fixed: Collection[fx.Node]) -> bool:
    """Whether a reader is a layer whose weights nobody else has, and sees channel ``c`` in place ``c``, or a 0."""
    if kind_of(reader) is not Kind.WEIGHTED or reader.args[1] not in fixed or len(reader.args[1].users) > 1:
        return False
    found = _values(reader.args[0], seen, fixed)
    found = found.movedim(-1 if reader.target is _a.linear.default else 1, -1)
    return bool(((found == 0) | (found == torch.arange(1.0, found.shape[-1] + 1))).all())


def _values(node: fx.Node, seen: dict[fx.Node, Any], fixed: Collection[fx.Node]) -> Any:
    """What a node's operation makes of channels' numbers, which moves have brought there."""
    if node not in seen:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            assert node.graph.owning_module is not None
            seen[node] = getattr(node.graph.owning_module.get_submodule(owner), name)
        elif operation(node).startswith("sym_size"):
            source, dim = node.args[:2]
            seen[node] = _size(source.meta["val"].shape[dim])
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _values(n, seen, fixed))
            with torch.no_grad():
                seen[node] = node.target(*args, **kwargs)
    return seen[node]


def _size(n: Any) -> int:
    """A size with the example's batch in it: nothing is said of others by looking."""
    return n if isinstance(n, int) else int(n.node.hint)


def link_scales(model: fx.GraphModule) -> None:
    """Let the weights' quantisers of a prepared graph take in the scales of the channels that their layers read."""
    for node in model.graph.nodes:
        if kind_of(node) is Kind.WEIGHTED and node.args[1].op == "call_module":
            x = node.args[0]
            while x.op == "call_function" and kind_of(x) in _THROUGH:
                x = x.args[0]
            source = _quantiser(model, x)
            if source is not None and source.is_per_channel:
                weights = _quantiser(model, node.args[1])
                assert weights is not None
                groups = 1 if node.target is _a.linear.default else int(arguments(node)["groups"])
                weights.taken_in = TakenIn(source, groups, node.target in TRANSPOSED)
                node.prepend(node.args[1])  # behind what it reads, whose scales a step moves


def _quantiser(model: nn.Module, node: fx.Node) -> LevelQuantiser | None:
    found = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, LevelQuantiser) else None
