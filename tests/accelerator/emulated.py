"""A device that is none: tensors that say they are elsewhere, compute on the CPU, and do not mix with the CPU's.

What a library does wrong on another device shows without one: an operation on tensors of two devices, ``.numpy()``, a
matrix product of int64, a tensor that was made on the CPU and stays there. Values are real, so results can be compared.
It calls itself ``meta``, the one kind of device beside the CPU that PyTorch needs no driver for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Elsewhere", "device", "emulated"]

device = torch.device("meta")
_aten = torch.ops.aten
# to another device and back; and an index may be the CPU's
_MIXES = (
    _aten._to_copy.default, _aten.copy_.default, _aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default,
)  # fmt: skip
_FLOATING_ONLY = ("mm", "bmm", "addmm", "addmv", "mv", "dot", "baddbmm", "convolution")  # CUDA has none of integers


class Elsewhere(Tensor):
    """A tensor on the device; ``raw`` has its values."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Elsewhere:
        made: Any = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=device
        )
        made.raw = raw
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.raw})"

    def tolist(self) -> Any:  # as on CUDA, which PyTorch does for its own classes alone
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _act(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Those are called without a tensor that would say where they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _act(func, args, kwargs or {})


def _act(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in given if isinstance(t, Elsewhere)]
    wanted = kwargs.get("device")
    target = there or (wanted is not None and torch.device(wanted).type == device.type)
    if wanted is not None and torch.device(wanted).type == "cpu":
        target = False
    here = [t for t in given if not isinstance(t, Elsewhere) and t.ndim]
    if there and here and func not in _MIXES:
        raise RuntimeError(f"{func}: tensors of two devices, one of shape {tuple(here[0].shape)} on the CPU")
    name = func.overloadpacket.__name__
    if there and name in _FLOATING_ONLY and not all(t.dtype.is_floating_point for t in given):
        raise RuntimeError(f"{func}: not implemented on CUDA for {[t.dtype for t in given]}")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    out = func(*tree_map(_unwrapped, args), **tree_map(_unwrapped, kwargs))
    if func is _aten.copy_.default or (name.endswith("_") and not name.endswith("__")):
        return args[0]
    if not target:
        return out
    return tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, out)


def _unwrapped(x: Any) -> Any:
    return x.raw if isinstance(x, Elsewhere) else x


@contextmanager
def emulated() -> Iterator[None]:
    """In it, :data:`device` is there: tensors can be made on it and sent to it."""
    with _Factories():
        yield
