"""What each result of a convolution or linear layer is a weighted sum of: the rows that its weights meet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from converters.frontends.aten import TRANSPOSED, arguments

__all__ = ["has_patches", "in_groups", "patches", "places", "results"]

_LINEAR = torch.ops.aten.linear.default


def has_patches(node: fx.Node) -> bool:
    """Whether a weighted layer's results are such sums: transposed convolutions are left out."""
    return node.target not in TRANSPOSED


def _groups(node: fx.Node) -> int:
    return 1 if node.target is _LINEAR else int(arguments(node)["groups"])


def in_groups(node: fx.Node, weight: Tensor) -> Tensor:
    """Weights ``(C, ...)`` as ``(groups, C / groups, K)``."""
    return weight.reshape(_groups(node), -1, weight[0].numel())


def places(node: fx.Node, y: Tensor, most: int) -> tuple[Tensor, ...]:
    """Where a layer's results lie, image and place: all of them, or ``most`` of them by chance; an index each axis."""
    shape = y.shape[:-1] if node.target is _LINEAR else (len(y), *y.shape[2:])
    number = torch.Size(shape).numel()
    chosen = torch.arange(number)
    if number > most:
        chosen = torch.randint(number, (most,), generator=torch.Generator().manual_seed(0))
    return torch.unravel_index(chosen.to(y.device), shape)


def patches(node: fx.Node, x: Tensor, weight: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """Rows of a layer's input, for its results at some places: ``(groups, rows, K)``.

    >>> graph = fx.Graph()
    >>> image, weight = graph.placeholder("x"), graph.placeholder("w")
    >>> conv = graph.call_function(torch.ops.aten.conv2d.default, (image, weight, None, [2, 1], [1, 0], [1, 2], 2))
    >>> x, w = torch.rand(3, 4, 6, 7), torch.rand(6, 2, 3, 2)
    >>> y = F.conv2d(x, w, None, (2, 1), (1, 0), (1, 2), 2)
    >>> at = places(conv, y, 50)
    >>> torch.allclose(patches(conv, x, w, at) @ in_groups(conv, w).mT, results(conv, y, at), atol=1e-5)
    True
    """
    if node.target is _LINEAR:
        return x[at][None]
    a = arguments(node)
    sizes, groups = weight.shape[2:], _groups(node)
    rank = len(sizes)
    stride, dilation = (_each(a[name], rank) for name in ("stride", "dilation"))
    x = F.pad(x, _padding(a["padding"], sizes, dilation))
    for axis, (size, step, apart) in enumerate(zip(sizes, stride, dilation, strict=True), 2):
        x = x.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
    x = x.movedim(1, 1 + rank)[at]  # (N, *places, C, *sizes): a view, of which the rows are taken
    return x.reshape(len(x), groups, -1).movedim(1, 0)


def results(node: fx.Node, y: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """A layer's results at some places, as ``(groups, rows, C / groups)``."""
    y = (y if node.target is _LINEAR else y.movedim(1, -1))[at]
    return y.reshape(len(y), _groups(node), -1).movedim(1, 0)


def _each(value: Any, rank: int) -> list[int]:
    values = [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
    return values * rank if len(values) == 1 else values


def _padding(padding: Any, sizes: Any, dilation: list[int]) -> list[int]:
    """As ``F.pad`` wants it: the last axis first."""
    found: list[int] = []
    for k in reversed(range(len(sizes))):
        whole = dilation[k] * (sizes[k] - 1)
        if padding == "same":
            found += [whole // 2, whole - whole // 2]
        else:
            amount = 0 if padding == "valid" else _each(padding, len(sizes))[k]
            found += [amount, amount]
    return found
