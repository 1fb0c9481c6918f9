"""What an output says: the class of every place in it, by the largest score there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from converters.ports.outputs import Output, places
from converters.ports.tails import Tail, apply

__all__ = ["classes_of", "named", "predicted"]

_INCREASING = ("sigmoid", "logsigmoid", "tanh", "exp", "softplus")
_ALONG = ("softmax", "log_softmax")
_CHOICES = ("argmax", "argmin")


def named(structure: Any) -> list[tuple[str, Output]]:
    """Every output of a structure with a name: the keys and indices that lead to it, or its layer's name.

    >>> [name for name, _ in named({"out": Output("fc"), "aux": (Output("a"), Output("b"))})]
    ['out', 'aux.0', 'aux.1']
    >>> [name for name, _ in named(Output("fc"))]
    ['fc']
    """
    return [(".".join(map(str, place)) or leaf.layer, leaf) for place, leaf in places(structure)]


def predicted(output: Output, value: Tensor) -> Tensor:
    """The class at each place of an output.

    Classes lie along the axis behind the batch, as in :func:`torch.nn.functional.cross_entropy`. A single score says
    0 or 1, by its sign. Functions behind the last quantiser run first; those that only stretch the scores, such as a
    softmax, are left out: rounding makes scores equal there that are not. An arg-max of the model's own is the answer.

    Parameters
    ----------
    output : Output
    value : float tensor ``(N, *layer shape)``
        What its layer puts out, in real units.

    Returns
    -------
    int64 tensor ``(N, *places)``; ``(N,)`` where there is one place.

    Examples
    --------
    >>> predicted(Output("fc"), torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([1])
    >>> predicted(Output("head"), torch.tensor([[[[3.0, -1.0]], [[2.0, 5.0]]]]))  # two classes, 1 x 2 pixels
    tensor([[[0, 1]]])
    >>> predicted(Output("mask", (Tail("sigmoid"),)), torch.tensor([[[[3.0, -1.0]]]]))
    tensor([[[1, 0]]])
    """
    x = _scores(output.tail, value)
    if not x.is_floating_point():
        found = x.to(torch.int64)
    elif not _squeezed(output, value) and x.ndim > 1 and x.shape[1] > 1:
        found = x.argmax(1)
    else:
        even = 0.5 if output.tail and output.tail[-1].function == "hardsigmoid" else 0.0
        found = ((x if _squeezed(output, value) or x.ndim == 1 else x.squeeze(1)) > even).to(torch.int64)
    return found.reshape(len(x)) if math.prod(found.shape[1:]) == 1 else found


def classes_of(output: Output, shape: Sequence[int]) -> int:
    """How many classes an output tells apart, of a layer of ``shape``: 2 where it is a single score.

    >>> classes_of(Output("fc"), (10,)), classes_of(Output("mask"), (1, 8, 8))
    (10, 2)
    """
    tail = output.tail
    if _squeezed(output, torch.zeros(1, *shape)):
        return 2
    last = max((k for k, t in enumerate(tail) if t.function in _CHOICES), default=None)
    x = apply(tail[:last] if last is not None else tail, torch.zeros(2, *shape, dtype=torch.float64))
    axis = 1 if last is None else tail[last].parameters["dim"]
    return max(x.shape[axis] if x.ndim > 1 else 1, 2)


def _squeezed(output: Output, value: Tensor) -> bool:
    """Whether a model has taken away the axis of its single score."""
    return value.shape[1] == 1 and any(t.function == "squeeze" for t in output.tail)


def _scores(tail: tuple[Tail, ...], value: Tensor) -> Tensor:
    stretching = 0
    while stretching < len(tail) and tail[-1 - stretching].function in (*_INCREASING, *_ALONG):
        stretching += 1
    cut = len(tail) - stretching
    x = apply(tail[:cut], value)
    along = [t.parameters["dim"] % x.ndim for t in tail[cut:] if t.function in _ALONG]
    return x if all(axis == 1 for axis in along) else apply(tail[cut:], x)
