"""One state for neurons that have two, in code that was written for one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Membrane"]


class Membrane(Tensor):
    """A membrane potential that carries its neurons' counts along, as ``mem.y``.

    Code for ``snntorch.Leaky`` passes one state, ``spk, mem = neuron(x, mem)``, records it and takes losses of it, so
    it must be what it is called: a membrane of shape ``(N, C, ...)``. Copies, detached or moved ones, and selected
    images keep their counts; whatever else is computed from it is a plain tensor.

    >>> mem = Membrane.of(torch.tensor([[0.5, 0.25]]), torch.tensor([[3.0, 0.0]]))
    >>> mem.detach().y, (2 * mem), type(2 * mem) is Tensor
    (tensor([[3., 0.]]), tensor([[1.0000, 0.5000]]), True)
    """

    y: Tensor

    @staticmethod
    def of(v: Tensor, y: Tensor) -> Membrane:
        """``v``, a tensor that nobody else holds, as a membrane with counts ``y``."""
        if torch.compiler.is_compiling():
            mem = v.as_subclass(Membrane)
        else:  # a view, as above, could not be detached in place, which snntorch.SpikingNeuron.detach does
            v.__class__ = Membrane
            mem = v  # type: ignore[assignment]
        mem.y = y
        return mem

    def plain(self) -> Tensor:
        """The potential without the counts."""
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
            if func not in _SAME or not isinstance(args[0], Membrane) or not hasattr(args[0], "y"):
                return out
            if func in _MOVES:  # to another device; counts keep the type that holds them
                y = args[0].y.to(out.device)
            else:
                y = func(args[0].y, *args[1:], **(kwargs or {}))
            if func is Tensor.detach_:  # in place
                return out
            if not isinstance(out, Membrane):
                out = out.as_subclass(Membrane)
            out.y = y
            return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Membrane:
        if id(self) not in memo:
            memo[id(self)] = Membrane.of(self.plain().clone(), copy.deepcopy(self.y, memo))
        return memo[id(self)]


_MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.float, Tensor.double)
_SAME = (*_MOVES, Tensor.detach, Tensor.detach_, Tensor.clone, Tensor.contiguous, Tensor.__getitem__)
