"""PyTorch's modules, functions and methods that move values, whatever they are called: they say themselves whereto."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.errors import ConversionError
from converters.frontends.handlers import of_module
from converters.frontends.tracing import where_is
from converters.frontends.walker import Handler, Walker

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "concatenate", "reshape"]


def reshape(walker: Walker, node: fx.Node, input: Any, *_: Any, **__: Any) -> Any:
    """Whatever it is called."""
    before, after = walker.shape(node.all_input_nodes[0]), walker.shape(node)
    return walker.builder.reshape(where_is(node), input, before, after)


def _move(walker: Walker, node: fx.Node, input: Any, *args: Any, **kwargs: Any) -> Any:
    return walker.builder.move(where_is(node), input, _act(node, args, kwargs), _images(walker, node))


def _move_by_module(walker: Walker, node: fx.Node, module: nn.Module, input: Any) -> Any:
    return walker.builder.move(where_is(node), input, module, _images(walker, node))


def _parts(walker: Walker, node: fx.Node, input: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Several results, each a move of its own."""
    act, images = _act(node, args, kwargs), _images(walker, node)

    def part(k: int) -> Callable[[Tensor], Tensor]:
        return lambda x: act(x)[k]

    count = len(walker.traced.results[node])
    return tuple(walker.builder.move(where_is(node), input, part(k), images) for k in range(count))


def _act(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[[Tensor], Any]:
    target = node.target
    if isinstance(target, str):
        return lambda x: getattr(x, target)(*args, **kwargs)
    return lambda x: target(x, *args, **kwargs)


def _images(walker: Walker, node: fx.Node) -> int:
    """Of the example, for which the sizes in the graph are written."""
    return walker.shape(node.all_input_nodes[0])[0]


def _item(walker: Walker, node: fx.Node, input: Any, index: Any) -> Any:
    """One of several results, or a part of one."""
    if isinstance(input, tuple | list | Tensor):
        return input[index]
    first = index[0] if isinstance(index, tuple) and index else index
    if first is not Ellipsis and first != slice(None):
        raise ConversionError(where_is(node), "a part of the batch", "leave the axis of the images alone")
    return _move(walker, node, input, index)


def _attribute(walker: Walker, node: fx.Node, input: Any, name: str) -> Any:
    """``.values`` of a maximum, which comes with its places; ``.mT`` of a tensor."""
    if isinstance(input, tuple):
        return input[("values", "indices").index(name)]
    return _move(walker, node, input, name)


def concatenate(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    return walker.builder.concatenate(where_is(node), tensors, dim, len(walker.shape(node)))


def _stack(walker: Walker, node: fx.Node, tensors: Sequence[Any], dim: int = 0) -> Any:
    rank = len(walker.shape(node))
    images = walker.shape(node)[0]
    axis = dim % rank
    wide = tensors if not axis else [
        walker.builder.move(where_is(node), x, lambda t: t.unsqueeze(axis), images) for x in tensors
    ]  # fmt: skip
    return walker.builder.concatenate(where_is(node), wide, axis, rank)


def _beside(walker: Walker, node: fx.Node, tensors: Sequence[Any]) -> Any:
    """``torch.hstack`` of batches."""
    return concatenate(walker, node, tensors, 1)


_PADS = tuple(
    getattr(nn, f"{mode}Pad{rank}d")
    for mode in ("Zero", "Constant", "Reflection", "Replication", "Circular")
    for rank in (1, 2, 3)
)

MODULES: dict[type, Handler] = {
    **dict.fromkeys((nn.Flatten, nn.Unflatten), of_module(reshape)),
    **dict.fromkeys((*_PADS, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold), _move_by_module),
}

_MOVES: tuple[Any, ...] = (
    F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle, F.unfold, torch.permute, torch.transpose,
    torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis, torch.flip, torch.fliplr, torch.flipud, torch.roll,
    torch.rot90, torch.narrow, torch.select, torch.index_select, torch.repeat_interleave, torch.tile, torch.diagonal,
    torch.tril, torch.triu, torch.broadcast_to,
)  # fmt: skip
_SPLITS: tuple[Any, ...] = (
    torch.chunk, torch.split, torch.tensor_split, torch.unbind, torch.hsplit, torch.vsplit, torch.dsplit,
)  # fmt: skip

FUNCTIONS: dict[Any, Handler] = {
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten), reshape),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_SPLITS, _parts),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), concatenate),
    torch.stack: _stack,
    torch.hstack: _beside,
    operator.getitem: _item,
    getattr: _attribute,
}

METHODS: dict[str, Handler] = {
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"), reshape),
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "flip", "fliplr", "flipud", "roll",
         "rot90", "narrow", "select", "index_select", "repeat", "repeat_interleave", "tile", "expand", "broadcast_to",
         "diagonal", "tril", "triu", "unfold"),
        _move,
    ),
    **dict.fromkeys(("chunk", "split", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit"), _parts),
}  # fmt: skip
