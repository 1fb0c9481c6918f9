"""Quantised tensors while a graph is built: layers, seen through moves and side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from converters.errors import ConversionError
from converters.operations import Operation, Reshape, Shape
from converters.operations.moving import index_of, move_of, through

__all__ = ["Part", "Value", "concatenated", "moved", "places"]


class Part(NamedTuple):
    """A layer of ``shape``, seen through ``move``, which gives every value from one place; None: as it is."""

    name: str
    shape: Shape
    move: Operation | None = None

    @property
    def seen(self) -> Shape:
        """Its shape behind the move."""
        return self.shape if self.move is None else self.move.output_shape(self.shape)

    @property
    def places(self) -> Tensor:
        """Place in the layer of every value that is seen, or -1: int64 of shape ``seen``."""
        return index_of(self.move or Reshape(self.shape), self.shape)


@dataclass(frozen=True)
class Value:
    """A quantised tensor while a graph is built.

    Attributes
    ----------
    parts : tuple of Part
        Layers, seen through moves.
    scale : float
        The real value of one count.
    axis : int or None
        Along which the parts stand side by side, of one image; with None each has the shape of the whole, with 0
        where others have a value, and they add up.

    Examples
    --------
    >>> Value((Part("a", (2, 4, 4)), Part("b", (3, 4, 4))), 0.5).shape
    (5, 4, 4)
    """

    parts: tuple[Part, ...]
    scale: float
    axis: int | None = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(Part(*p) for p in self.parts))

    @property
    def shape(self) -> Shape:
        seen, a = [p.seen for p in self.parts], self.axis
        if a is None or len(seen) == 1:
            return seen[0]
        return (*seen[0][:a], sum(s[a] for s in seen), *seen[0][a + 1 :])

    @property
    def plain(self) -> bool:
        """Whether it is one layer as it is."""
        return len(self.parts) == 1 and self.parts[0].move is None

    @property
    def in_order(self) -> bool:
        """Whether it is one layer whose values keep their order, whatever the shape."""
        return len(self.parts) == 1 and (self.parts[0].move is None or self.parts[0].move.rewires)

    @property
    def sources(self) -> dict[str, Shape]:
        """Shapes of its layers by name, each once."""
        return {p.name: p.shape for p in self.parts}

    @property
    def index(self) -> Tensor:
        """Place of every value in its :attr:`sources`, flattened one after another, or -1: int64 of :attr:`shape`."""
        starts = _starts(self.sources)
        own = [torch.where(p.places < 0, -1, p.places + starts[p.name]) for p in self.parts]
        if self.axis is None:
            return torch.stack(own).amax(0)
        return torch.cat(own, dim=self.axis)

    def unmoved(self, seen: Tensor) -> dict[str, Tensor]:
        """Layers' own values ``(N, *shape)`` from a batch of what is seen of them, ``(N, ...)``, by name.

        Layers that are not seen whole are left out.
        """
        return {name: own for name, (own, mask) in self.partly(seen).items() if bool(mask.all())}

    def partly(self, seen: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """As :meth:`unmoved`, of all layers, each with its places that are seen: bool of one image's shape.

        Examples
        --------
        >>> first = moved(Value((Part("a", (3,)),), 1.0), torch.tensor([2]))
        >>> first.partly(torch.tensor([[7.0]]))["a"]
        (tensor([[7., 7., 7.]]), tensor([False, False,  True]))
        """
        index, flat, start, found = self.index.reshape(-1), seen.flatten(1), 0, {}
        for name, shape in self.sources.items():
            size = math.prod(shape)
            where = torch.full((size,), -1)
            (place,) = ((index >= start) & (index < start + size)).nonzero(as_tuple=True)
            where[index[place] - start] = place
            own = flat[:, where.clamp(min=0).to(flat.device)].reshape(len(seen), *shape)
            found[name] = own, (where >= 0).reshape(shape)
            start += size
        return found


def _starts(sources: dict[str, Shape]) -> dict[str, int]:
    starts, end = {}, 0
    for name, shape in sources.items():
        starts[name] = end
        end += math.prod(shape)
    return starts


def _of(sources: dict[str, Shape], index: Tensor, scale: float) -> Value:
    """Layers seen so that each value has its place, ``index`` of their counts one after another."""
    starts = _starts(sources)
    which = torch.full_like(index, -1)
    for k, start in enumerate(starts.values()):
        which = torch.where(index >= start, k, which)
    names = list(sources)

    def part(number: int, here: Tensor, owner: Tensor) -> Part:
        name = names[number]
        return Part(name, sources[name], move_of(torch.where(owner == number, here - starts[name], -1), sources[name]))

    used = [int(k) for k in which.unique() if k >= 0] or [0]
    if len(used) == 1:
        return Value((part(used[0], index, which),), scale)
    for axis in range(index.ndim):
        runs = _runs(which.movedim(axis, 0).reshape(which.shape[axis], -1))
        if runs is not None and len(runs) <= 2 * len(used):
            cut = [(k, index.narrow(axis, a, n), which.narrow(axis, a, n)) for k, a, n in runs]
            return Value(tuple(part(*c) for c in cut), scale, axis)
    return Value(tuple(part(k, index, which) for k in used), scale, None)


def _runs(which: Tensor) -> list[tuple[int, int, int]] | None:
    """``(source, first row, rows)`` of rows that are of one source each; None where a row is of several."""
    high = which.amax(1)
    if bool(((which >= 0) & (which != high[:, None])).any()):
        return None
    runs: list[tuple[int, int, int]] = []
    for row, k in enumerate(high.tolist()):
        if runs and k in (-1, runs[-1][0]):
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((max(k, 0), row, 1))
    return runs


def moved(value: Value, index: Tensor) -> Value:
    """``value`` seen through a move: ``index`` says which of its values, flattened, comes where; -1 for none.

    Examples
    --------
    >>> both = Value((Part("a", (2,)), Part("b", (3,))), 1.0)
    >>> [p.name for p in moved(both, torch.tensor([4, 3])).parts]
    ['b']
    """
    return _of(value.sources, through(value.index, index), value.scale)


def concatenated(values: Sequence[Value], axis: int) -> Value:
    """Values side by side along an axis of one image, on the scale of the first; shapes must fit."""
    if all(v.axis == axis or len(v.parts) == 1 for v in values):
        return Value(tuple(p for v in values for p in v.parts), values[0].scale, axis)
    sources = {name: shape for v in values for name, shape in v.sources.items()}
    starts, found = _starts(sources), []
    for v in values:
        own, index = _starts(v.sources), v.index
        for name, start in reversed(own.items()):
            size = math.prod(sources[name])
            inside = (v.index >= start) & (v.index < start + size)
            index = torch.where(inside, v.index - start + starts[name], index)
        found.append(index)
    return _of(sources, torch.cat(found, dim=axis), values[0].scale)


def places(where: str, shape: Shape, function: Callable[[Tensor], Tensor], batch: int = 1) -> tuple[Tensor, Tensor]:
    """What ``function`` does to the places of a tensor: the framework's own function, run on an array of indices.

    Parameters
    ----------
    where : str
        For errors.
    shape : tuple of int
        Of one image.
    function : callable
        From a float64 batch ``(batch, *shape)`` to one with the same first axis. Every result must be one of the
        image's values, or a constant.
    batch : int
        Number of images that it is written for.

    Returns
    -------
    index : int64 tensor
        Place of each value of one image's result in the image, flattened; -1 where it is a constant.
    constants : float64 tensor of the same shape
        0 but where it is one.

    Raises
    ------
    ConversionError
        If it does something else than moving values.

    Examples
    --------
    >>> places("flip", (3,), lambda x: x.flip(1))[0]
    tensor([2, 1, 0])
    """
    size = math.prod(shape)
    own = torch.arange(batch * size, dtype=torch.float64).reshape(batch, *shape)
    zero, one, two = (function(x).detach() for x in (torch.zeros_like(own), own + 1, 2 * own + 2))
    found = (one - zero).round().to(torch.int64) - 1
    if not found.numel():
        raise ConversionError(where, "a tensor without values", "leave it out")
    first = found[0] if found.ndim and len(found) == batch else found
    follows = torch.stack([torch.where(first < 0, -1, first + k * size) for k in range(batch)])
    probe = torch.rand(own.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    if (
        follows.shape != found.shape
        or not torch.equal(follows, found)
        or int(found.min()) < -1
        or int(found.max()) >= batch * size
        or not torch.equal(two - zero, 2.0 * (found + 1))
        or not torch.equal(function(probe), torch.where(found < 0, zero, probe.reshape(-1)[found.clamp(min=0)]))
    ):
        raise ConversionError(where, "an operation that does more than to move values of each image", "leave it out")
    return first, zero[0].to(torch.float64)
