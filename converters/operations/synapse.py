"""A chain of operations from one layer, or several, to another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from converters.errors import ConversionError
from converters.operations.contract import Operation, Range, Shape, adjoint_of_ones

__all__ = ["Synapse"]


@dataclass(frozen=True, eq=False)
class Synapse:
    """A chain of operations from one layer (or the input) to another; the first may take several ``sources``."""

    sources: tuple[str, ...]
    ops: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        if len(self.sources) > 1 and not self.ops:
            raise ConversionError("synapse", f"sources {self.sources} without an operation", "give one that joins them")

    def __repr__(self) -> str:
        return f"<Synapse: {self}>"

    def __str__(self) -> str:
        """The kinds of its operations, and its sources.

        >>> from converters.operations import Flatten
        >>> print(Synapse(("a",), (Flatten(),)))
        Flatten of a
        """
        kinds, sources = ", ".join(type(op).__name__ for op in self.ops), ", ".join(self.sources)
        return f"{kinds} of {sources}" if kinds else sources

    @property
    def source(self) -> str:
        """The only source; a chain from several has none."""
        if len(self.sources) != 1:
            raise ConversionError("synapse", f"the sources {', '.join(self.sources)}", "there is not just one")
        return self.sources[0]

    @property
    def linear(self) -> bool:
        """Whether spikes bring the charge that counts bring: all of its operations are linear, on one source.

        Several sources are remembered too, and their sums can be.
        """
        return len(self.sources) == 1 and all(op.linear for op in self.ops)

    @cached_property
    def parts(self) -> tuple[tuple[Operation, ...], tuple[Operation, ...], tuple[Operation, ...]]:
        """The linear operations in front of the first that counts, from there to the last that does, the linear rest.

        Spikes pass through the first part as spikes, so that only its sums need be remembered; and only the change of
        the second part's result passes through the third.
        """
        counting = [k for k, op in enumerate(self.ops) if not op.linear]
        if not counting:
            return self.ops, (), ()
        return self.ops[: counting[0]], self.ops[counting[0] : counting[-1] + 1], self.ops[counting[-1] + 1 :]

    @property
    def passes(self) -> bool:
        """Whether it ends on counts themselves, which move by at most 1 where its sources' do."""
        return bool(self.parts[1]) and all(op.passes or op.rewires for op in self.ops)

    @property
    def multiplies(self) -> bool:
        """Whether its connections have weights other than 1 and -1."""
        return any(op.multiplies for op in self.ops)

    def output_shape(self, *shapes: Shape) -> Shape:
        for op in self.ops:
            shapes = (op.output_shape(*shapes),)
        return shapes[0]

    def __call__(self, *counts: Tensor) -> Tensor:
        for op in self.ops:
            counts = (op(*counts),)
        return counts[0]

    @cached_property
    def gain(self) -> int:
        """Of a linear one: the largest charge that sources in {-1, 0, 1} can bring to one neuron."""
        product = 1
        for op in self.ops:
            product *= op.gain
        return product

    def reach(self, *reach: int) -> int:
        """Largest size of the whole charge, for counts of at most these sizes."""
        for op in self.ops:
            reach = (op.reach(*reach),)
        return reach[0]

    def change(self, *reach: int) -> int:
        """Largest size of the charge of one step, for counts of at most these sizes."""
        if self.linear:
            return self.gain
        change: int | None = None
        for op in self.ops:
            one = op.change(*reach)
            reach = (op.reach(*reach),)
            if change is None or change == 1:
                change = one
            elif op.linear or op.passes:  # what moves by k at once moves its result k times as far as by one at most
                change = min(change * one, 2 * reach[0])
            else:
                change = 2 * reach[0]
        assert change is not None
        return change

    def largest_factor(self, *reach: int) -> int:
        """The largest factor of the products that it sums: a count, a weight, or what one operation hands the next."""
        largest = 1
        for op, weight in zip(self.ops, self._largest_weights, strict=True):
            largest = max(largest, weight, *reach)
            reach = (op.reach(*reach),)
        return largest

    @cached_property
    def _largest_weights(self) -> tuple[int, ...]:
        """The size of the largest weight that each operation stores, or 1."""
        stored = (op.stored for op in self.ops)
        return tuple(int(w.to(torch.int64).abs().max()) if w is not None and w.numel() else 1 for w in stored)

    def interval(self, *ranges: Range) -> Range:
        """Lowest and highest charge of each neuron, for counts between these bounds."""
        for op in self.ops:
            ranges = (op.interval(*ranges),)
        return ranges[0]

    def fan_out(self, *shapes: Shape) -> tuple[Tensor, ...]:
        """Number of connections that leave each neuron of each source: float64 of the sources' shapes.

        A chain counts as the one connection that it is: ones are pulled back through every operation.
        """
        weighted = [k for k, op in enumerate(self.ops) if not (op.rewires or op.pointwise)]
        if not weighted:
            return tuple(torch.ones(shape, dtype=torch.float64) for shape in shapes)
        if len(weighted) == 1:
            here = shapes
            for op in self.ops[: weighted[0]]:
                here = (op.output_shape(*here),)
            found = self.ops[weighted[0]].fan_out(*here)
            return tuple(f.reshape(shape) for f, shape in zip(found, shapes, strict=True))
        return adjoint_of_ones(self.structure(*shapes), *shapes)

    def connections(self, *shapes: Shape) -> float:
        """Number of connections in all, those of weight zero included."""
        return float(sum(float(f.sum()) for f in self.fan_out(*shapes)))

    def multiplications(self, *shapes: Shape) -> float:
        """Multiply-accumulates of one dense pass."""
        if not self.multiplies:
            return 0.0
        total, own = 0.0, False
        here = shapes
        for op in self.ops:
            found = op.multiplications(*here)
            own |= found is not None
            if found is not None:
                total += found
            elif op.multiplies:
                total += float(sum(float(f.sum()) for f in op.fan_out(*here)))
            here = (op.output_shape(*here),)
        return total if own else self.connections(*shapes)

    def lookups(self, *shapes: Shape) -> float:
        """Number of values that its operations read from tables."""
        found = 0.0
        for op in self.ops:
            shapes = (op.output_shape(*shapes),)
            found += math.prod(shapes[0]) if op.looks_up else 0
        return found

    def structure(self, *shapes: Shape) -> Synapse:
        """The same connections with weight 1 where there is one, and 0 where it is a placed 0.

        On spikes without sign it counts those that reach each neuron.
        """
        ops = []
        for op in self.ops:
            ops.append(op.structure(*shapes))
            shapes = (op.output_shape(*shapes),)
        return Synapse(self.sources, tuple(ops))

    def absolute(self, *shapes: Shape) -> Synapse:
        """The same connections with the absolute values of their weights."""
        ops = []
        for op in self.ops:
            ops.append(op.absolute(*shapes))
            shapes = (op.output_shape(*shapes),)
        return Synapse(self.sources, tuple(ops))

    @property
    def degree(self) -> int:
        """With what power of a common factor of all counts the charge grows."""
        return self._degrees[-1]

    @cached_property
    def _degrees(self) -> tuple[int, ...]:
        """The same of what each operation takes, and of the charge."""
        degrees = [1]
        for k, op in enumerate(self.ops):
            degrees.append(op.degree(*([1] * len(self.sources) if k == 0 else degrees[-1:])))
        return tuple(degrees)

    def coarsened(self, factor: Fraction) -> Synapse:
        """The same for scales that are all ``1 / factor`` times as large."""
        ops = tuple(op.coarsened(factor, degree) for op, degree in zip(self.ops, self._degrees, strict=False))
        return self if all(a is b for a, b in zip(ops, self.ops, strict=True)) else replace(self, ops=ops)

    def unrounded(self, *counts: Tensor) -> Tensor:
        """The charge in float64, before any rounding inside of an operation."""
        counts = tuple(x.double() for x in counts)
        for op in self.ops:
            counts = (op.unrounded(*counts),)
        return counts[0]

    def magnitude(self, *counts: Tensor) -> Tensor:
        """Sizes of all that is added up to the charge: float64."""
        here = [x.double() for x in counts]
        sizes = [x.abs() for x in here]
        for op in self.ops:
            sizes = [op.magnitude(here, sizes)]
            here = [op.unrounded(*here)]
        return sizes[0]

    @property
    def slack(self) -> float:
        """How far the charge may be from :meth:`unrounded` where it is not the layer that rounds."""
        found = 0.0
        for op in self.ops:
            found = (op.gain * found if op.linear and found else found) + op.slack
        return found

    def matrix(self, shape: Shape) -> sparse.csr_array:
        """A linear one as an int64 matrix ``(targets, sources)``, without zeros.

        >>> from converters.operations import Conv2d
        >>> Synapse(("in",), (Conv2d(torch.tensor([[[[1, 2]]]])),)).matrix((1, 1, 3)).toarray()
        array([[1, 2, 0],
               [0, 1, 2]])
        """
        total = sparse.csr_array(sparse.eye_array(int(np.prod(shape)), dtype=np.int64, format="csr"))
        for k, op in enumerate(self.ops):
            part = op.matrix(shape)
            total = part if k == 0 else part @ total
            shape = op.output_shape(shape)
        total = sparse.csr_array(total)
        total.eliminate_zeros()
        return total

    def rows(self, shape: Shape, targets: Tensor) -> Tensor:
        """Weights of a linear one onto some neurons only: int64 ``(len(targets), *shape)``.

        ``targets`` are flat indices of the target layer. One pull-back through the operations, in float64, where
        integers are exact; operations that have no gradient are spelled out instead.
        """
        with torch.enable_grad():
            x = torch.zeros(len(targets), *shape, dtype=torch.float64, requires_grad=True)
            y = self(x)
            if not y.requires_grad:
                return torch.from_numpy(self.matrix(shape)[targets.numpy()].toarray()).reshape(-1, *shape)
            (grad,) = torch.autograd.grad(y.flatten(1).gather(1, targets.reshape(-1, 1)).sum(), x)
        return grad.to(torch.int64)
